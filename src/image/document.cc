// SPDX-License-Identifier: Apache-2.0
#include "image/document.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "image/record_types.h"

namespace stasis {
namespace {

void add_table(std::string& out, const std::vector<FieldDoc>& fields) {
  out += "| id | field | type | at most |\n|---|---|---|---|\n";
  for (const FieldDoc& row : fields) {
    const std::string bound = row.max_length == 0 ? "" : fmt::to_string(row.max_length);
    out += fmt::format("| {} | {} | {} | {} |\n", row.id, row.name, row.type, bound);
  }
  out += '\n';
  for (const FieldDoc& row : fields) {
    if (row.nested.empty()) continue;
    out += fmt::format("Struct in `{}`:\n\n", row.name);
    add_table(out, row.nested);
  }
}

}  // namespace

std::string document_records(RecordRegistry records) {
  std::vector<RecordInfo> sorted(records.begin(), records.end());
  std::ranges::sort(sorted, {},
                    [](const RecordInfo& info) { return static_cast<std::uint32_t>(info.type) & ~kIgnorableRecord; });
  std::string out;
  for (const RecordInfo& info : sorted) {
    out += fmt::format("### `{}`, {}\n\n", info.name, to_string(info.type));
    add_table(out, info.describe());
  }
  return out;
}

}  // namespace stasis
