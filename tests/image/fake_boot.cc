// SPDX-License-Identifier: Apache-2.0
// usage: fake_boot IMAGE COPY BOOT_ID SECONDS
//
// Copies an image as if it had been made on another boot, whose monotonic and boot time were SECONDS ahead (negative:
// behind) of what they were. Everything else is as it was.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "resource/object_table.h"
#include "stasis/image.h"
#include "stasis/image_environment.h"

namespace stasis {
namespace {

struct Boot {
  std::string id;
  std::int64_t ahead_ns = 0;
};

Result<void> copy(const std::string& from, const std::string& to, const Boot& boot) {
  ImageReader reader = STASIS_TRY(ImageReader::open(from, {.known = resource_records()}));
  ImageWriter writer = STASIS_TRY(ImageWriter::create(to, {.durability = Durability::kFast}));
  EnvironmentRecord environment = reader.environment();
  environment.boot_id = boot.id;
  environment.monotonic_ns += boot.ahead_ns;
  environment.boottime_ns += boot.ahead_ns;
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
  if (argc != 5) {
    std::fputs("usage: fake_boot IMAGE COPY BOOT_ID SECONDS\n", stderr);
    return 2;
  }
  const std::int64_t seconds = std::strtoll(argv[4], nullptr, 10);
  const auto done = stasis::copy(argv[1], argv[2], {.id = argv[3], .ahead_ns = seconds * 1'000'000'000});
  if (!done) std::fprintf(stderr, "fake_boot: %s\n", done.error().to_string().c_str());
  return done ? 0 : 1;
}
