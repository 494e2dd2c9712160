// SPDX-License-Identifier: Apache-2.0
#include "engine/process_restore.h"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "arch/x86_64/xstate.h"
#include "base/log.h"
#include "kernel/pidfd.h"
#include "resource/cgroup/cgroup.h"
#include "resource/file_table/file_table.h"
#include "resource/fs/fs.h"
#include "resource/kinds.h"
#include "resource/signal/restored_sighand.h"
#include "resource/signal/signal_actions.h"
#include "resource/thread/interrupted_call.h"

namespace stasis {
namespace {

constexpr int kRseqUnregister = 1;
constexpr std::uint32_t kOnStack = 1;   // SS_ONSTACK
constexpr std::uint32_t kDisabled = 2;  // SS_DISABLE

Error bad(const ProcessRecord& record, std::string_view why) {
  return Error(Errc::kBadImage, fmt::format("process {}: {}", record.pid.value(), why));
}

}  // namespace

Result<std::unique_ptr<ProcessRestore>> ProcessRestore::plan(ProcessRecord record, std::vector<ThreadRecord> threads,
                                                             RestartContext& context) {
  std::unique_ptr<ProcessRestore> restore(new ProcessRestore);
  restore->record_ = std::move(record);
  restore->threads_ = std::move(threads);
  restore->session_ = context.policy.session;
  STASIS_TRY(restore->take_ended_leader());
  STASIS_TRY(restore->check());
  restore->memory_ = STASIS_TRY(context.objects.fetch<RestoredMemory>(restore->record_.memory, kind::kMemory));
  for (const ThreadRecord& thread : restore->threads_) {
    restore->seccomp_.push_back(
        thread.seccomp ? STASIS_TRY(context.objects.fetch<RestoredSeccomp>(thread.seccomp, kind::kSeccomp)) : nullptr);
  }
  restore->sighand_ = STASIS_TRY(context.objects.fetch<RestoredSighand>(restore->record_.sighand, kind::kSighand));
  return restore;
}

Result<void> ProcessRestore::take_ended_leader() {
  if (threads_.empty() || threads_.front().tid != record_.pid)
    return bad(record_, "its first thread is not its leader");
  if (!threads_.front().ended) return {};
  ended_leader_ = std::move(threads_.front());
  threads_.erase(threads_.begin());
  if (threads_.empty()) return bad(record_, "its leader has ended, and there are no other threads");
  if (!WIFEXITED(ended_leader_->wait_status)) return bad(record_, "its leader has ended in a way that it can't");
  return {};
}

Result<void> ProcessRestore::check() const {
  for (const ThreadRecord& thread : threads_) {
    if (thread.ended) return bad(record_, "a thread that has ended");
    if (thread.tid.value() <= 0) return bad(record_, "a thread without id");
    if (thread.registers.size() != sizeof(arch::Registers)) return bad(record_, "registers of another machine");
    if (thread.xstate.size() > 0 && thread.xstate.size() < 576) return bad(record_, "extended state is cut");
    STASIS_TRY(decode_pending(thread.pending_signals));
  }
  STASIS_TRY(decode_pending(record_.pending_signals));
  return {};
}

Result<void> ProcessRestore::check_rights(const InheritedState& inherited, const ImageOwner& owner) const {
  STASIS_TRY(check_limits(record_.limits, inherited.limits, owner));
  STASIS_TRY(check_process_attributes(record_.attributes, inherited.process, owner));
  if (ended_leader_) STASIS_TRY(check_credentials(ended_leader_->credentials, inherited.credentials, owner));
  for (const ThreadRecord& thread : threads_) {
    STASIS_TRY(check_credentials(thread.credentials, inherited.credentials, owner));
    STASIS_TRY(check_thread_attributes(thread.attributes, inherited.thread, owner));
    // As for anybody: a filter must not be taken into a program with more rights.
    const bool trusted = owner.trust == ImageTrust::kCaller || owner.uid == 0;
    if (thread.seccomp && !trusted && !thread.attributes.no_new_privs) {
      return Error(Errc::kRefused,
                   "the image asks for seccomp filters without no_new_privs, beyond the rights of its owner")
          .with_help("restart as the owner, or give the image to root");
    }
  }
  return {};
}

void ProcessRestore::add_tids(std::set<ImagePid>& tids) const {
  tids.insert(record_.pid);
  for (const ThreadRecord& thread : threads_) tids.insert(thread.tid);
}

int ProcessRestore::report_signal() const {
  std::uint64_t pending = 0;
  const auto add = [&](std::span<const std::byte> bytes) {
    const auto signals = decode_pending(bytes);
    if (!signals) return;
    for (const siginfo_t& info : *signals) pending |= std::uint64_t{1} << (info.si_signo - 1);
  };
  add(record_.pending_signals);
  for (const ThreadRecord& thread : threads_) add(thread.pending_signals);
  for (const int signal : {SIGURG, SIGWINCH, SIGCHLD, SIGIO, SIGPIPE, SIGUSR1, SIGUSR2}) {
    if (!(pending >> (signal - 1) & 1)) return signal;
  }
  return SIGPWR;
}

// What a fork copies beside the areas can be given to the child, but not taken from it.
bool ProcessRestore::can_be_forked_from(const ProcessRestore& parent) const {
  return owns_.memory && memory_->can_be_forked() && memory_->origin() == parent.memory_ &&
         record_.attributes.untag_mask == parent.record_.attributes.untag_mask &&
         (parent.record_.xcomp_permission & ~record_.xcomp_permission) == 0;
}

Result<void> ProcessRestore::map(const RestartGate& gate, const InheritedState& inherited, const ProcessRestore* parent,
                                 const Patience& patience) {
  const auto proc = STASIS_TRY(kernel::ProcDir::open(pid()));
  writer_ = STASIS_TRY(kernel::ProcessMemory::open(proc));
  STASIS_TRY(apply_process_attributes(record_.attributes, proc));
  syscall_instruction_ = memory_->syscall_instruction();
  if (!owns_.memory) return {};
  CallRunner calls(*process_, patience);
  STASIS_TRY(leave_creator(parent ? parent->record_.attributes : inherited.process, calls));
  const auto start = parent ? RestoredMemory::Start::kForked : RestoredMemory::Start::kElsewhere;
  return memory_->map(calls, gate, start);
}

Result<void> ProcessRestore::copy_forked_pages(const ProcessRestore& origin, const Patience& patience) const {
  constexpr std::uint64_t kAtOnce = std::uint64_t{1} << 20;
  std::vector<std::byte> pages;
  for (const PageRun& run : memory_->to_copy()) {
    for (std::uint64_t done = 0; done < run.length; done += kAtOnce) {
      STASIS_TRY(patience.check());
      const PageRun part{.start = run.start + done, .length = std::min(run.length - done, kAtOnce)};
      pages.resize(part.length);
      STASIS_TRY(origin.writer_->read(part.start, pages));
      STASIS_TRY(write_pages(std::span(&part, 1), pages));
    }
  }
  return {};
}

// What ties the new process to the one it was copied from.
Result<void> ProcessRestore::leave_creator(const ProcessAttributes& inherited, CallRunner& calls) const {
  const auto rseq = kernel::ptrace_get_rseq_configuration(pid());
  if (rseq && rseq->pointer) {
    STASIS_TRY(
        calls.call("leave the creator's rseq", SYS_rseq, rseq->pointer, rseq->size, kRseqUnregister, rseq->signature));
  }
  restore_memory_attributes(record_.attributes, inherited, calls.batch(), calls.checks());
  if (record_.xcomp_permission & arch::kXfeatureTileData) {
    constexpr int kReqXcompPerm = 0x1023;
    constexpr int kTileDataNumber = 18;
    STASIS_TRY(calls.call("permission for AMX tiles", SYS_arch_prctl, kReqXcompPerm, kTileDataNumber));
  }
  return {};
}

Result<void> ProcessRestore::write_pages(std::span<const PageRun> runs, std::span<const std::byte> pages) const {
  std::vector<kernel::RemoteRange> ranges;
  for (const PageRun& run : runs) {
    if (!memory_->holds(run))
      return bad(record_, fmt::format("pages at {:x}, where nothing private is mapped", run.start));
    ranges.push_back({.address = run.start, .size = run.length});
  }
  return writer_->write(ranges, pages);
}

Result<void> ProcessRestore::finish_memory(CallRunner& calls) const {
  return owns_.memory ? memory_->finish(calls) : Result<void>();
}

Result<kernel::Userfaultfd> ProcessRestore::open_userfaultfd(const Patience& patience) {
  Batch open = process_->batch();
  open.call(SYS_userfaultfd, kernel::userfaultfd_flags(kernel::UffdFaults::kAll));
  STASIS_TRY(process_->run(open, patience));
  const auto number = STASIS_TRY(open.check(0, "userfaultfd"));
  const UniqueFd process = STASIS_TRY(kernel::pidfd_open(pid()));
  kernel::Userfaultfd uffd(STASIS_TRY(kernel::pidfd_getfd(process.get(), static_cast<int>(number))));
  CallRunner calls(*process_, patience);
  STASIS_TRY(calls.call("close of the userfaultfd", SYS_close, number));
  STASIS_TRY(calls.flush());
  return uffd;
}

Result<void> ProcessRestore::restore(const InheritedState& inherited, const RestartContext& context) {
  const Patience& patience = context.patience;
  std::vector<NewProcess::ThreadSpec> others;
  for (std::size_t i = ended_leader_ ? 0 : 1; i < threads_.size(); ++i) {
    others.push_back({.tid = threads_[i].tid.value(), .clear_child_tid = threads_[i].clear_child_tid});
  }
  // Suspended until the end, filters are no hindrance: they come while every right is still there.
  const std::size_t common = common_filters(seccomp());
  if (common > 0) {
    STASIS_TRY(install_filters(std::span(seccomp_.front()->record.filters).first(common), process_->batch(),
                               [&](const Batch& batch) { return process_->run(batch, patience); }));
  }
  STASIS_TRY(process_->create_threads(others, patience));
  STASIS_TRY(confine_threads(common, patience));
  STASIS_TRY(restore_process(inherited, context));
  if (ended_leader_) STASIS_TRY(end_leader(inherited, patience));
  STASIS_TRY(queue_thread_signals(patience));
  STASIS_TRY(restore_threads(inherited, patience));
  CallRunner calls(*process_, patience);
  fill_attributes(inherited, calls);
  STASIS_TRY(calls.flush());
  return restore_scheduling();
}

bool ProcessRestore::is_plain() const {
  return threads_.size() == 1 && !ended_leader_ && !confined() && record_.pending_signals.empty() &&
         threads_.front().pending_signals.empty() && record_.timers.posix.empty();
}

Result<void> ProcessRestore::restore_scheduling() {
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    STASIS_TRY(apply_scheduling(threads_[i].attributes, process_->threads()[i].tid()));
  }
  return {};
}

