// SPDX-License-Identifier: Apache-2.0
// Strong ids: integers of different meaning do not convert into each other.
#pragma once

#include <compare>
#include <concepts>
#include <cstdint>
#include <functional>

#include "stasis/objref.h"

namespace stasis {

// An integer with a meaning. Construction is explicit, value() gives the number back.
template <class Tag, std::integral Rep>
class Id {
 public:
  using rep = Rep;
  constexpr Id() = default;
  constexpr explicit Id(Rep value) : value_(value) {}
  constexpr Rep value() const { return value_; }
  constexpr explicit operator bool() const { return value_ != 0; }
  constexpr auto operator<=>(const Id&) const = default;

 private:
  Rep value_ = 0;
};

// A pid or tid as stored in an image: the number in the tree's own pid namespace.
using ImagePid = Id<struct ImagePidTag, std::int32_t>;
// A pid or tid as the coordinator sees it.
using HostPid = Id<struct HostPidTag, std::int32_t>;

// An address in another process. No conversion to a pointer, so that it can't be dereferenced here.
template <class T>
class RemotePtr {
 public:
  constexpr RemotePtr() = default;
  constexpr explicit RemotePtr(std::uint64_t address) : address_(address) {}
  constexpr std::uint64_t address() const { return address_; }
  constexpr explicit operator bool() const { return address_ != 0; }
  constexpr auto operator<=>(const RemotePtr&) const = default;
  template <class U>
  constexpr RemotePtr<U> cast() const {
    return RemotePtr<U>(address_);
  }
  constexpr RemotePtr operator+(std::uint64_t count) const
    requires(!std::same_as<T, void>)
  {
    return RemotePtr(address_ + count * sizeof(T));
  }

 private:
  std::uint64_t address_ = 0;
};

static_assert(!std::convertible_to<HostPid, ImagePid> && !std::equality_comparable_with<HostPid, ImagePid>);

}  // namespace stasis

template <class Tag, class Rep>
struct std::hash<stasis::Id<Tag, Rep>> {
  std::size_t operator()(const stasis::Id<Tag, Rep>& id) const noexcept { return std::hash<Rep>{}(id.value()); }
};
