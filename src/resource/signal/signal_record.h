// SPDX-License-Identifier: Apache-2.0
// Signal actions, which a thread group (or CLONE_SIGHAND relatives) shares.
#pragma once

#include <array>
#include <cstdint>
#include <tuple>
#include <vector>

#include "image/record_types.h"
#include "stasis/image_schema.h"

namespace stasis {

// As the kernel's rt_sigaction(2) takes it.
struct SignalAction {
  std::uint64_t handler = 0;
  std::uint64_t flags = 0;
  std::uint64_t restorer = 0;
  std::uint64_t mask = 0;
  bool operator==(const SignalAction&) const = default;
  static constexpr auto fields() {
    using R = SignalAction;
    return std::tuple{field<1>("handler", &R::handler, Show::kHex), field<2>("flags", &R::flags, Show::kHex),
                      field<3>("restorer", &R::restorer, Show::kHex), field<4>("mask", &R::mask, Show::kHex)};
  }
};

inline constexpr int kSignalCount = 64;

struct SighandRecord {
  static constexpr RecordType kType = RecordType::kSighand;
  static constexpr std::string_view kName = "signal_actions";

  std::vector<SignalAction> actions;  // [n] is signal n + 1

  static constexpr auto fields() {
    return std::tuple{field<1>("actions", &SighandRecord::actions, MaxLength{kSignalCount})};
  }
};

}  // namespace stasis
