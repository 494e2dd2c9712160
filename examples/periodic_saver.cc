// SPDX-License-Identifier: Apache-2.0
// A program that saves its state every ten minutes, and soon after an important change, without a thread of its own for
// it.
//
// The saver is one DelayedWork: at the end of each save it arms itself anew. An important change moves the next save
// nearer with mod_delayed(): many changes in a row make one save, not many. Before the program ends, disable_sync()
// makes sure that no save is going on or will come, and one last save is done in place. Time is a parameter: the
// example turns a ManualClock; a real program leaves `.clock` out.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "stasis/worker.h"

namespace {

using namespace std::chrono_literals;

constexpr auto kPeriod = 10min;
constexpr auto kSoon = 2s;

class Document {
 public:
  void change() {
    const std::lock_guard lock(mutex_);
    ++version_;
  }
  int version() const {
    const std::lock_guard lock(mutex_);
    return version_;
  }

 private:
  mutable std::mutex mutex_;
  int version_ = 0;
};

class Saver : public stasis::DelayedWork {
 public:
  Saver(stasis::Worker& worker, const Document& document)
      : DelayedWork(method<&Saver::run>), worker_(worker), document_(document) {
    (void)worker_.queue_delayed(*this, kPeriod);
  }
  // Neither armed nor running when the members go.
  ~Saver() { (void)worker_.disable_sync(*this); }
  Saver(const Saver&) = delete;
  Saver& operator=(const Saver&) = delete;

  // The next save comes soon, whenever it was due.
  void save_soon() { (void)worker_.mod_delayed(*this, kSoon); }
  // Now, in the caller's thread, and no more after that.
  void save_last() {
    (void)worker_.disable_sync(*this);
    save();
  }
  const std::vector<int>& saved() const { return saved_; }

 private:
  void run() {
    save();
    (void)worker_.queue_delayed(*this, kPeriod);  // a work may queue itself
  }
  void save() { saved_.push_back(document_.version()); }

  stasis::Worker& worker_;
  const Document& document_;
  std::vector<int> saved_;  // by run(), or when that can't run
};

int fail(const char* what) {
  std::fprintf(stderr, "periodic_saver: %s\n", what);
  return EXIT_FAILURE;
}

}  // namespace

int main() {
  stasis::ManualClock clock;
  auto worker = stasis::Worker::create({.name = "saver", .clock = &clock});
  if (!worker) return fail(worker.error().to_string().c_str());
  // Time passes, and what fell due has run.
  const auto pass = [&](stasis::Clock::Duration time) {
    clock.advance(time);
    (void)(*worker)->flush();
  };

  Document document;
  Saver saver(**worker, document);
  pass(kPeriod - 1s);
  if (!saver.saved().empty()) return fail("saved too early");
  pass(1s);
  pass(kPeriod);
  if (saver.saved() != std::vector{0, 0}) return fail("two periods are two saves");

  for (int i = 0; i < 50; ++i) {  // a burst of important changes
    document.change();
    saver.save_soon();
    pass(10ms);
  }
  if (saver.saved().size() != 2) return fail("saved before the burst was over");
  pass(kSoon);
  if (saver.saved() != std::vector{0, 0, 50}) return fail("a burst is one save");

  document.change();
  saver.save_last();
  pass(100 * kPeriod);
  if (saver.saved() != std::vector{0, 0, 50, 51}) return fail("the last save is the last");
  std::printf("%zu saves, the last of version %d\n", saver.saved().size(), saver.saved().back());
  return EXIT_SUCCESS;
}
