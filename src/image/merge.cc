// SPDX-License-Identifier: Apache-2.0
#include "image/merge.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/parent_file.h"
#include "image/record_types.h"
#include "stasis/image_environment.h"

namespace stasis {
namespace {

Result<void> copy_structure(const ImageReader& reader, ImageWriter& writer, Codec codec) {
  EnvironmentRecord environment = reader.environment();
  environment.parent_image.reset();
  environment.parent_path.clear();
  environment.codec = codec;
  STASIS_TRY(writer.write(environment));
  for (std::size_t i = 0; i < reader.record_count(); ++i) {
    const RawRecord record = reader.record(i);
    if (record.type == EnvironmentRecord::kType || record.type == RecordType::kPadding) continue;
    STASIS_TRY(writer.copy(record));
  }
  return writer.end_structure();
}

// The others would be lost with it that go back to it.
Result<void> refuse_ancestor(const ImageReader& reader, const std::string& output) {
  struct ::stat there{}, here{};
  if (output == "-" || ::stat(output.c_str(), &there) != 0) return {};
  for (const ImageReader* one = reader.parent(); one; one = one->parent()) {
    if (::fstat(one->fd(), &here) != 0 || here.st_dev != there.st_dev || here.st_ino != there.st_ino) continue;
    return Error(Errc::kUsage, fmt::format("{} would be replaced, and other images go back to it", output))
        .with_help("write the image under another name");
  }
  return {};
}

}  // namespace

Result<MergeReport> merge_image(const std::string& image, const std::string& output, const MergeOptions& options) {
  const std::string input = image == "-" ? "/dev/stdin" : image;
  ImageReader reader = STASIS_TRY(ImageReader::open(input, {.known = options.known, .keep_going = options.keep_going}));
  STASIS_TRY(reader.open_parents(directory_of(image)));
  STASIS_TRY(refuse_ancestor(reader, output));
  const Codec codec = options.codec.value_or(reader.environment().codec);
  WriterOptions writing{.codec = codec};
  writing.progress = options.progress;
  writing.keep_going = options.keep_going;
  auto opened = output == "-" ? ImageWriter::to_stream(STDOUT_FILENO, writing) : ImageWriter::create(output, writing);
  ImageWriter writer = STASIS_TRY(std::move(opened));
  const auto copied = [&]() -> Result<void> {
    STASIS_TRY(copy_structure(reader, writer, codec));
    std::vector<std::byte> pages;
    while (const auto chunk = STASIS_TRY(reader.next_chunk(pages))) {
      STASIS_TRY(writer.add_chunk(chunk->object, chunk->runs, pages));
    }
    STASIS_TRY(reader.finish());
    return writer.publish();
  }();
  if (!copied) {
    writer.abort(copied.error());
    return copied.error();
  }
  MergeReport report{.page_bytes = writer.progress().raw_bytes, .bytes = writer.progress().stored_bytes};
  for (const ImageReader* one = &reader; one; one = one->parent()) ++report.images;
  return report;
}

}  // namespace stasis
