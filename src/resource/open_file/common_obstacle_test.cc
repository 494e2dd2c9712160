// SPDX-License-Identifier: Apache-2.0
// What no kind saves is refused by its name.
#include "resource/open_file/common_obstacle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using ::testing::HasSubstr;

// Of a descriptor that the kernel gave out, if it did.
void expect_refused(long made, const std::string& what) {
  const UniqueFd fd(static_cast<int>(made));
  if (!fd) GTEST_SKIP() << "this kernel does not give it to us: " << std::strerror(errno);
  const OpenFileTable table = testing::gather_own_files(Hold::kDont);
  const OpenFile* const file = testing::find_file(table, fd.get());
  ASSERT_NE(file, nullptr);
  const Obstacles obstacles = collect_obstacles(table, {});
  const auto found = std::ranges::find_if(obstacles, [&](const Obstacle& obstacle) { return obstacle.fd == fd.get(); });
  ASSERT_NE(found, obstacles.end());
  EXPECT_EQ(found->code, Errc::kUnsupportedObject);
  EXPECT_THAT(found->why, HasSubstr(what));
}

TEST(CommonObstacle, AnIoUringIsNamed) {
  std::array<std::uint32_t, 30> parameters{};  // struct io_uring_params
  expect_refused(::syscall(SYS_io_uring_setup, 4, parameters.data()), "io_uring");
}

TEST(CommonObstacle, AUserfaultfdIsNamed) {
  constexpr int kUserModeOnly = 1;  // UFFD_USER_MODE_ONLY
  expect_refused(::syscall(SYS_userfaultfd, O_CLOEXEC | kUserModeOnly), "userfaultfd");
}

TEST(CommonObstacle, APerformanceCounterIsNamed) {
  perf_event_attr attributes{};
  attributes.type = PERF_TYPE_SOFTWARE;
  attributes.size = sizeof attributes;
  attributes.config = PERF_COUNT_SW_PAGE_FAULTS;
  attributes.exclude_kernel = 1;
  expect_refused(::syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC), "performance counter");
}

TEST(CommonObstacle, ABpfMapIsNamed) {
  bpf_attr attributes{};
  attributes.map_type = BPF_MAP_TYPE_ARRAY;
  attributes.key_size = attributes.value_size = 4;
  attributes.max_entries = 1;
  expect_refused(::syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes), "BPF");
}

}  // namespace
}  // namespace stasis
