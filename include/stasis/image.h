// SPDX-License-Identifier: Apache-2.0
// Writing and reading an image: one file or one stream of environment record, structure records, page section, index,
// trailer. The format is doc/image-format.md; what a record looks like is stasis/image_schema.h.
//
//   ImageWriter writer = STASIS_TRY(ImageWriter::create("job.img", {}));
//   STASIS_TRY(writer.write(EnvironmentRecord::of_this_machine()));  // the first record (stasis/image_environment.h)
//   STASIS_TRY(writer.begin_object(ObjRef(1), kMyFile));   // right before the object's own record ...
//   STASIS_TRY(writer.write(file_record));
//   STASIS_TRY(writer.write(task_record));                 // ... which is right before its first reference
//   STASIS_TRY(writer.end_structure());
//   STASIS_TRY(writer.add_chunk(ObjRef(2), runs, pages));
//   STASIS_TRY(writer.publish());                          // only now anybody sees job.img
//
//   ImageReader reader = STASIS_TRY(ImageReader::open("job.img", {}));
//   reader.set_object_handler([&](ObjRef ref, ObjType type) { ... reader.read<FileRecord>() ... });
//   auto task = STASIS_TRY(reader.read<TaskRecord>());     // calls the handler for the objects before it
//   while (auto chunk = STASIS_TRY(reader.next_chunk(buffer))) { ... }
//   STASIS_TRY(reader.finish());                           // nothing may rely on the image before this
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "stasis/image_schema.h"
#include "stasis/keep_going.h"
#include "stasis/objref.h"
#include "stasis/result.h"

