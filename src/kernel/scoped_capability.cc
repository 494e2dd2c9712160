// SPDX-License-Identifier: Apache-2.0
#include "kernel/scoped_capability.h"

#include <linux/capability.h>
#include <sys/syscall.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <utility>

#include "kernel/raw.h"

namespace stasis::kernel {
namespace {

// Was it in effect before?
Result<bool> put_into_effect(int capability, bool wanted) {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
  if (raw("capget", SYS_capget, &header, data.data()) != 0) return Error::from_errno(errno, "capget");
  std::uint32_t& word = data[CAP_TO_INDEX(capability)].effective;
  const bool before = (word & CAP_TO_MASK(capability)) != 0;
  if (before == wanted) return before;
  word ^= CAP_TO_MASK(capability);
  if (raw("capset", SYS_capset, &header, data.data()) != 0) return Error::from_errno(errno, "capset");
  return before;
}

}  // namespace

Result<WithoutCapability> WithoutCapability::take(int capability) {
  WithoutCapability taken(capability);
  taken.active_ = STASIS_TRY(put_into_effect(capability, false));
  return taken;
}

WithoutCapability::WithoutCapability(WithoutCapability&& other) noexcept
    : capability_(other.capability_), active_(std::exchange(other.active_, false)) {}

WithoutCapability::~WithoutCapability() {
  if (active_) (void)put_into_effect(capability_, true);
}

}  // namespace stasis::kernel
