// SPDX-License-Identifier: Apache-2.0
// /proc/PID/cgroup (man 7 cgroups).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "stasis/result.h"

namespace stasis::kernel {

struct CgroupMembership {
  std::uint32_t hierarchy = 0;  // 0: cgroup v2
  std::string controllers;      // "cpu,cpuacct", "name=systemd", empty for v2
  std::string path;
};

Result<std::vector<CgroupMembership>> parse_cgroup(std::string_view text);

}  // namespace stasis::kernel
