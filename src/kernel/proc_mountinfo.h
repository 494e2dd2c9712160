// SPDX-License-Identifier: Apache-2.0
// /proc/PID/mountinfo (man 5 proc).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "stasis/result.h"

namespace stasis::kernel {

struct Mount {
  std::int32_t id = 0;
  std::int32_t parent_id = 0;
  std::uint32_t dev_major = 0;
  std::uint32_t dev_minor = 0;
  std::string root;               // the directory of the file system that is mounted
  std::string mount_point;        // relative to the process's root
  std::string options;            // per mount: "rw,relatime"
  std::vector<std::string> tags;  // "shared:1", "master:2", ...
  std::string fs_type;
  std::string source;
  std::string super_options;
};

Result<std::vector<Mount>> parse_mountinfo(std::string_view text);

}  // namespace stasis::kernel
