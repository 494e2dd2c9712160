// SPDX-License-Identifier: Apache-2.0
// The kinds of shared object: what an objref may name. Numbers are permanent, they stand in images.
#pragma once

#include "stasis/objhash.h"

namespace stasis {

// Kinds below 32 hang on tasks, from 32 on they are open file descriptions, from 128 on what those share in turn.
namespace kind {
inline constexpr ObjType kMemory = 1;     // an address space
inline constexpr ObjType kFileTable = 2;  // a descriptor table
inline constexpr ObjType kFs = 3;         // root, working directory, umask
inline constexpr ObjType kSighand = 4;    // signal actions
inline constexpr ObjType kSeccomp = 5;    // seccomp filters, or strict mode
inline constexpr ObjType kPathFile = 32;  // opened by path: regular file, directory, harmless device, O_PATH
inline constexpr ObjType kPipeEnd = 33;   // one end of a pipe or FIFO
inline constexpr ObjType kExternal = 34;  // leads outside the tree; bound anew at restart
inline constexpr ObjType kEventFd = 35;
inline constexpr ObjType kEpoll = 36;
inline constexpr ObjType kTimerFd = 37;
inline constexpr ObjType kSignalFd = 38;
inline constexpr ObjType kInotify = 39;
inline constexpr ObjType kFanotify = 40;
inline constexpr ObjType kPidFd = 41;
inline constexpr ObjType kUnixSocket = 42;
inline constexpr ObjType kInetSocket = 43;
inline constexpr ObjType kTerminal = 44;
inline constexpr ObjType kMemFd = 45;
inline constexpr ObjType kMessageQueue = 46;
inline constexpr ObjType kNetlink = 47;
inline constexpr ObjType kTerminalSlave = 48;  // kTerminal is the master, and stands for the pair
inline constexpr ObjType kProcessFile = 49;    // a file of a process in /proc
inline constexpr ObjType kPacket = 50;
inline constexpr ObjType kPipe = 128;          // the pipe behind its ends
inline constexpr ObjType kSharedMemory = 129;  // shared anonymous memory, memfd contents, SysV segments
inline constexpr ObjType kNamelessFile = 130;  // a file that no path leads to, with its contents
inline constexpr ObjType kUnixLink = 131;      // two unix sockets that are connected
inline constexpr ObjType kSystemV = 132;       // System V semaphores and message queues
inline constexpr ObjType kPosixQueue = 133;    // a message queue behind its openings
}  // namespace kind

}  // namespace stasis
