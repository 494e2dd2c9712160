// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/precopied_pages.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "base/file.h"
#include "base/page_buffer.h"
#include "image/early_chunks.h"
#include "image/page_runs.h"
#include "image/zero_pages.h"
#include "kernel/page_size.h"
#include "work/side_by_side.h"

namespace stasis {
namespace {

// Stays in the cache from reading to writing.
constexpr std::uint64_t kPiece = std::uint64_t{512} << 10;

// Calls `piece(start, length, offset)` for the parts of `run` that lie in the extents, ascending.
template <class Extents, class Piece>
Result<void> for_each_in(const Extents& extents, const PageRun& run, Piece piece) {
  const std::uint64_t end = run.start + run.length;
  auto at = std::ranges::upper_bound(extents, run.start, {}, [](const auto& e) { return e.start + e.length; });
  for (; at != extents.end() && at->start < end; ++at) {
    const std::uint64_t start = std::max(at->start, run.start);
    const std::uint64_t length = std::min(at->start + at->length, end) - start;
    STASIS_TRY(piece(start, length, at->offset + (start - at->start)));
  }
  return {};
}

// Lists that follow one another.
std::vector<PageRun> joined(std::span<const std::vector<PageRun>> lists) {
  std::vector<PageRun> all;
  for (const auto& list : lists) {
    for (const PageRun& run : list) append(all, run);
  }
  return all;
}

// Those of `runs` that may overlap the others.
std::span<const PageRun> around(std::span<const PageRun> runs, std::span<const PageRun> others) {
  const auto end_of = [](const PageRun& run) { return run.start + run.length; };
  const auto first = std::ranges::upper_bound(runs, others.front().start, {}, end_of);
  const auto last = std::ranges::lower_bound(runs, end_of(others.back()), {}, &PageRun::start);
  return {first, std::max(first, last)};
}

// Reads them, or, where some are gone, those that are there: `gone` gets the others.
Result<void> read_what_is_there(const PageSource& memory, std::span<const PageRun> runs, std::span<std::byte> bytes,
                                std::vector<PageRun>& gone) {
  const auto read = memory.read(runs, bytes);
  if (read || read.error().code() != Errc::kIo) return read;
  std::uint64_t done = 0;
  for (const std::vector<PageRun>& page : cut(runs, kernel::page_size())) {
    const auto out = bytes.subspan(done, kernel::page_size());
    done += out.size();
    const auto one = memory.read(page, out);
    if (one) continue;
    if (one.error().code() != Errc::kIo) return one;
    std::ranges::fill(out, std::byte{0});
    gone.push_back(page.front());
  }
  return {};
}

}  // namespace

Result<ChunkSlot> PrecopyPlace::reserve(std::span<const PageRun> runs) {
  if (image_) return EarlyChunks(*image_).reserve(runs);
  const std::uint64_t size = total_length(runs);
  return ChunkSlot{.fd = file_.get(), .offset = end_->fetch_add(size), .length = size};
}

Result<void> PrecopyPlace::write(const ChunkSlot& slot, std::span<const std::byte> bytes) {
  if (image_) return EarlyChunks(*image_).write(slot, bytes);
  return pwrite_full(slot.fd, bytes, static_cast<off_t>(slot.offset));
}

// ---- while the process runs ----

Result<void> PrecopiedPages::copy(const PageSource& memory, std::span<const PageRun> runs, const Patience& patience) {
  std::vector<PageRun> known;
  for (const Extent& extent : in_file_) append(known, {.start = extent.start, .length = extent.length});
  const std::vector<PageRun> pages = merge(runs, {});
  forget(pages);
  copied_ = merge(copied_, pages);
  STASIS_TRY(copy_again(memory, intersect(pages, known), patience));
  return copy_to_new_chunks(memory, subtract(pages, known), patience);
}

void PrecopiedPages::forget(std::span<const PageRun> runs) {
  copied_ = subtract(copied_, runs);
  zeros_ = subtract(zeros_, runs);
}

// A whole chunk is read at once: its pages of zeros are only noted.
Result<void> PrecopiedPages::copy_to_new_chunks(const PageSource& memory, std::span<const PageRun> runs,
                                                const Patience& patience) {
  const std::size_t first = chunks_.size();
  for (auto& part : cut(runs, kUsualChunkBytes)) chunks_.push_back({.slot = {}, .runs = std::move(part)});
  std::vector<PageBuffer> buffers(most_side_by_side());
  std::vector<std::vector<PageRun>> gone(chunks_.size() - first), zeros(gone.size());
  const auto copy_chunk = [&](std::size_t i, std::size_t place) -> Result<void> {
    STASIS_TRY(patience.check());
    Chunk& chunk = chunks_[first + i];
    const auto bytes = buffers[place].take(total_length(chunk.runs));
    STASIS_TRY(read_what_is_there(memory, chunk.runs, bytes, gone[i]));
    const std::vector<PageRun> all = chunk.runs;
    const std::size_t size = squeeze_zero_pages(chunk.runs, bytes, kernel::page_size());
    zeros[i] = subtract(subtract(all, chunk.runs), gone[i]);
    if (size == 0) return {};
    chunk.slot = STASIS_TRY(place_->reserve(chunk.runs));
    if (place_->image()) chunk.hash = hash_bytes(bytes.first(size));
    return place_->write(chunk.slot, bytes.first(size));
  };
  STASIS_TRY(side_by_side({.count = gone.size(), .worth_a_thread = 2}, copy_chunk));
  note_extents();
  const std::vector<PageRun> all_zeros = joined(zeros);
  copied_ = subtract(subtract(copied_, joined(gone)), all_zeros);
  zeros_ = merge(zeros_, all_zeros);
  return {};
}

Result<void> PrecopiedPages::copy_again(const PageSource& memory, std::span<const PageRun> runs,
                                        const Patience& patience) {
  if (runs.empty()) return {};
  for (Chunk& chunk : chunks_) {
    if (chunk.hash && !intersect(chunk.runs, around(runs, chunk.runs)).empty()) chunk.hash.reset();
  }
  const auto pieces = cut(runs, kPiece);
  std::vector<std::vector<std::byte>> buffers(most_side_by_side(), std::vector<std::byte>(kPiece));
  std::vector<std::vector<PageRun>> gone(pieces.size());
  const auto copy_piece = [&](std::size_t i, std::size_t place) -> Result<void> {
    STASIS_TRY(patience.check());
    auto bytes = std::span(buffers[place]).first(total_length(pieces[i]));
    STASIS_TRY(read_what_is_there(memory, pieces[i], bytes, gone[i]));
    const auto write = [&](std::uint64_t, std::uint64_t length, std::uint64_t offset) {
      const auto part = bytes.first(length);
      bytes = bytes.subspan(length);
      return pwrite_full(file_, part, static_cast<off_t>(offset));
    };
    for (const PageRun& run : pieces[i]) STASIS_TRY(for_each_in(in_file_, run, write));
    return {};
  };
  STASIS_TRY(side_by_side({.count = pieces.size(), .worth_a_thread = 4}, copy_piece));
  copied_ = subtract(copied_, joined(gone));
  return {};
}

void PrecopiedPages::note_extents() {
  in_file_.clear();
  for (const Chunk& chunk : chunks_) {
    if (chunk.slot.fd < 0) continue;
    file_ = chunk.slot.fd;
    std::uint64_t offset = chunk.slot.offset;
    for (const PageRun& run : chunk.runs) {
      in_file_.push_back({.start = run.start, .length = run.length, .offset = offset});
      offset += run.length;
    }
  }
  std::ranges::sort(in_file_, {}, &Extent::start);
}

// ---- in the freeze ----

std::uint64_t PrecopiedPages::settle(std::vector<PageRun> wanted, std::span<const PageRun> unchanged) {
  wanted_ = subtract(wanted, intersect(zeros_, unchanged));
  for (const PageRun& run : subtract(wanted_, intersect(copied_, unchanged))) {
    changed_.push_back({.start = run.start, .length = run.length, .offset = changed_bytes_});
    changed_bytes_ += run.length;
  }
  return changed_bytes_;
}

Result<void> PrecopiedPages::keep() {
  std::vector<PageRun> changed;
  for (const Extent& extent : changed_) changed.push_back({.start = extent.start, .length = extent.length});
  const auto pieces = cut(changed, kPiece);
  auto bytes = std::make_unique_for_overwrite<std::byte[]>(changed_bytes_);
  STASIS_TRY(side_by_side({.count = pieces.size(), .worth_a_thread = 4}, [&](std::size_t i, std::size_t) {
    return memory_->read(pieces[i], std::span(bytes.get() + i * kPiece, total_length(pieces[i])));
  }));
  kept_ = std::move(bytes);
  return {};
}

Result<void> PrecopiedPages::read_changed(std::uint64_t start, std::uint64_t offset, std::span<std::byte> out) const {
  if (kept_) {
    std::memcpy(out.data(), kept_.get() + offset, out.size());
    return {};
  }
  const PageRun run{.start = start, .length = out.size()};
  return memory_->read(std::span(&run, 1), out);
}

// ---- afterwards ----

Result<void> PrecopiedPages::read(std::span<const PageRun> runs, std::span<std::byte> bytes) const {
  for (const PageRun& run : runs) {
    STASIS_TRY(read_run(run, bytes.first(run.length)));
    bytes = bytes.subspan(run.length);
  }
  return {};
}

// What has changed is newer than its copy in the file.
Result<void> PrecopiedPages::read_run(const PageRun& run, std::span<std::byte> out) const {
  std::uint64_t at = run.start, found = 0;
  const auto copied = [&](std::uint64_t start, std::uint64_t length, std::uint64_t offset) -> Result<void> {
    found += STASIS_TRY(pread_full(file_, out.subspan(start - run.start, length), static_cast<off_t>(offset)));
    return {};
  };
  const auto changed = [&](std::uint64_t start, std::uint64_t length, std::uint64_t offset) -> Result<void> {
    STASIS_TRY(for_each_in(in_file_, {.start = at, .length = start - at}, copied));
    STASIS_TRY(read_changed(start, offset, out.subspan(start - run.start, length)));
    at = start + length;
    found += length;
    return {};
  };
  STASIS_TRY(for_each_in(changed_, run, changed));
  STASIS_TRY(for_each_in(in_file_, {.start = at, .length = run.start + run.length - at}, copied));
  if (found == run.length) return {};
  return Error(Errc::kInternal, fmt::format("not all pages at {:x} were copied", run.start));
}

// Some of its pages may not be there any more: the others go elsewhere then.
Result<void> PrecopiedPages::finish_chunk(Chunk& chunk, ObjRef object) {
  if (!chunk.open() || intersect(chunk.runs, around(wanted_, chunk.runs)) != chunk.runs) return {};
  std::uint64_t offset = chunk.slot.offset;
  for (const PageRun& run : chunk.runs) {
    const auto write = [&](std::uint64_t start, std::uint64_t length, std::uint64_t from) -> Result<void> {
      chunk.hash.reset();
      std::vector<std::byte> bytes(length);
      STASIS_TRY(read_changed(start, from, bytes));
      return pwrite_full(chunk.slot.fd, bytes, static_cast<off_t>(offset + (start - run.start)));
    };
    STASIS_TRY(for_each_in(changed_, run, write));
    offset += run.length;
  }
  STASIS_TRY(EarlyChunks(*place_->image()).finish(chunk.slot, object, chunk.hash ? &*chunk.hash : nullptr));
  chunk.finished = true;
  return {};
}

Result<std::vector<PageRun>> PrecopiedPages::finish_chunks(ObjRef object, const Patience& patience) {
  const auto finish = [&](std::size_t i, std::size_t) -> Result<void> {
    STASIS_TRY(patience.check());
    return finish_chunk(chunks_[i], object);
  };
  STASIS_TRY(side_by_side({.count = chunks_.size(), .worth_a_thread = 2}, finish));
  std::vector<PageRun> finished;
  for (const Chunk& chunk : chunks_) {
    if (chunk.finished) finished.insert(finished.end(), chunk.runs.begin(), chunk.runs.end());
  }
  std::ranges::sort(finished, {}, &PageRun::start);
  return subtract(wanted_, finished);
}

Result<void> PrecopiedPages::drop_rest() {
  for (Chunk& chunk : chunks_) {
    if (!chunk.open()) continue;
    STASIS_TRY(EarlyChunks(*place_->image()).drop(chunk.slot));
    chunk.finished = true;
  }
  return {};
}

}  // namespace stasis
