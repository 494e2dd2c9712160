// SPDX-License-Identifier: Apache-2.0
// ImageOwner: whose rights an image carries (rule 7 of the design).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace stasis {

enum class ImageTrust {
  kCaller,  // the caller restores by his own rights: the kernel's checks are all that is needed
  kOwner,   // a privileged caller restores somebody else's image: nothing that its owner could not do himself
};

struct ImageOwner {
  ImageTrust trust = ImageTrust::kCaller;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::vector<std::uint32_t> groups;  // supplementary
  // Capabilities that a program of the owner's may come to have here (the caller's bounding set): in a user namespace
  // all are there, but new.
  std::uint64_t bounding = ~std::uint64_t{0};

  bool has_group(std::uint32_t group) const { return group == gid || std::ranges::find(groups, group) != groups.end(); }
};

}  // namespace stasis
