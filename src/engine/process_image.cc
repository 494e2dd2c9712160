// SPDX-License-Identifier: Apache-2.0
#include "engine/process_image.h"

#include <fmt/format.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernel/proc_children.h"
#include "kernel/vfork.h"
#include "resource/open_file/other_name.h"
#include "resource/signal/signal_actions.h"
#include "work/side_by_side.h"

namespace stasis {
namespace {

// Below this, reading smaps again inside the freeze costs less than a
// millisecond.
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

std::string children_file(HostPid tid) { return fmt::format("task/{}/children", tid.value()); }
std::string schedstat_file(HostPid tid) { return fmt::format("task/{}/schedstat", tid.value()); }

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

Result<std::unique_ptr<ProcessImage>> ProcessImage::look(kernel::ProcDir proc, TaskFacts facts,
                                                         RunQueueClocks& clocks) {
  std::unique_ptr<ProcessImage> image(new ProcessImage(std::move(proc), std::move(facts)));
  image->vmas_ = STASIS_TRY(smaps_of(image->proc_));
  find_other_names(image->vmas_);
  image->small_ = resident(image->vmas_) < kSmallProcess;
  const auto memory = STASIS_TRY(kernel::ProcessMemory::open(image->proc_));
  image->gadgets_ = find_gadgets(memory, image->vmas_);
  image->waits_ = WaitTimes::look(image->proc_, clocks);
  image->confined_ = std::ranges::any_of(image->facts_.threads, [](const auto& thread) { return thread.seccomp != 0; });
  return image;
}

Result<std::vector<HostPid>> ProcessImage::look_for_children() {
  const std::vector<HostPid> threads = STASIS_TRY(proc_.threads());
  std::vector<KeptThread> files(threads.size());
  const auto open = [&](std::size_t i, std::size_t) -> Result<void> {
    files[i].children = kernel::KeptFile::open(proc_, children_file(threads[i]));
    if (threads[i] != pid()) files[i].proof = kernel::KeptFile::open(proc_, schedstat_file(threads[i]));
    return {};
  };
  STASIS_TRY(side_by_side({.count = threads.size(), .worth_a_thread = 32}, open));
  std::vector<HostPid> all;
  for (std::size_t i = 0; i < threads.size(); ++i) {
    // Of a thread that has ended they are another's now, who is looked at when all stand.
    auto text = files[i].children ? files[i].children.read() : proc_.read(children_file(threads[i]));
    if (!text && proc_.check_alive()) continue;
    const std::string some = STASIS_TRY(std::move(text));
    for (const HostPid child : STASIS_TRY(kernel::parse_children(some))) all.push_back(child);
    if (files[i].children) kept_threads_[threads[i]] = std::move(files[i]);
  }
  std::ranges::sort(all);
  all.erase(std::ranges::unique(all).begin(), all.end());
  return all;
}

// Of a thread that is gone the kernel says that it has none, and another may have its number by now; the leader's is
// the process's.
Result<std::string> ProcessImage::children_of(HostPid tid) const {
  const auto kept = kept_threads_.find(tid);
  if (kept != kept_threads_.end()) {
    std::string text = STASIS_TRY(kept->second.children.read());
    const kernel::KeptFile& proof = kept->second.proof;
    if (!text.empty() || tid == pid() || (proof && proof.read())) return text;
  }
  return proc_.read(children_file(tid));
}

Result<std::vector<HostPid>> ProcessImage::children() const {
  std::vector<HostPid> all;
  for (const TracedThread& thread : traced_->threads()) {
    const std::string some = STASIS_TRY(children_of(thread.tid()));
    for (const HostPid child : STASIS_TRY(kernel::parse_children(some))) all.push_back(child);
  }
  std::ranges::sort(all);
  return all;
}

Result<void> ProcessImage::attach() {
  const auto seccomp = confined_ ? TracedProcess::Seccomp::kSuspend : TracedProcess::Seccomp::kNone;
  auto attached = TracedProcess::attach(STASIS_TRY(proc_.duplicate()), seccomp);
  if (attached) {
    traced_ = *std::move(attached);
    return {};
  }
  if (!confined_ || attached.error().code() != Errc::kNotPermitted) return attached.error();
  return Error(Errc::kSeccomp, fmt::format("pid {} is under seccomp and its filters can't be suspended", pid().value()))
      .with_help("run as root");
}

ProcessImage::ProcessImage(kernel::ProcDir proc, TaskFacts facts) : proc_(std::move(proc)), facts_(std::move(facts)) {}

ProcessImage::~ProcessImage() = default;

bool ProcessImage::sleeps_in_vfork() const {
  const auto& threads = traced_->threads();
  return std::ranges::any_of(threads, [](const TracedThread& thread) { return kernel::waits_for_vfork(thread.tid()); });
}

Result<void> ProcessImage::settle(const Patience& patience, const std::function<void()>& standing) {
  STASIS_TRY(traced_->settle(patience));
  if (traced_->proc().leader_has_ended() || proc_.leader_has_ended()) STASIS_TRY(proc_.look_again());
  standing();
  settled_threads_.clear();
  settled_at_ = std::chrono::steady_clock::now();
  const auto pending = STASIS_TRY(kernel::ptrace_peek_siginfo(traced_->carrier().tid(), kernel::SignalQueue::kProcess));
  std::uint64_t pending_set = 0;
  for (const siginfo_t& info : pending) pending_set |= std::uint64_t{1} << (info.si_signo - 1);
  for (TracedThread& thread : traced_->threads()) {
    settled_threads_.push_back(STASIS_TRY(settle_thread(*traced_, thread, waits_, pending_set)));
  }
  return {};
}

// So that the next freeze knows what its threads wait for.
void ProcessImage::note_waits() {
  const auto frozen = std::chrono::steady_clock::now() - settled_at_;
  std::vector<TracedThread>& threads = traced_->threads();
  if (threads.size() != settled_threads_.size()) return;  // never settled, or some are gone
  for (std::size_t i = 0; i < threads.size(); ++i) note_wait(threads[i], settled_threads_[i].call, frozen);
}

void ProcessImage::let_go() {
  if (traced_) note_waits();
  looked_ahead_.reset();
  traced_.reset();
  settled_threads_.clear();
}

Result<void> ProcessImage::resume(int signal, const Patience& patience) {
  note_waits();
  return traced_->resume(signal, &patience);
}

Result<void> ProcessImage::refresh() {
  stat_ = STASIS_TRY(proc_.stat());
  status_ = STASIS_TRY(proc_.status());
  confined_ = confined_ || (status_.seccomp != 0 && !status_.zombie());
  outside_ = STASIS_TRY(OutsideAttributes::read(proc_));
  if (looked_ahead_) return *std::exchange(looked_ahead_, std::nullopt);
  return refresh_mappings();
}

// Mappings that were read before the freeze still hold if the layout is the
// same; else they are read again.
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

Result<Obstacles> ProcessImage::find_late_obstacles(const Observer& observer, const UsedSemaphores& semaphores) const {
  const FrozenTask task{.proc = proc_, .status = status_, .threads = traced_->threads().size(), .before = facts_};
  return find_task_obstacles(STASIS_TRY(look_at_frozen_task(task, observer, semaphores)), observer);
}

// REQUIRES: the gate is open.
Result<void> ProcessImage::check_timers(const std::vector<kernel::PosixTimer>& timers) const {
  if (timers.empty()) return {};
  std::vector<ImagePid> tids;
  for (const TracedThread& thread : traced_->threads()) tids.emplace_back(STASIS_TRY(traced_->inner_tid(thread.tid())));
  const Obstacles obstacles = find_timer_obstacles(pid(), timers, tids);
  return obstacles.empty() ? Result<void>() : to_error(obstacles);
}

struct ProcessImage::Questions {
  static constexpr int kGetXcompPerm = 0x1022;

