// SPDX-License-Identifier: Apache-2.0
// usage: stress_work [--seconds N] [--seed N]
//
// Four threads call everything there is on 64 works, in random order: on a Worker, then on each kind of WorkQueue.
// Among the works are some that queue or arm themselves again and some that free themselves. Every call that says it
// added an instance is booked, every run and every call that says it took one away as well: for each work the two must
// be equal in the end. Checked all along: a work never runs twice at once, and after cancel_sync() of a disabled work
// it neither runs nor is pending. A hang is found by the time limit of the test.
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "stasis/work_queue.h"
#include "stasis/worker.h"

namespace stasis {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kThreads = 4;
constexpr std::size_t kWorks = 64;
constexpr std::size_t kLasting = 48;  // the others are made anew for each use, and free themselves

#define REQUIRE(condition)                                                                      \
  do {                                                                                          \
    if (!(condition)) {                                                                         \
      std::fprintf(stderr, "stress_work: %s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                             \
    }                                                                                           \
  } while (0)

struct Totals {
  std::atomic<long> calls{0};
  std::atomic<long> runs{0};
  std::atomic<bool> quit{false};  // works don't queue themselves any more
};

enum class Habit { kPlain, kQueuesItself, kArmsItself, kYields };

template <class Engine>
class LastingWork : public DelayedWork {
 public:
  LastingWork(Engine& engine, Totals& totals, Habit habit)
      : DelayedWork(method<&LastingWork::run>), engine_(engine), totals_(totals), habit_(habit) {}
  LastingWork(const LastingWork&) = delete;

  void run() {
    REQUIRE(inside_.fetch_add(1) == 0);
    const long nth = ++runs_;
    ++totals_.runs;
    if (!totals_.quit) {
      if (habit_ == Habit::kQueuesItself && nth % 3 != 0) book_added(engine_.queue(*this));
      if (habit_ == Habit::kArmsItself) book_added(engine_.queue_delayed(*this, std::chrono::microseconds(nth % 300)));
      if (habit_ == Habit::kYields && nth % 16 == 0) std::this_thread::yield();
    }
    REQUIRE(inside_.fetch_sub(1) == 1);
  }
  void book_added(Outcome outcome) { added_ += outcome ? 1 : 0; }
  void book_moved(Outcome outcome) { added_ += !outcome && !outcome.refused() ? 1 : 0; }
  void book_taken(Outcome outcome) { taken_ += outcome ? 1 : 0; }
  bool inside() const { return inside_ != 0; }
  bool balances() const {
    if (added_ == taken_ + runs_) return true;
    std::fprintf(stderr, "stress_work: added %ld, taken away %ld, run %ld\n", added_.load(), taken_.load(),
                 runs_.load());
    return false;
  }

 private:
  Engine& engine_;
  Totals& totals_;
  const Habit habit_;
  std::atomic<long> added_{0};
  std::atomic<long> taken_{0};
  std::atomic<long> runs_{0};
  std::atomic<int> inside_{0};
};

// Frees itself; the sums of all of these balance.
class PassingWork : public DelayedWork {
 public:
  PassingWork(Totals& totals, std::atomic<long>& open)
      : DelayedWork(method<&PassingWork::run>), totals_(totals), open_(open) {
    ++open_;
  }
  void run() {
    ++totals_.runs;
    --open_;
    delete this;
  }

 private:
  Totals& totals_;
  std::atomic<long>& open_;
};

template <class Engine>
class Stress {
 public:
  explicit Stress(Engine& engine) : engine_(engine) {
    for (std::size_t i = 0; i < kLasting; ++i) {
      works_.push_back(std::make_unique<LastingWork<Engine>>(engine_, totals_, static_cast<Habit>(i % 4)));
    }
  }

  void run(std::chrono::steady_clock::duration time, unsigned seed, std::string_view name) {
    const auto until = std::chrono::steady_clock::now() + time;
    std::array<std::thread, kThreads> threads;
    for (std::size_t i = 0; i < kThreads; ++i) {
      threads[i] = std::thread([this, until, its_seed = seed + static_cast<unsigned>(i)] {
        std::mt19937 random(its_seed);
        while (std::chrono::steady_clock::now() < until) {
          for (int n = 0; n < 50; ++n) act(random);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    totals_.quit = true;
    finish();
    std::printf("%-8.*s %9ld calls %9ld runs: balanced\n", static_cast<int>(name.size()), name.data(),
                totals_.calls.load(), totals_.runs.load());
  }

 private:
  using Its = LastingWork<Engine>;

  void act(std::mt19937& random) {
    ++totals_.calls;
    const std::size_t which = random() % kWorks;
    const auto delay = std::chrono::microseconds(random() % 4 == 0 ? 0 : random() % 400);
    if (which >= kLasting) return pass(random, delay);
    Its& work = *works_[which];
    switch (random() % 16) {
      case 0:
      case 1:
      case 2:
        return work.book_added(engine_.queue(work));
      case 3:
      case 4:
        return work.book_added(engine_.queue_delayed(work, delay));
      case 5:
      case 6:
      case 7:
        return work.book_moved(engine_.mod_delayed(work, delay));
      case 8:
        return work.book_taken(engine_.cancel(work));
      case 9:
      case 10:
        return work.book_taken(engine_.cancel_sync(work));
      case 11:
      case 12:
        (void)engine_.flush_work(work);
        return;
      case 13:
        work.book_taken(engine_.disable(work));
        (void)engine_.state(work);
        REQUIRE(!engine_.enable(work).refused());
        return;
      case 14:
        return keep_away(work);
      default:
        if (random() % 64 == 0) (void)engine_.flush();
        if (random() % 4096 == 0) (void)engine_.drain();
    }
  }

  // While we hold it disabled nobody gets it to run.
  void keep_away(Its& work) {
    work.book_taken(engine_.disable_sync(work));
    for (int i = 0; i < 5; ++i) {
      const WorkState state = engine_.state(work);
      REQUIRE(!state.pending() && !state.running && !work.inside());
      REQUIRE(state.disable_depth > 0);
    }
    REQUIRE(!engine_.enable(work).refused());
  }

  void pass(std::mt19937& random, Clock::Duration delay) {
    if (random() % 4 == 0) {
      ++open_;
      const Outcome posted = engine_.post([this] {
        ++totals_.runs;
        --open_;
      });
      if (!posted) --open_;
      return;
    }
    auto* const work = new PassingWork(totals_, open_);
    const Outcome queued = random() % 2 == 0 ? engine_.queue(*work) : engine_.queue_delayed(*work, delay);
    if (queued) return;
    --open_;
    delete work;
  }

  void finish() {
    for (auto& work : works_) work->book_taken(engine_.cancel_sync(*work));
    while (open_ != 0) {
      (void)engine_.flush();
      std::this_thread::yield();
    }
    (void)engine_.flush();
    for (auto& work : works_) {
      const WorkState state = engine_.state(*work);
      REQUIRE(!state.pending() && !state.running && state.disable_depth == 0 && state.waiters == 0);
      REQUIRE(work->balances());
    }
  }

  Engine& engine_;
  Totals totals_;
  std::atomic<long> open_{0};  // passing works that have not run
  std::vector<std::unique_ptr<Its>> works_;
};

// The calls that Worker and WorkQueue have in common, as one type. A drain ends: the works that queue themselves pause
// now and then, and timers are not waited for.
template <class Base>
struct Common {
  std::unique_ptr<Base> base;
  Outcome queue(Work& work) { return base->queue(work); }
  Outcome queue_delayed(DelayedWork& work, Clock::Duration delay) { return base->queue_delayed(work, delay); }
  Outcome mod_delayed(DelayedWork& work, Clock::Duration delay) { return base->mod_delayed(work, delay); }
  Outcome cancel(Work& work) { return base->cancel(work); }
  Outcome cancel_sync(Work& work) { return base->cancel_sync(work); }
  Outcome flush_work(Work& work) { return base->flush_work(work); }
  Outcome flush() { return base->flush(); }
  Outcome disable(Work& work) { return base->disable(work); }
  Outcome disable_sync(Work& work) { return base->disable_sync(work); }
  Outcome enable(Work& work) { return base->enable(work); }
  WorkState state(const Work& work) { return base->state(work); }
  template <class F>
  Outcome post(F&& callable) {
    return base->post(std::forward<F>(callable));
  }
  Outcome drain() { return base->drain(); }
};

void stress_worker(std::chrono::steady_clock::duration time, unsigned seed) {
  Common<Worker> engine{std::move(Worker::create().value())};
  Stress(engine).run(time, seed, "worker");
}

void stress_queue(QueueKind kind, std::chrono::steady_clock::duration time, unsigned seed, std::string_view name) {
  Common<WorkQueue> engine{std::move(WorkQueue::create({.kind = kind, .max_active = 6}).value())};
  Stress(engine).run(time, seed, name);
}

}  // namespace
}  // namespace stasis

int main(int argc, char** argv) {
  double seconds = 5;
  unsigned seed = std::random_device{}();
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view option = argv[i];
    if (option == "--seconds") {
      seconds = std::strtod(argv[i + 1], nullptr);
    } else if (option == "--seed") {
      seed = static_cast<unsigned>(std::strtoul(argv[i + 1], nullptr, 10));
    } else {
      std::fprintf(stderr, "usage: stress_work [--seconds N] [--seed N]\n");
      return 2;
    }
  }
  std::printf("seed %u\n", seed);
  std::fflush(stdout);
  const auto each =
      std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds / 4));
  stasis::stress_worker(each, seed);
  stasis::stress_queue(stasis::QueueKind::kPerCpu, each, seed, "per CPU");
  stasis::stress_queue(stasis::QueueKind::kUnbound, each, seed, "unbound");
  stasis::stress_queue(stasis::QueueKind::kOrdered, each, seed, "ordered");
  return 0;
}
