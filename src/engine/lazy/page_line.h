// SPDX-License-Identifier: Apache-2.0
// PageLine: what a restart and its page server say to each other.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "stasis/image.h"
#include "stasis/result.h"

namespace stasis {

enum class PageWord : std::uint32_t {
  kProcess = 1,  // a pidfd of one of the program's processes
  kInit,         // a pidfd of process 1 of the namespace in which the program lives
  kMemory,   // the userfaultfd of the process told of last, the object that its pages are in, the areas to be filled
  kRelease,  // the program is about to run
};

struct PageMessage {
  PageWord word{};
  UniqueFd descriptor;
  ObjRef object;
  std::vector<PageRun> areas;
};

// One end; each is used by one process. Somebody who is gone shows as kTargetLost.
class PageLine {
 public:
  PageLine() = default;
  static Result<std::pair<PageLine, PageLine>> create_pair();
  int fd() const { return socket_.get(); }
  explicit operator bool() const { return static_cast<bool>(socket_); }
  void close() { socket_.reset(); }

  Result<void> send(const PageMessage& message) const;
  Result<PageMessage> receive() const;

  // The other way: why the server can't go on.
  void send_failure(const Error& error) const;
  // Nothing: it has not said so.
  std::optional<Error> failure() const;

 private:
  UniqueFd socket_;
};

}  // namespace stasis
