// SPDX-License-Identifier: Apache-2.0
// /proc/PID/status (man 5 proc, fs/proc/array.c): what a task is, as "Key:\tvalue" lines.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "stasis/result.h"

namespace stasis::kernel {

// Keys that some kernels lack are optional; the rest must be there. Signal mask: bit (n-1) is signal n.
struct ProcStatus {
  // Real, effective, saved, filesystem.
  struct Ids {
    std::uint32_t real = 0;
    std::uint32_t effective = 0;
    std::uint32_t saved = 0;
    std::uint32_t filesystem = 0;
    bool operator==(const Ids&) const = default;
  };

  std::string name;                    // as the kernel escapes it (\n, \\), at most 15 bytes of name
  std::optional<std::uint32_t> umask;  // none for kernel threads and zombies
  char state = '?';
  std::int32_t tgid = 0;
  std::int32_t pid = 0;
  std::int32_t ppid = 0;
  std::int32_t tracer_pid = 0;
  Ids uid;
  Ids gid;
  std::vector<std::uint32_t> groups;
  // The ids in each pid namespace, the reader's first, the task's own last. Empty without CONFIG_PID_NS.
  std::vector<std::int32_t> ns_tgid;
  std::vector<std::int32_t> ns_pid;
  std::vector<std::int32_t> ns_pgid;
  std::vector<std::int32_t> ns_sid;
  std::uint64_t fd_size = 0;
  std::uint64_t threads = 0;
  std::optional<std::uint64_t> vm_rss;   // bytes; none for zombies and kernel threads
  std::optional<std::uint64_t> vm_size;  // bytes
  bool core_dumping = false;
  std::optional<bool> thp_enabled;
  std::uint64_t sig_queued = 0;
  std::uint64_t sig_limit = 0;
  std::uint64_t sig_pending = 0;         // SigPnd: of the thread
  std::uint64_t sig_shared_pending = 0;  // ShdPnd: of the process
  std::uint64_t sig_blocked = 0;
  std::uint64_t sig_ignored = 0;
  std::uint64_t sig_caught = 0;
  std::uint64_t cap_inheritable = 0;
  std::uint64_t cap_permitted = 0;
  std::uint64_t cap_effective = 0;
  std::uint64_t cap_bounding = 0;
  std::uint64_t cap_ambient = 0;
  bool no_new_privs = false;
  std::uint32_t seccomp = 0;  // 0 off, 1 strict, 2 filter
  std::optional<std::uint32_t> seccomp_filters;
  std::optional<std::string> speculation_store_bypass;
  std::optional<std::string> speculation_indirect_branch;
  std::optional<std::string> x86_thread_features;  // "shstk wrss", empty when none
  std::vector<bool> cpus_allowed;                  // by CPU number
  std::string mems_allowed_list;

  bool zombie() const { return state == 'Z' || state == 'X'; }
};

Result<ProcStatus> parse_status(std::string_view text);

}  // namespace stasis::kernel
