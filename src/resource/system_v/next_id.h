// SPDX-License-Identifier: Apache-2.0
// /proc/sys/kernel/{shm,sem,msg}_next_id: the id that the next System V object gets (man 5 proc).
#pragma once

#include <cstdint>

#include "stasis/result.h"

namespace stasis {

// `which`: "shm_next_id"... Where the id is taken, the object gets another one. kNotPermitted: not root, nor in an IPC
// namespace of our own.
Result<void> choose_next_id(const char* which, std::int32_t id);

}  // namespace stasis