  Questions(const std::vector<kernel::PosixTimer>& posix, Batch& batch)
      : actions(batch),
        attributes(batch),
        limits(batch),
        timers(posix, batch),
        brk(batch.call(SYS_brk, 0)),
        permission(batch.array<std::uint64_t>(1)) {
    batch.call(SYS_arch_prctl, kGetXcompPerm, permission);
  }

  SignalActionQuery actions;
  ProcessAttributeQuery attributes;
  LimitsQuery limits;
  TimersQuery timers;
  std::size_t brk;
  GateValue<std::uint64_t> permission;
};

// REQUIRES: all threads have answered.
Result<void> ProcessImage::take_answers(const Questions& questions, const Batch& batch) {
  sighand_ = STASIS_TRY(questions.actions.take(batch, *traced_));
  record_.attributes = STASIS_TRY(questions.attributes.take(batch, outside_));
  record_.limits = STASIS_TRY(questions.limits.take(batch));
  record_.timers = STASIS_TRY(questions.timers.take(batch, [this](HostPid tid) -> std::optional<ImagePid> {
    if (tid == pid()) return record_.pid;
    for (std::size_t i = 0; i < traced_->threads().size(); ++i) {
      if (traced_->threads()[i].tid() == tid) return threads_[i].tid;
    }
    return std::nullopt;
  }));
  record_.xcomp_permission = *questions.permission;
  brk_ = static_cast<std::uint64_t>(STASIS_TRY(batch.check(questions.brk, "brk")));
  return {};
}

// The threads what each knows of itself, and the first of them what it knows of
// the process.
class ProcessImage::Asking {
 public:
  Asking(ProcessImage& image, std::vector<kernel::PosixTimer> posix) : image_(image), posix_(std::move(posix)) {
    queries_.reserve(image.traced_->threads().size());
  }

