// SPDX-License-Identifier: Apache-2.0
#include "resource/external_stream/external_stream.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "base/closed_streams.h"
#include "base/file.h"
#include "resource/checkpoint_context.h"
#include "resource/inet_socket/inet_peer.h"
#include "resource/pipe/pipe.h"
#include "resource/unix_socket/unix_relations.h"

namespace stasis {
namespace {

// Documentation/admin-guide/devices.txt
constexpr unsigned kConsoleMajor = 4;     // virtual and serial consoles
constexpr unsigned kTtyMajor = 5;         // /dev/tty (0), /dev/console (1), /dev/ptmx (2)
constexpr unsigned kPtySlaveFirst = 136;  // to 143
constexpr unsigned kPtySlaveLast = 143;

enum class Terminal { kNone, kControlling, kMaster, kPtySlave, kOther };

Terminal terminal_of(const struct ::stat& stat) {
  if (!S_ISCHR(stat.st_mode)) return Terminal::kNone;
  const unsigned number = major(stat.st_rdev);
  if (number == kTtyMajor && minor(stat.st_rdev) == 0) return Terminal::kControlling;
  if (number == kTtyMajor && minor(stat.st_rdev) == 2) return Terminal::kMaster;
  if (number >= kPtySlaveFirst && number <= kPtySlaveLast) return Terminal::kPtySlave;
  return number == kTtyMajor || number == kConsoleMajor ? Terminal::kOther : Terminal::kNone;
}

unsigned pty_index(const struct ::stat& slave) {
  return (major(slave.st_rdev) - kPtySlaveFirst) * 256 + minor(slave.st_rdev);
}

// Is the pty's master in the tree? (fdinfo of a master: "tty-index:")
bool master_in_tree(const OpenFile& slave, const OpenFileTable& tree) {
  return std::ranges::any_of(tree.files, [&](const auto& file) {
    if (terminal_of(file->stat) != Terminal::kMaster) return false;
    const auto text = kernel::fdinfo_value(file->info.rest, "tty-index");
    unsigned index = 0;
    return text && std::from_chars(text->data(), text->data() + text->size(), index).ec == std::errc() &&
           index == pty_index(slave.stat);
  });
}

// The terminal at which the tree was started: controlling, or a standard stream.
bool is_own_terminal(const OpenFile& file, const OpenFileTable& tree) {
  if (terminal_of(file.stat) == Terminal::kControlling || tree.terminals.contains(file.stat.st_rdev)) return true;
  return std::ranges::any_of(file.inode->files, [](const OpenFile* other) { return other->is_standard_stream(); });
}

bool is_outside_terminal(const OpenFile& file, const OpenFileTable& tree) {
  const Terminal terminal = terminal_of(file.stat);
  if (terminal == Terminal::kNone || terminal == Terminal::kMaster) return false;
  return terminal != Terminal::kPtySlave || !master_in_tree(file, tree);
}

// Connected to somebody outside of the tree? (Those of other families are what they are, or refused by name.)
bool leads_outside(const OpenFile& socket, const OpenFileTable& tree) {
  if (socket.inet_socket) return socket.inet_socket->remote && find_inet_peer(socket, tree) == nullptr;
  if (!socket.unix_socket) return false;
  return find_unix_relation(socket, tree).outside;
}

}  // namespace

bool claims_external(const OpenFile& file, const OpenFileTable& tree) {
  if (file.is_path_only()) return false;
  if (S_ISFIFO(file.stat.st_mode)) return find_pipe_peer(file, tree) == PipePeer::kOutside;
  if (S_ISSOCK(file.stat.st_mode)) return file.is_standard_stream() && leads_outside(file, tree);
  return is_outside_terminal(file, tree);
}

std::optional<Obstacle> external_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                          const CheckpointPolicy& policy) {
  if (file.is_standard_stream()) return std::nullopt;
  if (S_ISCHR(file.stat.st_mode)) {
    if (is_own_terminal(file, tree)) return std::nullopt;
    return file.obstacle(Errc::kExternalPeer, "it leads to a terminal that is not the program's own");
  }
  if (policy.external_pipes == ExternalPipePolicy::kBindAtRestart) return std::nullopt;
  return file.obstacle(Errc::kExternalPeer,
                       fmt::format("the pipe leads out of the process tree: {}", describe_outside(file, tree)),
                       "checkpoint a process that is the parent of both ends, or close the pipe");
}

