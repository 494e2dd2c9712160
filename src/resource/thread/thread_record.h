// SPDX-License-Identifier: Apache-2.0
// Record of one thread: everything that makes it go on where it was.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "base/ids.h"
#include "image/record_types.h"
#include "resource/attributes/thread_attributes.h"
#include "resource/credentials/credentials.h"
#include "stasis/image_schema.h"

namespace stasis {

struct RseqRecord {
  std::uint64_t pointer = 0;
  std::uint32_t size = 0;
  std::uint32_t signature = 0;
  static constexpr auto fields() {
    using R = RseqRecord;
    return std::tuple{field<1>("pointer", &R::pointer, Show::kHex), field<2>("size", &R::size),
                      field<3>("signature", &R::signature, Show::kHex)};
  }
};

struct AltStackRecord {
  std::uint64_t pointer = 0;
  std::uint32_t flags = 2;  // SS_DISABLE
  std::uint64_t size = 0;
  static constexpr auto fields() {
    using R = AltStackRecord;
    return std::tuple{field<1>("pointer", &R::pointer, Show::kHex), field<2>("flags", &R::flags, Show::kHex),
                      field<3>("size", &R::size)};
  }
};

// The system call in which the thread waits, with what can't be told from its registers.
struct InterruptedCallRecord {
  std::int64_t number = -1;      // as the program made it (never restart_syscall); -1: not in a call
  std::uint64_t elapsed_ns = 0;  // of a relative time-out, used up before the checkpoint
  bool rewound = false;          // its registers stand before the call: it starts anew
  static constexpr auto fields() {
    using R = InterruptedCallRecord;
    return std::tuple{field<1>("number", &R::number), field<2>("elapsed_ns", &R::elapsed_ns),
                      field<3>("rewound", &R::rewound)};
  }
};

struct ThreadRecord {
  static constexpr RecordType kType = RecordType::kThread;
  static constexpr std::string_view kName = "thread";

  ImagePid tid;
  std::vector<std::byte> registers;  // NT_PRSTATUS
  std::vector<std::byte> xstate;     // NT_X86_XSTATE, cut behind the last feature in use
  std::uint64_t signal_mask = 0;
  std::uint64_t robust_list = 0;
  std::uint64_t robust_list_length = 0;
  std::uint64_t clear_child_tid = 0;
  RseqRecord rseq;
  AltStackRecord altstack;
  InterruptedCallRecord call;
  std::vector<std::byte> pending_signals;  // siginfo_t one behind another, 128 bytes each
  ThreadAttributes attributes;
  Credentials credentials;
  bool ended = false;            // a leader that has ended while others run: of the above it has tid, name, credentials
  std::int32_t wait_status = 0;  // of such a leader
  ObjRef seccomp;

  static constexpr auto fields() {
    using R = ThreadRecord;
    return std::tuple{field<1>("tid", &R::tid),
                      field<2>("registers", &R::registers, MaxLength{4096}),
                      field<3>("xstate", &R::xstate, MaxLength{1 << 16}),
                      field<4>("signal_mask", &R::signal_mask, Show::kHex),
                      field<5>("robust_list", &R::robust_list, Show::kHex),
                      field<6>("robust_list_length", &R::robust_list_length),
                      field<7>("clear_child_tid", &R::clear_child_tid, Show::kHex),
                      field<8>("rseq", &R::rseq),
                      field<9>("altstack", &R::altstack),
                      field<10>("call", &R::call),
                      field<11>("pending_signals", &R::pending_signals, MaxLength{1 << 24}),
                      field<12>("attributes", &R::attributes),
                      field<13>("credentials", &R::credentials),
                      field<14>("ended", &R::ended),
                      field<15>("wait_status", &R::wait_status, Show::kHex),
                      field<16>("seccomp", &R::seccomp, Null::kAllowed)};
  }
};

}  // namespace stasis
