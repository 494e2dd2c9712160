// SPDX-License-Identifier: Apache-2.0
#include "engine/parent_image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>

#include "resource/object_table.h"
#include "resource/process/process_record.h"

namespace stasis {
namespace {

std::string real_path(const std::string& path) {
  const std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), &std::free);
  return real ? real.get() : "";
}

// By its name alone if both are in one directory, so that they can be moved together.
std::string path_to_record(const std::string& parent, const std::string& output) {
  const std::string real = real_path(parent);
  const std::string directory = directory_of(real);
  const std::string own = directory_of(output);
  if (output != "-" && real_path(own.empty() ? "." : own) + "/" == directory) return real.substr(directory.size());
  return real;
}

// By another name of its own it stays.
Result<void> refuse_same(const struct ::stat& output, const std::string& name, int fd, const std::string& path) {
  struct ::stat st{};
  if (::fstat(fd, &st) != 0 || st.st_dev != output.st_dev || st.st_ino != output.st_ino) return {};
  if (real_path(name) != real_path(path)) return {};
  return Error(Errc::kUsage, fmt::format("{} would be replaced, and the new image goes back to it", name))
      .with_help("write the image under another name");
}

}  // namespace

Result<ParentImage> ParentImage::open(const std::string& path, const std::string& output) {
  ParentFile file = STASIS_TRY(open_parent_file(path, ::geteuid()));
  auto reader = ImageReader::from_fd(file.fd.get(), {.known = resource_records()});
  if (!reader) return std::move(reader).error().note("parent image " + path).with_code(Errc::kParentImage);
  ParentImage image(std::move(file), std::move(*reader));
  STASIS_TRY(image.reader_.open_parents(directory_of(path)));
  STASIS_TRY(image.refuse_output(output));
  image.recorded_ = path_to_record(path, output);
  STASIS_TRY(image.find_memories());
  return image;
}

Result<void> ParentImage::refuse_output(const std::string& output) const {
  unsigned length = 1;
  for (const ImageReader* reader = &reader_; reader; reader = reader->parent()) ++length;
  if (length > kMaxChain) {
    return Error(Errc::kParentImage, fmt::format("there are {} images in a row already", kMaxChain))
        .with_help("`stasis merge` makes one of them");
  }
  struct ::stat st{};
  if (output == "-" || ::stat(output.c_str(), &st) != 0) return {};
  for (const ImageReader* reader = &reader_; reader; reader = reader->parent()) {
    STASIS_TRY(refuse_same(st, output, reader->fd(), reader == &reader_ ? file_.path : reader->path()));
  }
  return {};
}

void ParentImage::read_ahead() const {
  for (const ImageReader* reader = &reader_; reader; reader = reader->parent()) {
    ::posix_fadvise(reader->fd(), 0, 0, POSIX_FADV_WILLNEED);
  }
}

Result<void> ParentImage::find_memories() {
  for (std::size_t i = 0; i < reader_.record_count(); ++i) {
    const RawRecord raw = reader_.record(i);
    if (raw.type != ProcessRecord::kType) continue;
    const auto process = STASIS_TRY(decode<ProcessRecord>(raw.payload, ProcessRecord::kName));
    if (!process.zombie && process.memory.value() > 0) memories_[process.pid] = process.memory;
  }
  return {};
}

Result<void> ParentImage::name_in(EnvironmentRecord& environment, const std::string& name) const {
  const EnvironmentRecord& theirs = reader_.environment();
  if (theirs.arch != environment.arch || theirs.page_size != environment.page_size) {
    return Error(Errc::kParentImage, fmt::format("parent image {} was made on a machine of another kind", file_.path));
  }
  environment.parent_image = reader_.image_hash();
  environment.parent_path = name.empty() ? recorded_ : name;
  return {};
}

std::optional<PageBase> ParentImage::memory_of(ImagePid pid) const {
  const auto found = memories_.find(pid);
  if (found == memories_.end()) return std::nullopt;
  return PageBase{.parent = &reader_, .object = found->second};
}

}  // namespace stasis