Result<void> ProcessRestore::fill_context(const RestartContext& context, CallRunner& calls) const {
  if (owns_.sighand) STASIS_TRY(restore_signal_actions(sighand_->record, calls.batch(), calls.checks()));
  if (owns_.fs) {
    const auto* const fs = STASIS_TRY(context.objects.fetch<RestoredFs>(record_.fs, kind::kFs));
    fs->install(calls.batch(), calls.checks());
  }
  return {};
}

// The descriptors, by the one process of those that share the table.
Result<void> ProcessRestore::install_files(const RestartContext& context, CallRunner& calls) const {
  if (!owns_.files) return {};
  const auto* const table = STASIS_TRY(context.objects.fetch<RestoredFileTable>(record_.file_table, kind::kFileTable));
  auto install = STASIS_TRY(RestoredFileTable::Install::plan(*table));
  for (install.fill(calls.batch(), calls.checks()); !install.done(); install.fill(calls.batch(), calls.checks()))
    STASIS_TRY(calls.flush());
  return {};
}

Result<void> ProcessRestore::adopt_own_files(const RestartContext& context) const {
  if (!owns_.files) return {};
  const auto* const table = STASIS_TRY(context.objects.fetch<RestoredFileTable>(record_.file_table, kind::kFileTable));
  return table->adopt_own(pid(), context);
}

