// SPDX-License-Identifier: Apache-2.0
#include "engine/checkpoint.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ranges>

#include "base/file.h"
#include "base/log.h"
#include "base/without_memory.h"
#include "engine/checkpoint_operation.h"
#include "engine/environment_of_host.h"
#include "engine/fault_point.h"
#include "engine/lazy/being_filled.h"
#include "image/environment.h"
#include "image/parent_file.h"
#include "kernel/clocks.h"
#include "resource/file_table/file_table.h"

namespace stasis {
namespace {

using std::chrono::steady_clock;

std::int64_t microseconds_since(steady_clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::microseconds>(steady_clock::now() - start).count();
}

std::int64_t cpu_microseconds() {
  timespec used{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return std::int64_t{used.tv_sec} * 1'000'000 + used.tv_nsec / 1000;
}

void append(Obstacles& to, Obstacles from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

Result<void> Checkpoint::stages() {
  // The program runs. What is slow and does not change is read now; what can't be saved is refused now.
  STASIS_TRY(stage("open image", &Checkpoint::open_image));
  STASIS_TRY(stage("look", &Checkpoint::look));
  if (report_.snapshot == SnapshotMode::kPrecopy) STASIS_TRY(stage("copy beforehand", &Checkpoint::copy_beforehand));
  STASIS_TRY(stage("freeze", &Checkpoint::freeze));
  // Every thread is stopped. Nothing in the tree moves from here until let_go().
  STASIS_TRY(stage("inspect", &Checkpoint::inspect));
  STASIS_TRY(stage("write structure", &Checkpoint::write_structure));
  STASIS_TRY(stage("write contents", &Checkpoint::write_contents));
  if (request_.tracked) STASIS_TRY(stage("leave out what was not written", &Checkpoint::leave_out_unwritten));
  if (report_.snapshot != SnapshotMode::kFreeze) STASIS_TRY(stage("take snapshot", &Checkpoint::take_snapshot));
  if (report_.snapshot == SnapshotMode::kFreeze) STASIS_TRY(stage("write pages", &Checkpoint::write_pages));
  if (request_.after == AfterCheckpoint::kLeaveRunning) {
    STASIS_TRY(stage("let go", &Checkpoint::let_go));
    // The program runs again. All that is left is ours, and takes its time.
    patience_.wait_longer();
    if (precopy_) precopy_->stop_tracking();
    if (report_.snapshot != SnapshotMode::kFreeze) {
      STASIS_TRY(stage("write pages of the snapshot", &Checkpoint::write_pages));
      stops_.reset();
    }
    return stage("publish", &Checkpoint::publish);
  }
  // The image must be durable before the program may be ended.
  STASIS_TRY(stage("publish", &Checkpoint::publish));
  patience_.carry_through();
  return let_go();
}

Result<void> Checkpoint::stage(std::string_view name, Result<void> (Checkpoint::*function)()) {
  STASIS_TRY(patience_.check());
  STASIS_TRY(fault_point(name));
  log::debug("checkpoint", "{} at {} us, {} us of CPU", name, microseconds_since(started_), cpu_microseconds());
  return (this->*function)();
}

Result<CheckpointReport> Checkpoint::run() {
  if (auto done = or_no_memory([this] { return stages(); }); !done) {
    snapshot_spoiled_ = snapshot_ && snapshot_->spoiled();
    snapshot_.reset();
    Error error = explain(std::move(done).error());
    // First the program goes on; to clean up a large file takes time.
    drop_references();
    if (tree_) tree_->let_go();
    if (image_) image_->abort(error);
    if (request_.tracked) request_.tracked->forget();
    return error;
  }
  report_.total_us = microseconds_since(started_);
  return report_;
}

// A process that ends under our hands fails whatever is being done with it, in a dozen ways: what is said is the cause.
Error Checkpoint::explain(Error error) const {
  const auto vanished = [](HostPid pid) {
    return Error(Errc::kVanished, fmt::format("process {} ended while it was being checkpointed", pid.value()));
  };
  if (error.code() == Errc::kNoSuchProcess) return error;
  if (error.code() == Errc::kTimeout) {
    return std::move(error).note(fmt::format("checkpoint of process {}", request_.pid.value()));
  }
  // Between a killed thread's end and the first sign of the others' there is a moment; a process without memory is
  // nobody's to look at.
  constexpr std::array kMayBeAnEnd = {Errc::kVanished, Errc::kTargetLost, Errc::kNotOwner};
  int tries = std::ranges::find(kMayBeAnEnd, error.code()) != kMayBeAnEnd.end() ? 200 : 1;
  for (; tries > 0 && tree_; --tries) {
    // Before the freeze the others may come and go; the root may not.
    for (const auto& process : tree_->processes() | std::views::take(frozen_ ? tree_->processes().size() : 1)) {
      if (process->proc().has_ended()) return vanished(process->pid());
    }
    if (tries > 1) ::usleep(1000);
  }
  if (tree_) return error;
  const auto proc = kernel::ProcDir::open(request_.pid);
  return !proc || proc->has_ended() ? vanished(request_.pid) : error;
}

Result<void> Checkpoint::open_image() {
  if (!request_.parent.empty()) parent_ = STASIS_TRY(ParentImage::open(request_.parent, request_.output));
  if (request_.tracked) request_.tracked->begin(parent_ ? &*parent_ : nullptr);
  if (parent_ && !request_.tracked) parent_->read_ahead();
  WriterOptions options{.codec = request_.codec};
  options.keep_going = [this](std::chrono::nanoseconds stalled) -> Result<void> {
    auto going = patience_.check();
    if (going || stalled < std::chrono::seconds(1)) return going;
    return std::move(going).error().note("nobody reads standard output");
  };
  options.progress = request_.progress;
  auto image = request_.output == "-" ? ImageWriter::to_stream(STDOUT_FILENO, options)
                                      : ImageWriter::create(request_.output, options);
  image_ = STASIS_TRY(std::move(image));
  return {};
}

// What a lazy restart still brings in is not there to be saved. It does not take long.
Result<void> Checkpoint::await_lazy_memory() {
  constexpr useconds_t kPause = 10'000;
  while (is_being_filled(*tree_)) {
    if (auto patient = patience_.check(); !patient && patient.error().code() == Errc::kTimeout) {
      return Error(Errc::kUnsupportedMemory,
                   fmt::format("process {}: a lazy restart is still bringing its memory in", request_.pid.value()))
          .with_help("wait until that is done; --timeout allows more");
    } else if (!patient) {
      return patient;
    }
    ::usleep(kPause);
    tree_.emplace(STASIS_TRY(TreeImage::look(request_.pid)));
  }
  return {};
}

Result<void> Checkpoint::look() {
  tree_.emplace(STASIS_TRY(TreeImage::look(request_.pid)));
  STASIS_TRY(await_lazy_memory());
  const Obstacles obstacles = memory_obstacles();
  if (!obstacles.empty()) return to_error(obstacles);
  std::vector<ProcessHandle> handles;
  for (const auto& process : tree_->processes())
    handles.push_back({.proc = &process->proc(), .vmas = &process->vmas()});
  outside_ = STASIS_TRY(find_outside_mappings(handles));
  environment_ = STASIS_TRY(environment_of_host());
  environment_.codec = request_.codec;
  if (parent_) STASIS_TRY(parent_->name_in(environment_, request_.parent_name));
  STASIS_TRY(choose_snapshot());
  // Who stands still until the pages are written shall not wait for the medium.
  const bool waits = request_.after == AfterCheckpoint::kLeaveRunning && report_.snapshot == SnapshotMode::kFreeze;
  if (!waits) image_->write_directly();
  return look_at_clocks();
}

// A tree that was restarted on another boot lives in a time namespace: its clocks are not ours.
Result<void> Checkpoint::look_at_clocks() {
  ahead_of_us_ = STASIS_TRY(note_clocks(tree_->processes().front()->proc(), environment_));
  return {};
}

// The room that was kept for the records may be too small.
Result<void> Checkpoint::end_structure() {
  auto ended = image_->end_structure();
  if (ended || ended.error().code() != Errc::kOverflow || !precopy_ || !precopy_->in_image()) return ended;
  log::info("checkpoint", "{}", ended.error().message());
  STASIS_TRY(forget_copies());
  return image_->end_structure();
}

Obstacles Checkpoint::memory_obstacles() const {
  Obstacles obstacles;
  for (const auto& process : tree_->processes()) {
    append(obstacles, find_memory_obstacles(process->pid(), process->vmas()));
  }
  return obstacles;
}

Result<void> Checkpoint::freeze() {
  stops_.emplace();
  frozen_ = steady_clock::now();
  STASIS_TRY(tree_->freeze(patience_));
  const kernel::Clocks clocks = kernel::read_clocks();
  environment_.realtime_ns = clocks.realtime_ns;
  environment_.monotonic_ns = clocks.monotonic_ns + ahead_of_us_.monotonic_ns;
  environment_.boottime_ns = clocks.boottime_ns + ahead_of_us_.boottime_ns;
  return {};
}

Result<void> Checkpoint::inspect() {
  std::vector<ProcessHandle> handles;
  for (const auto& process : tree_->processes()) {
    handles.push_back({.proc = &process->proc(),
                       .pidfd = &process->traced().pidfd(),
                       .vmas = &process->vmas(),
                       .stat = &process->stat()});
  }
  files_ = STASIS_TRY(gather_open_files(handles, Hold::kTake, &outside_));
  Obstacles obstacles = collect_obstacles(files_, request_.policy);
  append(obstacles, memory_obstacles());
  append(obstacles, STASIS_TRY(tree_->find_late_obstacles()));
  if (!obstacles.empty()) return to_error(obstacles);
  STASIS_TRY(fault_point("open gates"));
  STASIS_TRY(tree_->inspect(seccomp_, files_, patience_));
  for (const auto& process : tree_->processes()) {
    report_.processes += 1;
    report_.threads += process->threads().size();
  }
  STASIS_TRY(tree_->find_forked_pages(patience_));
  for (const auto& process : tree_->processes()) {
    if (process->owns_memory()) report_.pages += process->memory().page_bytes() / environment_.page_size;
  }
  tree_->link_parents();
  return tree_->ask_job_states(patience_);
}

Result<void> Checkpoint::write_structure() {
  STASIS_TRY(image_->write(environment_));
  const auto& processes = tree_->processes();
  TreeRecord tree{.root = processes.front()->record().pid,
                  .processes = static_cast<std::uint32_t>(processes.size() + tree_->zombies().size())};
  for (const DescriptorTable& table : files_.descriptors) {
    if (!table.slots.empty()) tree.highest_fd = std::max(tree.highest_fd, table.slots.back().fd);
  }
  STASIS_TRY(image_->write(tree));
  CheckpointContext context{.image = *image_,
                            .objects = objects_,
                            .deferred = deferred_,
                            .farewell = farewell_,
                            .contents = contents_,
                            .files = files_,
                            .policy = request_.policy,
                            .patience = patience_};
  // Nobody refers to these.
  for (const auto& process : processes) {
    system_v_users_.tree.push_back(process->pid());
    system_v_users_.note_calls(process->threads());
  }
  STASIS_TRY(objects_.checkpoint_obj(&context, &system_v_users_, kind::kSystemV));
  for (const auto& process : processes) STASIS_TRY(write_process(*process, context));
  for (const ZombieImage& zombie : tree_->zombies()) STASIS_TRY(image_->write(zombie.record));
  return end_structure();
}

// Objects are written right before the record that first names them.
Result<void> Checkpoint::write_process(ProcessImage& process, CheckpointContext& context) {
  ProcessRecord& record = process.record();
  const HostPid table_owner = process.shares().files->pid();
  const auto table = std::ranges::find(files_.descriptors, table_owner, &DescriptorTable::pid);
  record.memory = STASIS_TRY(objects_.checkpoint_obj(&context, &process.memory(), kind::kMemory));
  record.file_table = STASIS_TRY(objects_.checkpoint_obj(&context, &*table, kind::kFileTable));
  record.fs = STASIS_TRY(objects_.checkpoint_obj(&context, &process.fs(), kind::kFs));
  record.sighand = STASIS_TRY(objects_.checkpoint_obj(&context, &process.sighand(), kind::kSighand));
  for (std::size_t i = 0; i < process.seccomp().size(); ++i) {
    if (process.seccomp()[i] == nullptr) continue;
    process.threads()[i].seccomp = STASIS_TRY(objects_.checkpoint_obj(&context, process.seccomp()[i], kind::kSeccomp));
  }
  STASIS_TRY(image_->write(record));
  for (const ThreadRecord& thread : process.threads()) STASIS_TRY(image_->write(thread));
  return {};
}

// Our references to the program's files go before it runs again: a pipe whose last writer it closes must be at its end.
void Checkpoint::drop_references() {
  objects_.clear();
  for (const auto& file : files_.files) file->held.reset();
  for (const auto& inode : files_.inodes) {
    if (inode->mapped) inode->mapped->held.reset();
  }
}

Result<void> Checkpoint::let_go() {
  // What it does is for the image's sake; the program ends in any case.
  if (request_.after == AfterCheckpoint::kKill) static_cast<void>(farewell_.run());
  drop_references();
  Result<void> first;
  if (request_.after == AfterCheckpoint::kKill) {
    tree_->kill();
  } else {
    first = tree_->resume(request_.after == AfterCheckpoint::kStop ? SIGSTOP : 0);
  }
  report_.freeze_us = microseconds_since(*frozen_);
  // Under write protection the program waits for us wherever it writes.
  if (report_.snapshot != SnapshotMode::kWp) stops_.reset();
  objects_.free_later();
  return first;
}

// Publishing is what was put off until everything else is done: the last work
// of the operation.
Result<void> Checkpoint::publish() {
  STASIS_TRY(deferred_.add([this]() -> Result<void> { return image_->publish(); }));
  STASIS_TRY(deferred_.run());
  if (request_.tracked) request_.tracked->published(image_->image_hash());
  report_.bytes = image_->progress().stored_bytes;
  return {};
}

// A snapshot that did not hold is taken again, another way: of the program as it is then.
Result<CheckpointReport> checkpoint(const CheckpointRequest& request) {
  const auto started = steady_clock::now();
  {
    Checkpoint first(request, Attempt::kFirst);
    auto report = first.run();
    if (report || !first.worth_another()) return report;
    log::info("checkpoint", "{}: once more", report.error().to_string());
  }
  CheckpointRequest again = request;
  again.snapshot = SnapshotMode::kAuto;
  auto report = Checkpoint(again, Attempt::kSecond).run();
  if (report) report->total_us = microseconds_since(started);
  return report;
}

}  // namespace stasis
