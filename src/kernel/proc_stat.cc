// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_stat.h"

#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

template <class... Fields>
bool take_numbers(std::string_view& rest, Fields&... fields) {
  return (text::number(text::take_word(rest), fields) && ...);
}

bool parse_after_comm(std::string_view rest, ProcStat& s) {
  const std::string_view state = text::take_word(rest);
  if (state.size() != 1) return false;
  s.state = state[0];
  return take_numbers(rest, s.ppid, s.pgrp, s.session, s.tty_nr, s.tpgid, s.flags, s.minflt, s.cminflt, s.majflt,
                      s.cmajflt, s.utime, s.stime, s.cutime, s.cstime, s.priority, s.nice, s.num_threads, s.itrealvalue,
                      s.starttime, s.vsize, s.rss, s.rsslim, s.startcode, s.endcode, s.startstack, s.kstkesp, s.kstkeip,
                      s.signal, s.blocked, s.sigignore, s.sigcatch, s.wchan, s.nswap, s.cnswap, s.exit_signal,
                      s.processor, s.rt_priority, s.policy, s.delayacct_blkio_ticks, s.guest_time, s.cguest_time,
                      s.start_data, s.end_data, s.start_brk, s.arg_start, s.arg_end, s.env_start, s.env_end,
                      s.exit_code);
}

}  // namespace

Result<ProcStat> parse_stat(std::string_view text) {
  ProcStat stat;
  std::string_view whole = text;
  if (whole.ends_with('\n')) whole.remove_suffix(1);
  // The fields after comm hold no parenthesis, so the last one ends comm.
  const auto open = whole.find(" (");
  const auto close = whole.rfind(')');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open + 2) {
    return text::malformed("stat", text);
  }
  stat.comm = whole.substr(open + 2, close - open - 2);
  if (!text::number(whole.substr(0, open), stat.pid) || !parse_after_comm(whole.substr(close + 1), stat)) {
    return text::malformed("stat", text);
  }
  return stat;
}

}  // namespace stasis::kernel
