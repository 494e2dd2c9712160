// SPDX-License-Identifier: Apache-2.0
// This machine as an image records it, and whether an image can go on here.
#pragma once

#include "image/environment.h"
#include "stasis/result.h"

namespace stasis {

Result<EnvironmentRecord> environment_of_host();
// Refuses by name: architecture, page size, CPU features, vdso.
Result<void> check_environment(const EnvironmentRecord& image);

}  // namespace stasis
