// SPDX-License-Identifier: Apache-2.0
#include "resource/open_file/gather.h"

#include <fmt/core.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <tuple>

#include "kernel/device_number.h"
#include "kernel/kcmp.h"
#include "kernel/pidfd.h"
#include "kernel/socket_queue.h"
#include "kernel/unix_diag.h"
#include "resource/message_queue/message_queue.h"
#include "resource/open_file/mapped_files.h"
#include "work/side_by_side.h"

namespace stasis {
namespace {

// One descriptor of one process, before it is known with whom it shares its open file description.
struct Descriptor {
  const ProcessHandle* process;
  std::size_t process_index;
  int fd;
  std::string link;
  struct ::stat stat;
  kernel::FdInfo info;
  UniqueFd held;  // our duplicate, where the process's descriptors can be had

  // Descriptors that share an open file description agree in this. (The offset is left out: an outsider that shares the
  // description may move it while we look.)
  auto candidate_key() const { return std::tuple(stat.st_dev, stat.st_ino, info.flags & ~unsigned{O_CLOEXEC}); }
  FileId id() const { return {stat.st_dev, stat.st_ino}; }
};

Result<UniqueFd> take_duplicate(const UniqueFd& pidfd, HostPid pid, int fd, const std::string& link) {
  auto held = kernel::pidfd_getfd(pidfd.get(), fd);
  if (!held) return std::move(held).error().note(fmt::format("pid {} fd {} ({})", pid.value(), fd, link));
  return held;
}

Result<Descriptor> look_at(const ProcessHandle& process, std::size_t index, int fd, Hold hold) {
  const kernel::ProcDir& proc = *process.proc;
  Descriptor d{&process, index, fd, STASIS_TRY(proc.fd_link(fd)), {}, {}, {}};
  if (hold == Hold::kTake && process.pidfd != nullptr)
    d.held = STASIS_TRY(take_duplicate(*process.pidfd, proc.pid(), fd, d.link));
  // To ask a descriptor costs a tenth of asking /proc.
  if (!d.held || ::fstat(d.held.get(), &d.stat) != 0) d.stat = STASIS_TRY(proc.fd_stat(fd));
  d.info = STASIS_TRY(proc.fdinfo(fd));
  return d;
}

// Side by side: this asks the kernel five things of each descriptor.
Result<std::vector<Descriptor>> list_descriptors(std::span<const ProcessHandle> processes, Hold hold) {
  std::vector<std::vector<int>> numbers(processes.size());
  const auto list = [&](std::size_t i, std::size_t) -> Result<void> {
    numbers[i] = STASIS_TRY(processes[i].proc->fds());
    return {};
  };
  STASIS_TRY(side_by_side({.count = processes.size(), .worth_a_thread = 16}, list));
  std::vector<std::pair<std::size_t, int>> wanted;  // process and number
  for (std::size_t i = 0; i < processes.size(); ++i) {
    for (const int fd : numbers[i]) wanted.emplace_back(i, fd);
  }
  // Those that are shared go again: there must be room for all of them, and for what else is opened.
  rlimit limit{};
  const bool room = ::getrlimit(RLIMIT_NOFILE, &limit) == 0 && wanted.size() < limit.rlim_cur / 2;
  const Hold at_once = room ? hold : Hold::kDont;
  std::vector<std::optional<Descriptor>> found(wanted.size());
  const auto look = [&](std::size_t i, std::size_t) -> Result<void> {
    const auto [index, fd] = wanted[i];
    auto descriptor = look_at(processes[index], index, fd, at_once);
    if (descriptor) {
      found[i] = *std::move(descriptor);
      return {};
    }
    if (descriptor.error().code() != Errc::kVanished)
      return std::move(descriptor).error().note(fmt::format("descriptor {}", fd));
    // Closed since it was listed, or the whole process is gone.
    return processes[index].proc->check_alive();
  };
  STASIS_TRY(side_by_side({.count = wanted.size(), .worth_a_thread = 16}, look));
  std::vector<Descriptor> all;
  all.reserve(found.size());
  for (std::optional<Descriptor>& descriptor : found) {
    if (descriptor) all.push_back(*std::move(descriptor));
  }
  return all;
}

// For each descriptor the index of the first with the same open file description.
Result<std::vector<std::size_t>> tell_apart(std::span<const Descriptor> all) {
  std::vector<std::size_t> order(all.size()), first_of(all.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::ranges::stable_sort(order, {}, [&](std::size_t i) { return all[i].candidate_key(); });
  std::vector<kernel::FileSlot> slots;
  for (std::size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    slots.clear();
    while (end < order.size() && all[order[end]].candidate_key() == all[order[begin]].candidate_key()) {
      const Descriptor& d = all[order[end++]];
      slots.push_back({d.process->proc->live_tid(), d.fd});
    }
    if (slots.size() == 1) {
      first_of[order[begin]] = order[begin];
      continue;
    }
    const auto groups = STASIS_TRY(kernel::group_open_files(slots));
    for (std::size_t i = 0; i < groups.size(); ++i) first_of[order[begin + i]] = order[begin + groups[i]];
  }
  return first_of;
}

void join_inodes(OpenFileTable& table) {
  std::map<FileId, OpenInode*> known;
  for (const auto& file : table.files) {
    OpenInode*& inode = known[{file->stat.st_dev, file->stat.st_ino}];
    if (inode == nullptr) {
      table.inodes.push_back(std::make_unique<OpenInode>());
      inode = table.inodes.back().get();
      inode->id = {file->stat.st_dev, file->stat.st_ino};
    }
    inode->files.push_back(file.get());
    file->inode = inode;
  }
}

OpenFileTable build_table(std::span<const ProcessHandle> processes, std::vector<Descriptor>& all,
                          std::span<const std::size_t> first_of) {
  OpenFileTable table;
  for (const ProcessHandle& process : processes) table.descriptors.push_back({process.proc->pid(), {}});
  std::vector<OpenFile*> file_of(all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    Descriptor& d = all[i];
    const bool close_on_exec = (d.info.flags & O_CLOEXEC) != 0;
    // POSIX locks are the process's own; the others are seen through every descriptor of the description.
    std::vector<kernel::FileLock> own_locks;
    std::erase_if(d.info.locks, [&](const kernel::FileLock& lock) {
      if (lock.kind == kernel::LockKind::kPosix) own_locks.push_back(lock);
      return lock.kind == kernel::LockKind::kPosix;
    });
    if (first_of[i] == i) {
      table.files.push_back(std::make_unique<OpenFile>());
      OpenFile& file = *table.files.back();
      file.held = std::move(d.held);
      file.link = std::move(d.link);
      file.stat = d.stat;
      file.info = std::move(d.info);
      file.info.flags &= ~unsigned{O_CLOEXEC};  // the descriptor's, not the description's
      file_of[i] = &file;
    } else {
      file_of[i] = file_of[first_of[i]];
    }
    file_of[i]->holders.push_back({d.process->proc->pid(), d.fd, close_on_exec, d.process->proc->live_tid()});
    table.descriptors[d.process_index].slots.push_back({d.fd, close_on_exec, file_of[i], std::move(own_locks)});
  }
  return table;
}

// Those that we have not got yet.
Result<void> take_duplicates(OpenFileTable& table, std::span<const ProcessHandle> processes) {
  std::map<HostPid, const UniqueFd*> pidfds;
  for (const ProcessHandle& process : processes) pidfds[process.proc->pid()] = process.pidfd;
  for (const auto& file : table.files) {
    const UniqueFd* const pidfd = file->held ? nullptr : pidfds[file->pid()];
    if (pidfd == nullptr) continue;
    file->held = STASIS_TRY(take_duplicate(*pidfd, file->pid(), file->fd(), file->link));
  }
  return {};
}

// Of a pseudo-terminal's master: what the descriptors of its slave are called.
std::string slave_link(const OpenFile& file) {
  if (!S_ISCHR(file.stat.st_mode) || file.stat.st_rdev != makedev(5, 2)) return {};
  const auto index = kernel::fdinfo_value(file.info.rest, "tty-index");
  return index ? "/dev/pts/" + std::string(*index) : "";
}

Result<void> look_outside(OpenFileTable& table, std::span<const ProcessHandle> processes, const OutsideHolders* known) {
  if (known != nullptr) {
    table.outside = *known;
    std::vector<HostPid> tree;
    for (const ProcessHandle& process : processes) tree.push_back(process.proc->pid());
    table.outside.forget(tree);
  }
  std::set<std::string> links;
  for (const auto& file : table.files) {
    if (const auto slave = slave_link(*file); !slave.empty() && !table.outside.covers(slave)) links.insert(slave);
    // What an outsider could share with the tree without a path: a pipe, a deleted file, a memfd, a message queue, a
    // unix socket.
    const bool shareable = S_ISFIFO(file->stat.st_mode) || (S_ISREG(file->stat.st_mode) && file->stat.st_nlink == 0) ||
                           claims_message_queue(*file, table);
    if ((shareable || file->unix_socket) && !file->is_path_only() && !table.outside.covers(file->link)) {
      links.insert(file->link);
    }
    // Who has the far end of a socket that leads out of the tree.
    if (file->peer_inode.value_or(0) == 0 || table.find_socket(*file->peer_inode) != nullptr) continue;
    const std::string peer = fmt::format("socket:[{}]", *file->peer_inode);
    if (!table.outside.covers(peer)) links.insert(peer);
  }
  if (links.empty()) return {};
  std::vector<HostPid> tree;
  for (const ProcessHandle& process : processes) tree.push_back(process.proc->pid());
  return table.outside.scan(tree, links);
}

// `stasis check` and a kernel without socket diagnosis: it stays unknown, and kinds treat the socket as being outside.
void look_at_socket(OpenFile& file) {
  if (!S_ISSOCK(file.stat.st_mode) || file.is_path_only()) return;
  auto inet = file.held ? kernel::inet_socket_state(file.held.get()) : kernel::find_inet_socket(file.stat.st_ino);
  if (inet && *inet) {
    file.inet_socket = **inet;
    return;
  }
  auto state = kernel::unix_socket_state(file.stat.st_ino);
  if (!state || !*state) return;
  file.unix_socket = *std::move(*state);
  file.peer_inode = file.unix_socket->peer;
}

// The open file behind a descriptor that was received from a queue: one of the table, or a new one.
Result<OpenFile*> find_in_flight(OpenFileTable& table, const kernel::ProcDir& self, const OpenFile& carrier,
                                 UniqueFd received) {
  const ProcessHandle handle{.proc = &self, .pidfd = nullptr};
  Descriptor d = STASIS_TRY(look_at(handle, 0, received.get(), Hold::kDont));
  d.info.flags &= ~unsigned{O_CLOEXEC};
  for (const auto& file : table.files) {
    if (FileId{file->stat.st_dev, file->stat.st_ino} != d.id() || file->info.flags != d.info.flags) continue;
    const std::array<kernel::FileSlot, 2> slots = {kernel::FileSlot{file->holders.front().task(), file->fd()},
                                                   kernel::FileSlot{self.pid(), received.get()}};
    if (STASIS_TRY(kernel::group_open_files(slots))[1] == 0) return file.get();
  }
  std::erase_if(d.info.locks, [](const kernel::FileLock& lock) { return lock.kind == kernel::LockKind::kPosix; });
  auto file = std::make_unique<OpenFile>();
  file->link = std::move(d.link);
  file->stat = d.stat;
  file->info = std::move(d.info);
  file->holders.push_back({self.pid(), received.get(), false});
  file->held = std::move(received);
  file->carrier = &carrier;
  look_at_socket(*file);
  table.files.push_back(std::move(file));
  return table.files.back().get();
}

bool has_readable_queue(const OpenFile& file) {
  constexpr int kListen = 10;  // TCP_LISTEN
  constexpr int kClosed = 7;   // TCP_CLOSE
  if (!file.held || !file.unix_socket || file.unix_socket->state == kListen) return false;
  return file.unix_socket->type == SOCK_DGRAM || file.unix_socket->state != kClosed;
}

// Queues of unix sockets, and the files that lie in them, which may be sockets with queues.
Result<void> look_into_queues(OpenFileTable& table) {
  std::optional<kernel::ProcDir> self;
  for (std::size_t i = 0; i < table.files.size(); ++i) {
    OpenFile& file = *table.files[i];
    if (!has_readable_queue(file)) continue;
    auto messages = kernel::peek_queue(file.held.get());
    if (!messages) {
      file.unreadable = std::move(messages).error();
      continue;
    }
    for (kernel::QueuedMessage& message : *messages) {
      SocketMessage kept{.bytes = std::move(message.bytes),
                         .files = {},
                         .credentials = message.credentials,
                         .sender = std::move(message.sender)};
      if (!self && !message.files.empty()) self = STASIS_TRY(kernel::ProcDir::open(HostPid(::getpid())));
      for (UniqueFd& received : message.files) {
        kept.files.push_back(STASIS_TRY(find_in_flight(table, *self, file, std::move(received))));
      }
      file.queue.push_back(std::move(kept));
    }
  }
  return {};
}

}  // namespace

Result<OpenFileTable> gather_open_files(std::span<const ProcessHandle> processes, Hold hold,
                                        const OutsideHolders* outside) {
  std::vector<Descriptor> all = STASIS_TRY(list_descriptors(processes, hold));
  const std::vector<std::size_t> first_of = STASIS_TRY(tell_apart(all));
  OpenFileTable table = build_table(processes, all, first_of);
  if (hold == Hold::kTake) STASIS_TRY(take_duplicates(table, processes));
  for (const auto& file : table.files) look_at_socket(*file);
  STASIS_TRY(look_into_queues(table));
  join_inodes(table);
  for (const ProcessHandle& process : processes) {
    if (process.vmas != nullptr) STASIS_TRY(gather_mapped_files(table, *process.proc, *process.vmas, hold));
  }
  for (const ProcessHandle& process : processes) {
    const auto tty = process.stat ? process.stat->tty_nr : STASIS_TRY(process.proc->stat()).tty_nr;
    if (tty != 0) table.terminals.insert(kernel::decode_device(static_cast<std::uint32_t>(tty)));
  }
  STASIS_TRY(look_outside(table, processes, outside));
  STASIS_TRY(look_for_outside_mappings(table, processes));
  return table;
}

}  // namespace stasis
