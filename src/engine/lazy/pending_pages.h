// SPDX-License-Identifier: Apache-2.0
// PendingPages: which pages of an address space are still to come from the image, and from where in it. What is not in
// here is there already, or is zero for ever.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "stasis/image.h"

namespace stasis {

class PendingPages {
 public:
  // Bytes [start, start + length) of the address space; in the image they lie at `source`, the address they had then.
  struct Piece {
    std::uint64_t start = 0;
    std::uint64_t length = 0;
    std::uint64_t source = 0;
    std::uint64_t end() const { return start + length; }
    bool operator==(const Piece&) const = default;
  };

  // Pages that lie where they did. REQUIRES: none of them is in here.
  void add(std::span<const PageRun> runs);

  bool empty() const { return pieces_.empty(); }
  // The piece that holds the address.
  std::optional<Piece> find(std::uint64_t address) const;
  // The first piece, or part of one, in a range.
  std::optional<Piece> first_in(const PageRun& range) const;
  // The first piece, or part of one, that lies in this range of the image. Looks at all of them.
  std::optional<Piece> first_from(const PageRun& source) const;
  // The piece with the lowest address. REQUIRES: not empty().
  Piece first() const { return piece(pieces_.begin()); }

  // They came, or never will: unmapped, or emptied.
  void remove(const PageRun& range) { static_cast<void>(cut(range)); }
  // mremap(2). What was pending at the new place is gone.
  void move(const PageRun& from, std::uint64_t to);

 private:
  struct Rest {
    std::uint64_t length;
    std::uint64_t source;
  };
  using Pieces = std::map<std::uint64_t, Rest>;  // by start
  static Piece piece(Pieces::const_iterator at) { return {at->first, at->second.length, at->second.source}; }
  void insert(const Piece& piece) { pieces_.emplace(piece.start, Rest{piece.length, piece.source}); }
  // The first piece that ends behind the address.
  Pieces::const_iterator ending_behind(std::uint64_t address) const;
  std::vector<Piece> cut(const PageRun& range);

  Pieces pieces_;
};

}  // namespace stasis
