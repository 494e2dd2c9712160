// SPDX-License-Identifier: Apache-2.0
// usage: fake_boot IMAGE COPY BOOT_ID SECONDS
//        fake_boot IMAGE COPY --cpu-bit LEAF SUBLEAF REGISTER BIT
//
// Copies an image as if it had been made on another boot, whose monotonic and boot time were SECONDS ahead (negative:
// behind) of what they were; or on a CPU that sets one more bit in an answer of cpuid (register 0 to 3: eax to edx).
// Everything else is as it was.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "resource/object_table.h"
#include "stasis/image.h"
#include "stasis/image_environment.h"

namespace stasis {
namespace {

using Edit = std::function<Result<void>(EnvironmentRecord&)>;

Edit other_boot(const std::string& id, std::int64_t ahead_ns) {
  return [=](EnvironmentRecord& environment) -> Result<void> {
    environment.boot_id = id;
    environment.monotonic_ns += ahead_ns;
    environment.boottime_ns += ahead_ns;
    return {};
  };
}

Edit other_cpu(std::uint32_t leaf, std::uint32_t subleaf, unsigned which, unsigned bit) {
  return [=](EnvironmentRecord& environment) -> Result<void> {
    for (CpuidLeaf& answer : environment.cpuid) {
      if (answer.leaf != leaf || answer.subleaf != subleaf) continue;
      answer.registers.at(which) |= std::uint32_t{1} << bit;
      return {};
    }
    return Error(Errc::kUsage, "the image has no such answer of cpuid");
  };
}

Result<void> copy(const std::string& from, const std::string& to, const Edit& edit) {
  ImageReader reader = STASIS_TRY(ImageReader::open(from, {.known = resource_records()}));
  ImageWriter writer = STASIS_TRY(ImageWriter::create(to, {.durability = Durability::kFast}));
  EnvironmentRecord environment = reader.environment();
  STASIS_TRY(edit(environment));
  STASIS_TRY(writer.write(environment));
  for (std::size_t i = 0; i < reader.record_count(); ++i) {
    const RawRecord record = reader.record(i);
    if (record.type != EnvironmentRecord::kType) STASIS_TRY(writer.copy(record));
  }
  STASIS_TRY(writer.end_structure());
  std::vector<std::byte> pages;
  while (const auto chunk = STASIS_TRY(reader.next_chunk(pages))) {
    STASIS_TRY(writer.add_chunk(chunk->object, chunk->runs, pages));
  }
  STASIS_TRY(reader.finish());
  return writer.publish();
}

}  // namespace
}  // namespace stasis

int main(int argc, char** argv) {
  const auto number = [&](int i) { return std::strtoll(argv[i], nullptr, 0); };
  stasis::Edit edit;
  if (argc == 5) {
    edit = stasis::other_boot(argv[3], number(4) * 1'000'000'000);
  } else if (argc == 8 && argv[3] == std::string_view("--cpu-bit")) {
    edit = stasis::other_cpu(static_cast<std::uint32_t>(number(4)), static_cast<std::uint32_t>(number(5)),
                             static_cast<unsigned>(number(6)), static_cast<unsigned>(number(7)));
  } else {
    std::fputs("usage: fake_boot IMAGE COPY BOOT_ID SECONDS | --cpu-bit LEAF SUBLEAF REGISTER BIT\n", stderr);
    return 2;
  }
  const auto done = stasis::copy(argv[1], argv[2], edit);
  if (!done) std::fprintf(stderr, "fake_boot: %s\n", done.error().to_string().c_str());
  return done ? 0 : 1;
}
