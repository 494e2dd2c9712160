// SPDX-License-Identifier: Apache-2.0
// ObjRef: the number under which a shared object is named inside one image.
#pragma once

#include <compare>
#include <cstdint>

namespace stasis {

// Positive; 0 means "none" and is refused where an image must name an object. Given out from 1 upwards by ObjHash.
class ObjRef {
 public:
  constexpr ObjRef() = default;
  constexpr explicit ObjRef(std::int32_t value) : value_(value) {}
  constexpr std::int32_t value() const { return value_; }
  constexpr explicit operator bool() const { return value_ != 0; }
  constexpr auto operator<=>(const ObjRef&) const = default;

 private:
  std::int32_t value_ = 0;
};

// The kind of a shared object as stored in an image. Opaque here: the kinds and their numbers are a table of the
// resource layer (or of the application that has objects of its own).
using ObjType = std::uint16_t;

}  // namespace stasis
