// SPDX-License-Identifier: Apache-2.0
// System calls in which a freeze catches a thread, and how the thread goes on as if it had not been frozen.
//
// Most calls return one of the kernel's own codes (-512, -514, -516), and the kernel restarts them by itself when the
// thread goes on. Some return EINTR at once: epoll_wait, sigtimedwait, semop, socket calls with a time-out, select and
// ppoll with a time-out in memory that can't be written. Those are rewound: the thread makes the call again. A relative
// time-out would then start over, so the time already waited is kept, and a call whose time is used up returns its
// time-out result instead. In a new task nothing can be restarted by the kernel: -516 needs its restart block made
// again by really starting the call with the time that is left (see ProcessRestore::begin_call()).
//
// How long a call has waited in all, over any number of checkpoints and restarts, is kept in the thread itself: see
// arch/x86_64/wait_note.h.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>

#include "arch/x86_64/registers.h"
#include "base/ids.h"
#include "stasis/result.h"

namespace stasis {

// Where a call keeps its relative time-out.
struct CallTimeout {
  // In the argument itself, where it points to, or an option of the socket (SO_RCVTIMEO, SO_SNDTIMEO) that it names.
  enum class Form { kMilliseconds, kTimespec, kTimeval, kReceive, kSend };
  long number;
  unsigned argument;  // index of the argument
  Form form;
  bool of_socket() const { return form == Form::kReceive || form == Form::kSend; }
  std::int64_t when_over;  // result of the call when the time is up
};

// Row of a call that takes a relative time-out; null for all others. Whether one was given, and whether it is relative,
// relative_timeout() tells.
const CallTimeout* find_call_timeout(long number);
// Is it a call that an interruption ends with EINTR although no signal handler runs?
bool ends_with_eintr(long number);

// The calls that the kernel restarts from notes of its own (-516). The position of a call is its code in a WaitNote.
std::optional<unsigned> restart_block_code(long number);
long restart_block_call(unsigned code);

// A thread that the kernel would restart from its notes, with its own note of the time waited so far. Does nothing
// where the call is another, or this kernel takes no note.
void restart_with_note(arch::Registers& registers, long number, std::chrono::nanoseconds waited);

// Reads a struct timespec of the process; injected so that it can be tested.
using ReadTimespec = std::function<std::optional<std::chrono::nanoseconds>(std::uint64_t address)>;
// Where time-outs are found; what is not given is not found.
struct TimeoutSources {
  ReadTimespec timespec;
  ReadTimespec timeval;
  std::function<std::optional<std::chrono::nanoseconds>(int fd, int option)> socket;  // nothing: it has none
};
// The relative time-out given to the call `number` with these registers; nothing if there is none, it is infinite or
// absolute.
std::optional<std::chrono::nanoseconds> relative_timeout(long number, const arch::Registers& registers,
                                                         const TimeoutSources& sources);

// The call in which the thread waits. Where only restart_syscall(2) stands in the registers (the thread was interrupted
// before), the number is looked up in the code before the instruction: `mov $nr, %eax`. -1: not in a call, or unknown.
using ReadCode = std::function<std::optional<std::array<std::uint8_t, 32>>(std::uint64_t end)>;
long waiting_call(const arch::Registers& registers, const ReadCode& code_before);

// Is the thread stopped in a call that must be rewound? `deliverable`: a signal is about to be delivered to it, so that
// EINTR is what the program expects.
enum class Deliverable { kNone, kSome };
bool must_rewind(const arch::Registers& registers, Deliverable deliverable);

}  // namespace stasis
