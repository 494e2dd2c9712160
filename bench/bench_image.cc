// SPDX-License-Identifier: Apache-2.0
// The image layer beside what the machine does: the same bytes by plain write(2) and read(2), on the same file system
// (the directory is $STASIS_BENCH_DIR, else /dev/shm). Time per page of 4 KiB; "whole" is one small image from create
// to publish, per image. Files are not synced: that would measure the disk.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "base/file.h"
#include "image/verify.h"
#include "stasis/image.h"
#include "stasis/image_environment.h"

namespace stasis {
namespace {

constexpr std::size_t kPage = kPayloadAlignment;
constexpr std::size_t kChunks = 16;
constexpr std::size_t kPages = kChunks * kUsualChunkBytes / kPage;

std::string path() {
  const char* directory = std::getenv("STASIS_BENCH_DIR");
  return std::string(directory != nullptr ? directory : "/dev/shm") + "/stasis-bench-" + std::to_string(::getpid());
}

// A chunk whose pages are half random, half text: LZ4 and zstd get it to about half.
const std::vector<std::byte>& payload() {
  static const std::vector<std::byte> bytes = [] {
    std::vector<std::byte> pages(kUsualChunkBytes);
    std::mt19937_64 random(1);
    for (std::size_t i = 0; i < pages.size(); i += 8) {
      const std::uint64_t word = i % kPage < kPage / 2 ? random() : 0x2065636166207369 + (i & 0xf00);
      for (std::size_t k = 0; k < 8; ++k) pages[i + k] = static_cast<std::byte>(word >> (8 * k));
    }
    return pages;
  }();
  return bytes;
}

Result<void> write_image(Codec codec, std::size_t chunks) {
  ImageWriter writer = STASIS_TRY(ImageWriter::create(path(), {.codec = codec, .durability = Durability::kFast}));
  STASIS_TRY(writer.write(EnvironmentRecord::of_this_machine()));
  STASIS_TRY(writer.end_structure());
  for (std::size_t i = 0; i < chunks; ++i) {
    const std::array runs{PageRun{i * kUsualChunkBytes, kUsualChunkBytes}};
    STASIS_TRY(writer.add_chunk(ObjRef(1), runs, payload()));
  }
  return writer.publish();
}

void done(benchmark::State& state, const Result<void>& result, std::size_t items) {
  if (!result) state.SkipWithError(result.error().to_string().c_str());
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(items));
}

void write_stasis(benchmark::State& state, Codec codec) {
  Result<void> result;
  for (auto _ : state) {
    result = write_image(codec, kChunks);
    if (!result) break;
    state.PauseTiming();
    ::unlink(path().c_str());
    state.ResumeTiming();
  }
  done(state, result, kPages);
}

void write_plain(benchmark::State& state) {
  Result<void> result;
  for (auto _ : state) {
    result = [&]() -> Result<void> {
      const UniqueFd fd = STASIS_TRY(open_at(AT_FDCWD, path(), O_CREAT | O_TRUNC | O_WRONLY, 0600));
      for (std::size_t i = 0; i < kChunks; ++i) STASIS_TRY(write_full(fd.get(), payload()));
      return {};
    }();
    if (!result) break;
    state.PauseTiming();
    ::unlink(path().c_str());
    state.ResumeTiming();
  }
  done(state, result, kPages);
}

void read_stasis(benchmark::State& state, Codec codec) {
  Result<void> result = write_image(codec, kChunks);
  std::vector<std::byte> buffer(kUsualChunkBytes);
  for (auto _ : state) {
    if (!result) break;
    result = [&]() -> Result<void> {
      ImageReader reader = STASIS_TRY(ImageReader::open(path(), {}));
      for (std::size_t i = 0; i < kChunks; ++i) STASIS_TRY(reader.read_chunk(i, buffer));
      return reader.finish();
    }();
  }
  ::unlink(path().c_str());
  done(state, result, kPages);
}

void read_verify(benchmark::State& state) {
  Result<void> result = write_image(Codec::kNone, kChunks);
  for (auto _ : state) {
    if (!result) break;
    if (auto report = verify_image(path(), {}); !report) result = report.error();
  }
  ::unlink(path().c_str());
  done(state, result, kPages);
}

void read_plain(benchmark::State& state) {
  Result<void> result = write_image(Codec::kNone, kChunks);
  std::vector<std::byte> buffer(kUsualChunkBytes);
  for (auto _ : state) {
    if (!result) break;
    result = [&]() -> Result<void> {
      const UniqueFd fd = STASIS_TRY(open_at(AT_FDCWD, path(), O_RDONLY));
      for (std::size_t i = 0; i < kChunks; ++i) STASIS_TRY(read_full(fd.get(), buffer));
      return {};
    }();
  }
  ::unlink(path().c_str());
  done(state, result, kPages);
}

// A mapping's record, more or less.
constexpr RecordType kAreaType{kFirstApplicationRecord};
struct AreaRecord {
  static constexpr RecordType kType = kAreaType;
  static constexpr std::string_view kName = "area";
  std::uint64_t start = 0, end = 0, offset = 0, flags = 0;
  std::uint32_t protection = 0;
  ObjRef file;
  std::string name;
  static constexpr auto fields() {
    using A = AreaRecord;
    return std::tuple{field<1>("start", &A::start),
                      field<2>("end", &A::end),
                      field<3>("offset", &A::offset),
                      field<4>("flags", &A::flags),
                      field<5>("protection", &A::protection),
                      field<6>("file", &A::file, Null::kAllowed),
                      field<7>("name", &A::name)};
  }
};

// What a tiny program's image takes beside the program's own work: 50 records and 20 pages.
Result<void> small_image() {
  ImageWriter writer = STASIS_TRY(ImageWriter::create(path(), {.durability = Durability::kFast}));
  STASIS_TRY(writer.write(EnvironmentRecord::of_this_machine()));
  for (std::uint64_t i = 0; i < 50; ++i) {
    STASIS_TRY(writer.write(AreaRecord{i << 20, (i << 20) + kPage, 0, 1, 3, ObjRef(), "/usr/lib/libsomething.so.6"}));
  }
  STASIS_TRY(writer.end_structure());
  const std::array runs{PageRun{0, 20 * kPage}};
  STASIS_TRY(writer.add_chunk(ObjRef(1), runs, std::span(payload()).first(20 * kPage)));
  return writer.publish();
}

void whole_write(benchmark::State& state) {
  Result<void> result;
  for (auto _ : state) {
    result = small_image();
    if (!result) break;
  }
  ::unlink(path().c_str());
  done(state, result, 1);
}

void whole_read(benchmark::State& state) {
  Result<void> result = small_image();
  std::vector<std::byte> buffer;
  for (auto _ : state) {
    if (!result) break;
    result = [&]() -> Result<void> {
      ImageReader reader = STASIS_TRY(ImageReader::open(path(), {}));
      while (STASIS_TRY(reader.peek_type()) == kAreaType) STASIS_TRY(reader.read<AreaRecord>());
      while (STASIS_TRY(reader.next_chunk(buffer))) {
      }
      return reader.finish();
    }();
  }
  ::unlink(path().c_str());
  done(state, result, 1);
}

BENCHMARK_CAPTURE(write_stasis, none, Codec::kNone)->Name("write/stasis")->UseRealTime();
BENCHMARK(write_plain)->Name("write/plain_write")->UseRealTime();
BENCHMARK_CAPTURE(write_stasis, lz4, Codec::kLz4)->Name("write_lz4/stasis")->UseRealTime();
BENCHMARK_CAPTURE(write_stasis, zstd, Codec::kZstd)->Name("write_zstd/stasis")->UseRealTime();
BENCHMARK_CAPTURE(read_stasis, none, Codec::kNone)->Name("read/stasis")->UseRealTime();
BENCHMARK(read_plain)->Name("read/plain_read")->UseRealTime();
BENCHMARK(read_verify)->Name("read_parallel_verify/stasis")->UseRealTime();
BENCHMARK_CAPTURE(read_stasis, lz4, Codec::kLz4)->Name("read_lz4/stasis")->UseRealTime();
BENCHMARK_CAPTURE(read_stasis, zstd, Codec::kZstd)->Name("read_zstd/stasis")->UseRealTime();
BENCHMARK(whole_write)->Name("whole_write/stasis")->UseRealTime();
BENCHMARK(whole_read)->Name("whole_read/stasis")->UseRealTime();

}  // namespace
}  // namespace stasis
