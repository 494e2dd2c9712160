// SPDX-License-Identifier: Apache-2.0
// What the resource kinds get to see of a running restart. Passed as the context of ObjHash::restore_obj.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/unique_fd.h"
#include "kernel/path_open.h"
#include "resource/credentials/image_owner.h"
#include "stasis/defer_queue.h"
#include "stasis/image.h"
#include "stasis/objhash.h"
#include "tracee/patience.h"

namespace stasis {

// Base of everything that a restore function hands to the object hash; dropping the hash's reference deletes it.
// (A checkpoint's hash only borrows; see object_table.h.)
struct RestoredObject {
  virtual ~RestoredObject() = default;
  // Takes a chunk of the image that belongs to this object. Error: kBadImage; it has no contents.
  virtual Result<void> fill(std::span<const PageRun> runs, std::span<const std::byte> pages);
  static void drop(void* object, LastRef) { delete static_cast<RestoredObject*>(object); }
};

// What a restore function returns: ownership goes to the hash.
template <class T>
void* to_object(std::unique_ptr<T> object) {
  return static_cast<RestoredObject*>(object.release());
}
// The object of an objref, which must have been restored as that kind.
template <class T>
Result<T*> fetch_restored(const ObjHash& objects, ObjRef ref, ObjType type) {
  return static_cast<T*>(STASIS_TRY(objects.fetch<RestoredObject>(ref, type)));
}

// A file without a path made again: openings and mappings are made from it.
struct RestoredMapping : RestoredObject {
  UniqueFd fd;         // parked; open for reading and writing
  UniqueFd read_only;  // parked; for mappings that must never become writable; see RestartContext::reading_end
  // A System V segment is attached, not mapped.
  struct Segment {
    int id = -1;
    std::uint64_t size = 0;  // whole pages
  };
  virtual std::optional<Segment> segment() const { return std::nullopt; }
};

// An open file description made again. Tasks get it by dup from the coordinator's table, which they inherit.
struct RestoredFile : RestoredObject {
  UniqueFd fd;  // parked; empty: there is nothing (yet) to give
  // The descriptor (of the coordinator) that becomes number `number` in a task; -1: none, see `unbound`.
  virtual int descriptor_for(int /*number*/) const { return fd.get(); }
  // What only a task itself can open, when all processes exist: the call that yields the descriptor, once in each task.
  struct OwnCall {
    long number = 0;
    std::array<std::uint64_t, 2> arguments{};
    std::string path{};  // not empty: that is opened, with the flags and at the offset that the arguments are
  };
  virtual std::optional<OwnCall> own_call() const { return std::nullopt; }
  // Of an epoll set: what a process must watch by it itself, as the kernel remembers who asked (a signalfd tells the
  // process that watches it of its signals). Once: by the first process that has both, when the set is filled.
  struct OwnWatch {
    int number = -1;
    const RestoredFile* file = nullptr;
    std::uint32_t events = 0;
    std::uint64_t data = 0;
    bool done = false;
  };
  virtual std::span<OwnWatch> own_watches() { return {}; }
  // Why there is no descriptor for some numbers, and what helps.
  virtual Error unbound(int number) const;
  // --inherit-fd: replaces the file, whatever it was, by another one.
  virtual void replace(UniqueFd other) { fd = std::move(other); }
};

enum class FilePolicy { kStrict, kRollback, kRelaxed };
enum class SessionPolicy { kForeground, kDetached };

struct RestartPolicy {
  FilePolicy files = FilePolicy::kStrict;
  SessionPolicy session = SessionPolicy::kForeground;
  std::map<int, int> inherit_fds;  // --inherit-fd N=M: the tree's descriptor N becomes the caller's descriptor M
};

// A session whose controlling terminal is one of the tree's own.
struct ControllingTerminal {
  ImagePid session;
  ImagePid foreground;  // process group; 0: none that is known
  int terminal = -1;    // the coordinator's; lives as long as the object hash
};

struct RestartContext {
  ImageReader& image;
  ObjHash& objects;
  DeferQueue& deferred;  // run when all tasks exist and before any of them runs
  UndoQueue& undo;       // run in reverse if the restart fails; dismissed when it succeeds
  const RestartPolicy& policy;
  const Patience& patience;
  int parking_base = 0;  // descriptors of the coordinator lie at or above: no number of the tree is taken
  ImageOwner owner;      // with whose rights paths from the image are opened
  std::vector<ControllingTerminal> controlling;
  std::set<int> inherited;  // numbers of policy.inherit_fds that were found in the tree

  static RestartContext& of(void* context) { return *static_cast<RestartContext*>(context); }
  // Moves a descriptor out of the way of the tree's numbers.
  Result<UniqueFd> park(UniqueFd fd) const;
  // The same with a duplicate of somebody else's descriptor.
  Result<UniqueFd> park_duplicate(int fd) const;
  // Opens with the rights the image grants; what every kind must use for paths from an image. Follows no magic link.
  // Not parked. Missing: kFileMissing.
  Result<UniqueFd> open_path(const std::string& path, int flags, mode_t mode = 0) const;
  // An opening of it for reading only.
  Result<int> reading_end(RestoredMapping& file) const;
  // mkdir(2) with the same rights.
  Result<void> make_directory(const std::string& path, mode_t mode) const;
  // While it lives, this thread has those rights on files; nothing if they are our own.
  using Rights = std::optional<kernel::ScopedFileCredentials>;
  Result<Rights> take_rights() const;
};

}  // namespace stasis
