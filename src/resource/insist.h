// SPDX-License-Identifier: Apache-2.0
// What was taken out of somebody's object is nowhere but here until it is put back: no single failure may stop that.
#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

#include "base/log.h"
#include "stasis/defer_queue.h"
#include "stasis/result.h"

namespace stasis {

// The result of a system call, which is made again if it fails; errno is that of the last.
template <class Call>
auto insist(Call call) {
  constexpr int kTries = 3;
  auto result = call();
  for (int tries = 1; tries < kTries && result < 0; ++tries) result = call();
  return result;
}

// Runs `take`, and `put_back` whatever comes of it. What the program loses where that fails, too, is said: in the
// error, and in the log. `module` is the log's.
template <class Take, class PutBack>
Result<void> take_and_put_back(std::string_view module, std::string_view object, Take take, PutBack put_back) {
  UndoQueue undo;  // runs it where an exception ends the taking
  STASIS_TRY(undo.add(std::move(put_back)));
  Result<void> taken = take();
  auto put = undo.run();
  if (put) return taken;
  Error lost = std::move(put).error();
  if (!taken) std::move(lost).note(taken.error().message());
  std::move(lost).note(fmt::format("{}: not all that was in it could be put back", object));
  log::info(module, "{}", lost.to_string());
  return lost;
}

}  // namespace stasis
