// SPDX-License-Identifier: Apache-2.0
// System calls in which a freeze catches a thread, and how the thread goes on as if it had not been frozen.
//
// Most calls return one of the kernel's own codes (-512, -514, -516), and the kernel restarts them by itself when the
// thread goes on. Some return EINTR at once: epoll_wait, sigtimedwait, semop, socket calls with a time-out. Those are
// rewound: the thread makes the call again. A relative time-out would then start over, so the time already waited is
// kept, and a call whose time is used up returns its time-out result instead. In a new task nothing can be restarted by
// the kernel: -516 needs its restart block made again by really starting the call with the time that is left (see
// restart_waiting_call()).
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
  enum class Form { kMilliseconds, kTimespec };
  long number;
  unsigned argument;  // index of the argument
  Form form;
  std::int64_t when_over;  // result of the call when the time is up
};

// Row of a call that takes a relative time-out; null for all others. Whether one was given, and whether it is relative,
// relative_timeout() tells.
const CallTimeout* find_call_timeout(long number);
// Is it a call that an interruption ends with EINTR although no signal handler runs?
bool ends_with_eintr(long number);

// Reads a struct timespec of the process; injected so that it can be tested.
using ReadTimespec = std::function<std::optional<std::chrono::nanoseconds>(std::uint64_t address)>;
// The relative time-out given to the call `number` with these registers; nothing if there is none, it is infinite or
// absolute.
std::optional<std::chrono::nanoseconds> relative_timeout(long number, const arch::Registers& registers,
                                                         const ReadTimespec& read);

// The call in which the thread waits. Where only restart_syscall(2) stands in the registers (the thread was interrupted
// before), the number is looked up in the code before the instruction: `mov $nr, %eax`. -1: not in a call, or unknown.
using ReadCode = std::function<std::optional<std::array<std::uint8_t, 32>>(std::uint64_t end)>;
long waiting_call(const arch::Registers& registers, const ReadCode& code_before);

// Is the thread stopped in a call that must be rewound? `deliverable`: a signal is about to be delivered to it, so that
// EINTR is what the program expects.
enum class Deliverable { kNone, kSome };
bool must_rewind(const arch::Registers& registers, Deliverable deliverable);

}  // namespace stasis
