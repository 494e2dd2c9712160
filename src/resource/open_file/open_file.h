// SPDX-License-Identifier: Apache-2.0
// OpenFile: one open file description of the tree as a checkpoint sees it, and FileKind: the row by which the engine
// treats a kind of file without knowing it. Adding a kind of descriptor is one folder under src/resource and one row in
// src/resource/file_kinds.cc.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/unique_fd.h"
#include "kernel/proc_fdinfo.h"
#include "resource/obstacle.h"
#include "stasis/objhash.h"

namespace stasis {

struct FileKind;
struct OpenFileTable;
struct CheckpointPolicy;

// Who refers to an open file description: one descriptor of one process.
struct FileHolder {
  HostPid pid;
  int fd = -1;
  bool close_on_exec = false;
};

// One open file description. Lives as long as the checkpoint; its address is its key in the object hash.
struct OpenFile {
  std::vector<FileHolder> holders;  // at least one; those that share it by dup, fork or SCM_RIGHTS
  std::string link;                 // what /proc/PID/fd/N says
  struct ::stat stat{};
  kernel::FdInfo info;  // offset, flags, and the kind's own lines
  UniqueFd held;        // our duplicate (pidfd_getfd); empty in `stasis check`, which takes none
  const FileKind* kind = nullptr;

  HostPid pid() const { return holders.front().pid; }
  int fd() const { return holders.front().fd; }
  int access_mode() const { return static_cast<int>(info.flags) & O_ACCMODE; }
  bool is_path_only() const { return (info.flags & O_PATH) != 0; }
  Obstacle obstacle(Errc code, std::string why, std::string help = {}) const {
    return {.code = code, .pid = pid(), .fd = fd(), .object = link, .why = std::move(why), .help = std::move(help)};
  }
};

// All open file descriptions of the tree: a pipe's kind looks here for its other end.
struct OpenFileTable {
  std::vector<std::unique_ptr<OpenFile>> files;
};

// One row of the table of file kinds.
struct FileKind {
  ObjOps ops;  // name, grab, drop, checkpoint (object = OpenFile*), restore (yields RestoredFile*)
  // Is this file of my kind? Asked in table order; the first that says yes has it. Must not block or touch the file.
  bool (*claims)(const OpenFile& file, const OpenFileTable& tree);
  // What keeps it from being saved, if anything does. Null: nothing ever does.
  std::optional<Obstacle> (*obstacle)(const OpenFile& file, const OpenFileTable& tree, const CheckpointPolicy& policy);
};

// The row for a file; null where none claims it (then it is refused by its link name).
const FileKind* find_file_kind(const OpenFile& file, const OpenFileTable& tree);

}  // namespace stasis
