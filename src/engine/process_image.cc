// SPDX-License-Identifier: Apache-2.0
#include "engine/process_image.h"

#include <fmt/format.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>

#include "kernel/vfork.h"
#include "resource/open_file/other_name.h"
#include "resource/signal/signal_actions.h"

namespace stasis {
namespace {

// Below this, reading smaps again inside the freeze costs less than a millisecond.
constexpr std::uint64_t kSmallProcess = std::uint64_t{32} << 20;

std::uint64_t resident(const std::vector<kernel::Vma>& vmas) {
  std::uint64_t sum = 0;
  for (const kernel::Vma& vma : vmas) sum += vma.rss;
  return sum;
}

// The mappings as the program made them, without a tracker's marks (resource/memory/write_tracker.h).
Result<std::vector<kernel::Vma>> smaps_of(const kernel::ProcDir& proc) {
  std::vector<kernel::Vma> vmas = STASIS_TRY(proc.smaps());
  for (kernel::Vma& vma : vmas) vma.flags.clear(kernel::VmFlag::kUffdWp);
  return vmas;
}

ImagePid innermost(const std::vector<std::int32_t>& ids, std::int32_t fallback) {
  return ImagePid(ids.empty() ? fallback : ids.back());
}

}  // namespace

void fill_ids(const kernel::ProcStat& stat, const kernel::ProcStatus& status, ProcessRecord& record) {
  record.pid = innermost(status.ns_tgid, stat.pid);
  record.process_group = innermost(status.ns_pgid, stat.pgrp);
  record.session = innermost(status.ns_sid, stat.session);
  record.exit_signal = stat.exit_signal;
  record.foreground = stat.tpgid > 0 && stat.tpgid == stat.pgrp;
}

Result<std::unique_ptr<ProcessImage>> ProcessImage::look(kernel::ProcDir proc, RunQueueClocks& clocks) {
  std::unique_ptr<ProcessImage> image(new ProcessImage(std::move(proc)));
  image->vmas_ = STASIS_TRY(smaps_of(image->proc_));
  find_other_names(image->vmas_);
  image->small_ = resident(image->vmas_) < kSmallProcess;
  const auto memory = STASIS_TRY(kernel::ProcessMemory::open(image->proc_));
  image->gadgets_ = find_gadgets(memory, image->vmas_);
  image->waits_ = WaitTimes::look(image->proc_, clocks);
  image->confined_ = std::ranges::any_of(STASIS_TRY(image->proc_.threads()), [&](HostPid tid) {
    const auto status = image->proc_.thread_status(tid);
    return status && !status->zombie() && status->seccomp != 0;
  });
  return image;
}

Result<void> ProcessImage::attach() {
  const kernel::ProcStatus status = STASIS_TRY(proc_.status());
  confined_ = confined_ || (status.seccomp != 0 && !status.zombie());
  const auto seccomp = confined_ ? TracedProcess::Seccomp::kSuspend : TracedProcess::Seccomp::kNone;
  auto attached = TracedProcess::attach(STASIS_TRY(proc_.duplicate()), seccomp);
  if (!attached && confined_ && attached.error().code() == Errc::kNotPermitted) {
    return Error(Errc::kSeccomp,
                 fmt::format("pid {} is under seccomp and its filters can't be suspended", pid().value()))
        .with_help("run as root");
  }
  traced_ = STASIS_TRY(std::move(attached));
  return {};
}

bool ProcessImage::sleeps_in_vfork() const {
  const auto& threads = traced_->threads();
  return std::ranges::any_of(threads, [](const TracedThread& thread) { return kernel::waits_for_vfork(thread.tid()); });
}

Result<void> ProcessImage::settle(const Patience& patience) {
  STASIS_TRY(traced_->settle(patience));
  STASIS_TRY(proc_.look_again());
  calls_.clear();
  settled_at_ = std::chrono::steady_clock::now();
  const auto pending = STASIS_TRY(kernel::ptrace_peek_siginfo(traced_->carrier().tid(), kernel::SignalQueue::kProcess));
  std::uint64_t pending_set = 0;
  for (const siginfo_t& info : pending) pending_set |= std::uint64_t{1} << (info.si_signo - 1);
  record_.pending_signals = encode_pending(pending);
  for (TracedThread& thread : traced_->threads()) {
    calls_.push_back(STASIS_TRY(settle_thread(*traced_, thread, waits_, pending_set)));
  }
  return {};
}

// So that the next freeze knows what its threads wait for.
void ProcessImage::note_waits() {
  const auto frozen = std::chrono::steady_clock::now() - settled_at_;
  std::vector<TracedThread>& threads = traced_->threads();
  if (threads.size() != calls_.size()) return;  // never settled, or some are gone
  for (std::size_t i = 0; i < calls_.size(); ++i) note_wait(threads[i], calls_[i], frozen);
}

void ProcessImage::let_go() {
  if (traced_) note_waits();
  traced_.reset();
  calls_.clear();
}

Result<void> ProcessImage::resume(int signal) {
  note_waits();
  return traced_->resume(signal);
}

// What was read before the freeze still holds if the layout is the same; else all is read again.
Result<void> ProcessImage::refresh_mappings() {
  if (!small_) {
    auto now = STASIS_TRY(proc_.maps());
    find_other_names(now);
    if (kernel::same_layout(vmas_, now)) return {};
  }
  auto now = STASIS_TRY(smaps_of(proc_));
  find_other_names(now);
  const bool moved = !kernel::same_layout(vmas_, now);
  vmas_ = std::move(now);
  if (moved) gadgets_ = find_gadgets(traced_->memory(), vmas_);
  return {};
}

// REQUIRES: the threads have been asked.
Result<void> ProcessImage::check_timers(const std::vector<kernel::PosixTimer>& timers) const {
  std::vector<ImagePid> tids;
  for (const ThreadRecord& thread : threads_) tids.push_back(thread.tid);
  const Obstacles obstacles = find_timer_obstacles(pid(), timers, tids);
  return obstacles.empty() ? Result<void>() : to_error(obstacles);
}

Result<void> ProcessImage::ask_process(const Patience& patience) {
  Batch batch(traced_->carrier_slot());
  const SignalActionQuery actions(batch);
  const ProcessAttributeQuery attributes(batch);
  const LimitsQuery limits(batch);
  const std::vector<kernel::PosixTimer> posix = STASIS_TRY(proc_.timers());
  STASIS_TRY(check_timers(posix));
  const TimersQuery timers(posix, batch);
  const std::size_t brk_call = batch.call(SYS_brk, 0);
  constexpr int kGetXcompPerm = 0x1022;
  const auto permission = batch.array<std::uint64_t>(1);
  batch.call(SYS_arch_prctl, kGetXcompPerm, permission);
  STASIS_TRY(traced_->run(batch, patience));
  sighand_ = STASIS_TRY(actions.take(batch, *traced_));
  record_.attributes = STASIS_TRY(attributes.take(batch, proc_));
  record_.limits = STASIS_TRY(limits.take(batch));
  record_.timers = STASIS_TRY(timers.take(batch, [this](HostPid tid) -> std::optional<ImagePid> {
    if (tid == pid()) return record_.pid;
    for (std::size_t i = 0; i < traced_->threads().size(); ++i) {
      if (traced_->threads()[i].tid() == tid) return threads_[i].tid;
    }
    return std::nullopt;
  }));
  record_.xcomp_permission = *permission;
  brk_ = static_cast<std::uint64_t>(STASIS_TRY(batch.check(brk_call, "brk")));
  return {};
}

Result<void> ProcessImage::ask_threads(const Patience& patience) {
  CredentialsCache credentials;
  std::vector<std::pair<HostPid, ThreadQuery>> queries;
  Result<void> first;
  STASIS_TRY(traced_->run_in_each_thread(
      [&](TracedThread& thread, Batch& batch) { queries.emplace_back(thread.tid(), ThreadQuery(batch)); },
      [&](TracedThread& thread, Batch& batch) {
        const auto query = std::ranges::find(queries, thread.tid(), [](const auto& pair) { return pair.first; });
        auto record = query->second.take(batch, *traced_, thread, credentials);
        if (!record) {
          if (first) first = Error(std::move(record).error());
          return;
        }
        record->call = calls_[threads_.size()];
        threads_.push_back(std::move(*record));
      },
      patience));
  return first;
}

// Timers went on while the process stood, until they were read: what they sent since the freeze belongs to the image.
Result<void> ProcessImage::add_late_signals() {
  using kernel::SignalQueue;
  const auto add = [&](HostPid tid, SignalQueue queue, std::vector<std::byte>& known) -> Result<void> {
    const auto before = STASIS_TRY(decode_pending(known));
    auto now = STASIS_TRY(kernel::ptrace_peek_siginfo(tid, queue));
    std::erase_if(now, [&](const siginfo_t& info) {
      const bool late = std::ranges::none_of(
          before, [&](const siginfo_t& old) { return std::memcmp(&old, &info, sizeof info) == 0; });
      return late && will_be_sent_again(info, record_.timers);
    });
    known = encode_pending(now);
    return {};
  };
  const std::vector<TracedThread>& threads = traced_->threads();
  STASIS_TRY(add(threads.front().tid(), SignalQueue::kProcess, record_.pending_signals));
  for (std::size_t i = 0; i < threads.size(); ++i) {
    STASIS_TRY(add(threads[i].tid(), SignalQueue::kThread, threads_[i].pending_signals));
  }
  return {};
}

// What is left of it is what others see: its number, its name, whose it was.
Result<void> ProcessImage::add_ended_leader(const kernel::ProcStat& stat, const kernel::ProcStatus& status) {
  const ThreadRecord& other = threads_.front();
  ThreadRecord leader{.tid = record_.pid, .attributes = other.attributes, .ended = true, .wait_status = stat.exit_code};
  leader.attributes.name = STASIS_TRY(proc_.thread_comm(pid()));
  leader.credentials = credentials_from_status(status, other.credentials.securebits);
  threads_.insert(threads_.begin(), std::move(leader));
  record_.threads += 1;
  return {};
}

// By thread, as threads_. What is confined was suspended when it was attached.
Result<void> ProcessImage::ask_seccomp(SeccompTable& table) {
  if (!confined_) return {};
  for (const TracedThread& thread : traced_->threads()) {
    const kernel::ProcStatus status = STASIS_TRY(proc_.thread_status(thread.tid()));
    seccomp_.push_back(status.seccomp ? STASIS_TRY(table.read(thread.tid(), status.seccomp)) : nullptr);
  }
  if (proc_.leader_has_ended()) seccomp_.insert(seccomp_.begin(), nullptr);
  return {};
}

Result<void> ProcessImage::inspect(SeccompTable& seccomp, const Patience& patience) {
  stat_ = STASIS_TRY(proc_.stat());
  const kernel::ProcStatus status = STASIS_TRY(proc_.status());
  fill_ids(stat_, status, record_);
  record_.stopped = traced_->carrier().group_stopped();
  record_.threads = static_cast<std::uint32_t>(traced_->threads().size());
  STASIS_TRY(traced_->open_gate(gadgets_, vmas_, patience));
  STASIS_TRY(ask_threads(patience));
  STASIS_TRY(ask_process(patience));
  STASIS_TRY(add_late_signals());
  if (proc_.leader_has_ended()) STASIS_TRY(add_ended_leader(stat_, status));
  return ask_seccomp(seccomp);
}

PageHolder ProcessImage::pages() {
  ProcessImage& owner = *shares_.memory;
  return {.memory = owner.traced_->memory(), .shared = owner.memory_->shared_pages()};
}

Result<void> ProcessImage::inspect_memory(const OpenFileTable& files) {
  fs_ = STASIS_TRY(gather_fs(proc_));
  if (!owns_memory()) return {};
  memory_ = STASIS_TRY(
      MemoryImage::take(proc_, traced_->memory(), {.pid = pid(), .vmas = vmas_, .stat = stat_, .brk = brk_}, files));
  return {};
}

}  // namespace stasis
