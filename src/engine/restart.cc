// SPDX-License-Identifier: Apache-2.0
#include "engine/restart.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <set>

#include "base/log.h"
#include "engine/environment_of_host.h"
#include "engine/fault_point.h"
#include "engine/inherited_state.h"
#include "engine/tree_restore.h"
#include "image/page_runs.h"
#include "kernel/descriptor_limit.h"
#include "resource/file_table/file_table.h"
#include "resource/kinds.h"
#include "resource/object_table.h"
#include "work/side_by_side.h"

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
  Result<void> plan_lazy_memory();
  Result<void> make_processes();
  Result<void> fill_memory();
  std::vector<std::size_t> order_of_chunks() const;
  Result<void> fill_from_file();
  Result<void> fill_from_stream();
  Result<RestoredObject*> owner_of_pages(ObjRef ref);
  Result<void> fill(RestoredObject* object, std::span<const PageRun> runs, std::span<const std::byte> pages) const;
  std::vector<PageRun> lazy_part(const ChunkInfo& chunk) const;
  Result<void> fill_rest(const ChunkInfo& chunk, std::span<const PageRun> lazy, std::span<const std::byte> pages) const;
  Result<void> step_memory();
  Result<void> restore_tasks();
  Result<void> verify_image();
  Result<void> hand_over_memory();
  Result<void> drop_references();
  Result<void> release();

  ImageReader& image_;
  const RestartTreeRequest& request_;
  Patience patience_;
  kernel::DescriptorLimit descriptor_limit_;
  Clock::time_point started_ = Clock::now();
  ObjHash objects_;
  DeferQueue deferred_;
  UndoQueue undo_;
  RestartContext context_;
  InheritedState inherited_;
  TreeRestore processes_;
  std::size_t filling_ = 0;                                  // the process whose memory is being filled
  std::map<std::int32_t, std::vector<PageRun>> lazy_areas_;  // by object
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
  // Every process exists: none inherits what is handed over now.
  STASIS_TRY(stage("hand over memory", &Restart::hand_over_memory));
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
  if (auto done = stages(); !done) {
    if (request_.filled) request_.filled();
    return request_.lazy ? request_.lazy->explain(done.error()) : done.error();
  }
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
  for (const auto& [number, ours] : context_.policy.inherit_fds) {
    if (context_.inherited.contains(number)) continue;
    return Error(Errc::kInvalidArgument,
                 fmt::format("--inherit-fd {}={}: no process of the image has a descriptor {}", number, ours, number))
        .with_help("stasis inspect shows them");
  }
  tree_.report.objects = objects_.size();
  STASIS_TRY(image_.expect_end());
  return request_.lazy ? plan_lazy_memory() : Result<void>();
}

