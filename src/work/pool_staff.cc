// SPDX-License-Identifier: Apache-2.0
// Pool: who is hired, promoted and dismissed, and the overseer who notices blocked works.
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <new>

#include "work/pool.h"
#include "work/thread.h"

namespace stasis::detail {
namespace {

constexpr std::uint32_t kOverseerAwake = 0;
constexpr std::uint32_t kOverseerAsleep = 1;
constexpr auto kTick = std::chrono::milliseconds(1);
constexpr unsigned kIdleTicks = 3;  // after which the overseer sleeps
constexpr unsigned kLongTicks =
    10;  // a work that has run for so long no longer keeps an unbound queue's others waiting

// Field 3 of /proc/PID/task/TID/stat (proc(5)), behind the name in parentheses. A thread that can't be looked at counts
// as asleep.
bool is_asleep(pid_t tid) noexcept {
  std::array<char, 64> path{};
  std::snprintf(path.data(), path.size(), "/proc/self/task/%d/stat", tid);
  const int fd = ::open(path.data(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return true;
  std::array<char, 128> text{};
  const ssize_t length = ::read(fd, text.data(), text.size() - 1);
  ::close(fd);
  const char* const name_end = length > 0 ? std::strrchr(text.data(), ')') : nullptr;
  if (name_end == nullptr || name_end[1] == '\0') return true;
  return name_end[2] != 'R';
}

}  // namespace

// Does the crew need another member on its feet? The one chosen is counted as up already.
Pool::Promotion Pool::promote_locked(Crew& crew, Member*& promoted) noexcept {
  if (crew.up > 0 || crew.leader) return Promotion::kNone;
  if (bound_) {
    unsigned running = 0;
    for (const Runner& runner : crew.shard.runners_locked()) running += runner.ticket != 0 ? 1 : 0;
    if (running >= max_active_) return Promotion::kNone;
  } else if (crew.reserve.empty() && member_count_.load(std::memory_order_relaxed) >= max_active_) {
    return Promotion::kNone;
  }
  ++crew.up;
  promoted = crew.reserve.pop_front();
  if (promoted == nullptr) return Promotion::kRecruit;
  promoted->promoted.store(1, std::memory_order_relaxed);
  return Promotion::kReserve;
}

void Pool::carry_out(Crew& crew, Promotion promotion, Member* promoted) noexcept {
  // A promoted member may be gone again by now; a wake-up of its word then hits nobody.
  if (promotion == Promotion::kReserve) futex_wake(promoted->promoted, 1);
  if (promotion == Promotion::kRecruit) (void)recruit(crew);
}

// Starts a thread that is counted as up already; if that fails, it is not counted any more.
bool Pool::recruit(Crew& crew) noexcept {
  if (start_member(crew)) return true;
  {
    const std::lock_guard lock(crew.shard);
    --crew.up;
    if (crew.size == 0) crew.shard.expect_nobody();
  }
  if (!gate_closed()) short_handed_.store(true);
  if (overseen_ && !gate_closed() && overseer_bell_.load() != kOverseerAwake) wake_overseer();
  call_for_help(crew.shard);
  return false;
}

bool Pool::start_member(Crew& crew) noexcept {
  const std::lock_guard lock(staff_->mutex);
  const bool room = bound_ || member_count_.load(std::memory_order_relaxed) < max_active_;
  if (!room || staff_->closing) return false;
  auto* const member = new (std::nothrow) Member(*this, crew);
  if (member == nullptr) {
    crew.threads_lack.store(true);
    return false;
  }
  const auto main = [](void* self) noexcept {
    auto& me = *static_cast<Member*>(self);
    me.pool.run(me);
  };
  staff_->members.push_back(*member);
  const Result<pthread_t> thread =
      start_thread({.name = name_, .cpu = bound_ ? std::optional<int>(crew.cpu) : std::nullopt}, main, member);
  crew.threads_lack.store(!thread);
  if (thread) {
    member->thread = *thread;
    member_count_.fetch_add(1, std::memory_order_relaxed);
    return true;
  }
  staff_->members.erase(*member);
  delete member;
  return false;
}

// Takes the place that a member would have, for one work.
bool Pool::stand_in(Shard& shard) noexcept {
  Crew& crew = *crews_[shard.index()];
  if (!crew.threads_lack.load()) return false;
  Promotion promotion{};
  Member* promoted = nullptr;
  {
    const std::lock_guard lock(shard);
    promotion = promote_locked(crew, promoted);
  }
  if (promotion != Promotion::kRecruit) {
    carry_out(crew, promotion, promoted);
    return false;
  }
  if (start_member(crew)) return false;
  (void)shard.ring();  // somebody is here
  bool ran = false;
  if (bound_ || take_seat()) {
    ran = run_one_here(shard);
    if (!bound_) member_count_.fetch_sub(1, std::memory_order_relaxed);
  }
  {
    const std::lock_guard lock(shard);
    --crew.up;
    if (crew.size == 0) shard.expect_nobody();
    promotion = ran && shard.backlogged() ? promote_locked(crew, promoted) : Promotion::kNone;
  }
  carry_out(crew, promotion, promoted);
  return ran;
}

bool Pool::take_seat() noexcept {
  unsigned count = member_count_.load(std::memory_order_relaxed);
  while (count < max_active_) {
    if (member_count_.compare_exchange_weak(count, count + 1, std::memory_order_relaxed)) return true;
  }
  return false;
}

void Pool::retire(Member& me) noexcept {
  Blockable::set_current(nullptr);
  const std::lock_guard lock(staff_->mutex);
  staff_->members.erase(me);
  staff_->retired.push_back(me);
  member_count_.fetch_sub(1, std::memory_order_relaxed);
  staff_->retirements.fetch_add(1, std::memory_order_relaxed);
  futex_wake(staff_->retirements, 1);
}

void Pool::bury_retired() noexcept {
  for (;;) {
    Member* member = nullptr;
    {
      const std::lock_guard lock(staff_->mutex);
      member = staff_->retired.pop_front();
    }
    if (member == nullptr) return;
    join_thread(member->thread);
    delete member;
  }
}

// ---- the end

std::size_t Pool::destroy() noexcept {
  if (forked()) return 0;
  (void)drain();
  if (!close_gate()) return 0;
  dismiss_all();
  std::size_t disarmed = 0;
  for (std::size_t i = 0; i < shard_count(); ++i) {
    run_leftovers(shard(i));
    disarmed += shard(i).abandon();
  }
  return disarmed;
}

void Pool::dismiss_all() noexcept {
  bool overseer = false;
  {
    const std::lock_guard lock(staff_->mutex);
    staff_->closing = true;
    overseer = staff_->has_overseer;
  }
  if (overseer) {
    overseer_bell_.store(kOverseerAwake);
    futex_wake(overseer_bell_, 1);
    join_thread(staff_->overseer);
  }
  for (const std::unique_ptr<Crew>& crew : crews_) {
    (void)crew->shard.ring_if_asleep();
    const std::lock_guard lock(crew->shard);
    while (Member* const member = crew->reserve.pop_front()) {
      ++crew->up;
      member->promoted.store(1, std::memory_order_relaxed);
      futex_wake(member->promoted, 1);
    }
  }
  for (;;) {
    const std::uint32_t seen = staff_->retirements.load(std::memory_order_relaxed);
    bury_retired();
    {
      const std::lock_guard lock(staff_->mutex);
      if (staff_->members.empty() && staff_->retired.empty()) return;
    }
    futex_wait(staff_->retirements, seen);
  }
}

// What a shard without threads still holds is run here.
void Pool::run_leftovers(Shard& shard) noexcept {
  Runner runner{.thread = ::pthread_self()};
  std::unique_lock lock(shard);
  shard.attach_locked(runner);
  while (!shard.close_locked()) {
    if (Work* const work = shard.pop_locked(runner)) {
      lock.unlock();
      Shard::call(*work);
      lock.lock();
      shard.finish_locked(runner);
    }
  }
  shard.detach_locked(runner);
}

// ---- the overseer

void Pool::wake_overseer() noexcept {
  const std::uint32_t before = overseer_bell_.exchange(kOverseerAwake);
  if (before == kOverseerAsleep) futex_wake(overseer_bell_, 1);
  if (before != kOverseerAbsent) return;
  const std::lock_guard lock(staff_->mutex);
  if (staff_->closing) return;
  const auto main = [](void* self) noexcept { static_cast<Pool*>(self)->oversee(); };
  const Result<pthread_t> thread = start_thread({.name = name_}, main, this);
  staff_->has_overseer = thread.has_value();
  if (thread) {
    staff_->overseer = *thread;
  } else {
    overseer_bell_.store(kOverseerAbsent);  // the next work tries again
  }
}

void Pool::oversee() noexcept {
  unsigned idle_ticks = 0;
  while (!gate_closed()) {
    idle_ticks = tick() ? 0 : idle_ticks + 1;
    if (idle_ticks < kIdleTicks) {
      futex_wait_until(overseer_bell_, kOverseerAwake, (steady_clock().now() + kTick).time_since_epoch().count());
      continue;
    }
    idle_ticks = 0;
    overseer_bell_.store(kOverseerAsleep);
    // A work that started before that did not wake us.
    if (tick() || gate_closed()) {
      overseer_bell_.store(kOverseerAwake);
    } else {
      futex_wait(overseer_bell_, kOverseerAsleep);
      overseer_bell_.store(kOverseerAwake);
    }
  }
}

// Does any work run?
bool Pool::tick() noexcept {
  bury_retired();
  bool busy = short_handed_.exchange(false);
  {
    const std::lock_guard lock(staff_->mutex);
    for (Member& member : staff_->members) {
      const std::uint64_t serial = member.serial.load();
      const bool running = serial % 2 != 0;
      busy = busy || running;
      member.seen_ticks = running && serial == member.seen_serial ? member.seen_ticks + 1 : 0;
      member.seen_serial = serial;
      if (member.seen_ticks > 0) look_at(member);
    }
  }
  for (const std::unique_ptr<Crew>& crew : crews_) tend(*crew);
  return busy;
}

bool Pool::backlog_for(const Crew& crew) noexcept {
  return crew.shard.backlogged() || (!bound_ && others_backlogged(crew));
}

// Does a member that has run the same work for a tick or more keep others waiting?
void Pool::look_at(Member& member) noexcept {
  Crew& crew = member.crew;
  if (!backlog_for(crew)) return;
  const bool long_enough = !bound_ && member.seen_ticks >= kLongTicks;
  if (!long_enough && !is_asleep(member.tid.load(std::memory_order_relaxed))) return;
  const std::lock_guard lock(crew.shard);
  if (member.blocked || member.serial.load() != member.seen_serial) return;
  member.blocked = true;
  --crew.up;
}

void Pool::tend(Crew& crew) noexcept {
  Promotion promotion{};
  Member* promoted = nullptr;
  if (crew.shard.timer_due()) {
    const std::lock_guard lock(crew.shard);
    crew.shard.expire_locked();
  }
  if (!backlog_for(crew)) return;
  {
    const std::lock_guard lock(crew.shard);
    promotion = promote_locked(crew, promoted);
  }
  carry_out(crew, promotion, promoted);
  if (!bound_) wake_thief(crew.shard);
}

}  // namespace stasis::detail
