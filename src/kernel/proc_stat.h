// SPDX-License-Identifier: Apache-2.0
// /proc/PID/stat (man 5 proc, fs/proc/array.c): one line, 52 fields.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "stasis/result.h"

namespace stasis::kernel {

// Fields in the order and with the names of proc(5). Times in clock ticks (sysconf(_SC_CLK_TCK)), sizes as the kernel
// gives them (vsize in bytes, rss in pages). Fields that the reader may not see (PTRACE_MODE_READ) are 0.
struct ProcStat {
  std::int32_t pid = 0;
  std::string comm;
  char state = '?';
  std::int32_t ppid = 0;
  std::int32_t pgrp = 0;
  std::int32_t session = 0;
  std::int32_t tty_nr = 0;
  std::int32_t tpgid = 0;
  std::uint32_t flags = 0;  // PF_*
  std::uint64_t minflt = 0;
  std::uint64_t cminflt = 0;
  std::uint64_t majflt = 0;
  std::uint64_t cmajflt = 0;
  std::uint64_t utime = 0;
  std::uint64_t stime = 0;
  std::int64_t cutime = 0;
  std::int64_t cstime = 0;
  std::int64_t priority = 0;
  std::int64_t nice = 0;
  std::int64_t num_threads = 0;
  std::int64_t itrealvalue = 0;
  std::uint64_t starttime = 0;
  std::uint64_t vsize = 0;
  std::int64_t rss = 0;
  std::uint64_t rsslim = 0;
  std::uint64_t startcode = 0;
  std::uint64_t endcode = 0;
  std::uint64_t startstack = 0;
  std::uint64_t kstkesp = 0;
  std::uint64_t kstkeip = 0;
  std::uint64_t signal = 0;
  std::uint64_t blocked = 0;
  std::uint64_t sigignore = 0;
  std::uint64_t sigcatch = 0;
  std::uint64_t wchan = 0;
  std::uint64_t nswap = 0;
  std::uint64_t cnswap = 0;
  std::int32_t exit_signal = 0;
  std::int32_t processor = 0;
  std::uint32_t rt_priority = 0;
  std::uint32_t policy = 0;
  std::uint64_t delayacct_blkio_ticks = 0;
  std::uint64_t guest_time = 0;
  std::int64_t cguest_time = 0;
  std::uint64_t start_data = 0;
  std::uint64_t end_data = 0;
  std::uint64_t start_brk = 0;
  std::uint64_t arg_start = 0;
  std::uint64_t arg_end = 0;
  std::uint64_t env_start = 0;
  std::uint64_t env_end = 0;
  std::int32_t exit_code = 0;

  bool zombie() const { return state == 'Z' || state == 'X' || state == 'x'; }
  bool kernel_thread() const { return (flags & 0x00200000u) != 0; }  // PF_KTHREAD
};

// Fields behind exit_code are ignored; fewer than all is an error. comm may hold anything, ") " and newlines included.
Result<ProcStat> parse_stat(std::string_view text);

}  // namespace stasis::kernel
