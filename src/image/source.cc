// SPDX-License-Identifier: Apache-2.0
#include "image/source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <string>

#include "base/file.h"
#include "base/stream.h"

namespace stasis {
namespace {

class FdSource final : public ImageSource {
 public:
  FdSource(UniqueFd owned, int fd, bool seekable, std::uint64_t size, KeepGoing keep_going)
      : owned_(std::move(owned)), fd_(fd), seekable_(seekable), size_(size), keep_going_(std::move(keep_going)) {}

  Result<std::size_t> read(std::span<std::byte> buffer) override {
    if (!seekable_) return read_stream(fd_, buffer, keep_going_);
    const std::size_t got = STASIS_TRY(read_at(buffer, position_));
    position_ += got;
    return got;
  }
  Result<std::size_t> read_at(std::span<std::byte> buffer, std::uint64_t offset) const override {
    if (offset > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max()) - buffer.size()) return std::size_t{0};
    return pread_full(fd_, buffer, static_cast<off_t>(offset));
  }
  bool seekable() const override { return seekable_; }
  std::uint64_t size() const override { return size_; }
  int fd() const override { return seekable_ ? fd_ : -1; }

 private:
  UniqueFd owned_;
  int fd_;
  bool seekable_;
  std::uint64_t size_;
  std::uint64_t position_ = 0;
  KeepGoing keep_going_;
};

class MemorySource final : public ImageSource {
 public:
  MemorySource(std::span<const std::byte> bytes, bool seekable) : bytes_(bytes), seekable_(seekable) {}

  Result<std::size_t> read(std::span<std::byte> buffer) override {
    const std::size_t got = STASIS_TRY(read_at(buffer, position_));
    position_ += got;
    return got;
  }
  Result<std::size_t> read_at(std::span<std::byte> buffer, std::uint64_t offset) const override {
    if (offset >= bytes_.size()) return std::size_t{0};
    const std::size_t count = std::min(buffer.size(), bytes_.size() - static_cast<std::size_t>(offset));
    std::ranges::copy(bytes_.subspan(static_cast<std::size_t>(offset), count), buffer.begin());
    return count;
  }
  bool seekable() const override { return seekable_; }
  std::uint64_t size() const override { return bytes_.size(); }
  int fd() const override { return -1; }

 private:
  std::span<const std::byte> bytes_;
  bool seekable_;
  std::uint64_t position_ = 0;
};

class SequentialSource final : public ImageSource {
 public:
  explicit SequentialSource(const ImageSource& base) : base_(base) {}

  Result<std::size_t> read(std::span<std::byte> buffer) override {
    const std::size_t got = STASIS_TRY(base_.read_at(buffer, position_));
    position_ += got;
    return got;
  }
  Result<std::size_t> read_at(std::span<std::byte> buffer, std::uint64_t offset) const override {
    return base_.read_at(buffer, offset);
  }
  bool seekable() const override { return false; }
  std::uint64_t size() const override { return 0; }
  int fd() const override { return -1; }

 private:
  const ImageSource& base_;
  std::uint64_t position_ = 0;
};

Result<std::unique_ptr<ImageSource>> make_fd_source(UniqueFd owned, int fd, const KeepGoing& keep_going) {
  struct stat info{};
  if (::fstat(fd, &info) != 0) return Error::from_errno(errno, "stat the image");
  if (S_ISDIR(info.st_mode)) return Error(Errc::kBadImage, "the image is a directory");
  const bool seekable = S_ISREG(info.st_mode) && ::lseek(fd, 0, SEEK_CUR) == 0;
  const auto size = static_cast<std::uint64_t>(info.st_size);
  return std::unique_ptr<ImageSource>(std::make_unique<FdSource>(std::move(owned), fd, seekable, size, keep_going));
}

Error truncated() { return Error(Errc::kImageTruncated, "the image ends too early"); }

}  // namespace

Result<std::unique_ptr<ImageSource>> open_source(const std::string& path, const KeepGoing& keep_going) {
  UniqueFd fd = STASIS_TRY(open_input(path, keep_going));
  const int number = fd.get();
  return make_fd_source(std::move(fd), number, keep_going);
}

Result<std::unique_ptr<ImageSource>> own_source(UniqueFd fd) {
  const int number = fd.get();
  return make_fd_source(std::move(fd), number, {});
}

Result<std::unique_ptr<ImageSource>> borrow_source(int fd, const KeepGoing& keep_going) {
  return make_fd_source(UniqueFd(), fd, keep_going);
}

std::unique_ptr<ImageSource> memory_source(std::span<const std::byte> bytes, ImageReader::Access access) {
  return std::make_unique<MemorySource>(bytes, access == ImageReader::Access::kFile);
}

std::unique_ptr<ImageSource> sequential(const ImageSource& base) { return std::make_unique<SequentialSource>(base); }

Result<void> read_exactly(ImageSource& source, std::span<std::byte> buffer) {
  if (STASIS_TRY(source.read(buffer)) != buffer.size()) return truncated();
  return {};
}

Result<void> read_exactly_at(const ImageSource& source, std::span<std::byte> buffer, std::uint64_t offset) {
  if (STASIS_TRY(source.read_at(buffer, offset)) != buffer.size()) return truncated();
  return {};
}

Result<void> append_from(ImageSource& source, std::uint64_t count, std::vector<std::byte>& out) {
  constexpr std::uint64_t kStep = std::uint64_t{1} << 20;
  while (count > 0) {
    const auto step = static_cast<std::size_t>(std::min(count, kStep));
    const std::size_t filled = out.size();
    out.resize(filled + step);
    STASIS_TRY(read_exactly(source, std::span(out).subspan(filled)));
    count -= step;
  }
  return {};
}

Result<std::vector<std::byte>> read_range(const ImageSource& source, std::uint64_t offset, std::uint64_t count) {
  if (offset > source.size() || count > source.size() - offset) return truncated();
  std::vector<std::byte> bytes(static_cast<std::size_t>(count));
  STASIS_TRY(read_exactly_at(source, bytes, offset));
  return bytes;
}

}  // namespace stasis
