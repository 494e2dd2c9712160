// SPDX-License-Identifier: Apache-2.0
#include "kernel/become_user.h"

#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <array>

#include "kernel/raw.h"

namespace stasis::kernel {
namespace {

constexpr std::array kKept = {CAP_SETGID, CAP_SETPCAP, CAP_CHECKPOINT_RESTORE};

struct Capabilities {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
};

}  // namespace

Result<void> become_user(uid_t uid, gid_t gid, std::span<const gid_t> groups) {
  const auto failed = [](const char* what) { return Error::from_errno(errno, what); };
  if (::setgroups(groups.size(), groups.data()) != 0) return failed("setgroups");
  if (::setresgid(gid, gid, gid) != 0) return failed("setresgid");
  Capabilities now;
  if (raw("capget", SYS_capget, &now.header, now.data.data()) != 0) return failed("capget");
  if (::prctl(PR_SET_KEEPCAPS, 1) != 0) return failed("PR_SET_KEEPCAPS");
  if (::setresuid(uid, uid, uid) != 0) return failed("setresuid");
  if (::prctl(PR_SET_KEEPCAPS, 0) != 0) return failed("PR_SET_KEEPCAPS");
  Capabilities kept;
  for (const int capability : kKept) {
    const std::size_t word = CAP_TO_INDEX(capability);
    const std::uint32_t bit = CAP_TO_MASK(capability) & now.data[word].permitted;
    kept.data[word].effective |= bit;
    kept.data[word].permitted |= bit;
  }
  if (raw("capset", SYS_capset, &kept.header, kept.data.data()) != 0) return failed("capset");
  // A change of ids made us somebody whom nobody may look at, us included.
  if (::prctl(PR_SET_DUMPABLE, 1) != 0) return failed("PR_SET_DUMPABLE");
  return {};
}

}  // namespace stasis::kernel