Result<void> Restart::plan_lazy_memory() {
  const auto heirs_of = [&](const RestoredMemory& memory) {
    std::vector<const RestoredMemory*> heirs;
    for (std::size_t i = 0; i < processes_.size(); ++i) {
      const RestoredMemory& other = processes_.process(i).memory();
      if (other.origin() == &memory) heirs.push_back(&other);
    }
    return heirs;
  };
  for (std::size_t i = 0; i < processes_.size(); ++i) {
    const ProcessRestore& process = processes_.process(i);
    if (!process.owns_memory()) continue;
    const ObjRef object = process.record().memory;
    const auto pages = STASIS_TRY(image_.page_runs(object));
    auto areas = process.memory().lazy_areas(pages, LazyRestart::kLeastBytes, heirs_of(process.memory()));
    tree_.report.lazy_pages += total_length(intersect(pages, areas)) / image_.environment().page_size;
    if (!areas.empty()) lazy_areas_.emplace(object.value(), std::move(areas));
  }
  return {};
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

// The process whose pages come next is mapped; the one before it is finished with its last.
Result<void> Restart::step_memory() {
  STASIS_TRY(processes_.finish_memory(filling_));
  return ++filling_ < processes_.size() ? processes_.map_memory(filling_) : Result<void>();
}

// Whose chunks come now: those of processes in their order, those of other objects anywhere. Null: the process
// `filling_`.
Result<RestoredObject*> Restart::owner_of_pages(ObjRef ref) {
  std::size_t owner = filling_;
  while (owner < processes_.size() && processes_.process(owner).record().memory != ref) ++owner;
  if (owner == processes_.size()) {
    const auto object = objects_.find(ref);
    if (object && object->object() != nullptr) return static_cast<RestoredObject*>(object->object());
    return Error(Errc::kBadImage, fmt::format("pages of object {}, which has none (any more)", ref.value()));
  }
  while (filling_ < owner) STASIS_TRY(step_memory());
  return nullptr;
}

Result<void> Restart::fill(RestoredObject* object, std::span<const PageRun> runs,
                           std::span<const std::byte> pages) const {
  return object ? object->fill(runs, pages) : processes_.write_pages(filling_, runs, pages);
}

std::vector<PageRun> Restart::lazy_part(const ChunkInfo& chunk) const {
  const auto found = lazy_areas_.find(chunk.object.value());
  return found == lazy_areas_.end() ? std::vector<PageRun>() : intersect(chunk.runs, found->second);
}

// What is not to come later.
Result<void> Restart::fill_rest(const ChunkInfo& chunk, std::span<const PageRun> lazy,
                                std::span<const std::byte> pages) const {
  for (const PageRun& run : chunk.runs) {
    for (const PageRun& part : subtract(std::span(&run, 1), lazy)) {
      STASIS_TRY(fill(nullptr, std::span(&part, 1), pages.subspan(part.start - run.start, part.length)));
    }
    pages = pages.subspan(run.length);
  }
  return {};
}

Result<void> Restart::fill_from_stream() {
  std::vector<std::byte> pages;
  while (const auto chunk = STASIS_TRY(image_.next_chunk(pages))) {
    STASIS_TRY(patience_.check());
    RestoredObject* const object = STASIS_TRY(owner_of_pages(chunk->object));
    STASIS_TRY(fill(object, chunk->runs, pages));
    if (!object) tree_.report.pages += pages.size() / image_.environment().page_size;
  }
  return {};
}

// A snapshot may have saved some pages of all processes first: of a file, those of each process are taken together.
std::vector<std::size_t> Restart::order_of_chunks() const {
  std::map<ObjRef, std::size_t> turn;  // of the processes
  for (std::size_t i = 0; i < processes_.size(); ++i) turn.emplace(processes_.process(i).record().memory, i + 1);
  const auto turn_of = [&](std::size_t chunk) {
    const auto found = turn.find(image_.chunks()[chunk].object);
    return found == turn.end() ? 0 : found->second;
  };
  std::vector<std::size_t> order(image_.chunks().size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, {}, turn_of);
  return order;
}

// Of a file, the chunks of a process are read, verified and filled in several at once.
Result<void> Restart::fill_from_file() {
  const auto chunks = image_.chunks();
  std::vector<std::size_t> order = order_of_chunks();
  for (const std::size_t i : order) {
    if (chunks[i].runs.empty()) STASIS_TRY(image_.verify_chunk(i));  // room that is not used
  }
  std::erase_if(order, [&](std::size_t i) { return chunks[i].runs.empty(); });
  std::vector<std::vector<std::byte>> buffers(most_side_by_side());
  for (auto first = order.begin(), end = first; first != order.end(); first = end) {
    const ObjRef owner = chunks[*first].object;
    RestoredObject* const object = STASIS_TRY(owner_of_pages(owner));
    end = std::find_if(first, order.end(), [&](std::size_t i) { return chunks[i].object != owner; });
    const std::span<const std::size_t> own(first, end);
    for (const std::size_t i : own) {
      if (!object) tree_.report.pages += chunks[i].raw_size / image_.environment().page_size;
    }
    const auto fill_one = [&](std::size_t i, std::size_t place) -> Result<void> {
      STASIS_TRY(patience_.check());
      const ChunkInfo& chunk = chunks[own[i]];
      const std::vector<PageRun> lazy = lazy_part(chunk);
      if (!lazy.empty() && total_length(lazy) == chunk.raw_size) return {};
      buffers[place].resize(std::max<std::size_t>(buffers[place].size(), chunk.raw_size));
      const auto pages = std::span(buffers[place]).first(chunk.raw_size);
      STASIS_TRY(image_.read_chunk(own[i], pages));
      return lazy.empty() ? fill(object, chunk.runs, pages) : fill_rest(chunk, lazy, pages);
    };
    // What another kind of object does with its pages is not made for several threads.
    STASIS_TRY(side_by_side({.count = own.size(), .worth_a_thread = object ? own.size() : 2}, fill_one));
  }
  return {};
}

Result<void> Restart::fill_memory() {
  STASIS_TRY(processes_.map_memory(filling_));
  STASIS_TRY(image_.seekable() ? fill_from_file() : fill_from_stream());
  while (filling_ < processes_.size()) STASIS_TRY(step_memory());
  return {};
}

Result<void> Restart::verify_image() {
  STASIS_TRY(image_.finish());
  tree_.report.bytes = image_.progress().stored_bytes;
  if (request_.filled) request_.filled();
  return {};
}

Result<void> Restart::hand_over_memory() {
  if (!request_.lazy) return {};
  for (std::size_t i = 0; i < processes_.size(); ++i) {
    ProcessRestore& process = processes_.process(i);
    STASIS_TRY(request_.lazy->add_process(process.pid()));
    const auto areas = lazy_areas_.find(process.record().memory.value());
    if (!process.owns_memory() || areas == lazy_areas_.end()) continue;
    kernel::Userfaultfd uffd = STASIS_TRY(process.open_userfaultfd(patience_));
    STASIS_TRY(LazyRestart::enable(uffd));
    for (const PageRun& area : areas->second) {
      STASIS_TRY(
          uffd.register_range({.start = area.start, .end = area.start + area.length}, kernel::Userfaultfd::kMissing));
    }
    STASIS_TRY(request_.lazy->add_memory(process.record().memory, uffd, areas->second));
  }
  tree_.report.pages -= tree_.report.lazy_pages;
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
  if (request_.before_release) STASIS_TRY(request_.before_release(tree_));
  if (request_.lazy) STASIS_TRY(request_.lazy->release());
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
