// SPDX-License-Identifier: Apache-2.0
#include "image/verify.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <vector>

#include "image/format.h"
#include "image/parent_file.h"
#include "stasis/work_queue.h"

namespace stasis {
namespace {

// Decoding is the check; what comes out is of no interest.
class NullVisitor final : public SchemaVisitor {
 public:
  void number(std::string_view, std::uint64_t, Show) override {}
  void signed_number(std::string_view, std::int64_t) override {}
  void boolean(std::string_view, bool) override {}
  void enumerator(std::string_view, std::uint64_t, std::string_view) override {}
  void objref(std::string_view, ObjRef) override {}
  void text(std::string_view, std::string_view) override {}
  void bytes(std::string_view, std::span<const std::byte>) override {}
  void absent(std::string_view) override {}
  void begin_struct(std::string_view) override {}
  void end_struct() override {}
  void begin_list(std::string_view, std::size_t) override {}
  void end_list() override {}
};

Result<void> verify_records(const ImageReader& reader, RecordRegistry known) {
  NullVisitor nobody;
  for (std::size_t i = 0; i < reader.record_count(); ++i) {
    const RawRecord record = reader.record(i);
    for (const RecordRegistry registry : {known, framing_records()}) {
      const auto row = std::ranges::find(registry, record.type, &RecordInfo::type);
      if (row == registry.end()) continue;
      STASIS_TRY(row->view(record.payload, nobody));
      break;
    }
  }
  return {};
}

unsigned usable_cpus() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return static_cast<unsigned>(std::max(1, CPU_COUNT(&set)));
}

Result<void> verify_chunks(const ImageReader& reader, unsigned threads) {
  const std::size_t count = reader.chunks().size();
  const auto others = static_cast<unsigned>(std::min<std::size_t>(threads, count == 0 ? 1 : count)) - 1;
  std::atomic<std::size_t> next = 0;
  std::mutex mutex;
  std::optional<Error> error;
  auto work = [&] {
    std::vector<std::byte> buffer;
    for (std::size_t i = next++; i < count; i = next++) {
      const ChunkInfo& chunk = reader.chunks()[i];
      // Inherited pages are verified with the parent.
      const bool elsewhere = chunk.codec == Codec::kParent || chunk.runs.empty();
      if (!elsewhere) buffer.resize(static_cast<std::size_t>(chunk.raw_size));
      if (auto read = elsewhere ? reader.verify_chunk(i) : reader.read_chunk(i, buffer); !read) {
        const std::lock_guard lock(mutex);
        if (!error) error = std::move(read).error();
        next = count;
      }
    }
  };
  if (others > 0) {
    const auto queue =
        STASIS_TRY(WorkQueue::create({.name = "stasis-verify", .kind = QueueKind::kUnbound, .max_active = others}));
    // A refused one is missed only for its speed.
    for (unsigned i = 0; i < others; ++i) (void)queue->post(work);
    work();
    (void)queue->flush();
  } else {
    work();
  }
  if (error) return std::move(*error);
  return {};
}

}  // namespace

Result<VerifyReport> verify_image(ImageReader& reader, const VerifyOptions& options) {
  VerifyReport report;
  report.records = reader.record_count();
  STASIS_TRY(verify_records(reader, options.known));
  if (reader.seekable()) {
    STASIS_TRY(verify_chunks(reader, options.threads == 0 ? usable_cpus() : options.threads));
  }
  STASIS_TRY(reader.finish());
  report.chunks = reader.progress().chunks;
  report.page_bytes = reader.progress().raw_bytes;
  report.image_hash = reader.image_hash();
  for (const ImageReader* parent = reader.parent(); parent; parent = parent->parent()) {
    if (auto good = verify_chunks(*parent, options.threads == 0 ? usable_cpus() : options.threads); !good) {
      return std::move(good).error().note("parent image " + parent->path()).with_code(Errc::kParentImage);
    }
    report.parents.push_back({.path = parent->path(), .hash = parent->image_hash()});
  }
  return report;
}

Result<VerifyReport> verify_image(const std::string& path, const VerifyOptions& options) {
  ImageReader reader = STASIS_TRY(ImageReader::open(
      path, {.known = options.known, .progress = options.progress, .keep_going = options.keep_going}));
  STASIS_TRY(reader.open_parents(directory_of(path)));
  auto report = verify_image(reader, options);
  if (!report) return std::move(report).error().note(path);
  return report;
}

}  // namespace stasis
