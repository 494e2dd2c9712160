// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/page_writer.h"

#include <algorithm>

#include "base/file.h"
#include "image/hash.h"
#include "work/side_by_side.h"

namespace stasis {
namespace {

// One chunk of the image on its way there.
struct PageChunk {
  std::vector<PageRun> runs;
  std::uint64_t size = 0;
};

std::vector<PageChunk> cut_into_chunks(std::span<const PageRun> runs) {
  std::vector<PageChunk> chunks;
  for (const PageRun& run : runs) {
    for (std::uint64_t done = 0; done < run.length;) {
      if (chunks.empty() || chunks.back().size == kUsualChunkBytes) chunks.emplace_back();
      PageChunk& chunk = chunks.back();
      const std::uint64_t part = std::min(run.length - done, kUsualChunkBytes - chunk.size);
      chunk.runs.push_back({.start = run.start + done, .length = part});
      chunk.size += part;
      done += part;
    }
  }
  return chunks;
}

// A piece of a chunk that stays in the cache from reading to writing.
constexpr std::uint64_t kPiece = std::uint64_t{512} << 10;

// Calls take(ranges, size) for one piece of the chunk behind another.
template <class Take>
Result<void> in_pieces(const PageChunk& chunk, std::uint64_t piece, Take take) {
  std::vector<PageRun> ranges;
  std::uint64_t filled = 0;
  for (const PageRun& run : chunk.runs) {
    for (std::uint64_t done = 0; done < run.length;) {
      const std::uint64_t part = std::min(run.length - done, piece - filled);
      ranges.push_back({.start = run.start + done, .length = part});
      filled += part;
      done += part;
      if (filled < piece) continue;
      STASIS_TRY(take(ranges, filled));
      ranges.clear();
      filled = 0;
    }
  }
  return filled ? take(ranges, filled) : Result<void>();
}

// Straight into the file, through a buffer that is never larger than the cache.
Result<void> write_in_place(const PageWriting& to, const PageChunk& chunk, std::vector<std::byte>& buffer) {
  const ChunkSlot slot = STASIS_TRY(to.image.reserve_chunk(to.object, chunk.runs));
  HashStream hash;
  std::uint64_t offset = slot.offset;
  buffer.resize(std::max<std::size_t>(buffer.size(), kPiece));
  const auto write_piece = [&](std::span<const PageRun> ranges, std::uint64_t size) -> Result<void> {
    const auto bytes = std::span(buffer).first(size);
    STASIS_TRY(to.source.read(ranges, bytes));
    STASIS_TRY(to.source.release(ranges));
    hash.update(bytes);
    STASIS_TRY(pwrite_full(slot.fd, bytes, static_cast<off_t>(offset)));
    offset += size;
    return {};
  };
  STASIS_TRY(in_pieces(chunk, kPiece, write_piece));
  return to.image.finish_chunk(slot, STASIS_TRY(hash.digest()));
}

Result<void> write_whole(const PageWriting& to, const PageChunk& chunk, std::vector<std::byte>& buffer) {
  buffer.resize(std::max<std::size_t>(buffer.size(), chunk.size));
  return in_pieces(chunk, chunk.size, [&](std::span<const PageRun> ranges, std::uint64_t size) -> Result<void> {
    const auto bytes = std::span(buffer).first(size);
    STASIS_TRY(to.source.read(ranges, bytes));
    STASIS_TRY(to.source.release(ranges));
    return to.image.add_chunk(to.object, chunk.runs, bytes);
  });
}

}  // namespace

// Several chunks at once: each is read, hashed or compressed, and written by one thread.
Result<void> write_pages(const PageWriting& to, std::span<const PageRun> runs) {
  const std::vector<PageChunk> chunks = cut_into_chunks(runs);
  std::vector<std::vector<std::byte>> buffers(most_side_by_side());
  const bool in_place = to.form == PageForm::kPlain && to.image.seekable();
  return side_by_side({.count = chunks.size(), .worth_a_thread = 2},
                      [&](std::size_t i, std::size_t place) -> Result<void> {
                        STASIS_TRY(to.patience.check());
                        const bool large = chunks[i].size > kPiece;
                        return (in_place && large ? write_in_place : write_whole)(to, chunks[i], buffers[place]);
                      });
}

}  // namespace stasis
