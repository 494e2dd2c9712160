// SPDX-License-Identifier: Apache-2.0
// STASIS_INVARIANT: our own bugs. On in release builds; lets every tracee go, says what broke, then aborts.
#pragma once

#include <source_location>
#include <string_view>

namespace stasis {

// Called by panic() before it aborts; the tracee layer registers the function that detaches every live session.
using PanicHook = void (*)() noexcept;
PanicHook set_panic_hook(PanicHook hook) noexcept;

[[noreturn]] void panic(std::string_view what, std::source_location where = std::source_location::current()) noexcept;

}  // namespace stasis

#define STASIS_INVARIANT(condition)                     \
  do {                                                  \
    if (!(condition)) [[unlikely]]                      \
      ::stasis::panic("broken invariant: " #condition); \
  } while (0)
