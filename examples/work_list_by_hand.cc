// SPDX-License-Identifier: Apache-2.0
// A driver whose entry points must return at once, and so defer their heavy jobs to a thread: everything by hand.
//
// Jobs are put at the tail of a work list under a lock; one thread takes them off the head, so that what came first is
// done first, and lets go of the lock while it runs one. This much is needed for the simplest case. Taking a job back,
// waiting for one, running one later, a second thread: each needs more of it (work_queue.cc does the same with a
// WorkQueue, which has them all).
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "stasis/list.h"

namespace {

// A job is its own list node: submitting it allocates nothing and can't fail.
struct Job {
  explicit Job(std::vector<std::uint32_t> its_block) : block(std::move(its_block)) {}
  void run() { sum = std::accumulate(block.begin(), block.end(), std::uint64_t{0}); }

  stasis::ListHook in_work_list;
  std::vector<std::uint32_t> block;
  std::uint64_t sum = 0;
  bool done = false;  // guarded by the driver's lock
};

class Driver {
 public:
  Driver() : thread_([this] { work(); }) {}
  // Does what was submitted, then ends the thread.
  ~Driver() {
    {
      const std::lock_guard lock(lock_);
      asked_to_die_ = true;
    }
    todo_.notify_one();
    thread_.join();
  }

  // The entry point: returns at once. False: this job is on the list already.
  bool submit(Job& job) {
    {
      const std::lock_guard lock(lock_);
      if (stasis::List<Job, &Job::in_work_list>::is_linked(job)) return false;
      work_list_.push_back(job);
    }
    todo_.notify_one();  // gets the thread out of bed
    return true;
  }

  void wait_until_done(const Job& job) {
    std::unique_lock lock(lock_);
    done_.wait(lock, [&job] { return job.done; });
  }

 private:
  void work() {
    std::unique_lock lock(lock_);
    for (;;) {
      todo_.wait(lock, [this] { return asked_to_die_ || !work_list_.empty(); });
      Job* const job = work_list_.pop_front();
      if (job == nullptr) return;  // asked to die, and nothing is left
      lock.unlock();               // others may submit meanwhile, and the job may sleep
      job->run();
      lock.lock();
      job->done = true;
      done_.notify_all();
    }
  }

  std::mutex lock_;
  std::condition_variable todo_;  // the thread waits for work
  std::condition_variable done_;  // users wait for their job
  stasis::List<Job, &Job::in_work_list> work_list_;
  bool asked_to_die_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace

int main() {
  constexpr std::uint32_t kJobs = 100;
  constexpr std::uint32_t kBlock = 10'000;

  std::vector<Job> jobs;
  jobs.reserve(kJobs);  // a job on the list may not move
  for (std::uint32_t i = 0; i < kJobs; ++i) {
    std::vector<std::uint32_t> block(kBlock);
    std::iota(block.begin(), block.end(), i);
    jobs.emplace_back(std::move(block));
  }
  {
    Driver driver;
    for (Job& job : jobs) {
      if (!driver.submit(job)) return EXIT_FAILURE;
    }
    driver.wait_until_done(jobs[kJobs / 2]);
    for (std::uint32_t i = 0; i <= kJobs / 2; ++i) driver.wait_until_done(jobs[i]);  // first in, first out: no wait
  }
  for (std::uint32_t i = 0; i < kJobs; ++i) {
    if (!jobs[i].done || jobs[i].sum != std::uint64_t{kBlock} * (kBlock - 1) / 2 + std::uint64_t{kBlock} * i) {
      std::fprintf(stderr, "work_list_by_hand: job %u was not done, or wrongly\n", i);
      return EXIT_FAILURE;
    }
  }
  std::printf("%u jobs done\n", kJobs);
  return EXIT_SUCCESS;
}
