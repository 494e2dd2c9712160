// SPDX-License-Identifier: Apache-2.0
// Control groups (man 7 cgroups): a restarted process goes back to those that it was in, where they still are and we
// may put it there; where not, that is noted (log, image) and no failure, as it changes nothing that the program can
// rely on.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "kernel/proc_cgroup.h"
#include "kernel/proc_dir.h"
#include "resource/credentials/image_owner.h"
#include "stasis/result.h"

namespace stasis {

// Memberships of `wanted` (lines of /proc/PID/cgroup, as they were saved) that differ from those of `now`. Lines that
// are malformed, or name a path that leads upwards, are passed over.
std::vector<kernel::CgroupMembership> cgroups_to_join(std::span<const std::string> wanted,
                                                      std::span<const kernel::CgroupMembership> now);
// The directory of a control group; empty: its hierarchy is not mounted here.
std::string cgroup_directory(const kernel::CgroupMembership& group, std::span<const kernel::Mount> mounts);

// Error: /proc can't be read. An image of somebody else's moves nobody.
Result<void> rejoin_cgroups(std::span<const std::string> wanted, const kernel::ProcDir& process,
                            const ImageOwner& owner);

}  // namespace stasis
