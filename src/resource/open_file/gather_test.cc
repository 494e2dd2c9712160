// SPDX-License-Identifier: Apache-2.0
#include "resource/open_file/gather.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <array>

#include "resource/testing/child.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::Child;
using testing::find_file;
using testing::gather_own_files;

UniqueFd open_null(int flags = O_RDONLY) { return UniqueFd(::open("/dev/null", flags | O_CLOEXEC)); }

TEST(Gather, DuplicatesAreOneOpenFile) {
  const UniqueFd fd = open_null();
  const UniqueFd copy(::dup(fd.get()));
  const OpenFileTable table = gather_own_files();
  OpenFile* const file = find_file(table, fd.get());
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(file, find_file(table, copy.get()));
  EXPECT_EQ(file->link, "/dev/null");
  ASSERT_EQ(file->holders.size(), 2u);
  EXPECT_EQ(file->holders[0].close_on_exec, file->holders[0].fd == fd.get());
  EXPECT_NE(file->holders[0].close_on_exec, file->holders[1].close_on_exec);
  EXPECT_EQ(file->info.flags & unsigned{O_CLOEXEC}, 0u);
}

TEST(Gather, TwoOpeningsOfOneFileAreTwo) {
  const UniqueFd a = open_null(), b = open_null();
  const OpenFileTable table = gather_own_files();
  OpenFile* const file = find_file(table, a.get());
  OpenFile* const other = find_file(table, b.get());
  ASSERT_TRUE(file != nullptr && other != nullptr);
  EXPECT_NE(file, other);
  EXPECT_EQ(file->inode, other->inode);
}

