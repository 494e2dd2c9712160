// SPDX-License-Identifier: Apache-2.0
#include "resource/external_stream/external_stream.h"

#include <gtest/gtest.h>
#include <pty.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>

#include "resource/testing/child.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::Child;
using testing::find_file;
using testing::gather_own_files;

// While one lives, descriptor `number` of the test is another file.
class ScopedStream {
 public:
  ScopedStream(int number, int file) : number_(number), saved_(::fcntl(number, F_DUPFD_CLOEXEC, 500)) {
    EXPECT_EQ(::dup2(file, number), number);
  }
  ~ScopedStream() {
    if (saved_) {
      ::dup2(saved_.get(), number_);
    } else {
      ::close(number_);
    }
  }
  ScopedStream(const ScopedStream&) = delete;
  ScopedStream& operator=(const ScopedStream&) = delete;

 private:
  int number_;
  UniqueFd saved_;
};

struct Pty {
  UniqueFd master, slave;
  std::string name;
  Pty() {
    int m = -1, s = -1;
    std::array<char, 64> path{};
    EXPECT_EQ(::openpty(&m, &s, path.data(), nullptr, nullptr), 0);
    master.reset(m);
    slave.reset(s);
    name = path.data();
  }
};

bool is_external(const OpenFileTable& table, int fd) {
  const FileKind* const kind = find_file_kind(*find_file(table, fd), table);
  return kind != nullptr && kind->ops.type == kind::kExternal;
}
bool is_refused(const OpenFileTable& table, int fd) {
  const OpenFile& file = *find_file(table, fd);
  const Obstacles obstacles = collect_obstacles(table, {});
  return std::ranges::any_of(obstacles, [&](const Obstacle& o) { return o.fd == file.fd(); });
}

TEST(ExternalStream, AStandardStreamToAPipeOutsideIsExternal) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  const Child reader;
  read_end.reset();
  const ScopedStream input(0, write_end.get());
  const OpenFileTable table = gather_own_files();
  EXPECT_TRUE(is_external(table, 0));
  EXPECT_TRUE(is_external(table, write_end.get()));  // the same description
  EXPECT_FALSE(is_refused(table, 0));
}

TEST(ExternalStream, AStandardStreamInsideTheTreeIsNot) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  const ScopedStream input(0, read_end.get());
  EXPECT_FALSE(is_external(gather_own_files(), 0));
  std::array<int, 2> pair{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
  const UniqueFd a(pair[0]), b(pair[1]);
  const ScopedStream socket(0, a.get());
  EXPECT_FALSE(is_external(gather_own_files(), 0));
}

TEST(ExternalStream, RegularFilesAndNullAreNotExternal) {
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const ScopedStream input(0, null.get());
  const OpenFileTable table = gather_own_files();
  EXPECT_EQ(find_file_kind(*find_file(table, 0), table)->ops.type, kind::kPathFile);
}