Result<void> ProcessRestore::watch_own_files(const RestartContext& context) {
  if (!owns_.files) return {};
  CallRunner calls(*process_, context.patience);
  const auto* const table = STASIS_TRY(context.objects.fetch<RestoredFileTable>(record_.file_table, kind::kFileTable));
  while (!table->watch_own(calls.batch(), calls.checks())) STASIS_TRY(calls.flush());
  return calls.flush();
}

// In the leader, with our own credentials still.
Result<void> ProcessRestore::restore_process(const InheritedState& inherited, const RestartContext& context) {
  CallRunner calls(*process_, context.patience);
  STASIS_TRY(install_files(context, calls));
  STASIS_TRY(calls.flush());
  STASIS_TRY(adopt_own_files(context));
  STASIS_TRY(rejoin_groups(inherited, context));
  const auto pending = STASIS_TRY(decode_pending(record_.pending_signals));
  for (const siginfo_t& info : pending) {
    STASIS_TRY(calls.make_room(1, sizeof info));
    restore_pending(std::span(&info, 1), pid().value(), 0, calls.batch(), calls.checks());
  }
  STASIS_TRY(calls.flush());
  STASIS_TRY(restore_timers(record_.timers, probe_timer_ids(), calls.batch(), calls.checks()));
  restore_limits(record_.limits, inherited.limits, calls.batch(), calls.checks());
  return calls.flush();
}

