// SPDX-License-Identifier: Apache-2.0
#include "arch/x86_64/wait_note.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

#include "base/panic.h"
#include "kernel/raw.h"
#include "kernel/without.h"

namespace stasis::arch {
namespace {

// From the top: 8 bits that make it a note, 2 of the call, 5 of an exponent, 17 of a mantissa; the time is
// mantissa << exponent, in microseconds.
constexpr std::uint64_t kMark = 0x5a;
constexpr unsigned kMarkShift = 56;
constexpr unsigned kCallShift = 54;
constexpr unsigned kExponentShift = 49;
constexpr unsigned kMantissaShift = 32;
constexpr unsigned kMantissaBits = 17;
constexpr std::uint64_t kMaxExponent = 31;
constexpr std::int64_t kMaxMicroseconds = (std::int64_t{1} << (kMantissaBits + kMaxExponent)) - 1;  // 8.9 years

}  // namespace

bool wait_notes_work() {
  static const bool work = !kernel::without("wait_notes") &&
                           kernel::raw_no_fault(static_cast<long>(with_note(SYS_getpid, WaitNote{}))) == ::getpid();
  return work;
}

std::uint64_t with_note(long number, const WaitNote& note) {
  STASIS_INVARIANT(note.call <= 3);
  const auto microseconds = std::chrono::duration_cast<std::chrono::microseconds>(note.waited).count();
  auto mantissa = static_cast<std::uint64_t>(std::clamp<std::int64_t>(microseconds, 0, kMaxMicroseconds));
  const auto width = static_cast<unsigned>(std::bit_width(mantissa));
  const std::uint64_t exponent = width > kMantissaBits ? width - kMantissaBits : 0;
  mantissa >>= exponent;
  return kMark << kMarkShift | std::uint64_t{note.call} << kCallShift | exponent << kExponentShift |
         mantissa << kMantissaShift | static_cast<std::uint32_t>(number);
}

std::optional<WaitNote> note_in(std::uint64_t call_register) {
  if (call_register >> kMarkShift != kMark) return std::nullopt;
  const std::uint64_t mantissa = call_register >> kMantissaShift & ((std::uint64_t{1} << kMantissaBits) - 1);
  const std::uint64_t exponent = call_register >> kExponentShift & kMaxExponent;
  return WaitNote{.call = static_cast<unsigned>(call_register >> kCallShift & 3),
                  .waited = std::chrono::microseconds(mantissa << exponent)};
}

void restart_with_note(Registers& regs, const WaitNote& note) {
  STASIS_INVARIANT(syscall_result(regs) == kErestartBlock);
  rewind_syscall(regs);
  regs.rax = with_note(SYS_restart_syscall, note);
}

void undo_restart_with_note(Registers& regs) {
  const bool about_to_restart = static_cast<std::int32_t>(regs.rax) == SYS_restart_syscall && note_in(regs.rax);
  if (!about_to_restart || interrupted_syscall(regs) >= 0) return;
  regs.orig_rax = regs.rax;
  set_syscall_result(regs, kErestartBlock);
  regs.rip += kSyscallInsnLength;
}

}  // namespace stasis::arch
