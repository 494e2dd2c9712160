// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <thread>

#include "image/format.h"
#include "image/sample_image.h"
#include "image/verify.h"

namespace stasis {
namespace {

using Access = ImageReader::Access;
using sample::LeafRecord;
using sample::ScratchDir;

// An image whose structure is what `write` adds behind the environment.
std::vector<std::byte> image_of(const std::function<Result<void>(ImageWriter&)>& write) {
  const ScratchDir dir;
  const auto made = [&]() -> Result<void> {
    ImageWriter writer = STASIS_TRY(ImageWriter::create(dir / "x.img", {.durability = Durability::kFast}));
    STASIS_TRY(writer.write(sample::environment()));
    STASIS_TRY(write(writer));
    STASIS_TRY(writer.end_structure());
    return writer.publish();
  }();
  EXPECT_TRUE(made) << made.error().to_string();
  return sample::file_bytes(dir / "x.img");
}

LeafRecord leaf(const std::string& name) { return {name, ObjRef()}; }

// ---- objects --------------------------------------------------------------------------------------------------------

// `depth` headers in a row: each object's record has the next object before it.
std::vector<std::byte> nested_objects(unsigned depth) {
  return image_of([&](ImageWriter& writer) -> Result<void> {
    for (unsigned i = 1; i <= depth; ++i) {
      STASIS_TRY(writer.begin_object(ObjRef(static_cast<std::int32_t>(i)), sample::kLeafObject));
    }
    for (unsigned i = 0; i <= depth; ++i) STASIS_TRY(writer.write(leaf("x")));
    return {};
  });
}

Result<unsigned> count_nested(const std::vector<std::byte>& image) {
  ImageReader reader = STASIS_TRY(ImageReader::from_bytes(image, Access::kFile, {}));
  unsigned objects = 0;
  reader.set_object_handler([&](ObjRef, ObjType) -> Result<void> {
    STASIS_TRY(reader.read<LeafRecord>());
    ++objects;
    return {};
  });
  STASIS_TRY(reader.read<LeafRecord>());
  STASIS_TRY(reader.expect_end());
  return objects;
}

TEST(ImageReader, ObjectsNestToTheBoundAndNoDeeper) {
  const auto most = count_nested(nested_objects(kMaxNesting));
  ASSERT_TRUE(most) << most.error().to_string();
  EXPECT_EQ(*most, kMaxNesting);
  const auto more = count_nested(nested_objects(kMaxNesting + 1));
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code(), Errc::kImageTooDeep);
}

TEST(ImageReader, AnObjectMeetsTheOneItRefersToFirst) {
  // Object 1 refers to object 2, whose header stands between 1's header and 1's record.
  const auto image = image_of([](ImageWriter& writer) -> Result<void> {
    STASIS_TRY(writer.begin_object(ObjRef(1), sample::kLeafObject));
    STASIS_TRY(writer.begin_object(ObjRef(2), sample::kLeafObject));
    STASIS_TRY(writer.write(leaf("inner")));
    STASIS_TRY(writer.write(LeafRecord{"outer", ObjRef(2)}));
    return writer.write(leaf("last"));
  });
  auto reader = ImageReader::from_bytes(image, Access::kStream, {});
  ASSERT_TRUE(reader);
  std::vector<std::string> done;
  reader->set_object_handler([&](ObjRef ref, ObjType) -> Result<void> {
    const auto record = STASIS_TRY(reader->read<LeafRecord>());
    done.push_back(std::to_string(ref.value()) + record.name);
    return {};
  });
  const auto last = reader->read<LeafRecord>();
  ASSERT_TRUE(last);
  EXPECT_EQ(last->name, "last");
  EXPECT_EQ(done, (std::vector<std::string>{"2inner", "1outer"}));
}

TEST(ImageReader, AHandlersErrorNamesTheObject) {
  const auto image = image_of([](ImageWriter& writer) -> Result<void> {
    STASIS_TRY(writer.begin_object(ObjRef(9), sample::kLeafObject));
    return writer.write(leaf("x"));
  });
  auto reader = ImageReader::from_bytes(image, Access::kFile, {});
  ASSERT_TRUE(reader);
  const auto without = reader->read<LeafRecord>();
  ASSERT_FALSE(without);
  EXPECT_EQ(without.error().code(), Errc::kBadImage);
  reader = ImageReader::from_bytes(image, Access::kFile, {});
  ASSERT_TRUE(reader);
  reader->set_object_handler([](ObjRef, ObjType) -> Result<void> { return Error(Errc::kFileMissing, "gone"); });
  const auto failed = reader->read<LeafRecord>();
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code(), Errc::kFileMissing);
  EXPECT_EQ(failed.error().message(), "object 9: gone");
}

