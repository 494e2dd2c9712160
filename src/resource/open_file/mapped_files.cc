// SPDX-License-Identifier: Apache-2.0
#include "resource/open_file/mapped_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "kernel/page_size.h"

namespace stasis {
namespace {

using kernel::Vma;
using kernel::VmFlag;

constexpr std::string_view kDeleted = " (deleted)";
constexpr std::string_view kNamedShared = "[anon_shmem:";  // prctl(PR_SET_VMA_ANON_NAME) on shared anonymous memory

bool can_write(const Vma& vma) {
  return vma.shared && (vma.from_smaps ? vma.flags.has(VmFlag::kMayWrite) : vma.writable());
}

std::string map_file(const Vma& vma) { return fmt::format("map_files/{:x}-{:x}", vma.start, vma.end); }

// An opening of the mapped file, empty without the right to it.
UniqueFd open_mapped(const kernel::ProcDir& proc, const Vma& vma) {
  for (const int mode : {O_RDWR, O_RDONLY}) {
    if (auto fd = proc.open_file(map_file(vma), mode | O_CLOEXEC)) return *std::move(fd);
  }
  return {};
}

// Its fstat(2), or as much as the mapping tells.
struct ::stat stat_mapped(const kernel::ProcDir& proc, const Vma& vma) {
  struct ::stat stat{};
  if (::fstatat(proc.fd(), map_file(vma).c_str(), &stat, 0) == 0) return stat;
  stat = {};
  stat.st_dev = makedev(vma.dev_major, vma.dev_minor);
  stat.st_ino = vma.inode;
  stat.st_mode = S_IFREG | 0700;
  struct ::stat owner{};
  if (::fstat(proc.fd(), &owner) == 0) stat.st_uid = owner.st_uid, stat.st_gid = owner.st_gid;
  return stat;
}

OpenInode* find_inode(const OpenFileTable& table, const FileId& id, const std::string& link) {
  const auto same = [&](const auto& inode) { return inode->id == id && inode->any().link == link; };
  const auto found = std::ranges::find_if(table.inodes, same);
  return found == table.inodes.end() ? nullptr : found->get();
}

OpenInode& add_inode(OpenFileTable& table, const kernel::ProcDir& proc, const Vma& vma, const struct ::stat& stat,
                     std::string link, Hold hold) {
  auto file = std::make_unique<OpenFile>();
  file->holders.push_back({.pid = proc.pid(), .fd = -1, .close_on_exec = false, .live_tid = proc.live_tid()});
  file->link = std::move(link);
  file->stat = stat;
  file->info.flags = O_RDWR;
  if (hold == Hold::kTake) file->held = open_mapped(proc, vma);
  table.inodes.push_back(std::make_unique<OpenInode>());
  OpenInode& inode = *table.inodes.back();
  inode.id = {stat.st_dev, stat.st_ino};
  file->inode = &inode;
  inode.mapped = std::move(file);
  return inode;
}

}  // namespace

std::optional<MemoryOrigin> memory_origin(std::string_view link) {
  if (!link.ends_with(kDeleted)) return std::nullopt;
  if (link == "/dev/zero (deleted)" || link == "/anon_hugepage (deleted)") return MemoryOrigin::kAnonymous;
  if (link.starts_with("/memfd:")) return MemoryOrigin::kMemFd;
  if (link.starts_with("/SYSV")) return MemoryOrigin::kSystemV;
  return std::nullopt;
}

std::string nameless_link(const Vma& vma) {
  if (!vma.file_backed() || vma.kernel_special()) return {};
  if (vma.path.starts_with(kNamedShared)) return "/dev/zero (deleted)";
  // "/[aio]" is a ring of the kernel's. Private huge pages are a file of their own that nobody else can reach.
  if (!vma.deleted || vma.path.starts_with("/[") || !vma.path.starts_with('/')) return {};
  if (vma.path == "/anon_hugepage" && !vma.shared) return {};
  return vma.path + std::string(kDeleted);
}

Result<void> gather_mapped_files(OpenFileTable& table, const kernel::ProcDir& proc, std::span<const Vma> vmas,
                                 Hold hold) {
  for (const Vma& vma : vmas) {
    std::string link = nameless_link(vma);
    if (link.empty()) {
      if (vma.file_backed() && can_write(vma))
        table.mapped_writable.insert({makedev(vma.dev_major, vma.dev_minor), vma.inode});
      continue;
    }
    const struct ::stat stat = stat_mapped(proc, vma);
    const FileId id{stat.st_dev, stat.st_ino};
    OpenInode* inode = find_inode(table, id, link);
    if (inode == nullptr) inode = &add_inode(table, proc, vma, stat, std::move(link), hold);
    inode->views.push_back({.pid = proc.pid(),
                            .start = vma.start,
                            .end = vma.end,
                            .offset = vma.offset,
                            .shared = vma.shared,
                            .kernel_page_size = vma.kernel_page_size});
    table.mappings[{proc.pid(), vma.start}] = inode;
    if (can_write(vma)) table.mapped_writable.insert(id);
  }
  return {};
}

namespace {

std::vector<HostPid> pids_of(std::span<const ProcessHandle> processes) {
  std::vector<HostPid> pids;
  for (const ProcessHandle& process : processes) pids.push_back(process.proc->pid());
  return pids;
}

}  // namespace

Result<OutsideHolders> find_outside_mappings(std::span<const ProcessHandle> processes) {
  std::set<OutsideHolders::MappedFileName> files;
  for (const ProcessHandle& process : processes) {
    if (process.vmas == nullptr) continue;
    for (const Vma& vma : *process.vmas) {
      if (auto link = nameless_link(vma); !link.empty()) {
        files.insert({makedev(vma.dev_major, vma.dev_minor), vma.inode, std::move(link)});
      }
    }
  }
  OutsideHolders outside;
  if (!files.empty()) STASIS_TRY(outside.scan_mappings(pids_of(processes), files));
  return outside;
}

Result<void> look_for_outside_mappings(OpenFileTable& table, std::span<const ProcessHandle> processes) {
  std::set<OutsideHolders::MappedFileName> files;
  for (const auto& inode : table.inodes) {
    const OpenFile& file = inode->any();
    // A file with descriptors only may be mapped by others as well.
    const bool nameless = S_ISREG(file.stat.st_mode) && (file.stat.st_nlink == 0 || inode->mapped);
    if (!nameless || file.is_path_only()) continue;
    OutsideHolders::MappedFileName name{inode->id.device, inode->id.inode, file.link};
    if (!table.outside.covers(name)) files.insert(std::move(name));
  }
  if (files.empty()) return {};
  return table.outside.scan_mappings(pids_of(processes), files);
}

std::optional<Obstacle> mapped_file_obstacle(const OpenInode& inode, const OpenFileTable& tree) {
  const OpenFile& file = *inode.mapped;
  const auto obstacle = [&](Errc code, std::string why, std::string help) {
    const MappedView& view = inode.views.front();
    return Obstacle{.code = code,
                    .pid = view.pid,
                    .fd = -1,
                    .object = fmt::format("mapping {:x}-{:x} {}", view.start, view.end, file.link),
                    .why = std::move(why),
                    .help = std::move(help)};
  };
  if (!S_ISREG(file.stat.st_mode)) return obstacle(Errc::kUnsupportedMemory, "a deleted device is mapped", "");
  for (const OutsideHolder& holder : tree.outside.of(file.link)) {
    if (holder.inode != file.stat.st_ino || (!holder.writes && !tree.tree_writes(file))) continue;
    return obstacle(Errc::kExternalPeer, fmt::format("{} shares this memory", holder.to_string()),
                    "checkpoint the process that started both");
  }
  if (file.stat.st_nlink > 0 && file.stat.st_blksize != 0 && tree.mapped_writable.contains(inode.id)) {
    return obstacle(Errc::kUnsupportedMemory, "its name was deleted, but it has others", "give it its name back (ln)");
  }
  return std::nullopt;
}

}  // namespace stasis
