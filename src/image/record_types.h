// SPDX-License-Identifier: Apache-2.0
// The numbers of all record types. A number is permanent: never reused, never given another meaning.
//
//   1-15    framing, owned by this layer (format.h)
//   16-63   tasks, threads, signals, memory
//   64-191  object kinds: open files of each kind, tables, namespaces
//   192-    free; applications start at kFirstApplicationRecord (stasis/image_schema.h)
//
// A record that a reader may pass over without harm gets `| kIgnorableRecord`.
#pragma once

#include <cstdint>

#include "stasis/image_schema.h"

namespace stasis {

enum class RecordType : std::uint32_t {
  // framing
  kEnvironment = 1,
  kObject = 2,
  kEndOfStructure = 3,
  kChunk = 4,
  kChunkEnd = 5,
  kIndex = 6,
  kTrailer = 7,
  kError = 8,
  kPadding = 9 | kIgnorableRecord,
  // tasks, threads, signals, memory: 16-63
  kTree = 16,
  kProcess = 17,
  kThread = 18,
  kMemory = 19,
  kSighand = 20,
  kFileTable = 21,
  kFs = 22,
  kSeccomp = 23,
  kForkedPages = 24,
  // object kinds: 64-191
  kPathFile = 64,
  kPipe = 65,
  kPipeEnd = 66,
  kExternal = 67,
  kEventFd = 68,
  kTimerFd = 69,
  kSignalFd = 70,
  kEpoll = 71,
  kNamelessFile = 72,
  kSharedMemory = 73,
  kMemFd = 74,
  kInotify = 75,
  kTerminal = 76,
  kTerminalSlave = 77,
  kPosixQueue = 78,
  kMessageQueue = 79,
  kUnixSocket = 80,
  kUnixLink = 81,
  kInetSocket = 82,
  kNetlink = 83,
  kSystemV = 84,
  kPidFd = 85,
  kProcessFile = 86,
  kFanotify = 87,
  kPacket = 88,
};

// "type 70" or "type 70 (ignorable)", for messages.
std::string to_string(RecordType type);

constexpr bool is_ignorable(RecordType type) { return (static_cast<std::uint32_t>(type) & kIgnorableRecord) != 0; }

}  // namespace stasis
