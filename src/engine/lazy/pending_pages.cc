// SPDX-License-Identifier: Apache-2.0
#include "engine/lazy/pending_pages.h"

#include <algorithm>
#include <iterator>

namespace stasis {
namespace {

PendingPages::Piece part_of(const PendingPages::Piece& piece, std::uint64_t start, std::uint64_t end) {
  const std::uint64_t from = std::max(piece.start, start);
  return {.start = from, .length = std::min(piece.end(), end) - from, .source = piece.source + (from - piece.start)};
}

// A hostile length does not wrap.
std::uint64_t end_of(const PageRun& range) {
  return range.length > ~range.start ? ~std::uint64_t{0} : range.start + range.length;
}

}  // namespace

void PendingPages::add(std::span<const PageRun> runs) {
  for (const PageRun& run : runs) insert({.start = run.start, .length = run.length, .source = run.start});
}

PendingPages::Pieces::const_iterator PendingPages::ending_behind(std::uint64_t address) const {
  auto at = pieces_.upper_bound(address);
  if (at != pieces_.begin() && piece(std::prev(at)).end() > address) --at;
  return at;
}

std::optional<PendingPages::Piece> PendingPages::find(std::uint64_t address) const {
  const auto at = ending_behind(address);
  if (at == pieces_.end() || at->first > address) return std::nullopt;
  return piece(at);
}

std::optional<PendingPages::Piece> PendingPages::first_in(const PageRun& range) const {
  const auto at = ending_behind(range.start);
  if (at == pieces_.end() || at->first >= end_of(range)) return std::nullopt;
  return part_of(piece(at), range.start, end_of(range));
}

std::optional<PendingPages::Piece> PendingPages::first_from(const PageRun& source) const {
  const std::uint64_t end = end_of(source);
  for (auto at = pieces_.begin(); at != pieces_.end(); ++at) {
    const Piece whole = piece(at);
    if (whole.source >= end || whole.source + whole.length <= source.start) continue;
    const std::uint64_t from = std::max(whole.source, source.start);
    const std::uint64_t to = std::min(whole.source + whole.length, end);
    return Piece{.start = whole.start + (from - whole.source), .length = to - from, .source = from};
  }
  return std::nullopt;
}

std::vector<PendingPages::Piece> PendingPages::cut(const PageRun& range) {
  std::vector<Piece> gone;
  const std::uint64_t end = end_of(range);
  for (auto at = ending_behind(range.start); at != pieces_.end() && at->first < end;) {
    const Piece whole = piece(at);
    gone.push_back(part_of(whole, range.start, end));
    at = pieces_.erase(at);
    if (whole.start < range.start) insert(part_of(whole, whole.start, range.start));
    if (whole.end() > end) insert(part_of(whole, end, whole.end()));
  }
  return gone;
}

void PendingPages::move(const PageRun& from, std::uint64_t to) {
  const std::vector<Piece> moved = cut(from);
  remove({.start = to, .length = from.length});
  for (const Piece& piece : moved) {
    insert({.start = piece.start - from.start + to, .length = piece.length, .source = piece.source});
  }
}

}  // namespace stasis
