// SPDX-License-Identifier: Apache-2.0
// ImageReader: images that hold what differs from a parent, and pages by their address.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "image/codec.h"
#include "image/parent_file.h"
#include "image/reader_impl.h"

namespace stasis {

Result<void> ImageReader::Impl::open_parents(const std::string& directory) {
  if (parent_ || !structure_.environment().parent_image) return {};
  uid_t owner = ::geteuid();
  FileIds files;
  struct ::stat st{};
  if (source_->fd() >= 0 && ::fstat(source_->fd(), &st) == 0 && S_ISREG(st.st_mode)) {
    owner = st.st_uid;
    files.emplace_back(st.st_dev, st.st_ino);
  }
  return open_parents(directory, owner, files);
}

Result<void> ImageReader::Impl::open_parents(const std::string& directory, uid_t owner, FileIds& files) {
  const EnvironmentRecord& environment = structure_.environment();
  if (!environment.parent_image) return {};
  Result<void> why;
  for (const std::string& path : parent_paths(environment.parent_path, directory)) {
    auto opened = open_parent(path, owner, files);
    if (opened) {
      parent_ = std::move(*opened);
      return parent_->impl_->open_parents(directory_of(path), owner, files);
    }
    if (why) why = std::move(opened).error();
  }
  return why;
}

Result<std::unique_ptr<ImageReader>> ImageReader::Impl::open_parent(const std::string& path, uid_t owner,
                                                                    FileIds& files) const {
  const EnvironmentRecord& ours = structure_.environment();
  ParentFile file = STASIS_TRY(open_parent_file(path, owner));
  const std::pair id(file.stat.st_dev, file.stat.st_ino);
  if (std::ranges::find(files, id) != files.end()) {
    return Error(Errc::kParentImage, fmt::format("parent image {} is its own ancestor", path));
  }
  if (files.size() >= kMaxChain) {
    return Error(Errc::kParentImage, fmt::format("more than {} images in a row", kMaxChain));
  }
  auto impl = std::make_unique<Impl>(STASIS_TRY(own_source(std::move(file.fd))),
                                     ReaderOptions{.keep_going = options_.keep_going});
  if (auto good = impl->open(); !good) {
    return std::move(good).error().note(fmt::format("parent image {}", path)).with_code(Errc::kParentImage);
  }
  const EnvironmentRecord& theirs = impl->structure().environment();
  if (impl->image_hash() != *ours.parent_image || theirs.arch != ours.arch || theirs.page_size != ours.page_size) {
    return Error(Errc::kParentImage,
                 fmt::format("{} is not the parent image that was there: its identity is {} instead of {}", path,
                             to_hex(impl->image_hash()), to_hex(*ours.parent_image)));
  }
  impl->path_ = path;
  files.push_back(id);
  return std::unique_ptr<ImageReader>(new ImageReader(std::move(impl)));
}

Error ImageReader::Impl::without_parent() const {
  return Error(Errc::kParentImage,
               fmt::format("the image holds only what differs from its parent {}, which is not open",
                           structure_.environment().parent_path));
}

Result<const PageIndex*> ImageReader::Impl::page_index() const {
  if (!seekable()) return Error(Errc::kInvalidArgument, "pages of a stream come in its order");
  const std::lock_guard lock(index_mutex_);
  if (!page_index_) page_index_ = STASIS_TRY(PageIndex::make(chunks_));
  return &*page_index_;
}

Result<std::vector<PageRun>> ImageReader::Impl::page_runs(ObjRef object) const {
  std::vector<PageRun> runs;
  for (const PageIndex::Extent& extent : STASIS_TRY(page_index())->extents(object)) {
    if (!runs.empty() && runs.back().start + runs.back().length == extent.start) {
      runs.back().length += extent.length;
    } else {
      runs.push_back({extent.start, extent.length});
    }
  }
  return runs;
}

// Sorts what is wanted by where it lies: each chunk is read once, and what is
// in the parent is the parent's turn.
Result<void> ImageReader::Impl::read_targets(ObjRef object, std::span<const Target> targets) const {
  const PageIndex& index = *STASIS_TRY(page_index());
  std::map<std::size_t, std::vector<Part>> own;
  std::map<std::int32_t, std::vector<Target>> inherited;
  for (const Target& target : targets) {
    const PageRun run{target.start, target.out.size()};
    const bool found = index.find(object, run, [&](const PageIndex::Extent& e) {
      const auto out =
          target.out.subspan(static_cast<std::size_t>(e.start - target.start), static_cast<std::size_t>(e.length));
      const ChunkInfo& chunk = chunks_[e.chunk];
      if (chunk.source) {
        inherited[chunk.source->value()].push_back({e.start, out});
      } else {
        own[e.chunk].push_back({e.offset, out});
      }
    });
    if (!found) {
      return Error(Errc::kBadImage, fmt::format("pages of object {} at {:x} are not in {}", object.value(),
                                                target.start, path_.empty() ? "the image" : path_));
    }
  }
  for (const auto& [chunk, parts] : own) STASIS_TRY(read_parts(chunk, parts));
  if (!inherited.empty() && !parent_) return without_parent();
  for (const auto& [source, pages] : inherited) STASIS_TRY(parent_->impl_->read_targets(ObjRef(source), pages));
  return {};
}

Result<void> ImageReader::Impl::read_inherited(const ChunkInfo& chunk, std::span<std::byte> out) const {
  if (!parent_) return without_parent();
  std::vector<Target> targets;
  for (const PageRun& run : chunk.runs) {
    targets.push_back({run.start, out.first(static_cast<std::size_t>(run.length))});
    out = out.subspan(static_cast<std::size_t>(run.length));
  }
  auto read = parent_->impl_->read_targets(*chunk.source, targets);
  if (!read && !parent_->path().empty()) return std::move(read).error().note("parent image " + parent_->path());
  return read;
}

// Does the parent have them? (Whether they are right it tells itself.)
Result<void> ImageReader::Impl::find_inherited(const ChunkInfo& chunk) const {
  if (!parent_) return without_parent();
  const PageIndex& index = *STASIS_TRY(parent_->impl_->page_index());
  for (const PageRun& run : chunk.runs) {
    if (index.find(*chunk.source, run, [](const PageIndex::Extent&) {})) continue;
    return Error(Errc::kBadImage,
                 fmt::format("pages of object {} at {:x} are not in the parent", chunk.source->value(), run.start));
  }
  return {};
}

// Some of a chunk's pages, the chunk's hash being checked once.
Result<void> ImageReader::Impl::read_parts(std::size_t i, std::span<const Part> parts) const {
  const ChunkInfo& chunk = chunks_[i];
  const auto copy = [&](std::span<const std::byte> pages) {
    for (const Part& part : parts) std::memcpy(part.out.data(), pages.data() + part.offset, part.out.size());
  };
  std::uint64_t wanted = 0;
  for (const Part& part : parts) wanted += part.out.size();
  {
    std::unique_lock lock(parts_mutex_);
    if (decoded_ && decoded_chunk_ == i) {
      const auto pages = decoded_;
      lock.unlock();
      copy(*pages);
      return {};
    }
  }
  if (chunk.codec == Codec::kNone && wanted < chunk.raw_size / 2) {
    std::unique_lock lock(parts_mutex_);
    verified_.resize(chunks_.size());
    const bool known = verified_[i];
    lock.unlock();
    if (!known) STASIS_TRY(verify_payload(chunk));
    for (const Part& part : parts) {
      STASIS_TRY(read_exactly_at(*source_, part.out, chunk.payload_offset + part.offset));
    }
    lock.lock();
    verified_[i] = true;
    return {};
  }
  const auto pages = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(chunk.raw_size));
  STASIS_TRY(decode_payload(chunk, *pages));
  copy(*pages);
  const std::lock_guard lock(parts_mutex_);
  decoded_ = pages;
  decoded_chunk_ = i;
  return {};
}

}  // namespace stasis
