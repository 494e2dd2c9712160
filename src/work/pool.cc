// SPDX-License-Identifier: Apache-2.0
#include "work/pool.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <utility>

namespace stasis::detail {
namespace {

constexpr auto kLeisure = std::chrono::seconds(5);  // after which a reserve goes home
constexpr int kHighestNice = -20;

std::int64_t steady_ns(Clock::Duration from_now) noexcept {
  return (steady_clock().now() + from_now).time_since_epoch().count();
}

}  // namespace

Pool::Pool(const WorkQueueOptions& options, Clock& clock, std::vector<int> cpus, unsigned max_active)
    : WorkCore(clock, static_cast<unsigned>(cpus.size()), max_active),
      name_(options.name),
      bound_(options.kind == QueueKind::kPerCpu),
      high_priority_(options.priority == QueuePriority::kHigh),
      overseen_(cpus.size() > 1 || max_active > 1),
      max_active_(max_active),
      idle_spin_(::sysconf(_SC_NPROCESSORS_ONLN) > 1 ? options.idle_spin : Clock::Duration::zero()),
      staff_(std::make_unique<Staff>()),
      overseer_bell_(kOverseerAbsent) {
  for (std::size_t i = 0; i < cpus.size(); ++i) {
    const auto cpu = static_cast<std::size_t>(cpus[i]);
    if (crew_of_cpu_.size() <= cpu) crew_of_cpu_.resize(cpu + 1, -1);
    crew_of_cpu_[cpu] = static_cast<int>(i);
    crews_.push_back(std::make_unique<Crew>(shard(i), cpus[i]));
  }
}

Pool::~Pool() = default;

Shard& Pool::local() noexcept {
  if (shard_count() == 1) return shard(0);
  const int cpu = ::sched_getcpu();
  if (Shard* const here = on_cpu(cpu)) return *here;
  return shard(static_cast<std::size_t>(cpu < 0 ? 0 : cpu) % shard_count());
}

Shard* Pool::on_cpu(int cpu) noexcept {
  if (cpu < 0 || static_cast<std::size_t>(cpu) >= crew_of_cpu_.size()) return nullptr;
  const int index = crew_of_cpu_[static_cast<std::size_t>(cpu)];
  return index < 0 ? nullptr : &shard(static_cast<std::size_t>(index));
}

bool Pool::start() noexcept {
  if (overseen_) return true;  // threads start when needed, and again by the overseer if that fails
  Crew& crew = *crews_.front();
  (void)crew.shard.ring();
  {
    const std::lock_guard lock(crew.shard);
    ++crew.up;
  }
  return recruit(crew);
}

// ---- from the producers

void Pool::wake(Shard& shard) noexcept {
  switch (shard.ring()) {
    case Shard::Bell::kRung:
      return;
    case Shard::Bell::kNobody: {
      if (forked()) return;
      Crew& crew = *crews_[shard.index()];
      {
        const std::lock_guard lock(shard);
        ++crew.up;
      }
      if (!recruit(crew) && !bound_) wake_thief(shard);
      return;
    }
    case Shard::Bell::kNoSleeper:
      if (!bound_) wake_thief(shard);
  }
}

void Pool::wake_thief(const Shard& shard) noexcept {
  if (idle_thieves_.load(std::memory_order_seq_cst) == 0) return;
  for (std::size_t i = 1; i < shard_count(); ++i) {
    if (this->shard((shard.index() + i) % shard_count()).ring_if_asleep()) return;
  }
}

// ---- a member's life

void Pool::run(Member& me) noexcept {
  enter_thread();
  Blockable::set_current(&me);
  me.tid.store(::gettid(), std::memory_order_relaxed);
  me.runner.thread = me.guest.thread = ::pthread_self();
  if (high_priority_ && ::setpriority(PRIO_PROCESS, 0, kHighestNice) == 0) raised_.store(true);
  {
    Crew& crew = me.crew;
    std::unique_lock lock(crew.shard);
    ++crew.size;
    crew.shard.attach_locked(me.runner);
    while (step(me, lock)) {
    }
    crew.shard.detach_locked(me.runner);
    if (me.counted) --crew.up;
    --crew.size;
  }
  retire(me);
}

// One work, or one sleep. False: the member goes home. `lock` is held before and after.
bool Pool::step(Member& me, std::unique_lock<Shard>& lock) noexcept {
  Crew& crew = me.crew;
  if (std::exchange(me.blocked, false)) ++crew.up;  // the overseer took it for blocked; it isn't any more
  if (crew.up > 1) return rest(me, lock);
  if (Work* const work = crew.shard.pop_locked(me.runner)) {
    lock.unlock();
    serve(me, crew.shard, *work);
    lock.lock();
    crew.shard.finish_locked(me.runner);
    return true;
  }
  if (gate_closed()) return !crew.shard.close_locked();
  if (!bound_ && shard_count() > 1) {
    lock.unlock();
    const bool stole = steal(me);
    lock.lock();
    if (stole) return true;
  }
  return doze(me, lock);
}

void Pool::serve(Member& me, Shard& shard, Work& work) noexcept {
  const std::uint64_t serial = me.serial.load(std::memory_order_relaxed) + 1;
  // In one total order with the overseer's going to sleep.
  me.serial.store(serial, overseen_ ? std::memory_order_seq_cst : std::memory_order_relaxed);
  if (overseen_ && overseer_bell_.load(std::memory_order_seq_cst) != 0) wake_overseer();
  if (!bound_ && idle_thieves_.load(std::memory_order_relaxed) > 0 && shard.backlogged()) wake_thief(shard);
  Shard::call(work);
  me.serial.store(serial + 1, std::memory_order_relaxed);
}

// Runs one work of another shard, if there is any.
bool Pool::steal(Member& me) noexcept {
  for (std::size_t i = 1; i < shard_count(); ++i) {
    Shard& other = shard((me.crew.shard.index() + i) % shard_count());
    if (!other.backlogged()) continue;
    std::unique_lock lock(other);
    other.attach_locked(me.guest);
    Work* const work = other.pop_locked(me.guest);
    if (work != nullptr) {
      lock.unlock();
      serve(me, other, *work);
      lock.lock();
      other.finish_locked(me.guest);
    }
    other.detach_locked(me.guest);
    if (work != nullptr) return true;
  }
  return false;
}

bool Pool::others_backlogged(const Crew& crew) noexcept {
  for (std::size_t i = 0; i < shard_count(); ++i) {
    if (&shard(i) != &crew.shard && shard(i).backlogged()) return true;
  }
  return false;
}

// Sleeps as the crew's leader.
bool Pool::doze(Member& me, std::unique_lock<Shard>& lock) noexcept {
  Crew& crew = me.crew;
  if (crew.leader) return rest(me, lock);
  if (idle_spin_ > Clock::Duration::zero()) {
    lock.unlock();
    spin(me);
    lock.lock();
    if (crew.leader) return true;
  }
  if (!crew.shard.prepare_sleep_locked()) return true;
  if (!bound_) {
    idle_thieves_.fetch_add(1, std::memory_order_seq_cst);
    if (others_backlogged(crew)) {
      idle_thieves_.fetch_sub(1, std::memory_order_seq_cst);
      crew.shard.cancel_sleep_locked();
      return true;
    }
  }
  crew.leader = true;
  --crew.up;
  lock.unlock();
  crew.shard.sleep();
  if (!bound_) idle_thieves_.fetch_sub(1, std::memory_order_seq_cst);
  lock.lock();
  crew.leader = false;
  ++crew.up;
  return true;
}

// Sleeps in reserve. False: for so long that it is not needed.
bool Pool::rest(Member& me, std::unique_lock<Shard>& lock) noexcept {
  Crew& crew = me.crew;
  if (gate_closed()) return false;
  --crew.up;
  me.promoted.store(0, std::memory_order_relaxed);
  crew.reserve.push_back(me);
  lock.unlock();
  const std::int64_t until = steady_ns(kLeisure);
  while (me.promoted.load(std::memory_order_relaxed) == 0 && steady_ns({}) < until) {
    futex_wait_until(me.promoted, 0, until);
  }
  lock.lock();
  if (me.promoted.load(std::memory_order_relaxed) != 0) return true;  // and counted as up by who promoted it
  crew.reserve.erase(me);
  me.counted = false;
  return false;
}

void Pool::spin(Member& me) noexcept {
  constexpr int kLooksPerTime = 16;
  const Clock::Time until = Clock::after(steady_clock().now(), idle_spin_);
  do {
    for (int i = 0; i < kLooksPerTime; ++i) {
      if (me.crew.shard.backlogged() || gate_closed()) return;
      if (!bound_ && others_backlogged(me.crew)) return;
      cpu_relax();
    }
  } while (steady_clock().now() < until && !me.crew.shard.timer_due());
}

void Pool::Member::block() noexcept {
  if (scopes++ > 0) return;
  Promotion promotion{};
  Member* chosen = nullptr;
  {
    const std::lock_guard lock(crew.shard);
    if (!std::exchange(blocked, true)) --crew.up;
    promotion = pool.promote_locked(crew, chosen);
  }
  pool.carry_out(crew, promotion, chosen);
}

void Pool::Member::unblock() noexcept {
  if (--scopes > 0) return;
  const std::lock_guard lock(crew.shard);
  if (std::exchange(blocked, false)) ++crew.up;
}

}  // namespace stasis::detail
