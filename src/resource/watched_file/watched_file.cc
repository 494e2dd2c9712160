// SPDX-License-Identifier: Apache-2.0
#include "resource/watched_file/watched_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "base/file.h"
#include "kernel/proc_dir.h"
#include "kernel/proc_text.h"

namespace stasis {
namespace {

constexpr std::size_t kMaxHandle = 128;      // MAX_HANDLE_SZ
constexpr std::size_t kMaxEntries = 50'000;  // looked at while the program stands still
constexpr std::string_view kDeleted = " (deleted)";

// The kernel's own form of a device number: 12 bits and 20 bits.
std::uint64_t decode_device(std::uint32_t number) { return makedev(number >> 20, number & 0xfffff); }

bool parse_bytes(std::string_view hex, std::vector<std::byte>& bytes) {
  if (hex.size() % 2 != 0 || hex.size() / 2 > kMaxHandle) return false;
  for (; !hex.empty(); hex.remove_prefix(2)) {
    unsigned value = 0;
    if (!kernel::text::number(hex.substr(0, 2), value, 16)) return false;
    bytes.push_back(static_cast<std::byte>(value));
  }
  return true;
}

// Where its file system is mounted, and the handle names a file that this path leads to.
std::string open_handle(const WatchedFile& watch, std::span<const kernel::Mount> mounts) {
  if (watch.handle.empty()) return {};
  alignas(::file_handle) std::byte buffer[sizeof(::file_handle) + kMaxHandle];
  auto* const handle = reinterpret_cast<::file_handle*>(buffer);
  handle->handle_bytes = static_cast<unsigned>(watch.handle.size());
  handle->handle_type = watch.handle_type;
  std::memcpy(handle->f_handle, watch.handle.data(), watch.handle.size());
  for (const kernel::Mount& mount : mounts) {
    if (makedev(mount.dev_major, mount.dev_minor) != watch.id.device) continue;
    const UniqueFd root(::open(mount.mount_point.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!root) continue;
    const UniqueFd file(::open_by_handle_at(root.get(), handle, O_PATH | O_CLOEXEC));
    if (!file) continue;
    auto path = read_link(AT_FDCWD, fmt::format("/proc/self/fd/{}", file.get()));
    struct ::stat named{}, meant{};
    if (!path || ::fstatat(AT_FDCWD, path->c_str(), &named, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (::fstat(file.get(), &meant) != 0 || named.st_dev != meant.st_dev || named.st_ino != meant.st_ino) continue;
    return *std::move(path);
  }
  return {};
}

// Looks for inodes by walking through directories, level by level, no file twice.
class Search {
 public:
  // `closed`: directories that must not be opened, as the program would see it.
  Search(std::map<FileId, std::string>& wanted, const std::set<FileId>& closed)
      : wanted_(wanted), closed_(closed), missing_(wanted.size()) {}

  void start_at(const std::string& path) {
    if (!path.starts_with('/') || path.ends_with(kDeleted)) return;
    struct ::stat stat{};
    if (missing_ == 0 || ::fstatat(AT_FDCWD, path.c_str(), &stat, AT_SYMLINK_NOFOLLOW) != 0) return;
    meet(stat, path);
  }
  void walk() {
    while (!next_level_.empty()) {
      for (const std::string& directory : std::exchange(next_level_, {})) {
        if (missing_ != 0 && entries_ < kMaxEntries) look_into(directory);
      }
    }
  }

 private:
  void note(const FileId& id, const std::string& path) {
    const auto found = wanted_.find(id);
    if (found == wanted_.end() || !found->second.empty()) return;
    found->second = path;
    --missing_;
  }
  void meet(const struct ::stat& stat, const std::string& path) {
    const FileId id{stat.st_dev, stat.st_ino};
    note(id, path);
    if (S_ISDIR(stat.st_mode) && !closed_.contains(id)) next_level_.push_back(path);
  }
  void look_into(const std::string& directory) {
    const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(directory.c_str()),
                                                  [](DIR* d) { return d ? ::closedir(d) : 0; });
    if (!dir) return;
    while (const dirent* entry = ::readdir(dir.get())) {
      const std::string_view name = entry->d_name;
      if (name == "." || name == ".." || ++entries_ > kMaxEntries) continue;
      const std::string path = (directory == "/" ? "" : directory) + "/" + std::string(name);
      const bool maybe = std::ranges::any_of(wanted_, [&](const auto& w) { return w.first.inode == entry->d_ino; });
      if (!maybe && entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN) continue;
      struct ::stat stat{};
      if (::fstatat(::dirfd(dir.get()), entry->d_name, &stat, AT_SYMLINK_NOFOLLOW) != 0) continue;
      meet(stat, path);
    }
  }

  std::map<FileId, std::string>& wanted_;
  const std::set<FileId>& closed_;
  std::size_t missing_;
  std::size_t entries_ = 0;
  std::vector<std::string> next_level_;
};

std::string parent_of(const std::string& path) {
  const auto slash = path.rfind('/');
  return slash == std::string::npos ? "" : slash == 0 ? "/" : path.substr(0, slash);
}

void search(std::map<FileId, std::string>& wanted, const std::set<FileId>& closed, const OpenFileTable& tree) {
  Search search(wanted, closed);
  for (const auto& file : tree.files) {
    search.start_at(file->link);
    search.start_at(parent_of(file->link));
  }
  for (const DescriptorTable& table : tree.descriptors) {
    const auto proc = kernel::ProcDir::open(table.pid);
    if (!proc) continue;
    for (const auto& link : {proc->cwd_link(), proc->exe_link()}) {
      if (!link) continue;
      search.start_at(*link);
      search.start_at(parent_of(*link));
    }
  }
  search.start_at("/");
  search.walk();
}

}  // namespace

bool parse_watched_file(std::string_view key, std::string_view value, WatchedFile& file) {
  const auto number = [&](auto& into) { return kernel::text::number(value, into, 16); };
  if (key == "ino") return number(file.id.inode);
  if (key == "mask") return number(file.mask);
  if (key == "fhandle-type") return number(file.handle_type);
  if (key == "f_handle") return parse_bytes(value, file.handle);
  if (key != "sdev") return true;
  std::uint32_t device = 0;
  if (!number(device)) return false;
  file.id.device = decode_device(device);
  return true;
}

std::vector<std::string> find_watched_paths(const OpenFile& watcher, std::span<const WatchedFile> watches,
                                            const OpenFileTable& tree) {
  std::vector<std::string> paths(watches.size());
  std::map<FileId, std::string> wanted;
  std::set<FileId> closed;
  const auto proc = kernel::ProcDir::open(watcher.pid());
  const auto mounts = proc ? proc->mounts() : Result<std::vector<kernel::Mount>>(proc.error());
  for (std::size_t i = 0; i < watches.size(); ++i) {
    if (mounts) paths[i] = open_handle(watches[i], *mounts);
    if (paths[i].empty()) wanted.emplace(watches[i].id, "");
    if ((watches[i].mask & (IN_OPEN | IN_ACCESS | IN_CLOSE)) != 0) closed.insert(watches[i].id);
  }
  if (wanted.empty()) return paths;
  search(wanted, closed, tree);
  for (std::size_t i = 0; i < watches.size(); ++i) {
    if (paths[i].empty()) paths[i] = wanted.at(watches[i].id);
  }
  return paths;
}

}  // namespace stasis
