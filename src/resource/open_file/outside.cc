// SPDX-License-Identifier: Apache-2.0
#include "resource/open_file/outside.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>

#include "base/file.h"
#include "kernel/areas_in_motion.h"

namespace stasis {
namespace {

using Directory = std::unique_ptr<DIR, int (*)(DIR*)>;

// Null where it can't be opened: the process is gone or not ours to look at.
Directory open_directory(int at, const char* path) {
  const int fd = ::openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* const dir = fd < 0 ? nullptr : ::fdopendir(fd);
  if (dir == nullptr && fd >= 0) ::close(fd);
  return Directory(dir, [](DIR* d) { return d != nullptr ? ::closedir(d) : 0; });
}

std::optional<int> number(const char* text) {
  int value = 0;
  const char* const end = text + std::strlen(text);
  const auto [rest, error] = std::from_chars(text, end, value);
  if (error != std::errc() || rest != end || value < 0) return std::nullopt;
  return value;
}

std::string command_of(int proc, int pid) {
  auto name = read_file(proc, fmt::format("{}/comm", pid), 64);
  if (!name) return "?";
  if (name->ends_with('\n')) name->pop_back();
  return *std::move(name);
}

}  // namespace

std::string OutsideHolder::to_string() const { return fmt::format("pid {} ({})", pid.value(), command); }

Result<void> OutsideHolders::scan(std::span<const HostPid> tree, const std::set<std::string>& links) {
  const Directory proc = open_directory(AT_FDCWD, "/proc");
  if (!proc) return Error::from_errno(errno, "open /proc");
  const int proc_fd = ::dirfd(proc.get());
  std::array<char, 4096> target;
  while (const dirent* process = ::readdir(proc.get())) {
    const auto pid = number(process->d_name);
    if (!pid || *pid == ::getpid() || std::ranges::find(tree, HostPid(*pid)) != tree.end()) continue;
    const Directory fds = open_directory(proc_fd, fmt::format("{}/fd", *pid).c_str());
    if (!fds) continue;
    while (const dirent* entry = ::readdir(fds.get())) {
      const ssize_t length = ::readlinkat(::dirfd(fds.get()), entry->d_name, target.data(), target.size());
      if (length <= 0) continue;
      const auto found = links.find(std::string(target.data(), static_cast<std::size_t>(length)));
      if (found == links.end()) continue;
      struct ::stat link{};
      // The link's own mode says how the file is open.
      if (::fstatat(::dirfd(fds.get()), entry->d_name, &link, AT_SYMLINK_NOFOLLOW) != 0) continue;
      struct ::stat file{};
      if (::fstatat(::dirfd(fds.get()), entry->d_name, &file, 0) != 0) continue;
      add(*found, {.pid = HostPid(*pid),
                   .fd = number(entry->d_name).value_or(-1),
                   .reads = (link.st_mode & S_IRUSR) != 0,
                   .writes = (link.st_mode & S_IWUSR) != 0,
                   .device = file.st_dev,
                   .inode = file.st_ino,
                   .command = command_of(proc_fd, *pid)});
    }
  }
  covered_.insert(links.begin(), links.end());
  return {};
}

Result<void> OutsideHolders::scan_mappings(std::span<const HostPid> tree, const std::set<MappedFileName>& files) {
  const Directory proc = open_directory(AT_FDCWD, "/proc");
  if (!proc) return Error::from_errno(errno, "open /proc");
  const int proc_fd = ::dirfd(proc.get());
  while (const dirent* process = ::readdir(proc.get())) {
    const auto pid = number(process->d_name);
    if (!pid || *pid == ::getpid() || std::ranges::find(tree, HostPid(*pid)) != tree.end()) continue;
    // Not ours to look at, or gone: it can't be told.
    const auto read = [&] { return read_file(proc_fd, fmt::format("{}/maps", *pid)); };
    const auto parse = [](const std::string& text) -> Result<std::vector<kernel::Vma>> {
      if (text.find(" (deleted)") == std::string::npos) return std::vector<kernel::Vma>();
      return kernel::parse_maps(text);
    };
    const auto vmas = kernel::parse_areas_in_motion(parse, read);
    if (!vmas) continue;
    for (const kernel::Vma& vma : *vmas) {
      if (!vma.shared || !vma.deleted) continue;
      const MappedFileName name{makedev(vma.dev_major, vma.dev_minor), vma.inode, vma.path + " (deleted)"};
      if (!files.contains(name)) continue;
      holders_[name.link].push_back({.pid = HostPid(*pid),
                                     .fd = -1,
                                     .reads = true,
                                     .writes = vma.writable(),
                                     .device = name.device,
                                     .inode = vma.inode,
                                     .command = command_of(proc_fd, *pid)});
    }
  }
  covered_files_.insert(files.begin(), files.end());
  return {};
}

// Nor is one an outsider that had a mapping and does not have it any more: a child of the tree that has ended since.
void OutsideHolders::forget(std::span<const HostPid> tree) {
  const auto maps_it = [](const OutsideHolder& holder) {
    const auto vmas = kernel::parse_areas_in_motion(
        kernel::parse_maps, [&] { return read_file(AT_FDCWD, fmt::format("/proc/{}/maps", holder.pid.value())); });
    return vmas && std::ranges::any_of(*vmas, [&](const kernel::Vma& vma) {
             return vma.inode == holder.inode && makedev(vma.dev_major, vma.dev_minor) == holder.device;
           });
  };
  for (auto& [link, holders] : holders_) {
    std::erase_if(holders, [&](const OutsideHolder& holder) {
      return std::ranges::find(tree, holder.pid) != tree.end() || (holder.fd < 0 && !maps_it(holder));
    });
  }
}

void OutsideHolders::add(const std::string& link, OutsideHolder holder) {
  covered_.insert(link);
  holders_[link].push_back(std::move(holder));
}

std::span<const OutsideHolder> OutsideHolders::of(const std::string& link) const {
  const auto found = holders_.find(link);
  if (found == holders_.end()) return {};
  return found->second;
}

const OutsideHolder* OutsideHolders::reader(const std::string& link) const {
  const auto all = of(link);
  const auto found = std::ranges::find_if(all, &OutsideHolder::reads);
  return found == all.end() ? nullptr : &*found;
}

const OutsideHolder* OutsideHolders::writer(const std::string& link) const {
  const auto all = of(link);
  const auto found = std::ranges::find_if(all, &OutsideHolder::writes);
  return found == all.end() ? nullptr : &*found;
}

}  // namespace stasis