TEST(ImageReader, PeekingDealsWithObjectsFirst) {
  const auto image = image_of([](ImageWriter& writer) -> Result<void> {
    STASIS_TRY(writer.write(leaf("a")));
    STASIS_TRY(writer.begin_object(ObjRef(1), sample::kLeafObject));
    STASIS_TRY(writer.write(leaf("object")));
    STASIS_TRY(writer.write(leaf("b")));
    return writer.write(sample::all_record());
  });
  auto reader = ImageReader::from_bytes(image, Access::kFile, {});
  ASSERT_TRUE(reader);
  int objects = 0;
  reader->set_object_handler([&](ObjRef, ObjType) -> Result<void> {
    STASIS_TRY(reader->read<LeafRecord>());
    ++objects;
    return {};
  });
  std::string names;
  for (;;) {
    const auto type = reader->peek_type();
    ASSERT_TRUE(type);
    if (*type != LeafRecord::kType) break;
    const auto record = reader->read<LeafRecord>();
    ASSERT_TRUE(record);
    names += record->name;
  }
  EXPECT_EQ(names, "ab");
  EXPECT_EQ(objects, 1);
  EXPECT_EQ(*reader->peek_type(), sample::AllRecord::kType);
  EXPECT_FALSE(reader->expect_end());
  ASSERT_TRUE(reader->read<sample::AllRecord>());
  EXPECT_EQ(*reader->peek_type(), RecordType::kEndOfStructure);
  EXPECT_TRUE(reader->expect_end());
  EXPECT_FALSE(reader->read<LeafRecord>());
}

// ---- records that are not expected ----------------------------------------------------------------------------------

TEST(ImageReader, AnotherRecordThanExpectedIsAnError) {
  const auto image = image_of([](ImageWriter& writer) { return writer.write(leaf("x")); });
  auto reader = ImageReader::from_bytes(image, Access::kFile, {});
  ASSERT_TRUE(reader);
  const auto wrong = reader->read<sample::AllRecord>();
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().message(), "a record of type 65537 where 'all' is expected");
  EXPECT_TRUE(reader->read<LeafRecord>()) << "the reader stays where it was";
}

TEST(ImageReader, UnknownRecordsAreRefusedAtOpenUnlessIgnorable) {
  static constexpr auto kLeafOnly = record_registry<LeafRecord>();
  const auto with_note = image_of([](ImageWriter& writer) -> Result<void> {
    STASIS_TRY(writer.write(sample::NoteRecord{"skip me"}));
    return writer.write(leaf("x"));
  });
  auto reader = ImageReader::from_bytes(with_note, Access::kFile, {.known = kLeafOnly});
  ASSERT_TRUE(reader);
  EXPECT_TRUE(reader->read<LeafRecord>());
  // Who knows the record can have it.
  reader = ImageReader::from_bytes(with_note, Access::kFile, {.known = kLeafOnly});
  ASSERT_TRUE(reader);
  EXPECT_EQ(*reader->peek_type(), sample::NoteRecord::kType);
  EXPECT_TRUE(reader->read<sample::NoteRecord>());

  const auto with_all = image_of([](ImageWriter& writer) { return writer.write(sample::all_record()); });
  for (const Access access : {Access::kFile, Access::kStream}) {
    const auto refused = ImageReader::from_bytes(with_all, access, {.known = kLeafOnly});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::kImageUnknownRecord);
  }
}