  Result<void> begin() {
    return image_.traced_->start_in_each_thread([this](TracedThread& thread, Batch& batch) { build(thread, batch); });
  }
  Result<void> finish(const Patience& patience) {
    STASIS_TRY(image_.traced_->finish_in_each_thread(
        [this](TracedThread& thread, Batch& batch) { build(thread, batch); },
        [this](TracedThread& thread, Batch& batch) { collect(thread, batch); }, patience));
    STASIS_TRY(std::move(first_));
    return image_.take_answers(*questions_, *answers_);
  }

 private:
  void build(TracedThread& thread, Batch& batch) {
    queries_.emplace_back(batch);
    if (&thread == &image_.traced_->carrier()) questions_.emplace(posix_, batch);
  }
  void collect(TracedThread& thread, Batch& batch) {
    if (&thread == &image_.traced_->carrier()) answers_.emplace(batch);
    std::vector<ThreadRecord>& threads = image_.threads_;
    const std::size_t index = threads.size();
    auto record = queries_[index].take(batch, *image_.traced_, thread, image_.settled_threads_[index], credentials_,
                                       thread.tid() == image_.pid() ? &image_.status_ : nullptr);
    if (!record && first_) first_ = Error(record.error());
    threads.push_back(record ? *std::move(record) : ThreadRecord());
  }

  ProcessImage& image_;
  std::vector<kernel::PosixTimer> posix_;
  CredentialsCache credentials_;
  std::vector<ThreadQuery> queries_;
  std::optional<Questions> questions_;
  std::optional<Batch> answers_;  // to the questions: in the slot of the carrier,
                                  // which nothing else uses meanwhile
  Result<void> first_;
};

// As late as can be before the timers are asked.
Result<void> ProcessImage::note_pending_signals(Pending which) {
  using kernel::SignalQueue;
  const std::vector<TracedThread>& threads = traced_->threads();
  record_.pending_signals =
      encode_pending(STASIS_TRY(kernel::ptrace_peek_siginfo(threads.front().tid(), SignalQueue::kProcess)));
  for (std::size_t i = 0; which == Pending::kOfThreadsToo && i < threads.size(); ++i) {
    settled_threads_[i].pending_signals =
        encode_pending(STASIS_TRY(kernel::ptrace_peek_siginfo(threads[i].tid(), SignalQueue::kThread)));
  }
  return {};
}

// Timers went on while the process stood, until they were read: what they sent
// since the freeze belongs to the image.
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
Result<void> ProcessImage::add_ended_leader() {
  const ThreadRecord& other = threads_.front();
  ThreadRecord leader{
      .tid = record_.pid, .attributes = other.attributes, .ended = true, .wait_status = stat_.exit_code};
  leader.attributes.name = STASIS_TRY(proc_.thread_comm(pid()));
  leader.credentials = credentials_from_status(status_, other.credentials.securebits);
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

TracedProcess::GateOrder ProcessImage::gate_order() const {
  return {.process = traced_.get(), .gadgets = &gadgets_, .vmas = &vmas_, .status = &status_};
}

Result<void> ProcessImage::begin_inspection() {
  fill_ids(stat_, status_, record_);
  record_.stopped = traced_->carrier().group_stopped();
  record_.threads = static_cast<std::uint32_t>(traced_->threads().size());
  std::vector<kernel::PosixTimer> posix = STASIS_TRY(proc_.timers());
  STASIS_TRY(check_timers(posix));
  STASIS_TRY(note_pending_signals(posix.empty() ? Pending::kOfProcess : Pending::kOfThreadsToo));
  asking_ = std::make_unique<Asking>(*this, std::move(posix));
  return asking_->begin();
}

Result<void> ProcessImage::inspect(SeccompTable& seccomp, const Patience& patience) {
  STASIS_TRY(asking_->finish(patience));
  asking_.reset();
  STASIS_TRY(add_late_signals());
  if (proc_.leader_has_ended()) STASIS_TRY(add_ended_leader());
  return ask_seccomp(seccomp);
}

PageHolder ProcessImage::pages() {
  ProcessImage& owner = *shares_.memory;
  return {.memory = owner.traced_->memory(), .shared = owner.memory_->shared_pages()};
}

Result<void> ProcessImage::inspect_memory(const OpenFileTable& files) {
  fs_ = STASIS_TRY(gather_fs(proc_, status_));
  if (!owns_memory()) return {};
  memory_ =
      STASIS_TRY(MemoryImage::take(proc_, traced_->memory(), {.pid = pid(), .vmas = vmas_, .stat = stat_}, files));
  return {};
}

void ProcessImage::finish_inspection() {
  if (owns_memory()) memory_->set_brk(brk_);
}

}  // namespace stasis
