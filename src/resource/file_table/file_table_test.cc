// SPDX-License-Identifier: Apache-2.0
#include "resource/file_table/file_table.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "arch/x86_64/thunk.h"
#include "resource/testing/child.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::find_file;
using testing::gather_own_files;

std::vector<kernel::FileLock> locks_of(const OpenFileTable& table, int fd) {
  const auto& slots = table.descriptors.front().slots;
  return std::ranges::find(slots, fd, &DescriptorTable::Slot::fd)->locks;
}

// A table of some of the test's own descriptors, saved and restored.
class TableTrip {
 public:
  Result<void> save(const std::map<int, int>& numbers, std::initializer_list<int> cloexec = {}) {
    const OpenFileTable table = gather_own_files();
    DescriptorTable chosen{.pid = HostPid(::getpid()), .slots = {}};
    for (const auto& [number, fd] : numbers) {
      chosen.slots.push_back({.fd = number,
                              .close_on_exec = std::ranges::find(cloexec, number) != cloexec.end(),
                              .file = find_file(table, fd),
                              .locks = locks_of(table, fd)});
    }
    ImageWriter writer = STASIS_TRY(ImageWriter::create(dir_ / "image", {.durability = Durability::kFast}));
    STASIS_TRY(writer.write(sample::environment()));
    ObjHash objects(object_table(ObjectUse::kCheckpoint));
    DeferQueue deferred, farewell, contents;
    const CheckpointPolicy policy;
    const Patience patience(std::chrono::seconds(60), nullptr);
    CheckpointContext context{writer, objects, deferred, farewell, contents, table, policy, patience};
    ref_ = STASIS_TRY(objects.checkpoint_obj(&context, &chosen, kind::kFileTable));
    STASIS_TRY(writer.end_structure());
    return writer.publish();
  }
  Result<RestoredFileTable*> restore(const RestartPolicy& policy = {}) {
    image_.emplace(STASIS_TRY(ImageReader::open(dir_ / "image", {})));
    const Patience patience(std::chrono::seconds(60), nullptr);
    RestartContext context{.image = *image_,
                           .objects = objects_,
                           .deferred = deferred_,
                           .undo = undo_,
                           .policy = policy,
                           .patience = patience,
                           .parking_base = kBase};
    image_->set_object_handler([&](ObjRef ref, ObjType type) -> Result<void> {
      STASIS_TRY(objects_.restore_obj(&context, ref, type));
      return {};
    });
    STASIS_TRY(image_->peek_type());
    return fetch_restored<RestoredFileTable>(objects_, ref_, kind::kFileTable);
  }
  Result<int> base() {
    const ImageReader image = STASIS_TRY(ImageReader::open(dir_ / "image", {}));
    return parking_base(image);
  }
  static constexpr int kBase = 400;
  const sample::ScratchDir& dir() const { return dir_; }

 private:
  sample::ScratchDir dir_;
  ObjRef ref_;
  std::optional<ImageReader> image_;
  ObjHash objects_{object_table(ObjectUse::kRestart)};
  DeferQueue deferred_;
  UndoQueue undo_;
};

// A gate of a few calls, run by ourselves.
class SmallBatch {
 public:
  explicit SmallBatch(std::size_t calls)
      : memory_((Batch::kArenaOffset + calls * sizeof(arch::GateOp)) / sizeof(std::max_align_t) + 1),
        batch_({reinterpret_cast<std::byte*>(memory_.data()), reinterpret_cast<std::uint64_t>(memory_.data()),
                memory_.size() * sizeof(std::max_align_t)}) {}
  Batch& batch() { return batch_; }
  void run() {
    auto* const ops = reinterpret_cast<arch::GateOp*>(batch_.remote_ops());
    for (std::size_t i = 0; i < batch_.size(); ++i) {
      const long result = ::syscall(static_cast<long>(ops[i].nr), ops[i].args[0], ops[i].args[1], ops[i].args[2]);
      ops[i].result = result == -1 ? -errno : result;
    }
  }

