// SPDX-License-Identifier: Apache-2.0
// This machine as an image records it, and whether an image can go on here.
#pragma once

#include "image/environment.h"
#include "kernel/namespaces.h"
#include "kernel/proc_dir.h"
#include "stasis/result.h"

namespace stasis {

Result<EnvironmentRecord> environment_of_host();
// Notes how the clocks of a program's time namespace are set; returns how far they are ahead of ours.
Result<kernel::TimeShift> note_clocks(const kernel::ProcDir& program, EnvironmentRecord& environment);
// Refuses by name: architecture, page size, CPU features, vdso.
Result<void> check_environment(const EnvironmentRecord& image);

}  // namespace stasis
