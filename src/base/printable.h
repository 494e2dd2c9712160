// SPDX-License-Identifier: Apache-2.0
// Text that comes from others, for people to read.
#pragma once

#include <string>
#include <string_view>

namespace stasis {

// Bytes that would drive a terminal, line ends included, are shown as \xNN.
std::string printable(std::string_view text);

}  // namespace stasis
