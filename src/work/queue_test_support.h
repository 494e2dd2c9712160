// SPDX-License-Identifier: Apache-2.0
// What the tests of WorkQueue share.
#pragma once

#include <gtest/gtest.h>
#include <sched.h>

#include <memory>
#include <string>
#include <vector>

#include "stasis/work_queue.h"

namespace stasis::test {

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif

inline std::unique_ptr<WorkQueue> make_queue(const WorkQueueOptions& options = {}) {
  return std::move(WorkQueue::create(options).value());
}

inline std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  EXPECT_EQ(::sched_getaffinity(0, sizeof set, &set), 0);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(static_cast<unsigned>(cpu), &set)) cpus.push_back(cpu);
  }
  return cpus;
}

inline std::string name_of(const testing::TestParamInfo<QueueKind>& param) {
  switch (param.param) {
    case QueueKind::kPerCpu:
      return "PerCpu";
    case QueueKind::kUnbound:
      return "Unbound";
    case QueueKind::kOrdered:
      return "Ordered";
  }
  return "";
}

}  // namespace stasis::test
