// SPDX-License-Identifier: Apache-2.0
#include "resource/file_contents/file_contents.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "base/file.h"
#include "base/panic.h"
#include "kernel/page_size.h"

namespace stasis {
namespace {

// The next stretch of data at or behind `from`; empty (start == size) if there is none.
struct Stretch {
  std::uint64_t start;
  std::uint64_t end;
};

Result<Stretch> next_data(int fd, std::uint64_t from, std::uint64_t size) {
  const off_t data = ::lseek(fd, static_cast<off_t>(from), SEEK_DATA);
  if (data < 0 && errno == ENXIO) return Stretch{size, size};
  if (data < 0 && errno == EINVAL) return Stretch{from, size};  // a file system that does not know holes
  if (data < 0) return Error::from_errno(errno, "look for data in a file");
  const off_t hole = ::lseek(fd, data, SEEK_HOLE);
  if (hole < 0) return Error::from_errno(errno, "look for a hole in a file");
  const std::uint64_t start = std::max(from, kernel::page_down(static_cast<std::uint64_t>(data)));
  return Stretch{std::min(start, size), std::min(static_cast<std::uint64_t>(hole), size)};
}

}  // namespace

Result<UniqueFd> open_for_reading(const OpenInode& inode) {
  const int held = inode.any().held.get();
  STASIS_INVARIANT(held >= 0);
  // An opening of our own: reading must not move anybody's offset, and theirs may be for writing only.
  return open_at(AT_FDCWD, fmt::format("/proc/self/fd/{}", held), O_RDONLY);
}

Result<void> write_contents(ImageWriter& image, ObjRef object, int fd, std::uint64_t size, const Patience& patience) {
  std::vector<std::byte> pages;
  for (std::uint64_t at = 0; at < size;) {
    STASIS_TRY(patience.check());
    const Stretch stretch = STASIS_TRY(next_data(fd, at, size));
    if (stretch.start == stretch.end) break;
    const std::uint64_t bytes = std::min(stretch.end - stretch.start, kUsualChunkBytes);
    // Whole pages: the last one is filled up with what the file has there, or zeros behind its end.
    pages.assign(kernel::page_up(bytes), std::byte{0});
    STASIS_TRY(pread_full(fd, std::span(pages), static_cast<off_t>(stretch.start)));
    const PageRun run{.start = stretch.start, .length = pages.size()};
    STASIS_TRY(image.add_chunk(object, std::span(&run, 1), pages, ZeroPages::kDrop));
    at = stretch.start + pages.size();
  }
  return {};
}

Result<void> fill_contents(int fd, std::uint64_t size, std::span<const PageRun> runs,
                           std::span<const std::byte> pages) {
  for (const PageRun& run : runs) {
    if (run.length > pages.size()) return Error(Errc::kBadImage, "a chunk is shorter than its runs");
    if (run.start >= size) return Error(Errc::kBadImage, "contents behind the end of a file");
    const std::uint64_t bytes = std::min(run.length, size - run.start);
    STASIS_TRY(pwrite_full(fd, pages.first(bytes), static_cast<off_t>(run.start)));
    pages = pages.subspan(run.length);
  }
  return {};
}

}  // namespace stasis