// ---- hand-made images -----------------------------------------------------------------------------------------------

// A structure section of the given records with right checks, hash and count, then `rest`.
struct Handmade {
  std::vector<std::byte> bytes;
  std::uint64_t records = 0;
  ImageHash structure_hash{};

  Handmade() {
    const auto preamble = make_preamble();
    bytes.assign(preamble.begin(), preamble.end());
  }
  template <SchemaRecord T>
  Handmade& add(const T& record) {
    std::vector<std::byte> payload;
    (void)encode(record, payload);  // may be a record that a writer would refuse
    append_record(bytes, T::kType, payload);
    ++records;
    return *this;
  }
  Handmade& end_structure() {
    structure_hash = hash_bytes(bytes);
    EXPECT_TRUE(append_record(bytes, EndOfStructureRecord{records, structure_hash}));
    return *this;
  }
};

Errc stream_error(const Handmade& image) {
  auto reader = ImageReader::from_bytes(image.bytes, Access::kStream, {});
  if (!reader) return reader.error().code();
  const auto result = reader->finish();
  return result ? Errc{0} : result.error().code();
}

TEST(HostileImage, RightlyHashedNonsenseIsRefused) {
  EXPECT_EQ(stream_error(Handmade().end_structure()), Errc::kBadImage) << "no environment";
  EXPECT_EQ(stream_error(Handmade().add(leaf("x")).end_structure()), Errc::kBadImage) << "not the environment";
  EXPECT_EQ(stream_error(Handmade().add(sample::environment()).add(sample::environment()).end_structure()),
            Errc::kBadImage);
  EXPECT_EQ(stream_error(Handmade().add(sample::environment()).add(ChunkEndRecord{}).end_structure()), Errc::kBadImage);
  auto environment = sample::environment();
  for (const std::uint32_t size : {0u, 1u, 4095u, 4097u, 1u << 30}) {
    environment.page_size = size;
    EXPECT_EQ(stream_error(Handmade().add(environment).end_structure()), Errc::kBadImage) << size;
  }
  Handmade miscounted;
  miscounted.add(sample::environment());
  ++miscounted.records;
  EXPECT_EQ(stream_error(miscounted.end_structure()), Errc::kBadImage);
  EXPECT_EQ(stream_error(Handmade().add(sample::environment()).end_structure()), Errc::kImageTruncated)
      << "else it would have been accepted so far";
}

TEST(HostileImage, ANullObjectHeaderIsRefused) {
  Handmade image;
  image.add(sample::environment()).add(ObjectRecord{ObjRef(0), 1}).add(leaf("x")).end_structure();
  auto reader = ImageReader::from_bytes(image.bytes, Access::kStream, {});
  ASSERT_TRUE(reader);
  reader->set_object_handler([](ObjRef, ObjType) -> Result<void> {
    ADD_FAILURE() << "the handler saw it";
    return {};
  });
  const auto result = reader->read<LeafRecord>();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::kBadImage);
}

TEST(HostileImage, ClaimsAreNotBelievedBeforeTheBytesAreThere) {
  // A header that promises 200 MiB, and nothing behind it: memory must not grow with the promise.
  Handmade image;
  image.add(sample::environment());
  std::vector<std::byte> header;
  append_record(header, LeafRecord::kType, {});
  const std::uint64_t length = std::uint64_t{200} << 20;
  std::memcpy(header.data() + 8, &length, sizeof length);
  image.bytes.insert(image.bytes.end(), header.begin(), header.end());
  EXPECT_EQ(stream_error(image), Errc::kImageTruncated);
  const std::uint64_t absurd = ~std::uint64_t{0};
  std::memcpy(image.bytes.data() + image.bytes.size() - kRecordHeaderSize + 8, &absurd, sizeof absurd);
  EXPECT_EQ(stream_error(image), Errc::kBadImage);
}

