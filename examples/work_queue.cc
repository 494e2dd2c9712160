// SPDX-License-Identifier: Apache-2.0
// A driver whose entry points must return at once, and so defer their heavy jobs to a work queue.
//
// Requests come in on any thread. Each becomes a Work that is part of the request itself: nothing is allocated, nothing
// can fail but the queue's being shut down, and the driver knows at any time whether a request waits, runs, or is done.
// Closing the device takes back what has not started and waits for what has. (Doing the same by hand needs a list, a
// lock, a thread, a wake-up for it, and an answer to each question of doc/deferred-work.md.)
#include "stasis/work_queue.h"

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

namespace {

class Driver;

// One request of a user of the device: sum up a block.
struct Request : stasis::Work {
  Request(Driver& its_driver, std::vector<std::uint32_t> its_block)
      : Work(method<&Request::process>), driver(its_driver), block(std::move(its_block)) {}
  void process();  // on a thread of the queue

  Driver& driver;
  std::vector<std::uint32_t> block;
  std::uint64_t sum = 0;
  bool done = false;
};

class Driver {
 public:
  explicit Driver(std::unique_ptr<stasis::WorkQueue> queue) : queue_(std::move(queue)) {}

  // The entry point: returns at once. False: this request is under way already.
  stasis::Result<bool> submit(Request& request) { return queue_->queue(request).result(); }

  // After this the request is neither waiting nor being processed, and may be freed. True: it was never started.
  bool withdraw(Request& request) { return static_cast<bool>(queue_->cancel_sync(request)); }

  // Everything that was submitted is done on return.
  void sync() { (void)queue_->flush(); }

  // Counted in the queue's threads, read by anybody.
  std::atomic<int> processed{0};

 private:
  std::unique_ptr<stasis::WorkQueue> queue_;
};

void Request::process() {
  sum = std::accumulate(block.begin(), block.end(), std::uint64_t{0});
  done = true;
  ++driver.processed;
}

int fail(const char* what) {
  std::fprintf(stderr, "work_queue: %s\n", what);
  return EXIT_FAILURE;
}

}  // namespace

int main() {
  constexpr int kRequests = 100;
  constexpr std::uint32_t kBlock = 10'000;

  auto queue = stasis::WorkQueue::create({.name = "mydrv", .kind = stasis::QueueKind::kUnbound});
  if (!queue) return fail(queue.error().to_string().c_str());
  Driver driver(std::move(*queue));

  std::vector<std::unique_ptr<Request>> requests;
  for (int i = 0; i < kRequests; ++i) {
    std::vector<std::uint32_t> block(kBlock);
    std::iota(block.begin(), block.end(), static_cast<std::uint32_t>(i));
    requests.push_back(std::make_unique<Request>(driver, std::move(block)));
    const stasis::Result<bool> submitted = driver.submit(*requests.back());
    if (!submitted) return fail(submitted.error().to_string().c_str());
  }
  driver.sync();
  for (int i = 0; i < kRequests; ++i) {
    const Request& request = *requests[static_cast<std::size_t>(i)];
    const std::uint64_t expected =
        std::uint64_t{kBlock} * (kBlock - 1) / 2 + std::uint64_t{kBlock} * static_cast<unsigned>(i);
    if (!request.done || request.sum != expected) return fail("a request was not processed, or wrongly");
  }

  // The user goes away while the request is under way: withdraw() makes it safe to free.
  auto hasty = std::make_unique<Request>(driver, std::vector<std::uint32_t>{1, 2, 3});
  (void)driver.submit(*hasty).value();
  const bool never_started = driver.withdraw(*hasty);
  if (never_started == hasty->done) return fail("withdraw() does not tell the truth");
  hasty.reset();

  std::printf("%d requests processed, one withdrawn %s\n", driver.processed.load(),
              never_started ? "before it started" : "after it was done");
  return EXIT_SUCCESS;
}
