// SPDX-License-Identifier: Apache-2.0
// What was taken out of somebody's object is nowhere but here until it is put back: no single failure may stop that.
#pragma once

namespace stasis {

// The result of a system call, which is made again if it fails; errno is that of the last.
template <class Call>
auto insist(Call call) {
  constexpr int kTries = 3;
  auto result = call();
  for (int tries = 1; tries < kTries && result < 0; ++tries) result = call();
  return result;
}

}  // namespace stasis
