// SPDX-License-Identifier: Apache-2.0
// The name under which the engine includes EnvironmentRecord.
#pragma once

#include "stasis/image_environment.h"  // IWYU pragma: export
