// SPDX-License-Identifier: Apache-2.0
// OpenFile: one open file description of the tree as a checkpoint sees it, and FileKind: the row by which the engine
// treats a kind of file without knowing it. Adding a kind of descriptor is one folder under src/resource and one row in
// src/resource/file_kinds.cc.
#pragma once

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <compare>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/unique_fd.h"
#include "kernel/inet_address.h"
#include "kernel/proc_fdinfo.h"
#include "kernel/tcp_repair.h"
#include "kernel/unix_diag.h"
#include "resource/obstacle.h"
#include "resource/open_file/outside.h"
#include "stasis/objhash.h"

namespace stasis {

struct OpenFileTable;
struct OpenInode;
struct CheckpointPolicy;

// Who refers to an open file description: one descriptor of one process.
struct FileHolder {
  HostPid pid;
  int fd = -1;
  bool close_on_exec = false;
  HostPid live_tid{};  // a thread that has the descriptor where the leader has ended
  // Whom to ask for it, in /proc or by kcmp.
  HostPid task() const { return live_tid.value() != 0 ? live_tid : pid; }
};

struct OpenFile;

// One message that lies unread in a unix socket.
struct SocketMessage {
  std::vector<std::byte> bytes;
  std::vector<OpenFile*> files;  // in flight (SCM_RIGHTS)
  std::optional<ucred> credentials;
  std::string sender;  // name of the socket that sent it
};

// One open file description. Lives as long as the checkpoint; its address is its key in the object hash.
struct OpenFile {
  // At least one; those that share it by dup, fork or SCM_RIGHTS. Of a file that is only in flight: we ourselves, by
  // our duplicate.
  std::vector<FileHolder> holders;
  std::string link;                       // what /proc/PID/fd/N says
  mutable bool link_leads_to_it = false;  // find_name() has seen that it does
  struct ::stat stat{};
  kernel::FdInfo info;  // offset, flags, locks of the description, and the kind's own lines
  UniqueFd held;        // our duplicate (pidfd_getfd); empty in `stasis check`, which takes none
  OpenInode* inode = nullptr;
  std::optional<std::uint64_t> peer_inode;  // of a connected unix socket
  std::optional<kernel::UnixSocketState> unix_socket;
  std::optional<kernel::InetSocketState> inet_socket;
  std::optional<kernel::TcpConnection> tcp;  // once it was read together with its other end
  std::vector<SocketMessage> queue;          // of a unix socket; unread messages, where we hold a duplicate
  std::optional<Error> unreadable;           // why the queue is not known
  const OpenFile* carrier = nullptr;         // the socket in whose queue it lies, if no process of the tree has it

  HostPid pid() const { return holders.front().pid; }
  int fd() const { return holders.front().fd; }
  int access_mode() const { return static_cast<int>(info.flags) & O_ACCMODE; }
  bool is_path_only() const { return (info.flags & O_PATH) != 0; }
  bool reads() const { return !is_path_only() && access_mode() != O_WRONLY; }
  bool writes() const { return !is_path_only() && access_mode() != O_RDONLY; }
  // The lowest descriptor number that any holder has for it.
  int lowest_number() const;
  // Is it somebody's descriptor 0, 1 or 2?
  bool is_standard_stream() const { return lowest_number() <= 2; }
  Obstacle obstacle(Errc code, std::string why, std::string help = {}) const;
};

struct FileId {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  auto operator<=>(const FileId&) const = default;
};

// One mapping of a file that no path leads to.
struct MappedView {
  HostPid pid;
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t offset = 0;            // in the file
  bool shared = true;                  // what is written there reaches the file
  std::uint64_t kernel_page_size = 0;  // of huge pages, else the usual one
};

// All open file descriptions of one inode: the ends of a pipe, the openings of a file. Its address is the key of what
// they share. (All eventfds, timerfds... of a system have the same inode.) A file that is mapped and that no path leads
// to (shared memory, deleted files) has one, too, whether a descriptor leads to it or not.
struct OpenInode {
  FileId id;
  std::vector<OpenFile*> files;
  std::unique_ptr<OpenFile> mapped;  // stands for the file if no descriptor does; its holder's number is -1
  std::vector<MappedView> views;

  // One of its openings.
  const OpenFile& any() const { return files.empty() ? *mapped : *files.front(); }

  bool has_reader() const;
  bool has_writer() const;
};

// The descriptors of one process.
struct DescriptorTable {
  struct Slot {
    int fd = -1;
    bool close_on_exec = false;
    OpenFile* file = nullptr;
    std::vector<kernel::FileLock> locks;  // POSIX record locks that the process took by this descriptor
  };
  HostPid pid;
  std::vector<Slot> slots;  // ascending
};

// All open file descriptions of the tree: a pipe's kind looks here for its other end.
struct OpenFileTable {
  std::vector<std::unique_ptr<OpenFile>> files;
  std::vector<std::unique_ptr<OpenInode>> inodes;
  std::vector<DescriptorTable> descriptors;  // one per process, in the order in which they were asked for
  OutsideHolders outside;                    // who else has the tree's pipes and sockets
  std::set<std::uint64_t> terminals;         // device numbers of the processes' controlling terminals
  std::set<FileId> mapped_writable;          // files that the tree can write through mappings
  std::map<std::pair<HostPid, std::uint64_t>, OpenInode*> mappings;  // by their start: those of files without a path

  // Can the tree write the file, through this or another opening or through a mapping?
  bool tree_writes(const OpenFile& file) const;
  // The file behind a mapping; null if a path leads to it, or if it is no file.
  OpenInode* find_mapped(HostPid pid, std::uint64_t start) const;
  // The socket with that inode number, if the tree has it.
  OpenFile* find_socket(std::uint64_t inode) const;
};

// One row of the table of file kinds.
struct FileKind {
  ObjOps ops;  // type, name, grab, drop, checkpoint (object = OpenFile*), restore (yields RestoredFile*)
  // Is this file of my kind? Asked in table order; the first that says yes has it. Must not block or touch the file.
  bool (*claims)(const OpenFile& file, const OpenFileTable& tree);
  // What keeps it from being saved, if anything does. Null: nothing ever does.
  std::optional<Obstacle> (*obstacle)(const OpenFile& file, const OpenFileTable& tree, const CheckpointPolicy& policy);
  // Does its checkpoint save flock(2) and open-file-description locks? Else a file with such a lock is refused.
  bool saves_locks = false;
};

// The row for a file; null where none claims it (then it is refused by its link name).
const FileKind* find_file_kind(const OpenFile& file, const OpenFileTable& tree);

// Everything that keeps a file of the tree from being saved, one entry per open file description at most.
Obstacles collect_obstacles(const OpenFileTable& table, const CheckpointPolicy& policy);

}  // namespace stasis
