// SPDX-License-Identifier: Apache-2.0
// DirectFile: a second opening of a file that is being written, past the page cache (O_DIRECT). What is written so is
// on its way to the medium at once, by less CPU time than the copy into the cache takes, and the sync at the end finds
// nothing left to do; but every write waits for the medium. Both openings may be used side by side for different pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/unique_fd.h"
#include "stasis/result.h"

namespace stasis {

// write() may be called from any thread, prepare() and trim() from one at a time.
class DirectFile {
 public:
  // Less than this is sooner copied than written.
  static constexpr std::uint64_t kWorthIt = std::uint64_t{256} << 10;

  // nullopt where the file system has no such way, or does not tell how it must be gone (STATX_DIOALIGN, Linux 6.1).
  static std::optional<DirectFile> open(int fd);

  // The leading part of `bytes` that can be written directly at that offset: whole pages from aligned memory, if they
  // are enough to be worth it.
  std::span<const std::byte> fitting(std::span<const std::byte> bytes, std::uint64_t offset) const;
  // REQUIRES: fitting.
  Result<void> write(std::span<const std::byte> bytes, std::uint64_t offset) const;

  // The file gets room up to `end` and more: writes inside a file's size wait for nobody, those behind it for each
  // other. Without effect where that is not to be had.
  void prepare(std::uint64_t end);
  // Gives back what was prepared behind `size`.
  Result<void> trim(std::uint64_t size);

 private:
  DirectFile(UniqueFd fd, std::uint64_t memory_alignment) : fd_(std::move(fd)), memory_alignment_(memory_alignment) {}

  UniqueFd fd_;
  std::uint64_t memory_alignment_;
  std::uint64_t prepared_ = 0;  // up to here
  bool can_prepare_ = true;
};

}  // namespace stasis
