// SPDX-License-Identifier: Apache-2.0
#include "image/direct_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/file.h"
#include "stasis/image.h"
#include "stasis/work_queue.h"

#ifndef STATX_DIOALIGN
#define STATX_DIOALIGN 0x2000U
#endif

namespace stasis {
namespace {

// As the kernel lays it out (linux/stat.h of 6.1); older headers end before the last two.
struct DirectAlignment {
  std::uint32_t memory;
  std::uint32_t offset;
};
constexpr std::size_t kAlignmentInStatx = 0x98;

DirectAlignment alignment_of(int fd) {
  struct ::statx info{};
  static_assert(sizeof info >= kAlignmentInStatx + sizeof(DirectAlignment));
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) != 0 || !(info.stx_mask & STATX_DIOALIGN)) return {};
  DirectAlignment alignment{};
  std::memcpy(&alignment, reinterpret_cast<const std::byte*>(&info) + kAlignmentInStatx, sizeof alignment);
  return alignment;
}

constexpr std::uint64_t kPreparedAtOnce = std::uint64_t{256} << 20;

}  // namespace

std::optional<DirectFile> DirectFile::open(int fd) {
  const DirectAlignment alignment = alignment_of(fd);
  if (alignment.memory == 0 || alignment.memory > kPayloadAlignment || alignment.offset == 0 ||
      alignment.offset > kPayloadAlignment) {
    return std::nullopt;
  }
  auto direct = open_at(AT_FDCWD, fmt::format("/proc/self/fd/{}", fd), O_WRONLY | O_DIRECT);
  if (!direct) return std::nullopt;
  return DirectFile(std::move(*direct), alignment.memory);
}

std::span<const std::byte> DirectFile::fitting(std::span<const std::byte> bytes, std::uint64_t offset) const {
  if (bytes.size() < kWorthIt || offset % kPayloadAlignment != 0 ||
      reinterpret_cast<std::uintptr_t>(bytes.data()) % memory_alignment_ != 0) {
    return {};
  }
  return bytes.first(bytes.size() / kPayloadAlignment * kPayloadAlignment);
}

Result<void> DirectFile::write(std::span<const std::byte> bytes, std::uint64_t offset) const {
  const ScopedBlocking waits;
  return pwrite_full(fd_.get(), bytes, static_cast<off_t>(offset));
}

void DirectFile::prepare(std::uint64_t end) {
  if (!can_prepare_ || end <= prepared_) return;
  // Room that is not needed in the end must not be what exceeds a limit: that is a deadly signal.
  struct ::rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur != RLIM_INFINITY) return;
  const std::uint64_t wanted = end + kPreparedAtOnce;
  can_prepare_ = ::fallocate(fd_.get(), 0, static_cast<off_t>(prepared_), static_cast<off_t>(wanted - prepared_)) == 0;
  prepared_ = wanted;  // where it failed, too: a file system may keep the size that it came to
}

Result<void> DirectFile::trim(std::uint64_t size) {
  if (prepared_ <= size) return {};
  if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) return Error::from_errno(errno, "cut a file to its size");
  prepared_ = size;
  return {};
}

}  // namespace stasis
