// SPDX-License-Identifier: Apache-2.0
#include "engine/lazy/page_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/panic.h"
#include "image/page_runs.h"

namespace stasis {

Result<PageStore> PageStore::make(const ImageReader& image) {
  PageStore store(image);
  const auto chunks = image.chunks();
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const ChunkInfo& chunk = chunks[i];
    if (chunk.codec != Codec::kParent) {
      STASIS_TRY(store.add_unit({.object = chunk.object, .runs = chunk.runs, .size = chunk.raw_size, .chunk = i}));
      continue;
    }
    // What is in a parent was cut as it suited the index, not those who wait for a page of it.
    Unit unit{.object = chunk.object, .runs = {}, .size = 0, .chunk = {}};
    for (const PageRun& run : chunk.runs) {
      for (std::uint64_t done = 0; done < run.length;) {
        const std::uint64_t part = std::min(run.length - done, kUsualChunkBytes - unit.size);
        unit.runs.push_back({.start = run.start + done, .length = part});
        unit.size += part;
        done += part;
        if (unit.size < kUsualChunkBytes) continue;
        STASIS_TRY(store.add_unit(unit));
        unit.runs.clear();
        unit.size = 0;
      }
    }
    if (unit.size != 0) STASIS_TRY(store.add_unit(std::move(unit)));
  }
  return store;
}

Result<void> PageStore::add_unit(Unit unit) {
  std::uint64_t offset = 0;
  Places& places = places_[unit.object.value()];
  for (const PageRun& run : unit.runs) {
    const auto next = places.lower_bound(run.start);
    const bool reaches_in =
        next != places.begin() && std::prev(next)->first + std::prev(next)->second.length > run.start;
    if (reaches_in || (next != places.end() && next->first - run.start < run.length)) {
      return Error(Errc::kBadImage, fmt::format("a page of object {} is there twice", unit.object.value()));
    }
    places.emplace_hint(next, run.start, Place{.length = run.length, .unit = units_.size(), .offset = offset});
    offset += run.length;
  }
  units_.push_back(std::move(unit));
  return {};
}

std::vector<PageRun> PageStore::pages(ObjRef object) const {
  std::vector<PageRun> runs;
  const auto found = places_.find(object.value());
  if (found == places_.end()) return runs;
  for (const auto& [start, place] : found->second) append(runs, {.start = start, .length = place.length});
  return runs;
}

PageStore::Places::const_iterator PageStore::place_of(ObjRef object, std::uint64_t address) const {
  const auto found = places_.find(object.value());
  STASIS_INVARIANT(found != places_.end());
  auto at = found->second.upper_bound(address);
  STASIS_INVARIANT(at != found->second.begin());
  --at;
  STASIS_INVARIANT(address - at->first < at->second.length);
  return at;
}

std::size_t PageStore::unit_of(ObjRef object, std::uint64_t address) const {
  return place_of(object, address)->second.unit;
}

Result<void> PageStore::fetch(std::size_t index) {
  if (has(index)) return {};
  const Unit& unit = units_[index];
  PageBuffer buffer = std::exchange(spare_, {});
  const auto out = buffer.take(unit.size);
  STASIS_TRY(unit.chunk ? image_->read_chunk(*unit.chunk, out) : image_->read_pages(unit.object, unit.runs, out));
  contents_.emplace(index, Contents{.buffer = std::move(buffer), .bytes = out});
  return {};
}

void PageStore::drop(std::size_t index) {
  const auto found = contents_.find(index);
  if (found == contents_.end()) return;
  spare_ = std::move(found->second.buffer);
  contents_.erase(found);
}

std::span<const std::byte> PageStore::view(ObjRef object, std::uint64_t address, std::uint64_t length) const {
  const auto at = place_of(object, address);
  const auto contents = contents_.find(at->second.unit);
  STASIS_INVARIANT(contents != contents_.end());
  const std::uint64_t skipped = address - at->first;
  return contents->second.bytes.subspan(at->second.offset + skipped, std::min(length, at->second.length - skipped));
}

}  // namespace stasis
