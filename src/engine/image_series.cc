// SPDX-License-Identifier: Apache-2.0
#include "engine/image_series.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <memory>
#include <set>

#include "base/file.h"
#include "image/environment.h"
#include "image/format.h"
#include "stasis/image.h"

namespace stasis {
namespace {

constexpr unsigned kMostInARow = kMaxChain / 2;
constexpr std::size_t kRandomDigits = 16;  // of a name that OutputFile writes under

// N of "NAME.N"; N has no leading zero.
std::optional<std::uint64_t> number_of(std::string_view entry, std::string_view name) {
  if (!entry.starts_with(name) || entry.size() < name.size() + 2 || entry[name.size()] != '.') return std::nullopt;
  const std::string_view digits = entry.substr(name.size() + 1);
  std::uint64_t number = 0;
  const auto [rest, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || rest != digits.data() + digits.size() || digits.front() == '0') return std::nullopt;
  return number;
}

// ".NAME.0123456789abcdef.part"
bool is_leftover(std::string_view entry, std::string_view name) {
  constexpr std::string_view kEnd = ".part";
  name = name.substr(0, 200);  // as OutputFile shortens it
  if (entry.size() != 2 + name.size() + kRandomDigits + kEnd.size() || !entry.ends_with(kEnd)) return false;
  if (entry.front() != '.' || entry.substr(1, name.size()) != name || entry[1 + name.size()] != '.') return false;
  return std::ranges::all_of(entry.substr(2 + name.size(), kRandomDigits),
                             [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// Nothing is ever removed or renamed that is no image.
bool is_image(int directory, const std::string& name) {
  const auto fd = open_at(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
  struct ::stat st{};
  if (!fd || ::fstat(fd->get(), &st) != 0 || !S_ISREG(st.st_mode)) return false;
  std::array<std::byte, kPreambleSize> preamble{};
  const auto size = read_full(fd->get(), preamble);
  return size && *size == preamble.size() && check_preamble(preamble).has_value();
}

std::optional<struct ::stat> look(int directory, const std::string& name) {
  struct ::stat st{};
  if (::fstatat(directory, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return std::nullopt;
  return st;
}

bool same_file(int directory, const std::string& a, const std::string& b) {
  const auto first = look(directory, a), second = look(directory, b);
  return first && second && first->st_dev == second->st_dev && first->st_ino == second->st_ino;
}

Result<std::vector<std::string>> entries_of(int directory) {
  UniqueFd fd = STASIS_TRY(open_at(directory, ".", O_RDONLY | O_DIRECTORY));
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(fd.get()), &::closedir);
  if (!stream) return Error::from_errno(errno, "read the directory of an image");
  static_cast<void>(fd.release());
  std::vector<std::string> entries;
  errno = 0;
  while (const dirent* const entry = ::readdir(stream.get())) entries.emplace_back(entry->d_name);
  if (errno != 0) return Error::from_errno(errno, "read the directory of an image");
  return entries;
}

}  // namespace

ImageSeries::ImageSeries(std::string file, Options options)
    : file_(std::move(file)), keep_(std::max(options.keep, 1u)), chains_(options.chains) {
  const std::size_t slash = file_.rfind('/');
  name_ = slash == std::string::npos ? file_ : file_.substr(slash + 1);
  directory_path_ = slash == std::string::npos ? "" : file_.substr(0, slash + 1);
}

ImageSeries::~ImageSeries() {
  // A fork of ours that goes must not take the name away.
  if (lock_ && owner_ == ::getpid()) ::unlinkat(directory_.get(), lock_name().c_str(), 0);
}

Result<ImageSeries> ImageSeries::open(const std::string& file, Options options) {
  ImageSeries series(file, options);
  if (series.name_.empty() || series.name_ == "." || series.name_ == "..") {
    return Error(Errc::kInvalidArgument, "'" + file + "' does not name a file");
  }
  const std::string directory = series.directory_path_.empty() ? "." : series.directory_path_;
  auto fd = open_at(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY);
  if (!fd) return std::move(fd).error().note(fmt::format("image {}", file));
  series.directory_ = std::move(*fd);
  const auto st = look(series.directory_.get(), series.name_);
  if (st && !S_ISREG(st->st_mode)) return Error(Errc::kOutputExists, file + " exists and is no regular file");
  STASIS_TRY(series.take_lock());
  series.remove_leftovers();
  return series;
}

Result<void> ImageSeries::take_lock() {
  const std::string name = lock_name();
  for (;;) {
    auto fd = open_at(directory_.get(), name, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (!fd) return std::move(fd).error().note(fmt::format("image {} can't be written", file_));
    if (::flock(fd->get(), LOCK_EX | LOCK_NB) != 0) {
      // A file system that has no locks: the name alone must do.
      if (errno != EWOULDBLOCK) return {};
      const auto holder = read_fd(fd->get(), 64);
      return Error(Errc::kBusy, fmt::format("{} belongs to another `stasis run`, process {}", file_,
                                            holder ? holder->substr(0, holder->find('\n')) : "unknown"))
          .with_help("it, or the program that it started, still runs");
    }
    // Between open and lock its holder may have ended and taken the name away.
    struct ::stat st{};
    const auto named = look(directory_.get(), name);
    if (::fstat(fd->get(), &st) != 0 || !named || named->st_ino != st.st_ino) continue;
    owner_ = ::getpid();
    const std::string text = fmt::format("{}\n", owner_);
    if (::ftruncate(fd->get(), 0) != 0) return Error::from_errno(errno, "write " + name);
    STASIS_TRY(pwrite_full(fd->get(), std::as_bytes(std::span(text)), 0));
    lock_ = std::move(*fd);
    return {};
  }
}

void ImageSeries::remove_leftovers() const {
  const auto entries = entries_of(directory_.get());
  if (!entries) return;
  for (const std::string& entry : *entries) {
    const auto st = look(directory_.get(), entry);
    if (is_leftover(entry, name_) && st && S_ISREG(st->st_mode)) ::unlinkat(directory_.get(), entry.c_str(), 0);
  }
}

Result<std::vector<ImageSeries::Older>> ImageSeries::older() const {
  std::vector<Older> found;
  for (std::string& entry : STASIS_TRY(entries_of(directory_.get()))) {
    const auto number = number_of(entry, name_);
    if (number && is_image(directory_.get(), entry)) found.push_back({.number = *number, .name = std::move(entry)});
  }
  std::ranges::sort(found, {}, &Older::number);
  return found;
}

Result<std::vector<std::string>> ImageSeries::candidates() const {
  if (!look(directory_.get(), name_)) return std::vector<std::string>{};
  std::vector<std::string> names{file_};
  const auto others = STASIS_TRY(older());
  for (auto other = others.rbegin(); other != others.rend(); ++other) {
    if (!same_file(directory_.get(), other->name, name_)) names.push_back(directory_path_ + other->name);
  }
  return names;
}

Result<void> ImageSeries::fall_back_to(const std::string& candidate) {
  const int dir = directory_.get();
  const std::string from = candidate.substr(directory_path_.size());
  const std::string damaged = name_ + ".damaged", staging = "." + name_ + ".again";
  ::unlinkat(dir, damaged.c_str(), 0);
  ::unlinkat(dir, staging.c_str(), 0);
  if (::linkat(dir, name_.c_str(), dir, damaged.c_str(), 0) != 0 ||
      ::linkat(dir, from.c_str(), dir, staging.c_str(), 0) != 0 ||
      ::renameat(dir, staging.c_str(), dir, name_.c_str()) != 0) {
    return Error::from_errno(errno, fmt::format("put {} in the place of {}", candidate, file_));
  }
  return {};
}

Result<void> ImageSeries::before_checkpoint() {
  if ((keep_ < 2 && !chains_) || !look(directory_.get(), name_)) return {};
  const auto others = STASIS_TRY(older());
  // A checkpoint that was cut off has given the name already.
  if (!others.empty() && same_file(directory_.get(), others.back().name, name_)) return {};
  const std::string next = fmt::format("{}.{}", name_, others.empty() ? 1 : others.back().number + 1);
  if (::linkat(directory_.get(), name_.c_str(), directory_.get(), next.c_str(), 0) == 0) return {};
  // Without hard links only the newest can be kept; it is replaced safely all the same.
  if (errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS || errno == EMLINK) return {};
  return Error::from_errno(errno, fmt::format("keep {} as {}", file_, next));
}

void ImageSeries::after_checkpoint() {
  auto others = older();
  if (!others) return;
  std::erase_if(*others, [&](const Older& other) {
    const bool again = same_file(directory_.get(), other.name, name_);
    if (again) ::unlinkat(directory_.get(), other.name.c_str(), 0);
    return again;
  });
  // From the newest on; what one of them goes back to is older. While one can't be read, nobody knows what is needed.
  const auto parent = parent_of(name_);
  if (!parent) return;
  std::set<std::string> needed{*parent};
  std::vector<std::string> unneeded;
  for (std::size_t i = others->size(); i-- > 0;) {
    const std::string& name = (*others)[i].name;
    if (i + keep_ <= others->size() && !needed.contains(name)) {
      unneeded.push_back(name);
      continue;
    }
    const auto its = parent_of(name);
    if (!its) return;
    needed.insert(*its);
  }
  for (const std::string& name : unneeded) ::unlinkat(directory_.get(), name.c_str(), 0);
}

// The name of the older image that this one is a difference to; empty: to none of ours, or it is no image. An error: it
// can't be read now.
Result<std::string> ImageSeries::parent_of(const std::string& name) const {
  UniqueFd fd = STASIS_TRY(open_at(directory_.get(), name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY));
  constexpr int kBadImageStatus = 4;
  const auto image = ImageReader::from_fd(fd.get(), {});
  if (!image && errc_info(image.error().code()).exit_status != kBadImageStatus) return image.error();
  if (!image || !image->environment().parent_image) return std::string();
  const std::string& path = image->environment().parent_path;
  const std::string parent = path.substr(path.rfind('/') + 1);
  return number_of(parent, name_) ? parent : std::string();
}

std::string ImageSeries::parent() const {
  const auto others = older();
  if (!others || others->empty() || !same_file(directory_.get(), others->back().name, name_)) return "";
  std::uint64_t differences = 0;
  std::string name = others->back().name;
  for (unsigned length = 1; length < kMostInARow; ++length) {
    const auto st = look(directory_.get(), name);
    if (!st) return "";
    const auto size = static_cast<std::uint64_t>(st->st_size);
    const auto parent = parent_of(name);
    if (!parent) return "";
    if (parent->empty()) return differences <= size ? directory_path_ + others->back().name : "";
    differences += size;
    name = *parent;
  }
  return "";
}

Result<void> ImageSeries::remove() {
  for (const Older& other : STASIS_TRY(older())) ::unlinkat(directory_.get(), other.name.c_str(), 0);
  if (::unlinkat(directory_.get(), name_.c_str(), 0) != 0 && errno != ENOENT) {
    return Error::from_errno(errno, "remove " + file_);
  }
  ::fsync(directory_.get());
  return {};
}

}  // namespace stasis