namespace stasis {

struct EnvironmentRecord;
class EarlyChunks;

// XXH3, 128 bits, canonical (big-endian) byte order. Finds damage, not forgery.
using ImageHash = std::array<std::uint8_t, 16>;
ImageHash hash_bytes(std::span<const std::byte> bytes);
std::string to_hex(const ImageHash& hash);

// How a chunk's payload is stored. kParent, no choice of a writer's: not here, but in the image's parent.
enum class Codec : std::uint8_t { kNone = 0, kLz4 = 1, kZstd = 2, kParent = 3 };
constexpr auto enum_names(Codec) {
  return std::array{EnumName{Codec::kNone, "none"}, EnumName{Codec::kLz4, "lz4"}, EnumName{Codec::kZstd, "zstd"},
                    EnumName{Codec::kParent, "parent"}};
}

// Bytes [start, start + length) of an object (addresses of an address space, offsets of a memory file); whole pages.
struct PageRun {
  std::uint64_t start = 0;
  std::uint64_t length = 0;
  bool operator==(const PageRun&) const = default;
  static constexpr auto fields() {
    return std::tuple{field<1>("start", &PageRun::start, Show::kHex), field<2>("length", &PageRun::length, Show::kHex)};
  }
};

// Payload bytes of one chunk before compression; what a writer makes and the most a reader takes.
inline constexpr std::uint64_t kMaxChunkBytes = 64u << 20;
// A good size: large enough for the medium, small enough to share among threads.
inline constexpr std::uint64_t kUsualChunkBytes = 2u << 20;
// Payloads start at a multiple of this in the file, whatever the page size.
inline constexpr std::uint64_t kPayloadAlignment = 4096;

// Where a chunk lies and what it holds.
struct ChunkInfo {
  ObjRef object;
  Codec codec = Codec::kNone;
  std::uint64_t raw_size = 0;        // of all runs
  std::uint64_t stored_size = 0;     // of the payload in the file; raw_size if the codec is kNone
  std::uint64_t record_offset = 0;   // of the chunk's record in the file
  std::uint64_t payload_offset = 0;  // a multiple of kPayloadAlignment
  ImageHash hash{};                  // of the payload as stored
  std::vector<PageRun> runs;         // ascending, not overlapping; the payload holds them one behind another
  std::optional<ObjRef> source;      // kParent only: the object of the parent image that has these pages
  bool operator==(const ChunkInfo&) const = default;
  static constexpr auto fields() {
    return std::tuple{field<1>("object", &ChunkInfo::object),
                      field<2>("codec", &ChunkInfo::codec),
                      field<3>("raw_size", &ChunkInfo::raw_size),
                      field<4>("stored_size", &ChunkInfo::stored_size),
                      field<5>("record_offset", &ChunkInfo::record_offset, Show::kHex),
                      field<6>("payload_offset", &ChunkInfo::payload_offset, Show::kHex),
                      field<7>("hash", &ChunkInfo::hash),
                      field<8>("runs", &ChunkInfo::runs),
                      field<9>("source", &ChunkInfo::source)};
  }
};

struct ImageProgress {
  std::uint64_t raw_bytes = 0;     // page bytes taken or given so far
  std::uint64_t stored_bytes = 0;  // bytes of the file written or read so far
  std::uint64_t chunks = 0;
};
// Called after every chunk, by whichever thread did it, one call at a time. Must not call the writer or reader.
using ProgressHook = std::function<void(const ImageProgress&)>;

// fsync file and directory at publish(), or leave that to the kernel.
enum class Durability : std::uint8_t { kDurable, kFast };
// What publish() does with a regular file of that name. Anything but a regular file is always refused.
enum class Existing : std::uint8_t { kReplace, kRefuse };
// kAuto: a file without a name where the file system can (nothing is left behind even by kill -9), else as kNamed:
// ".NAME.RANDOM.part" beside the target, which others can open by path.
enum class Staging : std::uint8_t { kAuto, kNamed };
// kDrop: pages of zeros are left out of the chunk (its runs are split around them); only for memory that is zero unless
// filled. kKeep: stored as they are.
enum class ZeroPages : std::uint8_t { kKeep, kDrop };

struct WriterOptions {
  Codec codec = Codec::kNone;
  int level = 0;  // of the codec; 0: its fast default
  Durability durability = Durability::kDurable;
  Existing existing = Existing::kReplace;
  Staging staging = Staging::kAuto;
  ProgressHook progress;
  KeepGoing keep_going;
};

// Room for a payload that somebody else writes (a task its own pages): `length` bytes at `offset` of `fd`.
struct ChunkSlot {
  std::uint64_t id = 0;
  int fd = -1;  // owned by the writer, open for reading and writing
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};

// One record as it stands in the structure section.
struct RawRecord {
  RecordType type;
  std::span<const std::byte> payload;
};

// Writes one image. Move-only; destroyed before publish() it leaves nothing (a stream just stops: see abort()).
// Threads: one thread at a time until end_structure(); from then on add_chunk, reserve_chunk and finish_chunk may be
// called from several. Compression and hashing run outside the writer's lock.
// Errors: kNoSpace, kSystem, kNotPermitted of the medium; kOutputExists; kInvalidArgument for calls out of order or
// values that no reader would take. The first failed write sticks: every later call fails with it, publish() too.
// A stream's reader that went away is SIGPIPE: the program must ignore that signal.
class ImageWriter {
 public:
  // An image that will be at `path` after publish(). Mode 0600, written in the same directory.
  static Result<ImageWriter> create(const std::string& path, WriterOptions options);
  // An image into a pipe, socket or other descriptor, from its current position; borrowed, not closed.
  static Result<ImageWriter> to_stream(int fd, WriterOptions options);

  ImageWriter(ImageWriter&&) noexcept;
  ImageWriter& operator=(ImageWriter&&) noexcept;
  ~ImageWriter();