// The same of one that is plain.
Result<void> ProcessRestore::fill_process(const InheritedState& inherited, const RestartContext& context,
                                          CallRunner& calls) {
  STASIS_TRY(install_files(context, calls));
  STASIS_TRY(rejoin_groups(inherited, context));
  constexpr std::size_t kCalls = 64, kBytes = 4096;  // more than timers of a fixed number and limits need
  STASIS_TRY(calls.make_room(kCalls, kBytes));
  STASIS_TRY(restore_timers(record_.timers, probe_timer_ids(), calls.batch(), calls.checks()));
  restore_limits(record_.limits, inherited.limits, calls.batch(), calls.checks());
  return {};
}

Result<void> ProcessRestore::rejoin_groups(const InheritedState& inherited, const RestartContext& context) const {
  if (record_.attributes.cgroups != inherited.process.cgroups) {
    const auto proc = STASIS_TRY(kernel::ProcDir::open(pid()));
    return rejoin_cgroups(record_.attributes.cgroups, proc, context.owner);
  }
  return {};
}

bool ProcessRestore::confined() const {
  return std::ranges::any_of(seccomp_, [](const RestoredSeccomp* seccomp) { return seccomp != nullptr; });
}

std::vector<const SeccompRecord*> ProcessRestore::seccomp() const {
  std::vector<const SeccompRecord*> records;
  for (const RestoredSeccomp* const seccomp : seccomp_) records.push_back(seccomp ? &seccomp->record : nullptr);
  return records;
}

// What each thread has beyond what all have, `inherited` filters.
Result<void> ProcessRestore::confine_threads(std::size_t inherited, const Patience& patience) {
  const std::size_t first = ended_leader_ ? 1 : 0;  // which is there still
  for (std::size_t i = 0; i < seccomp_.size(); ++i) {
    if (seccomp_[i] == nullptr) continue;
    const SeccompRecord& record = seccomp_[i]->record;
    const auto run = [&](const Batch& batch) { return process_->run_in(first + i, batch, patience); };
    STASIS_TRY(install_filters(std::span(record.filters).subspan(inherited), process_->batch(), run));
    if (record.strict) STASIS_TRY(enter_strict_mode(process_->batch(), run));
  }
  return {};
}

// Before the children are told by which signal they learn of a parent's death: the thread that made them dies here.
Result<void> ProcessRestore::end_leader(const InheritedState& inherited, const Patience& patience) {
  CallRunner calls(*process_, patience);
  const ThreadRecord& leader = *ended_leader_;
  STASIS_TRY(restore_credentials(leader.credentials, inherited.credentials, inherited.setgroups, calls.batch(),
                                 calls.checks()));
  STASIS_TRY(calls.flush());
  STASIS_TRY(calls.make_room(1, 64));
  const auto name = calls.batch().text(leader.attributes.name);
  STASIS_TRY(calls.call("setting the leader's name", SYS_prctl, PR_SET_NAME, name.remote, 0, 0, 0));
  STASIS_TRY(calls.flush());
  if (!syscall_instruction_) {
    return Error(Errc::kUnsupportedTask,
                 fmt::format("process {} has no vdso to end its leader by", record_.pid.value()));
  }
  return process_->end_leader(syscall_instruction_, WEXITSTATUS(leader.wait_status), patience);
}

