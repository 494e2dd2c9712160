// SPDX-License-Identifier: Apache-2.0
#include "resource/epoll/epoll.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <array>
#include <set>

#include "resource/testing/child.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::Child;
using testing::find_file;
using testing::gather_own_files;
using ::testing::HasSubstr;
using testing::RoundTrip;

UniqueFd make_event(unsigned count = 0) { return UniqueFd(::eventfd(count, EFD_CLOEXEC | EFD_NONBLOCK)); }
UniqueFd make_set() { return UniqueFd(::epoll_create1(EPOLL_CLOEXEC)); }

int watch(int set, int fd, std::uint32_t events, std::uint64_t data) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = data;
  return ::epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
}

// Data of the events that are ready now, ascending.
std::vector<std::uint64_t> ready(int set) {
  std::array<epoll_event, 16> events{};
  const int count = ::epoll_wait(set, events.data(), events.size(), 0);
  std::vector<std::uint64_t> data;
  for (int i = 0; i < count; ++i) data.push_back(events[static_cast<std::size_t>(i)].data.u64);
  std::ranges::sort(data);
  return data;
}

// Entries of a set, as text; their order is the kernel's affair.
std::set<std::string> lines_of(int set) {
  const OpenFileTable table = gather_own_files();
  std::set<std::string> lines;
  const auto targets = parse_epoll_targets(find_file(table, set)->info);
  EXPECT_TRUE(targets);
  for (const EpollTarget& target : *targets) {
    lines.insert(fmt::format("{} {:x} {:x}", target.number, target.events, target.data));
  }
  return lines;
}

TEST(EpollTargets, AreParsed) {
  kernel::FdInfo info;
  info.rest =
      "tfd:        5 events:       19 data: deadbeef00000005  pos:0 ino:61af sdev:7\n"
      "tfd:       17 events: c0000019 data:                5  pos:-1 ino:1 sdev:7\n";
  const auto targets = parse_epoll_targets(info);
  ASSERT_TRUE(targets) << targets.error().to_string();
  ASSERT_EQ(targets->size(), 2u);
  EXPECT_EQ((*targets)[0].number, 5);
  EXPECT_EQ((*targets)[0].events, 0x19u);
  EXPECT_EQ((*targets)[0].data, 0xdeadbeef00000005u);
  EXPECT_EQ((*targets)[0].inode, 0x61afu);
  EXPECT_EQ((*targets)[1].number, 17);
  EXPECT_EQ((*targets)[1].events, 0xc0000019u);
}

TEST(EpollTargets, MalformedLinesAreErrors) {
  for (const char* line :
       {"tfd:\n", "tfd: 5\n", "tfd: x events: 19 data: 5 pos:0 ino:1\n",
        "tfd: 5 events: 1900000000 data: 5 pos:0 ino:1\n", "tfd: -5 events: 19 data: 5 pos:0 ino:1\n"}) {
    kernel::FdInfo info;
    info.rest = line;
    EXPECT_FALSE(parse_epoll_targets(info)) << line;
  }
}

