// SPDX-License-Identifier: Apache-2.0
#include "engine/restart.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "base/log.h"
#include "engine/environment_of_host.h"
#include "engine/fault_point.h"
#include "engine/inherited_state.h"
#include "engine/tree_restore.h"
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
                 .owner = request.owner},
        processes_(context_) {}
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
  TreeRestore processes_;
  RestoredTree tree_;
};

Restart::~Restart() {
  // On the way out after a failure, too: first the references, then (by their destructor) the processes, then the
  // memory.
  objects_.clear();
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
  STASIS_TRY(processes_.read(image_, inherited_));
  tree_.report.objects = objects_.size();
  return image_.expect_end();
}

Result<void> Restart::make_processes() {
  STASIS_TRY(processes_.make());
  tree_.root = processes_.root();
  for (std::size_t i = 0; i < processes_.size(); ++i) {
    tree_.report.processes += 1;
    tree_.report.threads += processes_.process(i).thread_count();
  }
  return {};
}

// Chunks come in the order of the processes; those of other objects may come anywhere.
Result<void> Restart::fill_memory() {
  std::vector<std::byte> pages;
  std::size_t at = 0;
  STASIS_TRY(processes_.map_memory(at));
  const auto step = [&]() -> Result<void> {
    STASIS_TRY(processes_.finish_memory(at));
    return ++at < processes_.size() ? processes_.map_memory(at) : Result<void>();
  };
  while (const auto chunk = STASIS_TRY(image_.next_chunk(pages))) {
    STASIS_TRY(patience_.check());
    std::size_t owner = at;
    while (owner < processes_.size() && processes_.process(owner).record().memory != chunk->object) ++owner;
    if (owner == processes_.size()) {
      const auto object = objects_.find(chunk->object);
      if (!object || object->object() == nullptr) {
        return Error(Errc::kBadImage,
                     fmt::format("pages of object {}, which has none (any more)", chunk->object.value()));
      }
      STASIS_TRY(static_cast<RestoredObject*>(object->object())->fill(chunk->runs, pages));
      continue;
    }
    while (at < owner) STASIS_TRY(step());
    STASIS_TRY(processes_.write_pages(at, chunk->runs, pages));
    tree_.report.pages += pages.size() / image_.environment().page_size;
  }
  while (at < processes_.size()) STASIS_TRY(step());
  return {};
}

Result<void> Restart::verify_image() {
  STASIS_TRY(image_.finish());
  tree_.report.bytes = image_.progress().stored_bytes;
  return {};
}

Result<void> Restart::restore_tasks() {
  STASIS_TRY(processes_.settle_kinship());
  STASIS_TRY(processes_.restore());
  STASIS_TRY(deferred_.run());
  return processes_.stand_by();
}

Result<void> Restart::drop_references() {
  const std::size_t objects = objects_.size();
  const auto start = Clock::now();
  objects_.clear();
  tree_.report.clear_us = microseconds_since(start);
  log::debug("restart", "references to {} objects dropped in {} ns", objects, (Clock::now() - start).count());
  return {};
}

Result<void> Restart::release() {
  patience_.carry_through();
  tree_.report.total_us = microseconds_since(started_);
  tree_.foreground_group = processes_.foreground_group();
  if (request_.before_release) request_.before_release(tree_);
  processes_.release();
  undo_.dismiss();
  const auto start = Clock::now();
  objects_.free_later();
  log::debug("restart", "their memory freed in {} ns", (Clock::now() - start).count());
  return {};
}

}  // namespace

Result<std::vector<ImagePid>> image_pids(const ImageReader& image) {
  std::set<ImagePid> pids;
  std::vector<ProcessRecord> processes;
  for (std::size_t i = 0; i < image.record_count(); ++i) {
    const RawRecord raw = image.record(i);
    if (raw.type == RecordType::kThread) {
      pids.insert(STASIS_TRY(decode<ThreadRecord>(raw.payload, ThreadRecord::kName)).tid);
    } else if (raw.type == RecordType::kProcess) {
      processes.push_back(STASIS_TRY(decode<ProcessRecord>(raw.payload, ProcessRecord::kName)));
    }
  }
  const Surroundings around(processes);
  for (const ProcessRecord& process : processes) {
    pids.insert(process.pid);
    if (!around.have_session(process.session)) pids.insert(process.session);
    if (!around.have_group(process.process_group)) pids.insert(process.process_group);
  }
  return std::vector(pids.begin(), pids.end());
}

Result<RestoredTree> restart_tree(ImageReader& image, const RestartTreeRequest& request) {
  return Restart(image, request).run();
}

}  // namespace stasis
