// SPDX-License-Identifier: Apache-2.0
#include "resource/process_file/process_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>

#include "base/file.h"
#include "resource/testing/child.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::RoundTrip;

UniqueFd open_file(const std::string& path) {
  auto fd = open_at(AT_FDCWD, path, O_RDONLY);
  EXPECT_TRUE(fd) << path;
  return *std::move(fd);
}

TEST(ProcessFile, NamesArePlainAndOfOneProcess) {
  const auto file = parse_process_file("/proc/12/maps");
  ASSERT_TRUE(file);
  EXPECT_EQ(file->pid, ImagePid(12));
  EXPECT_EQ(file->thread, ImagePid(0));
  EXPECT_EQ(file->name, "maps");
  const auto thread = parse_process_file("/proc/12/task/13/stat");
  ASSERT_TRUE(thread);
  EXPECT_EQ(thread->thread, ImagePid(13));
  EXPECT_EQ(thread->name, "stat");
  for (const char* good : {"/proc/12", "/proc/12/net/tcp6", "/proc/12/attr/current", "/proc/12/fd"})
    EXPECT_TRUE(parse_process_file(good)) << good;
  for (const char* bad :
       {"/proc", "/proc/", "/proc/0/maps", "/proc/self/maps", "/proc/12/../1/mem", "/proc/12/root/etc",
        "/proc/12/fdinfo/3", "/proc/12/net/../../1/mem", "/proc/12/maps (deleted)", "/etc/passwd",
        "/proc/99999999999/maps", "/proc/12/task/0/stat", "/proc/12/net/stat/arp_cache"})
    EXPECT_FALSE(parse_process_file(bad)) << bad;
}

TEST(ProcessFile, OfAProcessOfTheTreeIsOpenedByTheTaskItselfWhereItWas) {
  RoundTrip trip;
  const UniqueFd file = open_file("/proc/self/status");
  std::array<char, 6> buffer{};
  ASSERT_EQ(::read(file.get(), buffer.data(), buffer.size()), 6);
  const auto saved = trip.save({file.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  const auto call = trip.file(0)->own_call();
  ASSERT_TRUE(call);
  EXPECT_EQ(call->number, SYS_openat);
  EXPECT_EQ(call->path, fmt::format("/proc/{}/status", ::getpid()));
  EXPECT_EQ(call->arguments[1], 6u);
}

TEST(ProcessFile, OfAProcessOutsideIsAnObstacle) {
  const testing::Child outside;
  const UniqueFd file = open_file(fmt::format("/proc/{}/status", outside.pid().value()));
  const OpenFileTable table = testing::gather_own_files();
  const auto obstacle = process_file_obstacle(*testing::find_file(table, file.get()), table, {});
  ASSERT_TRUE(obstacle);
  EXPECT_EQ(obstacle->code, Errc::kExternalPeer);
  EXPECT_NE(obstacle->why.find(std::to_string(outside.pid().value())), std::string::npos);
}

TEST(ProcessFile, HostileRecordsAreRefused) {
  EXPECT_TRUE(testing::restore_record(ProcessFileRecord{.path = "/proc/12/maps"}, kind::kProcessFile));
  for (const char* path : {"/etc/shadow", "/proc/12/../../etc/shadow", "", "/proc/12/root/etc/shadow"})
    EXPECT_FALSE(testing::restore_record(ProcessFileRecord{.path = path}, kind::kProcessFile)) << path;
}

}  // namespace
}  // namespace stasis
