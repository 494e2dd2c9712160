// SPDX-License-Identifier: Apache-2.0
// Questions to the kernel's socket diagnosis (man 7 sock_diag): sending one, and taking the answer apart.
#pragma once

#include <linux/netlink.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <span>
#include <string_view>

#include "stasis/result.h"

namespace stasis::kernel {

// The first bytes as a T; what is missing is zero.
template <class T>
T copy_out(std::span<const std::byte> bytes) {
  T value{};
  std::memcpy(&value, bytes.data(), std::min(sizeof value, bytes.size()));
  return value;
}

// One message of an answer; it says whether more are wanted. The end of a dump is not among them, errors are.
using TakeDiagMessage = std::function<Result<bool>(const nlmsghdr& header, std::span<const std::byte> payload)>;
// Sends a request (header and body) and hands out what is answered. `subject`, for messages: "a unix socket". Without
// the kernel's option for it: kKernelFeature.
Result<void> ask_sock_diag(std::span<const std::byte> request, std::string_view subject, const TakeDiagMessage& take);
// The errno in a message of type NLMSG_ERROR.
Result<int> diag_error(std::span<const std::byte> payload, std::string_view subject);

using TakeAttribute = std::function<void(int type, std::span<const std::byte> payload)>;
Result<void> for_each_attribute(std::span<const std::byte> attributes, std::string_view subject,
                                const TakeAttribute& take);

Error malformed_answer(std::string_view subject);

}  // namespace stasis::kernel
