// SPDX-License-Identifier: Apache-2.0
#include "resource/cgroup/cgroup.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/file.h"
#include "base/log.h"

namespace stasis {
namespace {

using kernel::CgroupMembership;

// Does a list with commas have all words of another?
bool has_all(std::string_view list, std::string_view words) {
  while (!words.empty()) {
    const auto comma = words.find(',');
    const std::string_view word = words.substr(0, comma);
    words.remove_prefix(comma == std::string_view::npos ? words.size() : comma + 1);
    bool found = false;
    for (std::string_view rest = list; !rest.empty() && !found;) {
      const auto end = rest.find(',');
      found = rest.substr(0, end) == word;
      rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    }
    if (!found) return false;
  }
  return true;
}

bool leads_upwards(std::string_view path) {
  return path == "/.." || path.find("/../") != std::string_view::npos || path.ends_with("/..");
}

// What a write to a file of a control group says; empty: it was done.
std::string write_word(const std::string& path, const std::string& word) {
  const auto file = open_at(AT_FDCWD, path, O_WRONLY);
  if (!file) return file.error().message();
  if (::write(file->get(), word.data(), word.size()) == static_cast<ssize_t>(word.size())) return {};
  return std::strerror(errno);
}

// Whoever is moved there stands still, also for us.
bool is_frozen(const std::string& directory) {
  const auto v2 = read_file(AT_FDCWD, directory + "/cgroup.freeze", 16);
  if (v2 && v2->starts_with('1')) return true;
  const auto events = read_file(AT_FDCWD, directory + "/cgroup.events", 256);  // frozen with one above it, too
  if (events && events->find("frozen 1") != std::string::npos) return true;
  const auto v1 = read_file(AT_FDCWD, directory + "/freezer.state", 16);
  return v1 && !v1->starts_with("THAWED");
}

std::string join(const CgroupMembership& group, const std::string& directory, HostPid pid) {
  if (directory.empty()) return "its hierarchy is not mounted";
  if (::access(directory.c_str(), F_OK) != 0) return "it no longer exists";
  if (is_frozen(directory)) return "it is frozen";
  std::string failed = write_word(directory + "/cgroup.procs", std::to_string(pid.value()));
  if (failed.empty()) log::debug("cgroup", "process {} is in {} again", pid.value(), group.path);
  return failed;
}

}  // namespace

std::vector<CgroupMembership> cgroups_to_join(std::span<const std::string> wanted,
                                              std::span<const CgroupMembership> now) {
  std::vector<CgroupMembership> differ;
  for (const std::string& line : wanted) {
    auto parsed = kernel::parse_cgroup(line + "\n");
    if (!parsed || parsed->size() != 1) continue;
    CgroupMembership& group = parsed->front();
    if (!group.path.starts_with('/') || leads_upwards(group.path)) continue;
    // Numbers of hierarchies are this boot's own.
    const auto same = [&](const CgroupMembership& other) {
      return other.controllers == group.controllers && (other.hierarchy == 0) == (group.hierarchy == 0) &&
             other.path == group.path;
    };
    if (std::ranges::none_of(now, same)) differ.push_back(std::move(group));
  }
  return differ;
}

std::string cgroup_directory(const CgroupMembership& group, std::span<const kernel::Mount> mounts) {
  const bool v2 = group.hierarchy == 0 && group.controllers.empty();
  for (const kernel::Mount& mount : mounts) {
    const bool right =
        v2 ? mount.fs_type == "cgroup2" : mount.fs_type == "cgroup" && has_all(mount.super_options, group.controllers);
    if (!right) continue;
    // A part of the hierarchy may be mounted alone.
    if (mount.root == "/") return mount.mount_point + group.path;
    if (group.path == mount.root) return mount.mount_point;
    if (group.path.starts_with(mount.root + "/")) return mount.mount_point + group.path.substr(mount.root.size());
  }
  return {};
}

Result<void> rejoin_cgroups(std::span<const std::string> wanted, const kernel::ProcDir& process,
                            const ImageOwner& owner) {
  if (wanted.empty()) return {};
  const auto now = STASIS_TRY(process.cgroups());
  const auto differ = cgroups_to_join(wanted, now);
  if (differ.empty()) return {};
  if (owner.trust == ImageTrust::kOwner) {
    log::info("cgroup", "the image belongs to user {}: control groups stay those of the restart", owner.uid);
    return {};
  }
  const auto self = STASIS_TRY(kernel::ProcDir::open(HostPid(::getpid())));
  const auto mounts = STASIS_TRY(self.mounts());
  for (const CgroupMembership& group : differ) {
    const std::string why = join(group, cgroup_directory(group, mounts), process.pid());
    if (!why.empty()) {
      log::info("cgroup", "process {} was in control group {}{}{}: {}", process.pid().value(), group.controllers,
                group.controllers.empty() ? "" : ":", group.path, why);
    }
  }
  return {};
}

}  // namespace stasis