// A thread queues its own: nobody else may send what tkill(2) has sent. There may be thousands of them.
Result<void> ProcessRestore::queue_thread_signals(const Patience& patience) {
  constexpr std::size_t kAtOnce = 64;
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    const auto all = STASIS_TRY(decode_pending(threads_[i].pending_signals));
    std::span<const siginfo_t> rest = all;
    while (!rest.empty()) {
      Batch batch = process_->batch();
      BatchChecks checks;
      const auto some = rest.first(std::min(rest.size(), kAtOnce));
      restore_pending(some, pid().value(), process_->threads()[i].tid().value(), batch, checks);
      STASIS_TRY(process_->run_in(i, batch, patience));
      auto verified = checks.verify(batch);
      if (!verified) return std::move(verified).error().note(fmt::format("thread {}", threads_[i].tid.value()));
      rest = rest.subspan(some.size());
    }
  }
  return {};
}

Result<void> ProcessRestore::fill_thread(std::size_t index, const InheritedState& inherited, Batch& batch,
                                         BatchChecks& checks) {
  const ThreadRecord& thread = threads_[index];
  if (arch::xstate_in_use(thread.xstate) & arch::kXfeatureTileData) batch.touch_tiles();
  if (index == 0 && !ended_leader_)
    checks.add(batch.call(SYS_set_tid_address, thread.clear_child_tid), "set_tid_address");
  if (thread.robust_list) {
    checks.add(batch.call(SYS_set_robust_list, thread.robust_list, thread.robust_list_length), "set_robust_list");
  }
  if (!(thread.altstack.flags & kDisabled)) {
    stack_t stack{};
    stack.ss_sp = reinterpret_cast<void*>(thread.altstack.pointer);
    stack.ss_flags = static_cast<int>(thread.altstack.flags & ~kOnStack);
    stack.ss_size = thread.altstack.size;
    checks.add(batch.call(SYS_sigaltstack, batch.put(stack), 0), "sigaltstack");
  }
  if (thread.rseq.pointer) {
    checks.add(batch.call(SYS_rseq, thread.rseq.pointer, thread.rseq.size, 0, thread.rseq.signature), "rseq");
  }
  STASIS_TRY(restore_credentials(thread.credentials, inherited.credentials, inherited.setgroups, batch, checks));
  // Detached, the restart ends at once: the root must not die of that.
  const bool parent_ends = session_ == SessionPolicy::kDetached && !record_.parent;
  const ParentDeath death = parent_ends ? ParentDeath::kNone : ParentDeath::kRestore;
  restore_thread_attributes(thread.attributes, inherited.thread, death, batch, checks);
  return {};
}

Result<void> ProcessRestore::restore_threads(const InheritedState& inherited, const Patience& patience) {
  std::vector<BatchChecks> checks(threads_.size());
  return process_->run_in_each_thread(
      [&](std::size_t i, Batch& batch) { return fill_thread(i, inherited, batch, checks[i]); },
      [&](std::size_t i, Batch& batch) -> Result<void> {
        auto verified = checks[i].verify(batch);
        if (!verified) return std::move(verified).error().note(fmt::format("thread {}", threads_[i].tid.value()));
        return {};
      },
      patience);
}

Result<void> ProcessRestore::fill_last(const InheritedState& inherited, CallRunner& calls) {
  STASIS_TRY(fill_thread(0, inherited, calls.batch(), calls.checks()));
  fill_attributes(inherited, calls);
  return {};
}

// What a change of credentials would undo.
void ProcessRestore::fill_attributes(const InheritedState& inherited, CallRunner& calls) const {
  ProcessAttributes now = inherited.process;
  if (threads_.front().credentials != inherited.credentials) now.dumpable = ~record_.attributes.dumpable;
  restore_process_attributes(record_.attributes, now, calls.batch(), calls.checks());
}

Result<void> ProcessRestore::load_state(const ThreadRecord& record, TracedThread& thread) const {
  std::memcpy(&thread.registers, record.registers.data(), sizeof thread.registers);
  // The set must have the machine's full size; what lies behind the image's part is in its initial state.
  std::fill(thread.xstate.begin(), thread.xstate.end(), std::byte{0});
  if (record.xstate.size() > thread.xstate.size()) return bad(record_, "extended state of another machine");
  if (!record.xstate.empty()) std::ranges::copy(record.xstate, thread.xstate.begin());
  thread.signal_mask = record.signal_mask;
  return {};
}

