// SPDX-License-Identifier: Apache-2.0
// Pool: the threads of a WorkQueue.
//
// Each shard (one per CPU) has a crew. A member of the crew is
//   up       looking for works or running one,
//   leader   asleep on the shard's bell: the one whom the next work wakes,
//   blocked  running a work that sleeps (or, unbound, computes for long), and so not counted as up,
//   reserve  asleep until it is promoted; it goes home after a while.
// As a rule one member is up or leader. When the last one that is up blocks, promote() finds another.
// That a running work blocks is reported by ScopedBlocking, or seen by the overseer, a thread that ticks while works
// run: same work as a tick ago, works are waiting, and the kernel says that the thread is not runnable. Members of an
// unbound pool's crews also take works of other shards when their own has none.
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "stasis/work_queue.h"
#include "work/work_core.h"

namespace stasis::detail {

class Pool final : public WorkCore {
 public:
  // `cpus`: one shard for each.
  Pool(const WorkQueueOptions& options, Clock& clock, std::vector<int> cpus, unsigned max_active);
  ~Pool() override;

  // Starts the thread of a pool that has but one. False: it can't be started.
  bool start() noexcept;
  // The calling thread's shard.
  Shard& local() noexcept;
  // Null: no such CPU here.
  Shard* on_cpu(int cpu) noexcept;
  // Runs what is queued, ends all threads; returns how many timers were disarmed.
  std::size_t destroy() noexcept;
  bool raised_priority() const noexcept { return raised_.load(std::memory_order_relaxed); }

 private:
  struct Crew;
  struct Member;
  enum class Promotion { kNone, kRecruit, kReserve };

  void wake(Shard& shard) noexcept override;
  bool stand_in(Shard& shard) noexcept override;
  void wake_thief(const Shard& shard) noexcept;

  // A member's life (pool.cc).
  void run(Member& me) noexcept;
  bool step(Member& me, std::unique_lock<Shard>& lock) noexcept;
  void serve(Member& me, Shard& shard, Work& work) noexcept;
  bool steal(Member& me) noexcept;
  bool doze(Member& me, std::unique_lock<Shard>& lock) noexcept;
  bool rest(Member& me, std::unique_lock<Shard>& lock) noexcept;
  void spin(Member& me) noexcept;
  bool others_backlogged(const Crew& crew) noexcept;

  // Staff (pool_staff.cc).
  Promotion promote_locked(Crew& crew, Member*& promoted) noexcept;
  void carry_out(Crew& crew, Promotion promotion, Member* promoted) noexcept;
  bool recruit(Crew& crew) noexcept;
  bool start_member(Crew& crew) noexcept;
  bool take_seat() noexcept;
  void retire(Member& me) noexcept;
  void bury_retired() noexcept;
  void dismiss_all() noexcept;
  void run_leftovers(Shard& shard) noexcept;

  // The overseer (pool_staff.cc).
  void wake_overseer() noexcept;
  void oversee() noexcept;
  bool tick() noexcept;
  void look_at(Member& member) noexcept;
  void tend(Crew& crew) noexcept;
  bool backlog_for(const Crew& crew) noexcept;

  const std::string name_;
  const bool bound_;
  const bool high_priority_;
  const bool overseen_;
  const unsigned max_active_;
  const Clock::Duration idle_spin_;
  std::vector<int> crew_of_cpu_;  // -1: not one of ours
  std::vector<std::unique_ptr<Crew>> crews_;
  std::atomic<bool> raised_{false};

  struct Staff;
  const std::unique_ptr<Staff> staff_;
  std::atomic<unsigned> member_count_{0};
  std::atomic<bool> short_handed_{false};  // a thread could not be started; the overseer tries again
  static constexpr std::uint32_t kOverseerAbsent = 2;
  std::atomic<std::uint32_t> overseer_bell_;  // 0: it is awake, 1: asleep
};

struct Pool::Member final : Blockable {
  Member(Pool& its_pool, Crew& its_crew) : pool(its_pool), crew(its_crew) {}
  void block() noexcept override;
  void unblock() noexcept override;

  Pool& pool;
  Crew& crew;
  Runner runner{};  // at the crew's shard
  Runner guest{};   // at another shard, when it steals
  pthread_t thread{};
  std::atomic<pid_t> tid{0};               // 0: not known yet
  std::atomic<std::uint64_t> serial{0};    // odd while a work runs
  std::atomic<std::uint32_t> promoted{0};  // what a reserve sleeps on
  bool blocked = false;                    // guarded by the shard's lock
  bool counted = true;                     // in Crew::up or blocked; its own thread's
  unsigned scopes = 0;                     // of ScopedBlocking; its own thread's
  std::uint64_t seen_serial = 0;           // the overseer's
  unsigned seen_ticks = 0;                 // the overseer's: for how long it has run the same work
  ListHook staff_hook{};
  ListHook reserve_hook{};
};

// Guarded by the shard's lock.
struct Pool::Crew {
  Crew(Shard& its_shard, int its_cpu) : shard(its_shard), cpu(its_cpu) {}
  Shard& shard;
  const int cpu;
  unsigned up = 0;
  unsigned size = 0;
  bool leader = false;
  List<Member, &Member::reserve_hook> reserve;
  std::atomic<bool> threads_lack{false};  // the last one could not be started: who waits may have to stand in
};

// May be locked before a shard, not after it.
struct Pool::Staff {
  std::mutex mutex;
  List<Member, &Member::staff_hook> members;
  List<Member, &Member::staff_hook> retired;  // to be joined
  bool closing = false;                       // nobody is recruited any more
  pthread_t overseer{};
  bool has_overseer = false;
  std::atomic<std::uint32_t> retirements{0};
};

}  // namespace stasis::detail
