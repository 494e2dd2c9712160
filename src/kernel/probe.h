// SPDX-License-Identifier: Apache-2.0
// What the running kernel offers to this user, found out by trying (never by its version). One row per feature.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "stasis/result.h"

namespace stasis::kernel {

enum class Need {
  kCheckpoint,  // without it nothing can be saved
  kRestart,     // without it nothing can be restarted
  kSome,        // only programs that use a certain thing need it
  kFaster,      // there is a fallback that does the same, more slowly
};

struct Feature {
  std::string_view name;     // stable, snake_case: what STASIS_WITHOUT and --json use
  std::string_view purpose;  // what it is for, one clause
  Need need;
  std::string_view without;  // what happens where it is missing, one clause
  Result<void> (*probe)();   // in a forked child; the error says why it is missing
};

// The whole table; names are unique.
std::span<const Feature> features();
// Row of that name, or null.
const Feature* find_feature(std::string_view name);

struct FeatureState {
  const Feature* feature = nullptr;
  bool available = false;
  std::string why_not;  // empty when available
};

// Tries one feature; STASIS_WITHOUT switches it off. Leaves no trace. Takes up to some milliseconds.
FeatureState probe_feature(const Feature& feature);
// All of them, in the order of the table.
std::vector<FeatureState> probe_features();

}  // namespace stasis::kernel