  // Adds a structure record; the first must be an EnvironmentRecord. Kept in memory until end_structure().
  template <SchemaRecord T>
  Result<void> write(const T& record) {
    std::vector<std::byte> payload;
    if (auto encoded = encode(record, payload); !encoded) {
      return std::move(encoded).error().note("record " + std::string(T::kName));
    }
    return write_payload(T::kType, payload);
  }
  // Adds a structure record as another image holds it, headers of objects included: for a copy that changes something.
  Result<void> copy(const RawRecord& record);
  // Header of a shared object; its record or records follow at once.
  Result<void> begin_object(ObjRef ref, ObjType type);
  // Writes out all structure records. No record may follow.
  Result<void> end_structure();

  // Adds a chunk; `payload` holds the runs one behind another. Several threads may call it.
  Result<void> add_chunk(ObjRef object, std::span<const PageRun> runs, std::span<const std::byte> payload,
                         ZeroPages zero_pages = ZeroPages::kKeep);

  // Adds pages that are the same as in object `source` of the parent image, which the environment record must name;
  // any number of runs.
  Result<void> inherit(ObjRef object, std::span<const PageRun> runs, ObjRef source);

  // False for streams: no slots there.
  bool seekable() const;
  // From now on the large payloads of add_chunk() that lie at a multiple of 4096 in memory go past the page cache where
  // the file system can: faster to a durable image, but each call waits for the medium. One thread; not for streams.
  void write_directly();
  // The two-phase form for files, always Codec::kNone. Every slot must be finished before publish().
  Result<ChunkSlot> reserve_chunk(ObjRef object, std::span<const PageRun> runs);
  // Takes the hash from the file; a payload that was not written in full may fail with kImageTruncated or be zeros.
  Result<void> finish_chunk(const ChunkSlot& slot);
  // As above with the hash that the caller took of the payload.
  Result<void> finish_chunk(const ChunkSlot& slot, const ImageHash& hash);

  // Index, trailer, sync, rename into place, sync of the directory; for a stream index and trailer. The end of it all:
  // afterwards the image is there whole, or (on error) not at all.
  Result<void> publish();
  // Gives up: a file vanishes, a stream ends with an error record that carries code and text to its reader.
  void abort(const Error& reason);

  // Identity of the published image, for an incremental successor.
  ImageHash image_hash() const;
  ImageProgress progress() const;
  // Path of the file being written, for Staging::kNamed; else empty.
  std::string staging_path() const;

 private:
  friend class EarlyChunks;  // of the engine
  class Impl;
  explicit ImageWriter(std::unique_ptr<Impl> impl);
  Result<void> write_payload(RecordType type, std::span<const std::byte> payload);
  std::unique_ptr<Impl> impl_;
};

struct ReaderOptions {
  // Refuse at open() any record that is neither in here nor ignorable; empty: each is checked when it is met.
  RecordRegistry known;
  std::uint64_t max_structure_bytes = std::uint64_t{1} << 30;
  ProgressHook progress;
  KeepGoing keep_going;
};

// Images in a row, each the parent of the one before it.
inline constexpr unsigned kMaxChain = 64;

// Reads one image. open() returns once all structure records are in memory and their hash is verified; of a file, index
// and trailer too. Everything read is checked before use; memory is bounded by the options and by what really arrived.
// Threads: structure records by one thread; read_chunk and verify_chunk by any number at once; next_chunk by one.
// Errors: kBadImage, kImageTruncated, kImageChecksum, kImageVersion, kImageUnknownRecord, kImageTooDeep, and
// kImageAborted with the writer's own message where the checkpoint failed.
class ImageReader {
 public:
  using ObjectHandler = std::move_only_function<Result<void>(ObjRef, ObjType)>;

  // A regular file gives random access; anything else (FIFO, /dev/stdin) is read as a stream.
  static Result<ImageReader> open(const std::string& path, ReaderOptions options);
  // Borrowed, not closed; random access if it is a regular file at position 0.
  static Result<ImageReader> from_fd(int fd, ReaderOptions options);
  // From memory, which must outlive the reader; kStream reads it the way a pipe is read (for tests and fuzzing).
  enum class Access : std::uint8_t { kFile, kStream };
  static Result<ImageReader> from_bytes(std::span<const std::byte> image, Access access, ReaderOptions options);

