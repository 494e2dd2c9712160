// SPDX-License-Identifier: Apache-2.0
// ImageSource: where the bytes of an image come from. Files are read with pread, never mapped: a file that somebody
// truncates meanwhile must give an error, not SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/unique_fd.h"
#include "stasis/image.h"
#include "stasis/result.h"

namespace stasis {

// read() moves a position of its own and is for one thread; read_at() may be called by several.
class ImageSource {
 public:
  virtual ~ImageSource() = default;
  // Up to buffer.size() bytes; fewer only at the end.
  virtual Result<std::size_t> read(std::span<std::byte> buffer) = 0;
  // REQUIRES: seekable().
  virtual Result<std::size_t> read_at(std::span<std::byte> buffer, std::uint64_t offset) const = 0;
  virtual bool seekable() const = 0;
  // Bytes in all. REQUIRES: seekable().
  virtual std::uint64_t size() const = 0;
  // -1 if there is none.
  virtual int fd() const = 0;
};

// A regular file at position 0 becomes a seekable source, anything else a stream.
// `keep_going` is asked while a stream stalls.
Result<std::unique_ptr<ImageSource>> open_source(const std::string& path, const KeepGoing& keep_going);
Result<std::unique_ptr<ImageSource>> own_source(UniqueFd fd);
// Borrowed descriptor.
Result<std::unique_ptr<ImageSource>> borrow_source(int fd, const KeepGoing& keep_going);
// Borrowed bytes.
std::unique_ptr<ImageSource> memory_source(std::span<const std::byte> bytes, ImageReader::Access access);
// `base` read from its beginning as a stream. `base` must outlive it.
std::unique_ptr<ImageSource> sequential(const ImageSource& base);

// Fills `buffer` or fails with kImageTruncated.
Result<void> read_exactly(ImageSource& source, std::span<std::byte> buffer);
Result<void> read_exactly_at(const ImageSource& source, std::span<std::byte> buffer, std::uint64_t offset);
// Appends `count` bytes to `out`, which grows with what really arrives and not with what `count` claims.
Result<void> append_from(ImageSource& source, std::uint64_t count, std::vector<std::byte>& out);
Result<std::vector<std::byte>> read_range(const ImageSource& source, std::uint64_t offset, std::uint64_t count);

}  // namespace stasis
