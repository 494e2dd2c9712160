// SPDX-License-Identifier: Apache-2.0
// The rows of all file kinds; others use file_kinds.h.
#pragma once

#include <algorithm>
#include <array>

#include "resource/epoll/epoll.h"
#include "resource/event_fd/event_fd.h"
#include "resource/external_stream/external_stream.h"
#include "resource/fanotify/fanotify.h"
#include "resource/inet_socket/inet_socket.h"
#include "resource/inotify/inotify.h"
#include "resource/message_queue/message_queue.h"
#include "resource/netlink_socket/netlink_socket.h"
#include "resource/packet_socket/packet_socket.h"
#include "resource/pid_fd/pid_fd.h"
#include "resource/pipe/pipe.h"
#include "resource/process_file/process_file.h"
#include "resource/regular_file/path_file.h"
#include "resource/shared_memory/shared_memory.h"
#include "resource/signal_fd/signal_fd.h"
#include "resource/terminal/terminal.h"
#include "resource/timer_fd/timer_fd.h"
#include "resource/unix_socket/unix_socket.h"

namespace stasis {

// The first that claims a file has it.
inline constexpr std::array kFileKinds = {
    kMessageQueueKind,  kMemFdKind,         kProcessFileKind,  kPathFileKind, kTerminalKind,
    kTerminalSlaveKind, kExternalKind,      kPipeEndKind,      kEventFdKind,  kTimerFdKind,
    kSignalFdKind,      kEpollKind,         kInotifyKind,      kPidFdKind,    kUnixSocketKind,
    kInetSocketKind,    kNetlinkSocketKind, kPacketSocketKind, kFanotifyKind,
};

constexpr bool is_complete(const FileKind& kind) {
  return kind.ops.type >= 32 && kind.ops.type < 128 && kind.ops.name != nullptr && kind.ops.drop != nullptr &&
         kind.ops.checkpoint != nullptr && kind.ops.restore != nullptr && kind.claims != nullptr;
}
static_assert(std::ranges::all_of(kFileKinds, is_complete), "a file kind lacks an entry of its row");

}  // namespace stasis
