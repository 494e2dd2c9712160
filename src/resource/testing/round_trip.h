// SPDX-License-Identifier: Apache-2.0
// For unit tests of file kinds: the test's own descriptors are gathered, saved into an image, and restored from it.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "image/sample_image.h"
#include "kernel/pidfd.h"
#include "resource/checkpoint_context.h"
#include "resource/file_kinds.h"
#include "resource/object_table.h"
#include "resource/open_file/gather.h"
#include "resource/restart_context.h"

namespace stasis::testing {

inline OpenFileTable gather_own_files(Hold hold = Hold::kTake, HostPid pid = HostPid(::getpid())) {
  const auto proc = kernel::ProcDir::open(pid);
  const auto pidfd = kernel::pidfd_open(pid);
  EXPECT_TRUE(proc && pidfd);
  const ProcessHandle self{&*proc, &*pidfd};
  auto table = gather_open_files(std::span(&self, 1), hold);
  EXPECT_TRUE(table) << table.error().to_string();
  return *std::move(table);
}

inline OpenFile* find_file(const OpenFileTable& table, int fd) {
  for (const auto& slot : table.descriptors.front().slots) {
    if (slot.fd == fd) return slot.file;
  }
  return nullptr;
}

// An image without any object.
inline ImageReader empty_image(const sample::ScratchDir& dir) {
  const auto write = [&]() -> Result<void> {
    ImageWriter writer = STASIS_TRY(ImageWriter::create(dir / "empty", {.durability = Durability::kFast}));
    STASIS_TRY(writer.write(sample::environment()));
    STASIS_TRY(writer.end_structure());
    return writer.publish();
  };
  EXPECT_TRUE(write());
  return *ImageReader::open(dir / "empty", {});
}

// Whether the restart is completed in the end, or given up after everything was done.
enum class RestartEnd { kGivenUp, kCompleted };

// Restores one object from an image that holds nothing else, as a hostile one may.
template <SchemaRecord T>
Result<void> restore_record(const T& record, ObjType type, RestartEnd end = RestartEnd::kGivenUp) {
  const sample::ScratchDir dir;
  ImageWriter writer = STASIS_TRY(ImageWriter::create(dir / "image", {.durability = Durability::kFast}));
  STASIS_TRY(writer.write(sample::environment()));
  STASIS_TRY(writer.begin_object(ObjRef(1), type));
  STASIS_TRY(writer.write(record));
  STASIS_TRY(writer.end_structure());
  STASIS_TRY(writer.publish());
  ImageReader image = STASIS_TRY(ImageReader::open(dir / "image", {}));
  ObjHash objects(object_table(ObjectUse::kRestart));
  DeferQueue deferred;
  UndoQueue undo;
  const RestartPolicy policy;
  const Patience patience(std::chrono::seconds(60), nullptr);
  RestartContext context{.image = image,
                         .objects = objects,
                         .deferred = deferred,
                         .undo = undo,
                         .policy = policy,
                         .patience = patience,
                         .parking_base = 300};
  image.set_object_handler([&](ObjRef ref, ObjType object_type) -> Result<void> {
    STASIS_TRY(objects.restore_obj(&context, ref, object_type));
    return {};
  });
  STASIS_TRY(image.peek_type());
  STASIS_TRY(deferred.run());
  if (end == RestartEnd::kCompleted) undo.dismiss();
  return {};
}

// save() some files, close them, restore() the image, look at them by fetch().
class RoundTrip {
 public:
  ~RoundTrip() {
    if (restored_) restored_->clear();
  }
  // Saves the open files behind these descriptors of the test itself; `refs` gets their objrefs.
  Result<void> save(std::initializer_list<int> fds, const CheckpointPolicy& policy = {}) {
    const OpenFileTable table = gather_own_files();
    ImageWriter writer = STASIS_TRY(ImageWriter::create(dir_ / "image", {.durability = Durability::kFast}));
    STASIS_TRY(writer.write(sample::environment()));
    ObjHash objects(object_table(ObjectUse::kCheckpoint));
    DeferQueue deferred, farewell, contents;
    const Patience patience(std::chrono::seconds(60), nullptr);
    CheckpointContext context{writer, objects, deferred, farewell, contents, table, policy, patience};
    for (const int fd : fds) {
      OpenFile* const file = find_file(table, fd);
      const FileKind* const kind = file != nullptr ? find_file_kind(*file, table) : nullptr;
      if (kind == nullptr) return Error(Errc::kUnsupportedObject, "no kind for descriptor " + std::to_string(fd));
      const auto obstacle = kind->obstacle != nullptr ? kind->obstacle(*file, table, policy) : std::nullopt;
      if (obstacle) return obstacle->to_error();
      const ObjRef ref = STASIS_TRY(objects.checkpoint_obj(&context, file, kind->ops.type));
      saved_.push_back({ref, kind->ops.type});
    }
    STASIS_TRY(writer.end_structure());
    STASIS_TRY(contents.run());
    return writer.publish();
  }
  // Restores every object of the image, and runs what was put off.
  Result<void> restore(const RestartPolicy& policy = {}) {
    policy_ = policy;
    image_.emplace(STASIS_TRY(ImageReader::open(dir_ / "image", {})));
    restored_.emplace(object_table(ObjectUse::kRestart));
    const Patience patience(std::chrono::seconds(60), nullptr);
    RestartContext context{.image = *image_,
                           .objects = *restored_,
                           .deferred = deferred_,
                           .undo = undo_,
                           .policy = policy_,
                           .patience = patience,
                           .parking_base = kParkingBase};
    image_->set_object_handler([&](ObjRef ref, ObjType type) -> Result<void> {
      STASIS_TRY(restored_->restore_obj(&context, ref, type));
      return {};
    });
    STASIS_TRY(image_->peek_type());
    std::vector<std::byte> pages;
    while (const auto chunk = STASIS_TRY(image_->next_chunk(pages))) {
      const auto object = restored_->find(chunk->object);
      if (!object) return Error(Errc::kNotFound, "contents of an object that is not there");
      STASIS_TRY(static_cast<RestoredObject*>(object->object())->fill(chunk->runs, pages));
    }
    STASIS_TRY(deferred_.run());
    undo_.dismiss();
    return {};
  }
  // The n-th of the saved files, made again.
  RestoredFile* file(std::size_t n) {
    auto found = fetch_restored<RestoredFile>(*restored_, saved_[n].ref, saved_[n].type);
    EXPECT_TRUE(found) << found.error().to_string();
    return found ? *found : nullptr;
  }
  int fd(std::size_t n) { return file(n)->descriptor_for(-1); }
  // A duplicate that stays when the hash is cleared, as a task's own would.
  UniqueFd keep(std::size_t n) { return UniqueFd(::fcntl(fd(n), F_DUPFD_CLOEXEC, 0)); }
  ObjHash& objects() { return *restored_; }
  const sample::ScratchDir& dir() const { return dir_; }

  static constexpr int kParkingBase = 300;

 private:
  struct Saved {
    ObjRef ref;
    ObjType type;
  };
  sample::ScratchDir dir_;
  std::vector<Saved> saved_;
  RestartPolicy policy_;
  DeferQueue deferred_;
  UndoQueue undo_;
  std::optional<ImageReader> image_;
  std::optional<ObjHash> restored_;
};

}  // namespace stasis::testing
