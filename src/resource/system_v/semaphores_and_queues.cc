// SPDX-License-Identifier: Apache-2.0
#include "resource/system_v/semaphores_and_queues.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "arch/x86_64/registers.h"
#include "resource/checkpoint_context.h"
#include "resource/system_v/ipc_namespace.h"
#include "resource/system_v/next_id.h"
#include "resource/system_v/set_status.h"

#ifndef MSG_COPY
#define MSG_COPY 040000
#endif

namespace stasis {
namespace {

constexpr std::uint32_t kPermissions = 0777;
constexpr std::size_t kMaxSemaphores = 32000;  // SEMMSL

// semctl(2) leaves it to the caller to define this.
union SemaphoreArgument {
  int value;
  ::semid_ds* status;
  unsigned short* values;
  ::seminfo* info;
};

SystemVOwner owner_of(std::int32_t id, const ::ipc_perm& permissions) {
  return {.id = id,
          .key = permissions.__key,
          .mode = permissions.mode & kPermissions,
          .uid = permissions.uid,
          .gid = permissions.gid};
}

// kAwaited: nobody has operated on it, but one of the tree waits to. What others use stays with them.
enum class Use { kNone, kAwaited, kTheirs };

// As they are found in their IPC namespace.
struct Users {
  bool all = false;
  const SystemVUsers& some;

  // Whose is an object on which `last` (0: nobody, or somebody whom we can't see) was the last to operate?
  Use use_of(std::span<const pid_t> last, bool operated, bool waited_for) const {
    if (all || std::ranges::any_of(last, [this](pid_t pid) { return has(pid); })) return Use::kTheirs;
    const bool unseen = operated && std::ranges::all_of(last, [](pid_t pid) { return pid == 0; });
    if (!waited_for || unseen) return Use::kNone;
    return std::ranges::any_of(last, [this](pid_t pid) { return is_other(pid); }) ? Use::kNone : Use::kAwaited;
  }

