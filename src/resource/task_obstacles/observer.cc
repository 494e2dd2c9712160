// SPDX-License-Identifier: Apache-2.0
#include "resource/task_obstacles/observer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>

#include "base/file.h"

namespace stasis {
namespace {

// PROC_USER_INIT_INO of include/linux/proc_ns.h: the first user namespace is the same on every system.
constexpr std::uint64_t kFirstUserNamespace = 0xEFFFFFFD;

std::vector<HostPid> ancestors_of(std::int32_t parent) {
  std::vector<HostPid> ancestors;
  while (parent > 0 && ancestors.size() < 4096) {
    ancestors.emplace_back(parent);
    const auto text = read_file(AT_FDCWD, fmt::format("/proc/{}/stat", parent));
    const auto stat = text ? kernel::parse_stat(*text) : Result<kernel::ProcStat>(text.error());
    if (!stat) break;
    parent = stat->ppid;
  }
  return ancestors;
}

int read_yama_scope() {
  const auto text = read_file(AT_FDCWD, "/proc/sys/kernel/yama/ptrace_scope", 16);
  return text && !text->empty() && (*text)[0] >= '0' && (*text)[0] <= '9' ? (*text)[0] - '0' : 0;
}

}  // namespace

// By their links, "uts:[4026531838]": to ask for the inode behind costs twice as much.
NamespaceIds namespace_ids(const kernel::ProcDir& proc) {
  NamespaceIds ids{};
  const auto dir = proc.open_file("ns", O_PATH | O_DIRECTORY);
  for (std::size_t i = 0; i < ids.size() && dir; ++i) {
    const auto link = read_link(dir->get(), std::string(kernel::namespace_name(kNamespaceKinds[i])));
    if (!link) continue;
    const auto bracket = link->find('[');
    if (bracket != std::string::npos) std::from_chars(&(*link)[bracket + 1], link->data() + link->size(), ids[i]);
  }
  return ids;
}

Result<Observer> Observer::here() {
  const kernel::ProcDir proc = STASIS_TRY(kernel::ProcDir::open(HostPid(::getpid())));
  const kernel::ProcStatus status = STASIS_TRY(proc.status());
  Observer observer{.pid = proc.pid(),
                    .ancestors = ancestors_of(status.ppid),
                    .uid = status.uid.filesystem,
                    .capabilities = status.cap_effective,
                    .namespaces = namespace_ids(proc),
                    .yama_scope = read_yama_scope()};
  observer.may_suspend_seccomp = (status.cap_effective >> CAP_SYS_ADMIN & 1) != 0 &&
                                 STASIS_TRY(proc.ns(kernel::Namespace::kUser)) == kFirstUserNamespace;
  return observer;
}

}  // namespace stasis
