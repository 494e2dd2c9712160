// SPDX-License-Identifier: Apache-2.0
#include "base/panic.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace stasis {
namespace {
std::atomic<PanicHook> g_hook{nullptr};
}

PanicHook set_panic_hook(PanicHook hook) noexcept { return g_hook.exchange(hook); }

void panic(std::string_view what, std::source_location where) noexcept {
  if (const PanicHook hook = g_hook.exchange(nullptr)) hook();
  std::fprintf(stderr, "stasis: internal error at %s:%u: %.*s\n", where.file_name(), where.line(),
               static_cast<int>(what.size()), what.data());
  std::abort();
}

}  // namespace stasis
