// SPDX-License-Identifier: Apache-2.0
#include "resource/terminal/terminal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "kernel/device_number.h"
#include "kernel/proc_dir.h"
#include "resource/checkpoint_context.h"
#include "resource/open_file/anonymous_file.h"

namespace stasis {
namespace {

// Documentation/admin-guide/devices.txt
constexpr unsigned kTtyMajor = 5;         // /dev/tty (0), /dev/ptmx (2)
constexpr unsigned kPtySlaveFirst = 136;  // to 143
constexpr unsigned kPtySlaveLast = 143;
constexpr unsigned kMaxIndex = 1 << 20;

std::optional<unsigned> index_of_device(std::uint64_t device) {
  const unsigned number = major(device);
  if (number < kPtySlaveFirst || number > kPtySlaveLast) return std::nullopt;
  return (number - kPtySlaveFirst) * 256 + minor(device);
}

OpenFile* find_slave(const OpenFileTable& tree, unsigned index) {
  const auto found = std::ranges::find_if(
      tree.files, [&](const auto& file) { return slave_index(*file) == index && file->reads() && file->writes(); });
  return found == tree.files.end() ? nullptr : found->get();
}

std::string slave_path(unsigned index) { return fmt::format("/dev/pts/{}", index); }

bool is_hung_up(int master) {
  pollfd poll{.fd = master, .events = 0, .revents = 0};
  return ::poll(&poll, 1, 0) > 0 && (poll.revents & POLLHUP) != 0;
}

struct Owners {
  ImagePid session;
  ImagePid foreground;
};

// Sessions and groups by the numbers that the tree itself sees.
Owners find_owners(int master, const OpenFileTable& tree) {
  Owners owners;
  int session = 0, group = 0;
  if (::ioctl(master, TIOCGSID, &session) != 0) return owners;
  if (::ioctl(master, TIOCGPGRP, &group) != 0) group = 0;
  for (const DescriptorTable& table : tree.descriptors) {
    const auto proc = kernel::ProcDir::open(table.pid);
    const auto status = proc ? proc->status() : Result<kernel::ProcStatus>(proc.error());
    const auto stat = proc ? proc->stat() : Result<kernel::ProcStat>(proc.error());
    if (!status || !stat) continue;
    const auto innermost = [](const std::vector<std::int32_t>& ids, std::int32_t outer) {
      return ImagePid(ids.empty() ? outer : ids.back());
    };
    if (stat->session == session) owners.session = innermost(status->ns_sid, session);
    if (stat->pgrp == group) owners.foreground = innermost(status->ns_pgid, group);
  }
  return owners;
}

}  // namespace

std::optional<unsigned> master_index(const OpenFile& file) {
  if (!S_ISCHR(file.stat.st_mode) || file.is_path_only() || file.stat.st_rdev != makedev(kTtyMajor, 2)) {
    return std::nullopt;
  }
  const auto index = fdinfo_number<unsigned>(file.info, "tty-index");
  return index ? std::optional(*index) : std::nullopt;
}

std::optional<unsigned> slave_index(const OpenFile& file) {
  if (!S_ISCHR(file.stat.st_mode) || file.is_path_only()) return std::nullopt;
  if (file.stat.st_rdev != makedev(kTtyMajor, 0)) return index_of_device(file.stat.st_rdev);
  // /dev/tty: which terminal it is, the opening knows, or else its process's controlling terminal tells.
  unsigned device = 0;
  if (file.held) {
    if (::ioctl(file.held.get(), TIOCGDEV, &device) != 0) return std::nullopt;
    return index_of_device(kernel::decode_device(device));
  }
  const auto proc = kernel::ProcDir::open(file.pid());
  const auto stat = proc ? proc->stat() : Result<kernel::ProcStat>(proc.error());
  if (!stat) return std::nullopt;
  return index_of_device(kernel::decode_device(static_cast<std::uint32_t>(stat->tty_nr)));
}

OpenFile* find_master(const OpenFileTable& tree, unsigned index) {
  const auto found = std::ranges::find_if(tree.files, [&](const auto& file) { return master_index(*file) == index; });
  return found == tree.files.end() ? nullptr : found->get();
}

bool claims_terminal(const OpenFile& file, const OpenFileTable&) { return master_index(file).has_value(); }

bool claims_terminal_slave(const OpenFile& file, const OpenFileTable& tree) {
  const auto index = slave_index(file);
  return index && find_master(tree, *index) != nullptr;
}

std::optional<Obstacle> terminal_obstacle(const OpenFile& file, const OpenFileTable& tree, const CheckpointPolicy&) {
  const unsigned index = *master_index(file);
  const OpenFile* const slave = find_slave(tree, index);
  for (const OutsideHolder& holder : tree.outside.of(slave_path(index))) {
    // Other containers have terminals of that name, too.
    const bool by_name = slave != nullptr && major(slave->stat.st_rdev) != kTtyMajor;
    if (by_name && holder.device != slave->stat.st_dev) continue;
    return file.obstacle(Errc::kExternalPeer, fmt::format("{} has the other end of this terminal", holder.to_string()),
                         "checkpoint the process that started both");
  }
  if (!file.held) return std::nullopt;
  if (const auto discipline = ask_terminal(file.held.get(), TIOCGETD, "line discipline");
      discipline && *discipline != 0)
    return file.obstacle(Errc::kUnsupportedObject, fmt::format("it has line discipline {}", *discipline));
  return std::nullopt;
}

Result<void> checkpoint_terminal(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenFile& file = *static_cast<OpenFile*>(object);
  const int master = file.held.get();
  TerminalRecord record{.index = *master_index(file), .flags = file.info.flags};
  record.hung_up = is_hung_up(master);
  record.locked = STASIS_TRY(ask_terminal(master, TIOCGPTLCK, "lock")) != 0;
  record.packets = STASIS_TRY(ask_terminal(master, TIOCGPKT, "packet mode")) != 0;
  record.settings = STASIS_TRY(get_settings(master));
  const Owners owners = find_owners(master, ctx.files);
  record.session = owners.session;
  record.foreground = owners.foreground;
  const OpenFile* const held = find_slave(ctx.files, record.index);
  // A slave that nobody ever opened must stay so, as its closing would be seen; and nothing can wait for it.
  UniqueFd own;
  if (held == nullptr && record.hung_up) own = STASIS_TRY(open_slave(master, O_RDWR));
  const PtyPair pair{.master = master, .slave = held != nullptr ? held->held.get() : own.get()};
  if (pair.slave >= 0) {
    struct ::stat stat{};
    if (::fstat(pair.slave, &stat) != 0) return Error::from_errno(errno, "fstat of a terminal");
    record.mode = stat.st_mode;
    record.uid = stat.st_uid;
    record.gid = stat.st_gid;
    record.exclusive = STASIS_TRY(ask_terminal(pair.slave, TIOCGEXCL, "exclusive mode")) != 0;
    record.output = STASIS_TRY(copy_output(pair));
    record.input = STASIS_TRY(copy_input(pair));
  }
  return ctx.write_object(ref, kind::kTerminal, record);
}

Result<void> checkpoint_terminal_slave(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenFile& file = *static_cast<OpenFile*>(object);
  OpenFile* const master = find_master(ctx.files, *slave_index(file));
  const ObjRef terminal = STASIS_TRY(ctx.objects.checkpoint_obj(context, master, kind::kTerminal));
  return ctx.write_object(ref, kind::kTerminalSlave,
                          TerminalSlaveRecord{.terminal = terminal, .flags = file.info.flags});
}

namespace {

// The kernel gives out the lowest free number. Where the old one is taken, another one must do: programs hold the
// terminal by descriptors, but its name is another one then.
Result<UniqueFd> open_master(unsigned index, const RestartContext& ctx) {
  constexpr int kTries = 1000;
  std::vector<UniqueFd> below;
  for (int tries = 0;; ++tries) {
    UniqueFd master(::open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!master) return Error::from_errno(errno, "make a terminal (/dev/ptmx)");
    const auto got = static_cast<unsigned>(STASIS_TRY(ask_terminal(master.get(), TIOCGPTN, "number")));
    if (got < index) {
      below.push_back(std::move(master));
      continue;
    }
    if (got > index) {
      // The kernel gives a number free some time after its name is gone.
      const bool named = ::access(slave_path(index).c_str(), F_OK) == 0;
      if (!named && tries < kTries) {
        STASIS_TRY(ctx.patience.check());
        ::usleep(1000);
        continue;
      }
      log::info("terminal", "{} is in use; the program's terminal is {} now", slave_path(index), slave_path(got));
    }
    return ctx.park(std::move(master));
  }
}

// When everybody has his ends: what would have been in the way.
Result<void> finish(const TerminalRecord& record, const PtyPair& pair) {
  const int on = 1;
  if (record.packets && ::ioctl(pair.master, TIOCPKT, &on) != 0) return Error::from_errno(errno, "set packet mode");
  if (record.exclusive && ::ioctl(pair.slave, TIOCEXCL) != 0) return Error::from_errno(errno, "set exclusive mode");
  if (record.locked && ::ioctl(pair.master, TIOCSPTLCK, &on) != 0) return Error::from_errno(errno, "lock a terminal");
  return {};
}

Result<void> restore_contents(const TerminalRecord& record, const PtyPair& pair) {
  struct ::stat stat{};
  if (::fstat(pair.slave, &stat) != 0) return Error::from_errno(errno, "fstat of a terminal");
  const bool chowned =
      (stat.st_uid == record.uid && stat.st_gid == record.gid) || ::fchown(pair.slave, record.uid, record.gid) == 0;
  const bool chmoded =
      (stat.st_mode & 07777) == (record.mode & 07777) || ::fchmod(pair.slave, record.mode & 07777) == 0;
  if (!chowned || !chmoded) log::info("terminal", "owner or mode of {} could not be set", slave_path(record.index));
  STASIS_TRY(put_output(pair, record.output));
  return put_input(pair, record.input);
}

}  // namespace

Result<void*> restore_terminal(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  const TerminalRecord record = STASIS_TRY(ctx.image.read<TerminalRecord>());
  if (record.index > kMaxIndex) return Error(Errc::kBadImage, fmt::format("terminal {} is impossible", record.index));
  auto terminal = std::make_unique<RestoredTerminal>();
  terminal->fd = STASIS_TRY(open_master(record.index, ctx));
  const int master = terminal->fd.get();
  const int off = 0;
  if (::ioctl(master, TIOCSPTLCK, &off) != 0) return Error::from_errno(errno, "unlock a terminal");
  STASIS_TRY(set_settings(master, record.settings));
  STASIS_TRY(set_status_flags(master, record.flags));
  const bool was_open = record.mode != 0;
  if (was_open) {
    UniqueFd slave = STASIS_TRY(open_slave(master, O_RDWR));
    terminal->slave = STASIS_TRY(ctx.park(std::move(slave)));
    STASIS_TRY(restore_contents(record, {.master = master, .slave = terminal->slave.get()}));
    if (record.session.value() != 0) {
      ctx.controlling.push_back(
          {.session = record.session, .foreground = record.foreground, .terminal = terminal->slave.get()});
    }
  }
  const PtyPair pair{.master = master, .slave = terminal->slave.get()};
  // Both live as long as the hash has the terminal: it is cleared after the deferred works.
  STASIS_TRY(ctx.deferred.add([record, pair] { return finish(record, pair); }));
  return to_object(std::move(terminal));
}

Result<void*> restore_terminal_slave(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  const TerminalSlaveRecord record = STASIS_TRY(ctx.image.read<TerminalSlaveRecord>());
  const auto* const terminal =
      STASIS_TRY(fetch_restored<RestoredTerminal>(ctx.objects, record.terminal, kind::kTerminal));
  auto file = std::make_unique<RestoredFile>();
  UniqueFd slave = STASIS_TRY(open_slave(terminal->fd.get(), record.flags));
  file->fd = STASIS_TRY(ctx.park(std::move(slave)));
  STASIS_TRY(set_status_flags(file->fd.get(), record.flags));
  return to_object(std::move(file));
}

}  // namespace stasis
