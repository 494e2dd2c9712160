// SPDX-License-Identifier: Apache-2.0
// What the kinds of descriptor without a path (eventfd, timerfd, memfd...) have in common.
#pragma once

#include <fmt/core.h>

#include <concepts>
#include <cstdint>
#include <string_view>

#include "kernel/proc_fdinfo.h"
#include "kernel/proc_text.h"
#include "resource/open_file/open_file.h"

namespace stasis {

// The number in the line "key: number" of /proc/PID/fdinfo.
template <std::integral Number>
Result<Number> fdinfo_number(const kernel::FdInfo& info, std::string_view key, int base = 10) {
  Number number{};
  const auto text = kernel::fdinfo_value(info.rest, key);
  if (text && kernel::text::number(kernel::text::trim(*text), number, base)) return number;
  return Error(Errc::kSystem, fmt::format("/proc tells no {} of a descriptor", key));
}

// Gives an open file description the flags of F_SETFL that another one had.
Result<void> set_status_flags(int fd, std::uint32_t flags);

// Another opening of the file behind a descriptor of ours, with flags and offset of an opening that was saved. The
// flags lose O_NOFOLLOW.
Result<UniqueFd> reopen(int fd, std::uint32_t flags, std::int64_t offset);

}  // namespace stasis