 private:
  std::vector<std::max_align_t> memory_;
  Batch batch_;
};

// Runs in a fork, as it replaces all descriptors: installs the table by batches of so many calls, then `look` judges.
template <class Look>
bool installed(const RestoredFileTable& table, Look look, std::size_t calls = 4000) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    auto install = RestoredFileTable::Install::plan(table);
    bool good = install.has_value();
    while (good && !install->done()) {
      SmallBatch small(calls);
      BatchChecks checks;
      install->fill(small.batch(), checks);
      good = !small.batch().empty();
      small.run();
      good = good && checks.verify(small.batch()).has_value();
    }
    ::_exit(good && look() ? 0 : 1);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }
bool same(int a, int b) {
  struct ::stat one{}, two{};
  return ::fstat(a, &one) == 0 && ::fstat(b, &two) == 0 && one.st_ino == two.st_ino && one.st_dev == two.st_dev;
}

TEST(FileTable, IsInstalledWithExactlyItsNumbers) {
  TableTrip trip;
  const UniqueFd a(::open((trip.dir() / "a").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const UniqueFd b(::open((trip.dir() / "b").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const auto saved = trip.save({{0, a.get()}, {1, b.get()}, {7, a.get()}, {399, b.get()}}, {7});
  ASSERT_TRUE(saved) << saved.error().to_string();
  ASSERT_EQ(*trip.base(), 400);
  const auto table = trip.restore();
  ASSERT_TRUE(table) << table.error().to_string();
  EXPECT_TRUE(installed(**table, [] {
    for (int fd = 0; fd < 1000; ++fd) {
      if (is_open(fd) != (fd == 0 || fd == 1 || fd == 7 || fd == 399)) return false;
    }
    const bool flags = ::fcntl(7, F_GETFD) == FD_CLOEXEC && ::fcntl(0, F_GETFD) == 0;
    // 0 and 7 share their offset, 1 has another.
    return flags && same(0, 7) && same(1, 399) && !same(0, 1) && ::lseek(7, 5, SEEK_SET) == 5 &&
           ::lseek(0, 0, SEEK_CUR) == 5 && ::lseek(1, 0, SEEK_CUR) == 0;
  }));
}

TEST(FileTable, AnEmptyTableClosesEverything) {
  TableTrip trip;
  ASSERT_TRUE(trip.save({}));
  EXPECT_EQ(*trip.base(), 0);
  const auto table = trip.restore();
  ASSERT_TRUE(table);
  EXPECT_TRUE(installed(**table, [] {
    for (int fd = 0; fd < 1000; ++fd) {
      if (is_open(fd)) return false;
    }
    return true;
  }));
}

TEST(FileTable, MoreThanABatchHoldsIsInstalledInSeveral) {
  TableTrip trip;
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  std::map<int, int> numbers;
  for (int i = 0; i < 200; ++i) numbers[2 * i] = null.get();
  ASSERT_TRUE(trip.save(numbers));
  const auto table = trip.restore();
  ASSERT_TRUE(table);
  EXPECT_TRUE(installed(
      **table,
      [] {
        for (int fd = 0; fd < 420; ++fd) {
          if (is_open(fd) != (fd < 400 && fd % 2 == 0)) return false;
        }
        return true;
      },
      7));
}

TEST(FileTable, InheritReplacesAFileForAllItsNumbers) {
  TableTrip trip;
  const UniqueFd a(::open("/dev/null", O_RDWR | O_CLOEXEC)), other(::open("/dev/zero", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(trip.save({{3, a.get()}, {9, a.get()}}));
  const auto table = trip.restore({.inherit_fds = {{9, other.get()}}});
  ASSERT_TRUE(table) << table.error().to_string();
  EXPECT_TRUE(installed(**table, [] {
    char byte = 'x';
    return ::read(3, &byte, 1) == 1 && byte == 0 && ::read(9, &byte, 1) == 1;
  }));
}

TEST(FileTable, InheritOfAClosedDescriptorIsRefusedByName) {
  TableTrip trip;
  const UniqueFd a(::open("/dev/null", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(trip.save({{3, a.get()}}));
  const auto table = trip.restore({.inherit_fds = {{3, 999}}});
  ASSERT_FALSE(table);
  EXPECT_NE(table.error().message().find("--inherit-fd 3=999"), std::string::npos) << table.error().message();
}

TEST(FileTable, RecordLocksOfTheProcessComeBack) {
  TableTrip trip;
  const std::string path = trip.dir() / "locked";
  UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  struct ::flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_start = 10;
  lock.l_len = 5;
  ASSERT_EQ(::fcntl(file.get(), F_SETLK, &lock), 0);
  lock.l_type = F_RDLCK;
  lock.l_start = 100;
  lock.l_len = 0;
  ASSERT_EQ(::fcntl(file.get(), F_SETLK, &lock), 0);
  const auto saved = trip.save({{3, file.get()}, {5, file.get()}});
  ASSERT_TRUE(saved) << saved.error().to_string();
  const auto table = trip.restore();
  ASSERT_TRUE(table) << table.error().to_string();
  file.reset();
  {
    // While somebody else has one of the locks, the table is not installed.
    const testing::Child other([&] {
      lock.l_type = F_WRLCK;
      return ::fcntl(::open(path.c_str(), O_RDWR | O_CLOEXEC), F_SETLK, &lock) == 0;
    });
    ASSERT_TRUE(other.ready());
    EXPECT_FALSE(installed(**table, [] { return true; }));
  }
  EXPECT_TRUE(installed(
      **table,
      [&] {
        // Somebody else asks.
        const pid_t other = ::fork();
        if (other == 0) {
          const auto holder_of = [&](off_t start, short type) {
            struct ::flock wanted{};
            wanted.l_type = type;
            wanted.l_start = start;
            wanted.l_len = 1;
            const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
            return ::fcntl(fd, F_GETLK, &wanted) == 0 && wanted.l_type != F_UNLCK ? wanted.l_pid : 0;
          };
          const pid_t owner = ::getppid();
          const bool good = holder_of(9, F_WRLCK) == 0 && holder_of(10, F_RDLCK) == owner &&
                            holder_of(14, F_RDLCK) == owner && holder_of(15, F_WRLCK) == 0 &&
                            holder_of(1000, F_WRLCK) == owner && holder_of(1000, F_RDLCK) == 0;
          ::_exit(good ? 0 : 1);
        }
        int status = 0;
        return ::waitpid(other, &status, 0) == other && WIFEXITED(status) && WEXITSTATUS(status) == 0;
      },
      3));
}

TEST(FileTable, HostileTablesAreRefused) {
  const auto entry = [](int fd, int ref, std::uint16_t type) {
    return DescriptorRecord{.fd = fd, .close_on_exec = false, .file = ObjRef(ref), .kind = type};
  };
  const std::vector<std::vector<DescriptorRecord>> tables = {
      {entry(-1, 2, kind::kPathFile)},
      {entry(4, 2, kind::kPathFile)},  // there is no object 2
      {entry(4, 1, kind::kPathFile)},  // itself
      {entry(4, 2, kind::kPathFile), entry(4, 2, kind::kPathFile)},
      {entry(5, 2, kind::kPathFile), entry(4, 2, kind::kPathFile)},
      {entry(0x7fffffff, 2, kind::kPathFile)},
      {entry(4, 2, kind::kPipe)},
      {entry(4, 2, 0xffff)}};
  for (const auto& descriptors : tables)
    EXPECT_FALSE(testing::restore_record(FileTableRecord{.descriptors = descriptors}, kind::kFileTable));
  EXPECT_FALSE(testing::restore_record(FileTableRecord{.posix_locks = {{.fd = 4, .lock = {}}}}, kind::kFileTable));
  EXPECT_TRUE(testing::restore_record(FileTableRecord{}, kind::kFileTable));
}

}  // namespace
}  // namespace stasis