 private:
  bool has(pid_t pid) const { return std::ranges::find(some.tree, HostPid(pid)) != some.tree.end(); }
  bool is_other(pid_t pid) const { return pid > 0 && !has(pid) && (::kill(pid, 0) == 0 || errno != ESRCH); }
};

Use use_of_semaphores(int id, const ::semid_ds& status, const Users& users) {
  std::vector<pid_t> last(status.sem_nsems);
  for (std::size_t i = 0; i < last.size(); ++i) last[i] = ::semctl(id, static_cast<int>(i), GETPID);
  return users.use_of(last, status.sem_otime != 0, users.some.semaphores.contains(id));
}

Use use_of_queue(int id, const ::msqid_ds& status, const Users& users) {
  return users.use_of(std::array{status.msg_lspid, status.msg_lrpid}, status.msg_stime != 0 || status.msg_rtime != 0,
                      users.some.queues.contains(id));
}

Result<std::vector<std::uint32_t>> values_of(int id, std::size_t count) {
  std::vector<unsigned short> values(count);
  if (::semctl(id, 0, GETALL, SemaphoreArgument{.values = values.data()}) < 0) {
    return Error::from_errno(errno, fmt::format("ask for the values of System V semaphores {}", id));
  }
  return std::vector<std::uint32_t>(values.begin(), values.end());
}

Result<void> gather_semaphores(const Users& users, SystemVRecord& record) {
  ::seminfo info{};
  const int highest = ::semctl(0, 0, SEM_INFO, SemaphoreArgument{.info = &info});
  for (int index = 0; index <= highest; ++index) {
    ::semid_ds status{};
    const int id = ::semctl(index, 0, SEM_STAT, SemaphoreArgument{.status = &status});
    const Use use = id < 0 ? Use::kNone : use_of_semaphores(id, status, users);
    if (use == Use::kNone) continue;
    record.semaphores.push_back({.owner = owner_of(id, status.sem_perm),
                                 .values = STASIS_TRY(values_of(id, status.sem_nsems)),
                                 .only_awaited = use == Use::kAwaited});
  }
  return {};
}

// msgsnd(2) and msgrcv(2) have the type in front of the text.
std::vector<std::byte> message_buffer(std::size_t text) { return std::vector<std::byte>(sizeof(long) + text); }

Result<std::vector<SystemVMessageRecord>> copy_messages(int id, std::size_t bytes) {
  std::vector<SystemVMessageRecord> messages;
  std::vector<std::byte> buffer = message_buffer(bytes);
  for (long at = 0;; ++at) {
    const ssize_t got = ::msgrcv(id, buffer.data(), bytes, at, MSG_COPY | IPC_NOWAIT);
    if (got < 0 && errno == ENOMSG) return messages;
    if (got < 0) return Error::from_errno(errno, fmt::format("copy a message of System V queue {}", id));
    SystemVMessageRecord message;
    long type = 0;
    std::memcpy(&type, buffer.data(), sizeof type);
    message.type = type;
    const auto text = std::span(buffer).subspan(sizeof type, static_cast<std::size_t>(got));
    message.bytes.assign(text.begin(), text.end());
    messages.push_back(std::move(message));
  }
}

Result<void> gather_queues(const Users& users, SystemVRecord& record) {
  ::msginfo info{};
  const int highest = ::msgctl(0, MSG_INFO, reinterpret_cast<::msqid_ds*>(&info));
  for (int index = 0; index <= highest; ++index) {
    ::msqid_ds status{};
    const int id = ::msgctl(index, MSG_STAT, &status);
    const Use use = id < 0 ? Use::kNone : use_of_queue(id, status, users);
    if (use == Use::kNone) continue;
    record.queues.push_back({.owner = owner_of(id, status.msg_perm),
                             .max_bytes = status.msg_qbytes,
                             .messages = STASIS_TRY(copy_messages(id, status.__msg_cbytes)),
                             .only_awaited = use == Use::kAwaited});
  }
  return {};
}

Error taken(const char* what, const SystemVOwner& owner) {
  return Error(Errc::kBusy, fmt::format("System V {} {} (key {:#x}): id or key belong to another object now", what,
                                        owner.id, static_cast<std::uint32_t>(owner.key)))
      .with_help("--pids namespace restores the program with its objects in a namespace of its own");
}

template <class Status>
bool set_owner(const SystemVOwner& owner, ::ipc_perm& permissions, Status& /*holds them*/) {
  const bool differs =
      permissions.uid != owner.uid || permissions.gid != owner.gid || (permissions.mode & kPermissions) != owner.mode;
  permissions.uid = owner.uid;
  permissions.gid = owner.gid;
  permissions.mode = static_cast<decltype(permissions.mode)>(owner.mode & kPermissions);
  return differs;
}

Result<void> make_semaphores(const SemaphoreSetRecord& set, RestartContext& context) {
  STASIS_TRY(choose_next_id("sem_next_id", set.owner.id));
  const int flags = static_cast<int>(set.owner.mode & kPermissions) | IPC_CREAT | IPC_EXCL;
  const int id = ::semget(set.owner.key, static_cast<int>(set.values.size()), flags);
  if (id < 0 && errno == EEXIST) return taken("semaphores", set.owner);
  if (id < 0) return Error::from_errno(errno, "make System V semaphores");
  STASIS_TRY(context.undo.add([id] { ::semctl(id, 0, IPC_RMID); }));
  return id == set.owner.id ? Result<void>() : Result<void>(taken("semaphores", set.owner));
}

// Those that were there all the time; if the restart fails, they are as it found them.
Result<void> reset_semaphores(const SemaphoreSetRecord& set, const ::semid_ds& status, RestartContext& context) {
  const int id = set.owner.id;
  const auto before = STASIS_TRY(values_of(id, set.values.size()));
  ::semid_ds wanted = status;
  const bool other_owner = set_owner(set.owner, wanted.sem_perm, wanted);
  if (before == set.values && !other_owner) return {};
  STASIS_TRY(context.undo.add([id, before, was = ::semid_ds(status)]() mutable {
    std::vector<unsigned short> values(before.begin(), before.end());
    ::semctl(id, 0, SETALL, SemaphoreArgument{.values = values.data()});
    ::semctl(id, 0, IPC_SET, SemaphoreArgument{.status = &was});
  }));
  std::vector<unsigned short> values(set.values.begin(), set.values.end());
  if (before != set.values && ::semctl(id, 0, SETALL, SemaphoreArgument{.values = values.data()}) < 0) {
    return Error::from_errno(errno, fmt::format("set System V semaphores {}", id));
  }
  const auto set_ids = [id](::semid_ds& to) { return ::semctl(id, 0, IPC_SET, SemaphoreArgument{.status = &to}) == 0; };
  if (!other_owner || set_status(wanted, wanted.sem_perm, status.sem_perm, set_ids)) return {};
  return Error::from_errno(errno, fmt::format("set owner and mode of System V semaphores {}", id));
}

Result<void> restore_semaphores(const SemaphoreSetRecord& set, RestartContext& context) {
  const int id = set.owner.id;
  const bool possible = id >= 0 && !set.values.empty() && set.values.size() <= kMaxSemaphores &&
                        std::ranges::all_of(set.values, [](std::uint32_t value) { return value <= 32767; });
  if (!possible) return Error(Errc::kBadImage, "impossible System V semaphores");
  ::semid_ds status{};
  const bool there = ::semctl(id, 0, IPC_STAT, SemaphoreArgument{.status = &status}) == 0;
  if (!there) {
    STASIS_TRY(make_semaphores(set, context));
    if (::semctl(id, 0, IPC_STAT, SemaphoreArgument{.status = &status}) < 0) {
      return Error::from_errno(errno, "look at System V semaphores");
    }
  }
  if (status.sem_perm.__key != set.owner.key || status.sem_nsems != set.values.size()) {
    return taken("semaphores", set.owner);
  }
  return there && set.only_awaited ? Result<void>() : reset_semaphores(set, status, context);
}

Result<void> send_messages(const SystemVQueueRecord& queue) {
  for (const SystemVMessageRecord& message : queue.messages) {
    std::vector<std::byte> buffer = message_buffer(message.bytes.size());
    const long type = message.type;
    std::memcpy(buffer.data(), &type, sizeof type);
    std::ranges::copy(message.bytes, buffer.begin() + sizeof type);
    if (::msgsnd(queue.owner.id, buffer.data(), message.bytes.size(), IPC_NOWAIT) != 0) {
      return Error::from_errno(errno, fmt::format("fill System V queue {}", queue.owner.id))
          .with_help("raise kernel.msgmax and kernel.msgmnb");
    }
  }
  return {};
}

Result<void> make_queue(const SystemVQueueRecord& queue, RestartContext& context) {
  STASIS_TRY(choose_next_id("msg_next_id", queue.owner.id));
  const int id = ::msgget(queue.owner.key, static_cast<int>(queue.owner.mode & kPermissions) | IPC_CREAT | IPC_EXCL);
  if (id < 0 && errno == EEXIST) return taken("message queue", queue.owner);
  if (id < 0) return Error::from_errno(errno, "make a System V message queue");
  STASIS_TRY(context.undo.add([id] { ::msgctl(id, IPC_RMID, nullptr); }));
  if (id != queue.owner.id) return taken("message queue", queue.owner);
  ::msqid_ds status{};
  if (::msgctl(id, IPC_STAT, &status) != 0) return Error::from_errno(errno, "look at a System V message queue");
  const ::ipc_perm ours = status.msg_perm;
  const bool differs = set_owner(queue.owner, status.msg_perm, status) || status.msg_qbytes != queue.max_bytes;
  status.msg_qbytes = queue.max_bytes;
  const auto set_ids = [id](::msqid_ds& to) { return ::msgctl(id, IPC_SET, &to) == 0; };
  if (differs && !set_status(status, status.msg_perm, ours, set_ids)) {
    return Error::from_errno(errno, fmt::format("set owner, mode and size of System V queue {}", id))
        .with_help("raise kernel.msgmnb, or run as root");
  }
  return send_messages(queue);
}

Result<void> restore_queue(const SystemVQueueRecord& queue, RestartContext& context) {
  if (queue.owner.id < 0) return Error(Errc::kBadImage, "an impossible System V message queue");
  ::msqid_ds status{};
  if (::msgctl(queue.owner.id, IPC_STAT, &status) != 0) return make_queue(queue, context);
  if (status.msg_perm.__key != queue.owner.key) return taken("message queue", queue.owner);
  if (queue.only_awaited) return {};
  if (STASIS_TRY(copy_messages(queue.owner.id, status.__msg_cbytes)) == queue.messages) return {};
  return Error(Errc::kFileChanged, fmt::format("System V queue {} holds other messages now", queue.owner.id))
      .with_help("--pids namespace restores the program with its objects in a namespace of its own");
}

}  // namespace

void SystemVUsers::note_calls(std::span<const ThreadRecord> threads) {
  for (const ThreadRecord& thread : threads) {
    arch::Registers registers{};
    if (thread.registers.size() != sizeof registers) continue;  // it has ended
    std::memcpy(&registers, thread.registers.data(), sizeof registers);
    // Where a signal ends the call, only the registers know it still.
    const auto number = thread.call.number >= 0 ? thread.call.number : arch::interrupted_syscall(registers);
    const auto id = static_cast<int>(arch::syscall_arguments(registers)[0]);
    if (number == SYS_semop || number == SYS_semtimedop) semaphores.insert(id);
    if (number == SYS_msgrcv || number == SYS_msgsnd) queues.insert(id);
  }
}

Result<SystemVRecord> gather_system_v(const SystemVUsers& some) {
  if (some.tree.empty()) return SystemVRecord();
  const HostPid first = some.tree.front();
  const Users users{.all = !STASIS_TRY(shares_ipc_namespace(first)), .some = some};
  const auto ask = [&]() -> Result<std::vector<std::byte>> {
    SystemVRecord record;
    STASIS_TRY(gather_semaphores(users, record));
    STASIS_TRY(gather_queues(users, record));
    std::vector<std::byte> bytes;
    STASIS_TRY(encode(record, bytes));
    return bytes;
  };
  const auto bytes = STASIS_TRY(in_ipc_namespace(first, ask));
  return decode<SystemVRecord>(bytes, SystemVRecord::kName);
}

Result<void> restore_system_v_objects(const SystemVRecord& record, RestartContext& context) {
  for (const SemaphoreSetRecord& set : record.semaphores) STASIS_TRY(restore_semaphores(set, context));
  for (const SystemVQueueRecord& queue : record.queues) STASIS_TRY(restore_queue(queue, context));
  return {};
}

Result<void> checkpoint_system_v(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  return ctx.write_object(ref, kind::kSystemV, STASIS_TRY(gather_system_v(*static_cast<SystemVUsers*>(object))));
}

Result<void*> restore_system_v(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  const SystemVRecord record = STASIS_TRY(ctx.image.read<SystemVRecord>());
  STASIS_TRY(restore_system_v_objects(record, ctx));
  return to_object(std::make_unique<RestoredObject>());
}

}  // namespace stasis
