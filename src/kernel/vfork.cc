// SPDX-License-Identifier: Apache-2.0
#include "kernel/vfork.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/syscall.h>

#include <charconv>
#include <string_view>

#include "base/file.h"
#include "kernel/proc_stat.h"

namespace stasis::kernel {

bool waits_for_vfork(HostPid tid) {
  const auto stat_text = read_file(AT_FDCWD, fmt::format("/proc/{}/stat", tid.value()));
  const auto stat = stat_text ? parse_stat(*stat_text) : Result<ProcStat>(stat_text.error());
  if (!stat || stat->state != 'D') return false;
  // "56 0x4111 ..."
  const auto text = read_file(AT_FDCWD, fmt::format("/proc/{}/syscall", tid.value()));
  if (!text) return false;
  long number = -1;
  const char* const end = text->data() + text->size();
  const auto parsed = std::from_chars(text->data(), end, number);
  if (parsed.ec != std::errc{}) return false;
  if (number == SYS_vfork || number == SYS_clone3) return true;
  if (number != SYS_clone) return false;
  std::string_view flags(parsed.ptr, static_cast<std::size_t>(end - parsed.ptr));
  if (!flags.starts_with(" 0x")) return false;
  flags.remove_prefix(3);
  std::uint64_t value = 0;
  std::from_chars(flags.data(), flags.data() + flags.size(), value, 16);
  return (value & CLONE_VFORK) != 0;
}

}  // namespace stasis::kernel
