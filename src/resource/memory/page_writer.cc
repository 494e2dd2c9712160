// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/page_writer.h"

#include <utility>
#include <vector>

#include "base/page_buffer.h"
#include "image/page_runs.h"
#include "image/zero_pages.h"
#include "kernel/page_size.h"
#include "work/side_by_side.h"

namespace stasis {
namespace {

// One chunk of the image on its way there.
struct PageChunk {
  std::vector<PageRun> runs;
  std::uint64_t size = 0;
  ZeroPages zeros = ZeroPages::kKeep;
};

// What a lazy restart reads at once should not be in one chunk with what it reads later: much and little don't share
// one.
void cut_into_chunks(std::span<const PageRun> runs, ZeroPages zeros, std::vector<PageChunk>& chunks) {
  constexpr std::uint64_t kMuch = std::uint64_t{1} << 20;
  bool begin = true, much = false;
  for (const PageRun& run : runs) {
    begin |= std::exchange(much, run.length >= kMuch) != much;
    for (std::uint64_t done = 0; done < run.length;) {
      if (std::exchange(begin, false) || chunks.back().size == kUsualChunkBytes) {
        chunks.push_back({.runs = {}, .zeros = zeros});
      }
      PageChunk& chunk = chunks.back();
      const std::uint64_t part = std::min(run.length - done, kUsualChunkBytes - chunk.size);
      chunk.runs.push_back({.start = run.start + done, .length = part});
      chunk.size += part;
      done += part;
    }
  }
}

Result<void> write_chunk(const PageWriting& to, PageChunk& chunk, PageBuffer& buffer) {
  const auto bytes = buffer.take(chunk.size);
  STASIS_TRY(to.source.read(chunk.runs, bytes));
  STASIS_TRY(to.source.release(chunk.runs));
  std::size_t size = bytes.size();
  if (chunk.zeros == ZeroPages::kDrop) size = squeeze_zero_pages(chunk.runs, bytes, kernel::page_size());
  return size == 0 ? Result<void>() : to.image.add_chunk(to.object, chunk.runs, bytes.first(size));
}

}  // namespace

// Several chunks at once: each is read, hashed or compressed, and written by one thread.
Result<void> write_pages(const PageWriting& to, std::span<const PageRun> runs) {
  std::vector<PageChunk> chunks;
  cut_into_chunks(intersect(runs, to.zero_if_absent), ZeroPages::kDrop, chunks);
  cut_into_chunks(subtract(runs, to.zero_if_absent), ZeroPages::kKeep, chunks);
  // While some wait for the medium, others read and hash.
  const std::size_t threads = 2 * most_side_by_side();
  std::vector<PageBuffer> buffers(threads);
  return side_by_side({.count = chunks.size(), .worth_a_thread = 2, .threads = threads},
                      [&](std::size_t i, std::size_t place) -> Result<void> {
                        STASIS_TRY(to.patience.check());
                        return write_chunk(to, chunks[i], buffers[place]);
                      });
}

}  // namespace stasis
