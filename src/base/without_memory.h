// SPDX-License-Identifier: Apache-2.0
// Where memory has run out, an operation ends with an error, not the process.
#pragma once

#include <new>
#include <type_traits>

#include "stasis/result.h"

namespace stasis {

// What `operation` returns, a Result; kNoMemory when it threw std::bad_alloc.
template <class Operation>
auto or_no_memory(const Operation& operation) -> std::invoke_result_t<Operation> {
  try {
    return operation();
  } catch (const std::bad_alloc&) {
    return Error(Errc::kNoMemory, "no memory is left for stasis itself").with_help("see ulimit -v, and free(1)");
  }
}

}  // namespace stasis
