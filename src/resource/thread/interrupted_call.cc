// SPDX-License-Identifier: Apache-2.0
#include "resource/thread/interrupted_call.h"

#include <linux/futex.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>

#include "arch/x86_64/wait_note.h"

namespace stasis {
namespace {

using Form = CallTimeout::Form;
constexpr long kEpollPwait2 = 441;  // not in the headers of the floor compiler's libc

constexpr std::array kTimeouts = {
    CallTimeout{SYS_poll, 2, Form::kMilliseconds, 0},
    CallTimeout{SYS_nanosleep, 0, Form::kTimespec, 0},
    CallTimeout{SYS_rt_sigtimedwait, 2, Form::kTimespec, -EAGAIN},
    CallTimeout{SYS_futex, 3, Form::kTimespec, -ETIMEDOUT},
    CallTimeout{SYS_io_getevents, 4, Form::kTimespec, 0},
    CallTimeout{SYS_io_pgetevents, 4, Form::kTimespec, 0},
    CallTimeout{SYS_semtimedop, 3, Form::kTimespec, -EAGAIN},
    CallTimeout{SYS_clock_nanosleep, 2, Form::kTimespec, 0},
    CallTimeout{SYS_epoll_wait, 3, Form::kMilliseconds, 0},
    CallTimeout{SYS_epoll_pwait, 3, Form::kMilliseconds, 0},
    CallTimeout{kEpollPwait2, 3, Form::kTimespec, 0},
    CallTimeout{SYS_select, 4, Form::kTimeval, 0},
    CallTimeout{SYS_pselect6, 4, Form::kTimespec, 0},
    CallTimeout{SYS_ppoll, 2, Form::kTimespec, 0},
    CallTimeout{SYS_read, 0, Form::kReceive, -EAGAIN},
    CallTimeout{SYS_readv, 0, Form::kReceive, -EAGAIN},
    CallTimeout{SYS_recvfrom, 0, Form::kReceive, -EAGAIN},
    CallTimeout{SYS_recvmsg, 0, Form::kReceive, -EAGAIN},
    CallTimeout{SYS_recvmmsg, 0, Form::kReceive, -EAGAIN},
    CallTimeout{SYS_accept, 0, Form::kReceive, -EAGAIN},
    CallTimeout{SYS_accept4, 0, Form::kReceive, -EAGAIN},
    CallTimeout{SYS_write, 0, Form::kSend, -EAGAIN},
    CallTimeout{SYS_writev, 0, Form::kSend, -EAGAIN},
    CallTimeout{SYS_sendto, 0, Form::kSend, -EAGAIN},
    CallTimeout{SYS_sendmsg, 0, Form::kSend, -EAGAIN},
    CallTimeout{SYS_sendmmsg, 0, Form::kSend, -EAGAIN},
    CallTimeout{SYS_connect, 0, Form::kSend, -EINPROGRESS},
};

constexpr std::array kRestartBlocks = {long{SYS_poll}, long{SYS_nanosleep}, long{SYS_clock_nanosleep}, long{SYS_futex}};

// epoll, waits for signals and semaphores, AIO, and every socket call, which returns EINTR where SO_RCVTIMEO or
// SO_SNDTIMEO is set (sock_intr_errno in include/net/sock.h). select and its kin do where they can't write the time
// that is left (poll_select_finish in fs/select.c).
constexpr std::array kEndsWithEintr = {
    long{SYS_epoll_wait},     long{SYS_epoll_pwait}, kEpollPwait2,           long{SYS_rt_sigtimedwait},
    long{SYS_semop},          long{SYS_semtimedop},  long{SYS_io_getevents}, long{SYS_io_pgetevents},
    long{SYS_io_uring_enter}, long{SYS_recvfrom},    long{SYS_recvmsg},      long{SYS_recvmmsg},
    long{SYS_sendto},         long{SYS_sendmsg},     long{SYS_sendmmsg},     long{SYS_accept},
    long{SYS_accept4},        long{SYS_connect},     long{SYS_read},         long{SYS_readv},
    long{SYS_write},          long{SYS_writev},      long{SYS_select},       long{SYS_pselect6},
    long{SYS_ppoll},
};

bool is_absolute(long number, const std::array<std::uint64_t, 6>& args) {
  if (number == SYS_clock_nanosleep) return (args[1] & TIMER_ABSTIME) != 0;
  if (number == SYS_futex) return (args[1] & FUTEX_CMD_MASK) != FUTEX_WAIT;  // all others take a point in time
  return false;
}

}  // namespace

const CallTimeout* find_call_timeout(long number) {
  const auto row = std::ranges::find(kTimeouts, number, &CallTimeout::number);
  return row == kTimeouts.end() ? nullptr : &*row;
}

std::optional<unsigned> restart_block_code(long number) {
  const auto found = std::ranges::find(kRestartBlocks, number);
  if (found == kRestartBlocks.end()) return std::nullopt;
  return static_cast<unsigned>(found - kRestartBlocks.begin());
}

long restart_block_call(unsigned code) { return kRestartBlocks.at(code); }

void restart_with_note(arch::Registers& registers, long number, std::chrono::nanoseconds waited) {
  const auto code = restart_block_code(number);
  const bool restarts =
      arch::syscall_result(registers) == arch::kErestartBlock && arch::interrupted_syscall(registers) >= 0;
  if (!code || !restarts || !arch::wait_notes_work()) return;
  arch::restart_with_note(registers, {.call = *code, .waited = waited});
}

bool ends_with_eintr(long number) { return std::ranges::find(kEndsWithEintr, number) != kEndsWithEintr.end(); }

std::optional<std::chrono::nanoseconds> relative_timeout(long number, const arch::Registers& registers,
                                                         const TimeoutSources& sources) {
  const CallTimeout* const row = find_call_timeout(number);
  const auto args = arch::syscall_arguments(registers);
  if (!row || is_absolute(number, args)) return std::nullopt;
  const std::uint64_t value = args[row->argument];
  const auto read_by = [value](const ReadTimespec& read) { return value && read ? read(value) : std::nullopt; };
  const auto ask = [&](int option) {
    return sources.socket ? sources.socket(static_cast<int>(value), option) : std::nullopt;
  };
  switch (row->form) {
    case Form::kMilliseconds: {
      const auto milliseconds = static_cast<std::int32_t>(value);
      if (milliseconds < 0) return std::nullopt;
      return std::chrono::milliseconds(milliseconds);
    }
    case Form::kTimespec:
      return read_by(sources.timespec);
    case Form::kTimeval:
      return read_by(sources.timeval);
    case Form::kReceive:
      return ask(SO_RCVTIMEO);
    case Form::kSend:
      return ask(SO_SNDTIMEO);
  }
  return std::nullopt;
}

long waiting_call(const arch::Registers& registers, const ReadCode& code_before) {
  const auto number = static_cast<long>(arch::interrupted_syscall(registers));
  if (number != SYS_restart_syscall) return number;
  const auto code = code_before(arch::instruction_pointer(registers) - arch::kSyscallInsnLength);
  if (!code) return -1;
  constexpr std::uint8_t kMovImmediateToEax = 0xb8;
  constexpr std::size_t kMovLength = 5;
  for (std::size_t at = code->size() - kMovLength + 1; at-- > 0;) {
    if ((*code)[at] != kMovImmediateToEax) continue;
    const std::uint32_t immediate = (*code)[at + 1] | std::uint32_t{(*code)[at + 2]} << 8 |
                                    std::uint32_t{(*code)[at + 3]} << 16 | std::uint32_t{(*code)[at + 4]} << 24;
    if (restart_block_code(static_cast<long>(immediate))) return static_cast<long>(immediate);
  }
  return -1;
}

bool must_rewind(const arch::Registers& registers, Deliverable deliverable) {
  return arch::syscall_result(registers) == -EINTR && deliverable == Deliverable::kNone &&
         ends_with_eintr(static_cast<long>(arch::interrupted_syscall(registers)));
}

}  // namespace stasis
