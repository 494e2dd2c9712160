// SPDX-License-Identifier: Apache-2.0
#include "tracee/patience.h"

#include <fmt/format.h>
#include <unistd.h>

namespace stasis {
namespace {
constexpr long kTickNanoseconds = 50'000'000;
void tick(int) {}  // its only purpose is to interrupt a wait
}  // namespace

Patience::Patience(std::chrono::nanoseconds timeout, const std::atomic<bool>* cancelled)
    : deadline_(std::chrono::steady_clock::now() + timeout), timeout_(timeout), cancelled_(cancelled) {
  struct sigaction action{};
  action.sa_handler = tick;  // without SA_RESTART
  ::sigaction(SIGALRM, &action, &previous_);
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = SIGALRM;
  event._sigev_un._tid = ::gettid();
  if (::timer_create(CLOCK_MONOTONIC, &event, &timer_) != 0) return;
  const itimerspec interval{.it_interval = {0, kTickNanoseconds}, .it_value = {0, kTickNanoseconds}};
  armed_ = ::timer_settime(timer_, 0, &interval, nullptr) == 0;
}

Patience::~Patience() {
  if (armed_) ::timer_delete(timer_);
  ::sigaction(SIGALRM, &previous_, nullptr);
}

Result<void> Patience::check() const {
  if (patient_for_ever_) return {};
  if (cancelled_ && cancelled_->load(std::memory_order_relaxed)) {
    return Error(Errc::kInterrupted, "interrupted by a signal");
  }
  if (std::chrono::steady_clock::now() >= deadline_) {
    return Error(Errc::kTimeout, fmt::format("gave up after {:.1f} s", std::chrono::duration<double>(timeout_).count()))
        .with_help("--timeout allows more");
  }
  return {};
}

}  // namespace stasis
