// SPDX-License-Identifier: Apache-2.0
#include "work/side_by_side.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "base/without_memory.h"
#include "stasis/work_queue.h"

namespace stasis {

std::size_t most_side_by_side() {
  static const unsigned cpus = std::thread::hardware_concurrency();  // asks the kernel each time
  return std::max(cpus, 1u);
}

Result<void> side_by_side(SideBySide work,
                          const std::function<Result<void>(std::size_t piece, std::size_t place)>& function) {
  std::atomic<std::size_t> next_piece = 0, next_place = 0;
  std::atomic<bool> over = false;
  std::mutex mutex;
  std::size_t lowest = work.count;
  Result<void> failed;
  const auto take_pieces = [&] {
    const std::size_t place = next_place++;
    for (std::size_t i = next_piece++; i < work.count && !over; i = next_piece++) {
      auto done = or_no_memory([&] { return function(i, place); });
      if (done) continue;
      over = true;
      const std::lock_guard lock(mutex);
      if (i > lowest) continue;
      lowest = i;
      failed = std::move(done);
    }
  };
  const std::size_t most = work.threads ? work.threads : most_side_by_side();
  const std::size_t threads = std::min(most, work.count / std::max<std::size_t>(work.worth_a_thread, 1));
  if (threads < 2) {
    take_pieces();
    return failed;
  }
  const auto queue = STASIS_TRY(WorkQueue::create({.name = "stasis-side", .kind = QueueKind::kUnbound}));
  // One that can't be queued is one that does not help.
  for (std::size_t i = 1; i < threads; ++i) (void)queue->post(take_pieces);
  take_pieces();
  STASIS_TRY(queue->destroy());
  return failed;
}

}  // namespace stasis