Result<void> checkpoint_external(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenFile& file = *static_cast<OpenFile*>(object);
  ExternalRecord record{.link = file.link, .flags = file.info.flags};
  if (S_ISFIFO(file.stat.st_mode)) {
    record.form = ExternalForm::kPipe;
    record.peer = describe_outside(file, ctx.files);
  } else if (S_ISSOCK(file.stat.st_mode)) {
    record.form = ExternalForm::kSocket;
  } else if (file.held) {
    // One that has hung up has none.
    if (auto settings = get_settings(file.held.get())) record.settings = *std::move(settings);
  }
  for (const FileHolder& holder : file.holders) record.numbers.push_back(holder.fd);
  std::ranges::sort(record.numbers);
  record.numbers.erase(std::ranges::unique(record.numbers).begin(), record.numbers.end());
  return ctx.write_object(ref, kind::kExternal, record);
}

Result<void*> restore_external(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  auto file = std::make_unique<RestoredExternal>(STASIS_TRY(ctx.image.read<ExternalRecord>()));
  STASIS_TRY(file->bind(ctx));
  return to_object(std::move(file));
}

Result<void> RestoredExternal::bind(const RestartContext& ctx) {
  bool standard = false;
  for (const std::int32_t number : record_.numbers) {
    if (number < 0 || number > 2) continue;
    standard = true;
    streams_[static_cast<std::size_t>(number)] = STASIS_TRY(stream(number, ctx));
  }
  if (!standard && record_.form == ExternalForm::kTerminal) fd = STASIS_TRY(terminal(ctx));
  return {};
}

Result<UniqueFd> RestoredExternal::stream(int number, const RestartContext& ctx) const {
  if (::fcntl(number, F_GETFD) >= 0 && !stream_was_closed(number))
    return with_flags(STASIS_TRY(ctx.park_duplicate(number)), ctx);
  // The restart command was started without that stream.
  return ctx.park(STASIS_TRY(open_at(AT_FDCWD, "/dev/null", static_cast<int>(record_.flags) & O_ACCMODE)));
}

Result<UniqueFd> RestoredExternal::terminal(const RestartContext& ctx) const {
  const int access = static_cast<int>(record_.flags) & O_ACCMODE;
  auto present = open_at(AT_FDCWD, "/dev/tty", access | (static_cast<int>(record_.flags) & O_NONBLOCK) | O_NOCTTY);
  if (present) return ctx.park(*std::move(present));
  return stream(access == O_RDONLY ? 0 : access == O_WRONLY ? 1 : 2, ctx);
}

Result<UniqueFd> RestoredExternal::with_flags(UniqueFd shared, const RestartContext& ctx) const {
  const int flags = ::fcntl(shared.get(), F_GETFL);
  if (flags < 0) return Error::from_errno(errno, "ask for the flags of a standard stream");
  if ((record_.flags & O_NONBLOCK) == 0 || (flags & O_NONBLOCK) != 0) return shared;
  struct ::stat stat{};
  if (::fstat(shared.get(), &stat) == 0 && (S_ISFIFO(stat.st_mode) || terminal_of(stat) != Terminal::kNone)) {
    auto own =
        open_at(AT_FDCWD, fmt::format("/proc/self/fd/{}", shared.get()), (flags & O_ACCMODE) | O_NONBLOCK | O_NOCTTY);
    if (own) return ctx.park(*std::move(own));
  }
  if (::fcntl(shared.get(), F_SETFL, flags | O_NONBLOCK) == 0) return shared;
  return Error::from_errno(errno, "set the flags of a standard stream");
}

int RestoredExternal::descriptor_for(int number) const {
  if (fd) return fd.get();
  if (number >= 0 && number <= 2 && streams_[static_cast<std::size_t>(number)]) {
    return streams_[static_cast<std::size_t>(number)].get();
  }
  const auto lowest = std::ranges::find_if(streams_, [](const UniqueFd& stream) { return static_cast<bool>(stream); });
  return lowest == streams_.end() ? -1 : lowest->get();
}

Error RestoredExternal::unbound(int number) const {
  std::string what = fmt::format("descriptor {} ({}) led out of the process tree", number, record_.link);
  if (!record_.peer.empty()) what += ": " + record_.peer;
  return Error(Errc::kExternalPeer, std::move(what))
      .with_help(fmt::format("--inherit-fd {}=N binds it to descriptor N of the restart command", number));
}

void RestoredExternal::replace(UniqueFd other) {
  fd = std::move(other);
  for (UniqueFd& stream : streams_) stream.reset();
}

}  // namespace stasis
