// SPDX-License-Identifier: Apache-2.0
#include "resource/cgroup/cgroup.h"

#include <gtest/gtest.h>

#include <array>

namespace stasis {
namespace {

using kernel::CgroupMembership;

kernel::Mount mount(std::string root, std::string point, std::string type, std::string options) {
  kernel::Mount mount;
  mount.root = std::move(root);
  mount.mount_point = std::move(point);
  mount.fs_type = std::move(type);
  mount.super_options = std::move(options);
  return mount;
}

TEST(Cgroup, OnlyWhatDiffersIsJoined) {
  const std::array<std::string, 5> wanted = {"4:memory:/a", "3:cpu,cpuacct:/b", "0::/c", "7:pids:/../up", "nonsense"};
  const std::array<CgroupMembership, 3> now = {CgroupMembership{9, "memory", "/a"},
                                               CgroupMembership{3, "cpu,cpuacct", "/"}, CgroupMembership{0, "", "/"}};
  const auto differ = cgroups_to_join(wanted, now);
  ASSERT_EQ(differ.size(), 2u);
  EXPECT_EQ(differ[0].path, "/b");
  EXPECT_EQ(differ[1].path, "/c");
}

TEST(Cgroup, DirectoriesAreFoundByTheirMounts) {
  const std::array<kernel::Mount, 4> mounts = {
      mount("/", "/sys/fs/cgroup/pids", "cgroup", "rw,pids"), mount("/", "/cpu", "cgroup", "rw,cpu,cpuacct"),
      mount("/part", "/part-of-memory", "cgroup", "rw,memory"), mount("/", "/unified", "cgroup2", "rw")};
  EXPECT_EQ(cgroup_directory({3, "cpu,cpuacct", "/x"}, mounts), "/cpu/x");
  EXPECT_EQ(cgroup_directory({4, "pids", "/x/y"}, mounts), "/sys/fs/cgroup/pids/x/y");
  EXPECT_EQ(cgroup_directory({5, "memory", "/part/x"}, mounts), "/part-of-memory/x");
  EXPECT_EQ(cgroup_directory({5, "memory", "/party"}, mounts), "");
  EXPECT_EQ(cgroup_directory({0, "", "/x"}, mounts), "/unified/x");
  EXPECT_EQ(cgroup_directory({6, "blkio", "/x"}, mounts), "");
}

}  // namespace
}  // namespace stasis