TEST(HostileImage, BadChunksAreRefused) {
  Handmade base;
  base.add(sample::environment()).end_structure();
  const auto with = [&](const ChunkRecord& record) {
    Handmade image = base;
    const auto bytes = make_chunk_record(record, image.bytes.size());
    if (!bytes) return bytes.error().code();
    image.bytes.insert(image.bytes.end(), bytes->begin(), bytes->end());
    image.bytes.resize(image.bytes.size() + 4096);
    (void)append_record(image.bytes, ChunkEndRecord{hash_bytes(std::vector<std::byte>(4096))});
    return stream_error(image);
  };
  const ChunkRecord good{ObjRef(1), Codec::kNone, 4096, 4096, {{0, 4096}}, {}};
  EXPECT_EQ(with(good), Errc::kImageTruncated) << "only the index is missing";
  auto bad = good;
  bad.raw_size = 8192;
  EXPECT_EQ(with(bad), Errc::kBadImage);
  bad = good;
  bad.stored_size = 2048;
  EXPECT_EQ(with(bad), Errc::kBadImage);
  bad = good;
  bad.codec = Codec::kZstd;
  EXPECT_EQ(with(bad), Errc::kBadImage) << "compressed, yet not smaller";
  bad = good;
  bad.raw_size = bad.stored_size = kMaxChunkBytes + 4096;
  bad.runs = {{0, kMaxChunkBytes + 4096}};
  EXPECT_EQ(with(bad), Errc::kBadImage);
  bad = good;
  bad.runs = {{0xfffffffffffff000, 8192}};
  bad.raw_size = bad.stored_size = 8192;
  EXPECT_EQ(with(bad), Errc::kBadImage);
}

TEST(HostileImage, ACompressedPayloadOfAnotherSizeIsRefused) {
  Handmade image;
  image.add(sample::environment()).end_structure();
  for (const Codec codec : {Codec::kLz4, Codec::kZstd}) {
    const ChunkRecord record{ObjRef(1), codec, 8192, 100, {{0, 8192}}, {}};
    Handmade copy = image;
    const auto head = make_chunk_record(record, copy.bytes.size());
    ASSERT_TRUE(head);
    copy.bytes.insert(copy.bytes.end(), head->begin(), head->end());
    const std::vector<std::byte> garbage(100, std::byte{0x11});
    copy.bytes.insert(copy.bytes.end(), garbage.begin(), garbage.end());
    ASSERT_TRUE(append_record(copy.bytes, ChunkEndRecord{hash_bytes(garbage)}));
    EXPECT_EQ(stream_error(copy), Errc::kBadImage);
  }
}

TEST(HostileImage, AStructureLargerThanAllowedIsRefused) {
  const auto image = image_of([](ImageWriter& writer) { return writer.write(leaf("x")); });
  for (const Access access : {Access::kFile, Access::kStream}) {
    const auto refused = ImageReader::from_bytes(image, access, {.max_structure_bytes = 200});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Errc::kBadImage);
  }
}

// ---- files ----------------------------------------------------------------------------------------------------------

TEST(ImageReader, OpensFilesFifosAndDescriptors) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", {.durability = Durability::kFast});
  ASSERT_TRUE(writer);
  ASSERT_TRUE(sample::write_sample(*writer));
  ASSERT_TRUE(writer->publish());

  auto file = ImageReader::open(dir / "x.img", {});
  ASSERT_TRUE(file);
  EXPECT_TRUE(file->seekable());
  EXPECT_GE(file->fd(), 0);
  EXPECT_EQ(file->image_hash(), writer->image_hash());

  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  const auto image = sample::file_bytes(dir / "x.img");
  std::jthread feeder([&] {
    const UniqueFd out(::open((dir / "fifo").c_str(), O_WRONLY | O_CLOEXEC));
    EXPECT_TRUE(write_full(out.get(), image));
  });
  auto fifo = ImageReader::open(dir / "fifo", {});
  ASSERT_TRUE(fifo);
  EXPECT_FALSE(fifo->seekable());
  EXPECT_EQ(fifo->fd(), -1);
  EXPECT_TRUE(fifo->chunks().empty());
  EXPECT_TRUE(fifo->finish());
  EXPECT_EQ(fifo->image_hash(), writer->image_hash());

  const UniqueFd fd(::open((dir / "x.img").c_str(), O_RDONLY | O_CLOEXEC));
  auto borrowed = ImageReader::from_fd(fd.get(), {});
  ASSERT_TRUE(borrowed);
  EXPECT_EQ(borrowed->fd(), fd.get());
}