TEST(Gather, HeldDuplicateIsTheSameOpenFile) {
  const sample::ScratchDir dir;
  const UniqueFd fd(::open((dir / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const OpenFileTable table = gather_own_files();
  const OpenFile* const file = find_file(table, fd.get());
  ASSERT_TRUE(file != nullptr && file->held);
  ASSERT_EQ(::lseek(file->held.get(), 77, SEEK_SET), 77);
  EXPECT_EQ(::lseek(fd.get(), 0, SEEK_CUR), 77);
}

TEST(Gather, CheckHoldsNothing) {
  const UniqueFd fd = open_null();
  const OpenFileTable table = gather_own_files(Hold::kDont);
  const OpenFile* const file = find_file(table, fd.get());
  ASSERT_NE(file, nullptr);
  EXPECT_FALSE(file->held);
}

TEST(Gather, AChildSharesWhatItInheritedButNotWhatItOpenedItself) {
  const UniqueFd shared = open_null();
  int own_number = -1;
  const int expected = open_null().get();  // the number the child will get
  const Child child([&] { return (own_number = ::open("/dev/null", O_RDONLY)) >= 0; });
  ASSERT_TRUE(child.ready());
  const UniqueFd own = open_null();
  const auto here = kernel::ProcDir::open(HostPid(::getpid()));
  const auto there = kernel::ProcDir::open(child.pid());
  ASSERT_TRUE(here && there);
  const std::array handles = {ProcessHandle{&*here, nullptr}, ProcessHandle{&*there, nullptr}};
  const auto table = gather_open_files(handles, Hold::kDont);
  ASSERT_TRUE(table) << table.error().to_string();
  const OpenFile* const file = find_file(*table, shared.get());
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(file->holders.size(), 2u);
  const OpenFile* const mine = find_file(*table, own.get());
  ASSERT_NE(mine, nullptr);
  EXPECT_EQ(mine->holders.size(), 1u);
  EXPECT_GE(expected, 0);
  ASSERT_EQ(table->descriptors.size(), 2u);
  EXPECT_EQ(table->descriptors[1].pid, child.pid());
}

TEST(Gather, ManyAnonymousInodesAreToldApart) {
  std::vector<UniqueFd> events;
  for (int i = 0; i < 200; ++i) events.emplace_back(::eventfd(0, EFD_CLOEXEC));
  const UniqueFd copy(::dup(events[7].get()));
  const OpenFileTable table = gather_own_files(Hold::kDont);
  std::set<const OpenFile*> distinct;
  for (const UniqueFd& event : events) distinct.insert(find_file(table, event.get()));
  EXPECT_EQ(distinct.size(), 200u);
  EXPECT_EQ(find_file(table, copy.get()), find_file(table, events[7].get()));
}

TEST(Gather, EveryDescriptorIsListedInOrder) {
  const UniqueFd low = open_null();
  const UniqueFd high(::fcntl(low.get(), F_DUPFD_CLOEXEC, 250));
  const OpenFileTable table = gather_own_files(Hold::kDont);
  const auto& slots = table.descriptors.front().slots;
  EXPECT_TRUE(std::ranges::is_sorted(slots, {}, &DescriptorTable::Slot::fd));
  EXPECT_NE(find_file(table, low.get()), nullptr);
  EXPECT_EQ(find_file(table, low.get()), find_file(table, high.get()));
  EXPECT_EQ(find_file(table, low.get())->lowest_number(), low.get());
}

TEST(Gather, SomebodyOutsideWhoHasThePipeIsFound) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  const Child child;
  write_end.reset();
  const OpenFileTable table = gather_own_files();
  const OpenFile* const file = find_file(table, read_end.get());
  ASSERT_NE(file, nullptr);
  const OutsideHolder* const writer = table.outside.writer(file->link);
  ASSERT_NE(writer, nullptr);
  EXPECT_EQ(writer->pid, child.pid());
  EXPECT_TRUE(writer->writes);
  EXPECT_FALSE(writer->reads);
}

TEST(Gather, AnEarlierLookOutsideIsUsedAgain) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  OpenFileTable first = gather_own_files(Hold::kDont);
  const std::string link = find_file(first, read_end.get())->link;
  first.outside.add(link, {.pid = HostPid(1), .fd = 5, .reads = true, .writes = false, .command = "made-up"});
  const auto proc = kernel::ProcDir::open(HostPid(::getpid()));
  const ProcessHandle self{&*proc, nullptr};
  const auto second = gather_open_files(std::span(&self, 1), Hold::kDont, &first.outside);
  ASSERT_TRUE(second);
  ASSERT_NE(second->outside.reader(link), nullptr);
  EXPECT_EQ(second->outside.reader(link)->command, "made-up");
}

TEST(Gather, PeersOfUnixSocketsAreKnown) {
  std::array<int, 2> pair{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
  const UniqueFd a(pair[0]), b(pair[1]);
  const OpenFileTable table = gather_own_files(Hold::kDont);
  const OpenFile* const one = find_file(table, a.get());
  const OpenFile* const two = find_file(table, b.get());
  ASSERT_TRUE(one != nullptr && two != nullptr);
  ASSERT_TRUE(one->peer_inode);
  EXPECT_EQ(*one->peer_inode, two->stat.st_ino);
}

TEST(Obstacles, UnknownKindsAreNamedOncePerOpenFile) {
  std::array<std::uint32_t, 30> parameters{};  // struct io_uring_params
  const UniqueFd ring(static_cast<int>(::syscall(SYS_io_uring_setup, 4, parameters.data())));
  if (!ring) GTEST_SKIP() << "no io_uring here";
  const UniqueFd copy(::dup(ring.get()));
  const OpenFileTable table = gather_own_files();
  const OpenFile* const file = find_file(table, ring.get());
  const Obstacles obstacles = collect_obstacles(table, {});
  const auto found = std::ranges::count(obstacles, file->link, &Obstacle::object);
  EXPECT_EQ(found, 1);
}

TEST(Obstacles, AFileThatSendsSignalsOutsideIsRefused) {
  const Child outside;
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  ASSERT_EQ(::fcntl(read_end.get(), F_SETOWN, outside.pid().value()), 0);
  const OpenFileTable table = gather_own_files();
  const OpenFile* const file = find_file(table, read_end.get());
  const Obstacles obstacles = collect_obstacles(table, {});
  const auto found = std::ranges::find(obstacles, file->fd(), &Obstacle::fd);
  ASSERT_NE(found, obstacles.end());
  EXPECT_NE(found->why.find("F_SETOWN"), std::string::npos);
}

}  // namespace
}  // namespace stasis
