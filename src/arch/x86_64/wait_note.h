// SPDX-License-Identifier: Apache-2.0
// WaitNote: what one checkpoint or restart leaves in a waiting thread for the next checkpoint: which call it waits in,
// and how much of the call's time-out is used up.
//
// A thread that was frozen in a call makes that call again. Neither its arguments nor the kernel then tell how long it
// has waited, and where the kernel restarts it (restart_syscall) not even which call it once was. The note lies in the
// upper half of the register that holds the call's number. The kernel takes the number from the lower half alone
// (arch/x86/entry/entry_64.S since Linux 5.13: movslq), and keeps the register as it was (orig_rax) until the call
// ends. So a note is seen with the very call that it was left for and with no other; it ends with that call; and the
// program never sees it, as its next sight of the register is the call's result.
//
// Lost when somebody else interrupts the call meanwhile (SIGSTOP and SIGCONT, a debugger): the next checkpoint then
// counts from there. Garbage in the upper half that happens to look like a note is the program's own doing.
#pragma once

#include <chrono>
#include <optional>

#include "arch/x86_64/registers.h"

namespace stasis::arch {

struct WaitNote {
  unsigned call = 0;  // the writer's own code, 0 to 3
  std::chrono::nanoseconds waited{0};
};

// Does this kernel take the number from the lower half? (Tried once; STASIS_WITHOUT=wait_notes: no.)
bool wait_notes_work();

// `number` with a note; the time is rounded down by less than 8 in a million, or a microsecond, and cut at 8.9 years.
// REQUIRES: call <= 3.
std::uint64_t with_note(long number, const WaitNote& note);
// The note in a register with the number of a call; nothing if there is none.
std::optional<WaitNote> note_in(std::uint64_t call_register);

// The note of the call in which the thread was interrupted.
inline std::optional<WaitNote> wait_note(const Registers& regs) { return note_in(regs.orig_rax); }
// REQUIRES: rewound (rewind_syscall()): the thread is about to make the call whose number is in its result register.
inline void leave_wait_note(Registers& regs, std::chrono::nanoseconds waited) {
  regs.rax = with_note(static_cast<std::int32_t>(regs.rax), {.waited = waited});
}
// The same for a thread in which a note was left already; else does nothing. REQUIRES: as above.
inline void renew_wait_note(Registers& regs, std::chrono::nanoseconds waited) {
  if (note_in(regs.rax)) leave_wait_note(regs, waited);
}

// Makes the thread restart its interrupted call as the kernel would (arch_do_signal_or_restart in
// arch/x86/kernel/signal.c), but with a note. REQUIRES: the result is kErestartBlock.
void restart_with_note(Registers& regs, const WaitNote& note);

// A thread that has not run since (it was frozen again at once, or is stopped by job control) is seen as what it still
// is, one that awaits its restart: in a new task the call with restart_syscall's number would find nothing to restart.
void undo_restart_with_note(Registers& regs);

}  // namespace stasis::arch