TEST(ImageReader, ErrorsOfOpeningNameThePath) {
  const ScratchDir dir;
  const auto missing = ImageReader::open(dir / "none.img", {});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().sys_errno(), ENOENT);
  EXPECT_NE(missing.error().message().find(dir / "none.img"), std::string::npos);
  const auto directory = ImageReader::open(dir.path(), {});
  ASSERT_FALSE(directory);
  EXPECT_EQ(directory.error().code(), Errc::kBadImage);
  EXPECT_NE(directory.error().message().find(dir.path()), std::string::npos);
}

TEST(ImageReader, AFileCutWhileOpenGivesAnError) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", {.durability = Durability::kFast});
  ASSERT_TRUE(writer);
  ASSERT_TRUE(sample::write_sample(*writer));
  ASSERT_TRUE(writer->publish());
  auto reader = ImageReader::open(dir / "x.img", {});
  ASSERT_TRUE(reader);
  ASSERT_EQ(::truncate((dir / "x.img").c_str(), 5000), 0);
  std::vector<std::byte> out(4096);
  const auto read = reader->read_chunk(1, out);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Errc::kImageTruncated);
  EXPECT_FALSE(reader->verify_chunk(0));
}

TEST(ImageReader, ChunkNumbersAndBuffersAreChecked) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", {.durability = Durability::kFast});
  ASSERT_TRUE(writer);
  ASSERT_TRUE(sample::write_sample(*writer));
  ASSERT_TRUE(writer->publish());
  auto reader = ImageReader::open(dir / "x.img", {});
  ASSERT_TRUE(reader);
  std::vector<std::byte> out(4096);
  EXPECT_TRUE(reader->read_chunk(1, out));
  EXPECT_FALSE(reader->read_chunk(0, out)) << "that one has two pages";
  EXPECT_FALSE(reader->read_chunk(2, out));
  EXPECT_FALSE(reader->verify_chunk(2));
}

TEST(ImageReader, ChunksAreReadInParallel) {
  const ScratchDir dir;
  auto writer = ImageWriter::create(dir / "x.img", {.codec = Codec::kZstd, .durability = Durability::kFast});
  ASSERT_TRUE(writer);
  ASSERT_TRUE(writer->write(sample::environment()));
  ASSERT_TRUE(writer->end_structure());
  for (std::uint32_t i = 0; i < 40; ++i) {
    ASSERT_TRUE(writer->add_chunk(ObjRef(1), std::array{PageRun{std::uint64_t{i} << 16, 8192}}, sample::pages(2, i)));
  }
  ASSERT_TRUE(writer->publish());
  const auto report = verify_image(dir / "x.img", {.threads = 4});
  ASSERT_TRUE(report) << report.error().to_string();
  EXPECT_EQ(report->chunks, 40u);
  EXPECT_EQ(report->page_bytes, 40u * 8192);
  EXPECT_EQ(report->records, 1u);
  EXPECT_EQ(report->image_hash, writer->image_hash());
}

TEST(Environment, DescribesThisMachine) {
  const auto environment = EnvironmentRecord::of_this_machine();
  EXPECT_EQ(environment.page_size, static_cast<std::uint32_t>(::sysconf(_SC_PAGESIZE)));
  EXPECT_FALSE(environment.kernel_release.empty());
  EXPECT_EQ(environment.boot_id.size(), 36u);
  EXPECT_GT(environment.realtime_ns, 0);
  EXPECT_GE(environment.boottime_ns, environment.monotonic_ns);
  std::vector<std::byte> bytes;
  EXPECT_TRUE(encode(environment, bytes));
}

}  // namespace
}  // namespace stasis