TEST(ExternalStream, ASocketToTheOutsideIsExternalAsAStandardStreamOnly) {
  std::array<int, 2> pair{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
  const UniqueFd here(pair[0]);
  {
    UniqueFd there(pair[1]);
    const Child child;
    there.reset();
    EXPECT_FALSE(is_external(gather_own_files(), here.get()));
    const ScopedStream input(0, here.get());
    EXPECT_TRUE(is_external(gather_own_files(), 0));
  }
}

TEST(ExternalStream, TheTerminalOfAStandardStreamIsExternalUnderAnyNumber) {
  Pty pty;
  UniqueFd by_path(::open(pty.name.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  UniqueFd master_elsewhere = std::move(pty.master);
  const Child holds_master;
  master_elsewhere.reset();
  {
    const ScopedStream input(0, pty.slave.get());
    const OpenFileTable table = gather_own_files();
    EXPECT_TRUE(is_external(table, 0));
    EXPECT_TRUE(is_external(table, by_path.get()));
    EXPECT_FALSE(is_refused(table, by_path.get()));
  }
  EXPECT_TRUE(is_refused(gather_own_files(), by_path.get()));  // somebody else's terminal
}

TEST(ExternalStream, ATerminalWhoseMasterIsInTheTreeIsNotExternal) {
  const Pty pty;
  const ScopedStream input(0, pty.slave.get());
  EXPECT_FALSE(is_external(gather_own_files(), 0));
}

// ---- binding --------------------------------------------------------------------------------------------------------

class Binding : public ::testing::Test {
 protected:
  Result<void> bind(RestoredExternal& file) {
    RestartContext context{.image = image_,
                           .objects = objects_,
                           .deferred = deferred_,
                           .undo = undo_,
                           .policy = policy_,
                           .patience = patience_,
                           .parking_base = 400};
    return file.bind(context);
  }
  static bool same(int a, int b) {
    struct ::stat one{}, two{};
    return ::fstat(a, &one) == 0 && ::fstat(b, &two) == 0 && one.st_ino == two.st_ino && one.st_dev == two.st_dev;
  }
  sample::ScratchDir dir_;
  ImageReader image_ = testing::empty_image(dir_);
  ObjHash objects_{{}};
  DeferQueue deferred_;
  UndoQueue undo_;
  RestartPolicy policy_;
  Patience patience_{std::chrono::seconds(60), nullptr};
};

TEST_F(Binding, EachStandardNumberGetsTheRestartsOwnStream) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  const ScopedStream input(0, read_end.get());
  const ScopedStream output(1, write_end.get());
  RestoredExternal file({.numbers = {0, 1, 255}});
  ASSERT_TRUE(bind(file));
  EXPECT_TRUE(same(file.descriptor_for(0), read_end.get()));
  EXPECT_EQ(::fcntl(file.descriptor_for(0), F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(::fcntl(file.descriptor_for(1), F_GETFL) & O_ACCMODE, O_WRONLY);
  EXPECT_EQ(file.descriptor_for(255), file.descriptor_for(0));
  EXPECT_GE(file.descriptor_for(0), 400);
}

TEST_F(Binding, AMissingStreamBecomesNull) {
  const UniqueFd saved(::fcntl(0, F_DUPFD_CLOEXEC, 500));
  ::close(0);
  RestoredExternal file({.numbers = {0}});
  const auto bound = bind(file);
  if (saved) ::dup2(saved.get(), 0);
  ASSERT_TRUE(bound) << bound.error().to_string();
  char byte = 0;
  EXPECT_EQ(::read(file.descriptor_for(0), &byte, 1), 0);
}

TEST_F(Binding, OtherPipesNeedToBeTold) {
  RestoredExternal file(
      {.form = ExternalForm::kPipe, .link = "pipe:[7]", .numbers = {5}, .peer = "pid 3 (cat) reads it"});
  ASSERT_TRUE(bind(file));
  EXPECT_EQ(file.descriptor_for(5), -1);
  const Error error = file.unbound(5);
  EXPECT_NE(error.to_string().find("--inherit-fd 5=N"), std::string::npos);
  EXPECT_NE(error.to_string().find("cat"), std::string::npos);
  file.replace(UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC)));
  EXPECT_GE(file.descriptor_for(5), 0);
}

TEST_F(Binding, NonBlockingDoesNotSpreadToTheShellsPipe) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  const ScopedStream input(0, read_end.get());
  RestoredExternal file({.flags = O_NONBLOCK, .numbers = {0}});
  ASSERT_TRUE(bind(file));
  EXPECT_NE(::fcntl(file.descriptor_for(0), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(::fcntl(read_end.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_TRUE(same(file.descriptor_for(0), read_end.get()));
}

TEST_F(Binding, ASocketTakesTheFlagItself) {
  std::array<int, 2> pair{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
  const UniqueFd a(pair[0]), b(pair[1]);
  const ScopedStream input(0, a.get());
  RestoredExternal file({.form = ExternalForm::kSocket, .flags = O_NONBLOCK, .numbers = {0}});
  ASSERT_TRUE(bind(file));
  EXPECT_NE(::fcntl(a.get(), F_GETFL) & O_NONBLOCK, 0);
}

}  // namespace
}  // namespace stasis