  ImageReader(ImageReader&&) noexcept;
  ImageReader& operator=(ImageReader&&) noexcept;
  ~ImageReader();

  const EnvironmentRecord& environment() const;

  // ---- structure records, in order ----
  // Called for every object header that stands before the next record; it reads the object's records with read<>(),
  // and may meet further objects there (at most kMaxNesting deep).
  void set_object_handler(ObjectHandler handler);
  // The next record, which must be a T. Objects before it go to the handler, ignorable records are passed over.
  template <SchemaRecord T>
  Result<T> read() {
    const std::span<const std::byte> payload = STASIS_TRY(next_payload(T::kType, T::kName));
    return decode<T>(payload, T::kName);
  }
  // Type of the next record, after the objects before it went to the handler; RecordType::kEndOfStructure at the end.
  // For "while (peek is T) read<T>()" outside of object handlers: an object's own records should be counted instead.
  Result<RecordType> peek_type();
  // Fails (kBadImage) if records are left.
  Result<void> expect_end();

  // All structure records as they stand, objects' headers included, for views. Does not move the reader.
  std::size_t record_count() const;
  RawRecord record(std::size_t i) const;

  // ---- the parent ----
  // An image may hold only what differs from a parent image, and so on (kMaxChain in all). Opens them all and checks
  // that they are the very ones: each is looked for where the image says, relative to the directory of the image itself
  // (`directory`; empty: the working directory), else beside it. Nothing to do for an image that is whole. Without this
  // the pages that are in parents can't be read. Errors: kParentImage: missing, altered, somebody else's, too many.
  Result<void> open_parents(const std::string& directory);
  // Null: there is none, or it was not opened. `path`: where a parent was found; empty for the image itself.
  const ImageReader* parent() const;
  const std::string& path() const;
  // Which pages of an object there are, those of parents included; ascending, none twice. REQUIRES: a file.
  Result<std::vector<PageRun>> page_runs(ObjRef object) const;
  // Any of them, verified, one run behind another in `out`. REQUIRES: a file; open_parents() if it has parents. Any
  // thread.
  Result<void> read_pages(ObjRef object, std::span<const PageRun> runs, std::span<std::byte> out) const;

  // ---- pages ----
  // Next chunk in order, its payload decompressed into `buffer` (resized to raw_size), verified. nullopt at the end.
  Result<std::optional<ChunkInfo>> next_chunk(std::vector<std::byte>& buffer);

  // False for streams: there next_chunk() only.
  bool seekable() const;
  // All chunks, in file order; empty for streams.
  std::span<const ChunkInfo> chunks() const;
  // Chunk i verified and decompressed; `out` must be raw_size long.
  Result<void> read_chunk(std::size_t i, std::span<std::byte> out) const;
  // Checks every byte of chunk i without handing it out: for a task that reads the payload from fd() itself.
  Result<void> verify_chunk(std::size_t i) const;
  // The image's descriptor, -1 if it is in memory or a stream. Payload of a chunk: at its payload_offset.
  int fd() const;

  // Verifies what open() could not: reads a stream to its end, chunks not yet taken included, and checks index and
  // trailer. A file's were checked by open(); its chunks are checked one by one as they are read (a task that reads a
  // payload itself needs verify_chunk). No task may run before this has succeeded.
  Result<void> finish();
  // Identity of the image. REQUIRES: a file, or finish() of a stream.
  ImageHash image_hash() const;
  ImageProgress progress() const;

 private:
  class Impl;
  explicit ImageReader(std::unique_ptr<Impl> impl);
  Result<std::span<const std::byte>> next_payload(RecordType type, std::string_view name);
  std::unique_ptr<Impl> impl_;
};

}  // namespace stasis
