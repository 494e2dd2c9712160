// SPDX-License-Identifier: Apache-2.0
#include "engine/restart.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "base/log.h"
#include "engine/environment_of_host.h"
#include "engine/fault_point.h"
#include "engine/inherited_state.h"
#include "engine/process_restore.h"
#include "resource/file_table/file_table.h"
#include "resource/kinds.h"
#include "resource/object_table.h"

namespace stasis {
namespace {

using Clock = std::chrono::steady_clock;

std::int64_t microseconds_since(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start).count();
}

// One restart. Whatever ends it early, its destructor leaves nothing behind.
class Restart {
 public:
  Restart(ImageReader& image, const RestartTreeRequest& request)
      : image_(image),
        request_(request),
        patience_(request.timeout, request.cancelled),
        objects_(object_table(ObjectUse::kRestart)),
        context_{.image = image,
                 .objects = objects_,
                 .deferred = deferred_,
                 .undo = undo_,
                 .policy = request.policy,
                 .patience = patience_,
                 .owner = request.owner} {}
  ~Restart();

  Result<RestoredTree> run();

 private:
  Result<void> stages();
  Result<void> stage(std::string_view name, Result<void> (Restart::*function)());
  Result<void> read_structure();
  Result<void> make_processes();
  Result<void> fill_memory();
  Result<void> restore_tasks();
  Result<void> verify_image();
  Result<void> drop_references();
  Result<void> release();

  ImageReader& image_;
  const RestartTreeRequest& request_;
  Patience patience_;
  Clock::time_point started_ = Clock::now();
  ObjHash objects_;
  DeferQueue deferred_;
  UndoQueue undo_;
  RestartContext context_;
  InheritedState inherited_;
  std::optional<RestartGate> gate_;
  std::vector<std::unique_ptr<ProcessRestore>> processes_;
  RestoredTree tree_;
};

Restart::~Restart() {
  // On the way out after a failure, too: first the references, then the processes, then the memory.
  objects_.clear();
  processes_.clear();
}

Result<void> Restart::stages() {
  STASIS_TRY(stage("check environment", nullptr));
  STASIS_TRY(check_environment(image_.environment()));
  STASIS_TRY(stage("read structure", &Restart::read_structure));
  // Every object exists, as far as it does not need others. No process exists yet.
  STASIS_TRY(stage("make processes", &Restart::make_processes));
  STASIS_TRY(stage("fill memory", &Restart::fill_memory));
  // The image has been read to its end.
  STASIS_TRY(stage("verify image", &Restart::verify_image));
  STASIS_TRY(stage("restore tasks", &Restart::restore_tasks));
  // Every task stands where it was, stopped.
  STASIS_TRY(stage("drop references", &Restart::drop_references));
  // Nobody but the tree holds its objects: a pipe that was half closed is so from the first moment on.
  return stage("release", &Restart::release);
}

Result<void> Restart::stage(std::string_view name, Result<void> (Restart::*function)()) {
  STASIS_TRY(patience_.check());
  STASIS_TRY(fault_point(name));
  log::debug("restart", "{} at {} us", name, microseconds_since(started_));
  return function ? (this->*function)() : Result<void>();
}

Result<RestoredTree> Restart::run() {
  STASIS_TRY(stages());
  tree_.report.total_us = microseconds_since(started_);
  return tree_;
}

Result<void> Restart::read_structure() {
  inherited_ = STASIS_TRY(InheritedState::of_this_process());
  context_.parking_base = STASIS_TRY(parking_base(image_));
  image_.set_object_handler([this](ObjRef ref, ObjType type) -> Result<void> {
    STASIS_TRY(objects_.restore_obj(&context_, ref, type));
    return {};
  });
  const TreeRecord tree = STASIS_TRY(image_.read<TreeRecord>());
  if (tree.processes != 1) return Error(Errc::kRefused, "process trees can't be restored yet");
  for (std::uint32_t i = 0; i < tree.processes; ++i) {
    ProcessRecord process = STASIS_TRY(image_.read<ProcessRecord>());
    std::vector<ThreadRecord> threads;
    for (std::uint32_t t = 0; t < process.threads; ++t) threads.push_back(STASIS_TRY(image_.read<ThreadRecord>()));
    processes_.push_back(STASIS_TRY(ProcessRestore::plan(std::move(process), std::move(threads), context_)));
    STASIS_TRY(processes_.back()->check_rights(inherited_, request_.owner));
  }
  tree_.report.objects = objects_.size();
  return image_.expect_end();
}

Result<void> Restart::make_processes() {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> taken;
  for (const auto& process : processes_) process->memory().add_ranges(taken);
  gate_.emplace(STASIS_TRY(RestartGate::create(taken)));
  for (const auto& process : processes_) {
    STASIS_TRY(process->create(*gate_, inherited_, patience_));
    tree_.report.processes += 1;
    tree_.report.threads += process->thread_count();
  }
  tree_.root = processes_.front()->pid();
  tree_.foreground = processes_.front()->record().foreground;
  return {};
}

Result<void> Restart::fill_memory() {
  std::vector<std::byte> pages;
  while (const auto chunk = STASIS_TRY(image_.next_chunk(pages))) {
    STASIS_TRY(patience_.check());
    const auto owner =
        std::ranges::find(processes_, chunk->object, [](const auto& process) { return process->record().memory; });
    if (owner == processes_.end()) {
      const auto object = context_.contents.find(chunk->object);
      if (object == context_.contents.end()) {
        return Error(Errc::kBadImage, fmt::format("pages of object {}, which has none", chunk->object.value()));
      }
      STASIS_TRY(object->second->fill(chunk->runs, pages));
      continue;
    }
    STASIS_TRY((*owner)->write_pages(chunk->runs, pages));
    tree_.report.pages += pages.size() / image_.environment().page_size;
  }
  for (const auto& process : processes_) STASIS_TRY(process->finish_memory(patience_));
  return {};
}

Result<void> Restart::verify_image() {
  STASIS_TRY(image_.finish());
  tree_.report.bytes = image_.progress().stored_bytes;
  return {};
}

Result<void> Restart::restore_tasks() {
  for (const auto& process : processes_) STASIS_TRY(process->restore(inherited_, context_));
  STASIS_TRY(deferred_.run());
  for (const auto& process : processes_) STASIS_TRY(process->stand_by(patience_));
  return {};
}

Result<void> Restart::drop_references() {
  const auto start = Clock::now();
  objects_.clear();
  tree_.report.clear_us = microseconds_since(start);
  return {};
}

Result<void> Restart::release() {
  patience_.carry_through();
  tree_.report.total_us = microseconds_since(started_);
  if (request_.before_release) request_.before_release(tree_);
  for (const auto& process : processes_) process->release();
  undo_.dismiss();
  objects_.free_later();
  return {};
}

}  // namespace

Result<std::vector<ImagePid>> image_pids(const ImageReader& image) {
  std::vector<ImagePid> pids;
  for (std::size_t i = 0; i < image.record_count(); ++i) {
    const RawRecord raw = image.record(i);
    if (raw.type != RecordType::kThread) continue;
    pids.push_back(STASIS_TRY(decode<ThreadRecord>(raw.payload, ThreadRecord::kName)).tid);
  }
  return pids;
}

Result<RestoredTree> restart_tree(ImageReader& image, const RestartTreeRequest& request) {
  return Restart(image, request).run();
}

}  // namespace stasis
