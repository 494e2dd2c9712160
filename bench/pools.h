// SPDX-License-Identifier: Apache-2.0
// Thread pools of others, behind one call: submit(task) with a callable of two words. For bench_worker,
// bench_work_queue. Each is used as its manual says, with as many threads as asked for and nothing else going on.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

// Other people's headers don't pass our warnings.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wall"
#pragma GCC diagnostic ignored "-Wextra"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wshadow"
#ifdef STASIS_PEER_ASIO
#include <asio.hpp>
#endif
#ifdef STASIS_PEER_TBB
#include <sched.h>
#include <tbb/global_control.h>
#include <tbb/task_arena.h>
#include <tbb/task_scheduler_observer.h>
#endif
#ifdef STASIS_PEER_MOODYCAMEL
#include <concurrentqueue/blockingconcurrentqueue.h>
#endif
#ifdef STASIS_PEER_GLIB
#include <glib.h>
#endif
#pragma GCC diagnostic pop

namespace stasis::bench {

class MutexPool {
 public:
  static constexpr const char* kName = "mutex+condvar";
  explicit MutexPool(unsigned threads) {
    for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this] { run(); });
  }
  ~MutexPool() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    ready_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  template <class F>
  void submit(F task) {
    {
      const std::lock_guard lock(mutex_);
      tasks_.emplace_back(std::move(task));
    }
    ready_.notify_one();
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      ready_.wait(lock, [this] { return stop_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> tasks_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

#ifdef STASIS_PEER_ASIO
class AsioPool {
 public:
  static constexpr const char* kName = "asio";
  explicit AsioPool(unsigned threads) : pool_(threads) {}
  ~AsioPool() { pool_.join(); }
  template <class F>
  void submit(F task) {
    asio::post(pool_, std::move(task));
  }

 private:
  asio::thread_pool pool_;
};
#endif

#ifdef STASIS_PEER_TBB
class TbbPool {
  class Binder : public tbb::task_scheduler_observer {
   public:
    Binder(tbb::task_arena& arena, int cpu) : task_scheduler_observer(arena), cpu_(cpu) { observe(cpu >= 0); }
    ~Binder() override { observe(false); }
    void on_scheduler_entry(bool) override {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(static_cast<unsigned>(cpu_), &set);
      ::sched_setaffinity(0, sizeof set, &set);
    }

   private:
    const int cpu_;
  };

 public:
  static constexpr const char* kName = "tbb";
  // One slot is kept for the caller, who never uses it. TBB counts the CPUs that it may use, so threads are bound to a
  // CPU (if it is not negative) as they come.
  explicit TbbPool(unsigned threads, int cpu = -1)
      : parallelism_(tbb::global_control::max_allowed_parallelism, threads + 1),
        arena_(static_cast<int>(threads) + 1, 1),
        binder_(arena_, cpu) {}
  template <class F>
  void submit(F task) {
    arena_.enqueue(std::move(task));
  }

 private:
  tbb::global_control parallelism_;
  tbb::task_arena arena_;
  Binder binder_;
};
#endif

#ifdef STASIS_PEER_MOODYCAMEL
class MoodycamelPool {
 public:
  static constexpr const char* kName = "moodycamel";
  explicit MoodycamelPool(unsigned threads) {
    for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this] { run(); });
  }
  ~MoodycamelPool() {
    for (std::size_t i = 0; i < threads_.size(); ++i) tasks_.enqueue({});  // an empty task ends a thread
    for (std::thread& thread : threads_) thread.join();
  }
  template <class F>
  void submit(F task) {
    tasks_.enqueue(std::move(task));
  }

 private:
  void run() {
    constexpr std::size_t kBulk = 32;
    std::vector<std::function<void()>> bulk(kBulk);
    moodycamel::ConsumerToken token(tasks_);
    for (;;) {
      const std::size_t count = tasks_.wait_dequeue_bulk(token, bulk.begin(), kBulk);
      for (std::size_t i = 0; i < count; ++i) {
        if (!bulk[i]) {
          for (std::size_t rest = i + 1; rest < count; ++rest) tasks_.enqueue(std::move(bulk[rest]));
          return;
        }
        bulk[i]();
      }
    }
  }
  moodycamel::BlockingConcurrentQueue<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
};
#endif

#ifdef STASIS_PEER_GLIB
class GlibPool {
 public:
  static constexpr const char* kName = "glib";
  explicit GlibPool(unsigned threads)
      : pool_(g_thread_pool_new(
            [](gpointer data, gpointer) {
              auto* const task = static_cast<std::function<void()>*>(data);
              (*task)();
              delete task;
            },
            nullptr, static_cast<gint>(threads), TRUE, nullptr)) {}
  ~GlibPool() { g_thread_pool_free(pool_, FALSE, TRUE); }
  template <class F>
  void submit(F task) {
    g_thread_pool_push(pool_, new std::function<void()>(std::move(task)), nullptr);
  }

 private:
  GThreadPool* pool_;
};
#endif

}  // namespace stasis::bench