TEST(Epoll, EntriesComeBackUnderTheirNumbers) {
  RoundTrip trip;
  UniqueFd set = make_set(), quiet = make_event(), loud = make_event(1);
  ASSERT_EQ(watch(set.get(), quiet.get(), EPOLLIN | EPOLLET, 0x1111), 0);
  ASSERT_EQ(watch(set.get(), loud.get(), EPOLLIN | EPOLLOUT, 0x2222), 0);
  const auto before = lines_of(set.get());
  EXPECT_EQ(before.size(), 2u);
  const auto saved = trip.save({set.get(), quiet.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  EXPECT_EQ(lines_of(trip.fd(0)), before);
  EXPECT_EQ(ready(trip.fd(0)), std::vector<std::uint64_t>{0x2222});
  ASSERT_EQ(::eventfd_write(trip.fd(1), 1), 0);
  EXPECT_EQ(ready(trip.fd(0)), (std::vector<std::uint64_t>{0x1111, 0x2222}));
  // The program's descriptor is its own again: its number can be given to EPOLL_CTL_DEL once it is installed.
  set.reset();
  const UniqueFd task(::fcntl(trip.fd(0), F_DUPFD_CLOEXEC, 0));
  const int number = quiet.get();
  ASSERT_EQ(::dup2(trip.fd(1), number), number);
  EXPECT_EQ(::epoll_ctl(task.get(), EPOLL_CTL_DEL, number, nullptr), 0);
}

TEST(Epoll, OurOwnDescriptorsAreNotDisturbed) {
  RoundTrip trip;
  UniqueFd set = make_set(), event = make_event();
  const int number = event.get();
  ASSERT_EQ(watch(set.get(), number, EPOLLIN, 1), 0);
  ASSERT_TRUE(trip.save({set.get(), number}));
  event.reset();
  UniqueFd other(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(other.get(), number);
  ASSERT_TRUE(trip.restore());
  const OpenFileTable table = gather_own_files(Hold::kDont);
  EXPECT_EQ(find_file(table, number)->link, "/dev/null");
}

TEST(Epoll, AFileWhoseNumberIsClosedOrTakenIsFoundByItsDuplicate) {
  RoundTrip trip;
  UniqueFd set = make_set(), first = make_event();
  const UniqueFd kept(::fcntl(first.get(), F_DUPFD_CLOEXEC, 100));
  const int number = first.get();
  ASSERT_EQ(watch(set.get(), number, EPOLLIN, 1), 0);
  first.reset();
  UniqueFd second = make_event();  // takes the number
  ASSERT_EQ(second.get(), number);
  ASSERT_EQ(watch(set.get(), number, EPOLLIN, 2), 0);
  const auto saved = trip.save({set.get(), kept.get(), second.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  ASSERT_EQ(::eventfd_write(trip.fd(1), 1), 0);
  EXPECT_EQ(ready(trip.fd(0)), std::vector<std::uint64_t>{1});
  ASSERT_EQ(::eventfd_write(trip.fd(2), 1), 0);
  EXPECT_EQ(ready(trip.fd(0)), (std::vector<std::uint64_t>{1, 2}));
}

TEST(Epoll, SetsWatchSets) {
  RoundTrip trip;
  UniqueFd outer = make_set(), inner = make_set(), event = make_event();
  ASSERT_EQ(watch(inner.get(), event.get(), EPOLLIN, 1), 0);
  ASSERT_EQ(watch(outer.get(), inner.get(), EPOLLIN, 2), 0);
  ASSERT_TRUE(trip.save({outer.get(), event.get()}));
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  EXPECT_TRUE(ready(trip.fd(0)).empty());
  ASSERT_EQ(::eventfd_write(trip.fd(1), 1), 0);
  EXPECT_EQ(ready(trip.fd(0)), std::vector<std::uint64_t>{2});
}

TEST(Epoll, AFiredOneShotEntryStaysSwitchedOff) {
  RoundTrip trip;
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  UniqueFd read_end(ends[0]), write_end(ends[1]), set = make_set();
  ASSERT_EQ(watch(set.get(), read_end.get(), EPOLLIN | EPOLLONESHOT, 7), 0);
  ASSERT_EQ(::write(write_end.get(), "x", 1), 1);
  ASSERT_EQ(ready(set.get()), std::vector<std::uint64_t>{7});
  ASSERT_TRUE(trip.save({set.get(), read_end.get(), write_end.get()}));
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  ASSERT_EQ(::write(trip.fd(2), "y", 1), 1);
  EXPECT_TRUE(ready(trip.fd(0)).empty());
}

TEST(Epoll, AFileThatOnlyAnOutsiderHasIsRefused) {
  UniqueFd set = make_set(), event = make_event();
  ASSERT_EQ(watch(set.get(), event.get(), EPOLLIN, 1), 0);
  const Child child;
  event.reset();
  const Obstacles obstacles = collect_obstacles(gather_own_files(), {});
  const auto found = std::ranges::find(obstacles, set.get(), &Obstacle::fd);
  ASSERT_NE(found, obstacles.end());
  EXPECT_THAT(found->why, HasSubstr("outside"));
}

}  // namespace
}  // namespace stasis
