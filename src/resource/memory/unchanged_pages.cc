// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/unchanged_pages.h"

#include <algorithm>
#include <cstring>

#include "image/page_runs.h"
#include "kernel/page_size.h"

namespace stasis {
namespace {

// A window of pages, read from both sides.
class Comparison {
 public:
  Comparison(const PageSource& memory, const PageBase& base) : memory_(memory), base_(base) {}

  void add(const PageRun& run) {
    window_.push_back(run);
    bytes_ += run.length;
  }
  std::uint64_t room() const { return kUsualChunkBytes - bytes_; }

  Result<void> compare(std::vector<PageRun>& same) {
    now_.resize(bytes_);
    then_.resize(bytes_);
    STASIS_TRY(memory_.read(window_, now_));
    STASIS_TRY(base_.parent->read_pages(base_.object, window_, then_));
    const std::uint64_t page = kernel::page_size();
    std::uint64_t at = 0;
    std::vector<PageRun> found;
    for (const PageRun& run : window_) {
      for (std::uint64_t i = 0; i < run.length; i += page, at += page) {
        if (std::memcmp(&now_[at], &then_[at], page) == 0) append(found, {.start = run.start + i, .length = page});
      }
    }
    STASIS_TRY(memory_.release(found));
    for (const PageRun& run : found) append(same, run);
    window_.clear();
    bytes_ = 0;
    return {};
  }

 private:
  const PageSource& memory_;
  const PageBase& base_;
  std::vector<PageRun> window_;
  std::uint64_t bytes_ = 0;
  std::vector<std::byte> now_, then_;
};

}  // namespace

Result<std::vector<PageRun>> find_unchanged(std::span<const PageRun> runs, const PageSource& memory,
                                            const PageBase& base, const Patience& patience) {
  const std::vector<PageRun> known = STASIS_TRY(base.parent->page_runs(base.object));
  std::vector<PageRun> same;
  Comparison comparison(memory, base);
  for (PageRun run : intersect(runs, known)) {
    while (run.length > 0) {
      const std::uint64_t part = std::min(run.length, comparison.room());
      comparison.add({.start = run.start, .length = part});
      run.start += part;
      run.length -= part;
      if (comparison.room() > 0) continue;
      STASIS_TRY(patience.check());
      STASIS_TRY(comparison.compare(same));
    }
  }
  STASIS_TRY(comparison.compare(same));
  return same;
}

}  // namespace stasis
