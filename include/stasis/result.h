// SPDX-License-Identifier: Apache-2.0
// Result<T> and Error: how every fallible call of the library reports.
//
// Three kinds of failure, three ways:
//  * the environment or the input is wrong  -> Result carries an Error (never an exception, never exit());
//  * our own bug                            -> STASIS_INVARIANT (src/base/panic.h), after the tracees are let go;
//  * a process that ended under our hands   -> Error with Errc::kVanished, a code of its own, since it is no fault.
//
// An Error is reported once, by whoever handles it; code in between adds a note() and passes it on.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <source_location>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace stasis {

// Stable numbers: scripts match on them and doc/errors.md lists them. Never reuse or renumber; add at the end of a
// block.
enum class Errc : std::uint16_t {
  // 1-19: anything else (exit status 1)
  kInternal = 1,
  kSystem = 2,
  kNoMemory = 3,
  kVanished = 4,
  kTimeout = 5,
  kInterrupted = 6,
  kNoSpace = 7,
  kNoSuchProcess = 8,
  kIo = 9,
  kTargetLost = 10,
  // 20-29: usage (exit status 2)
  kUsage = 20,
  // 30-79: refused, nothing was changed (exit status 3)
  kRefused = 30,
  kUnsupportedObject = 31,
  kUnsupportedTask = 32,
  kUnsupportedMemory = 33,
  kSeccomp = 34,
  kAlreadyTraced = 35,
  kExternalPeer = 36,
  kKernelFeature = 37,
  kCpuFeature = 38,
  kVdsoMismatch = 39,
  kFileChanged = 40,
  kFileMissing = 41,
  kPidTaken = 42,
  kParentImage = 43,
  kOutputExists = 44,
  kOwnTree = 45,
  // 80-99: bad image (exit status 4)
  kBadImage = 80,
  kImageTruncated = 81,
  kImageChecksum = 82,
  kImageVersion = 83,
  kImageUnknownRecord = 84,
  kImageArchitecture = 85,
  kImageAborted = 86,
  kImageTooDeep = 87,
  // 100-109: not permitted (exit status 5)
  kNotPermitted = 100,
  kNotOwner = 101,
  kMissingCapability = 102,
  // 110-139: the library's primitives
  kInvalidArgument = 110,
  kNotFound = 111,
  kTypeMismatch = 112,
  kExists = 113,
  kNested = 114,
  kOverflow = 115,
  kBusy = 116,
  kDraining = 117,
  kDisabled = 118,
  kWrongWorker = 119,
  kWouldDeadlock = 120,
  kStopped = 121,
};

// One row of the table behind `stasis --json`, doc/errors.md and the exit status.
struct ErrcInfo {
  Errc code;
  std::string_view name;     // stable, snake_case, what --json prints
  int exit_status;           // of the command line
  std::string_view meaning;  // one sentence
};

// The whole table in ascending order of code.
std::span<const ErrcInfo> errc_table() noexcept;
// Row of `code`; an unknown value yields the row of kInternal.
const ErrcInfo& errc_info(Errc code) noexcept;

// What went wrong, in one line that names the object, whose it is, why, and what helps.
class Error {
 public:
  explicit Error(Errc code, std::string message, std::source_location where = std::source_location::current())
      : code_(code), message_(std::move(message)), where_(where) {}

  // A failed system call: the message ends with strerror(sys_errno). ENOSPC/EDQUOT become kNoSpace, ESRCH kVanished,
  // EPERM/EACCES kNotPermitted, ENOMEM kNoMemory, the rest kSystem.
  static Error from_errno(int sys_errno, std::string_view operation,
                          std::source_location where = std::source_location::current());

  Errc code() const noexcept { return code_; }
  // errno of the failed call, 0 where there was none.
  int sys_errno() const noexcept { return sys_errno_; }
  const std::string& message() const noexcept { return message_; }
  // What the user can do about it; may be empty.
  const std::string& help() const noexcept { return help_; }
  const std::source_location& where() const noexcept { return where_; }

  // Prefixes the message with what was being done ("fd 3 of pid 12: ...").
  Error&& note(std::string_view context) &&;
  Error&& with_help(std::string_view help) &&;
  Error&& with_code(Errc code) && {
    code_ = code;
    return std::move(*this);
  }

  // "message (help)", the one line that is printed.
  std::string to_string() const;

 private:
  Errc code_;
  int sys_errno_ = 0;
  std::string message_;
  std::string help_;
  std::source_location where_;
};

// std::expected that may not be dropped silently (an alias would not warn).
template <class T>
struct [[nodiscard]] Result : std::expected<T, Error> {
  using Base = std::expected<T, Error>;
  using Base::Base;
  Result(Error error) : Base(std::unexpect, std::move(error)) {}  // NOLINT: conversions are the point
  Result(std::unexpected<Error> error) : Base(std::move(error)) {}
};

template <>
struct [[nodiscard]] Result<void> : std::expected<void, Error> {
  using Base = std::expected<void, Error>;
  using Base::Base;
  Result() noexcept {}  // not defaulted: `return {}` would zero the room of the Error first
  Result(Error error) : Base(std::unexpect, std::move(error)) {}
  Result(std::unexpected<Error> error) : Base(std::move(error)) {}
};

namespace detail {
template <class T>
T&& try_value(Result<T>& result) {
  return std::move(*result);
}
inline void try_value(Result<void>&) {}
}  // namespace detail

}  // namespace stasis

// TRY(expr): the value of a Result, or return its Error from the enclosing function.
#define STASIS_TRY(...)                                                                                 \
  __extension__({                                                                                       \
    auto stasis_try_result_ = (__VA_ARGS__);                                                            \
    if (!stasis_try_result_.has_value()) return ::stasis::Error(std::move(stasis_try_result_).error()); \
    ::stasis::detail::try_value(stasis_try_result_);                                                    \
  })