// A call that the kernel would have restarted from its own notes (ERESTART_RESTARTBLOCK): these notes are made anew by
// starting the call for real, with the time that is left.
bool ProcessRestore::must_start_call(const ThreadRecord& record, TracedThread& thread) const {
  if (arch::syscall_result(thread.registers) != arch::kErestartBlock ||
      arch::interrupted_syscall(thread.registers) < 0) {
    return false;
  }
  const CallTimeout* const row = find_call_timeout(static_cast<long>(record.call.number));
  if (row && restart_block_code(row->number) && syscall_instruction_) return true;
  log::info("restart", "thread {}: its call is not known and ends with EINTR", record.tid.value());
  arch::set_syscall_result(thread.registers, -EINTR);
  arch::forget_syscall(thread.registers);
  return false;
}

Result<std::vector<std::size_t>> ProcessRestore::load_states() {
  std::vector<std::size_t> to_start;
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    TracedThread& thread = process_->threads()[i];
    STASIS_TRY(load_state(threads_[i], thread));
    if (must_start_call(threads_[i], thread)) to_start.push_back(i);
  }
  return to_start;
}

Result<void> ProcessRestore::begin_call(std::size_t index, const GateSlot& scratch) {
  const ThreadRecord& record = threads_[index];
  TracedThread& thread = process_->threads()[index];
  const CallTimeout& row = *find_call_timeout(static_cast<long>(record.call.number));
  auto args = arch::syscall_arguments(thread.registers);
  const auto read = [this](std::uint64_t address) -> std::optional<std::chrono::nanoseconds> {
    const auto value = writer_->load(RemotePtr<timespec>(address));
    if (!value) return std::nullopt;
    return std::chrono::seconds(value->tv_sec) + std::chrono::nanoseconds(value->tv_nsec);
  };
  if (const auto timeout = relative_timeout(row.number, thread.registers, {.timespec = read})) {
    const auto left =
        std::max(std::chrono::nanoseconds(1), *timeout - std::chrono::nanoseconds(record.call.elapsed_ns));
    if (row.form == CallTimeout::Form::kMilliseconds) {
      args[row.argument] = static_cast<std::uint64_t>(std::chrono::ceil<std::chrono::milliseconds>(left).count());
    } else {
      const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
      args[row.argument] = Batch(scratch).put(timespec{seconds.count(), (left - seconds).count()}).remote;
    }
  }
  return thread.begin_call(syscall_instruction_, arch::stack_pointer(thread.registers), row.number, args);
}

Result<void> ProcessRestore::interrupt_call(std::size_t index, const Patience& patience) {
  return process_->threads()[index].interrupt_call(patience);
}

Result<void> ProcessRestore::finish_call(std::size_t index, const Patience& patience) {
  const InterruptedCallRecord& call = threads_[index].call;
  TracedThread& thread = process_->threads()[index];
  const std::int64_t result = STASIS_TRY(thread.finish_interrupted_call(patience));
  if (result == arch::kErestartBlock) {
    restart_with_note(thread.registers, static_cast<long>(call.number), std::chrono::nanoseconds(call.elapsed_ns));
  } else {
    arch::set_syscall_result(thread.registers, result);
    arch::forget_syscall(thread.registers);
  }
  return {};
}

Result<void> ProcessRestore::begin_stand_by() {
  if (!syscall_instruction_) {
    return Error(Errc::kUnsupportedTask, fmt::format("process {} has no vdso to leave through", record_.pid.value()));
  }
  return owns_.memory ? process_->begin_drop_gate(syscall_instruction_) : Result<void>();
}

Result<void> ProcessRestore::enter_stand_by(const Patience& patience) {
  return owns_.memory ? process_->enter_drop_gate(patience) : Result<void>();
}

Result<void> ProcessRestore::finish_stand_by(const Patience& patience) {
  if (owns_.memory) STASIS_TRY(process_->finish_drop_gate(patience));
  for (TracedThread& thread : process_->threads()) STASIS_TRY(process_->set_final_state(thread));
  return {};
}

}  // namespace stasis
