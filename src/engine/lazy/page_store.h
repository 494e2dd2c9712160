// SPDX-License-Identifier: Apache-2.0
// PageStore: the pages of an image in any order. They are fetched in units, a chunk or a part of one that is in a
// parent image, and no byte of a unit is handed out before all of it was verified.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "base/page_buffer.h"
#include "stasis/image.h"

namespace stasis {

class PageStore {
 public:
  // Pages of one object that are fetched together.
  struct Unit {
    ObjRef object;
    std::vector<PageRun> runs;
    std::uint64_t size = 0;
    std::optional<std::size_t> chunk;  // one of the image's own
  };

  // `image` must outlive it; a file, with its parents open. kBadImage: a page is there twice.
  static Result<PageStore> make(const ImageReader& image);

  // All pages of an object, ascending.
  std::vector<PageRun> pages(ObjRef object) const;
  // In which unit a page lies. REQUIRES: it is in the image.
  std::size_t unit_of(ObjRef object, std::uint64_t address) const;
  const Unit& unit(std::size_t index) const { return units_[index]; }

  bool has(std::size_t unit) const { return contents_.contains(unit); }
  // Reads and verifies. Error: the image can't be read any more, or is damaged.
  Result<void> fetch(std::size_t unit);
  void drop(std::size_t unit);
  // Pages from `address` on, at most `length` bytes, less if they go on elsewhere. REQUIRES: has(unit_of(...)).
  std::span<const std::byte> view(ObjRef object, std::uint64_t address, std::uint64_t length) const;

 private:
  // Where pages lie in a unit.
  struct Place {
    std::uint64_t length;
    std::size_t unit;
    std::uint64_t offset;
  };
  using Places = std::map<std::uint64_t, Place>;  // by address
  struct Contents {
    PageBuffer buffer;
    std::span<const std::byte> bytes;
  };
  explicit PageStore(const ImageReader& image) : image_(&image) {}
  Result<void> add_unit(Unit unit);
  Places::const_iterator place_of(ObjRef object, std::uint64_t address) const;

  const ImageReader* image_;
  std::vector<Unit> units_;
  std::map<std::int32_t, Places> places_;     // by object
  std::map<std::size_t, Contents> contents_;  // by unit
  PageBuffer spare_;                          // for the next one
};

}  // namespace stasis
