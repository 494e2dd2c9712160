// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_auxv.h"

#include <algorithm>
#include <cstring>

#include "kernel/proc_text.h"

namespace stasis::kernel {

Result<std::vector<AuxvEntry>> parse_auxv(std::string_view bytes) {
  static_assert(sizeof(AuxvEntry) == 16);
  std::vector<AuxvEntry> auxv;
  if (bytes.empty()) return auxv;
  for (; bytes.size() >= sizeof(AuxvEntry); bytes.remove_prefix(sizeof(AuxvEntry))) {
    AuxvEntry& entry = auxv.emplace_back();
    std::memcpy(&entry, bytes.data(), sizeof entry);
    if (entry.type == 0) return auxv;
  }
  return text::malformed("auxv", "no AT_NULL");
}

std::optional<std::uint64_t> auxv_value(const std::vector<AuxvEntry>& auxv, std::uint64_t type) {
  const auto entry = std::ranges::find(auxv, type, &AuxvEntry::type);
  if (entry == auxv.end()) return std::nullopt;
  return entry->value;
}

}  // namespace stasis::kernel
