// SPDX-License-Identifier: Apache-2.0
// Records of the tree and of each process in it.
#pragma once

#include <array>
#include <cstdint>
#include <tuple>
#include <vector>

#include "base/ids.h"
#include "image/record_types.h"
#include "resource/attributes/process_attributes.h"
#include "resource/limits/process_limits.h"
#include "resource/timer/process_timers.h"
#include "stasis/image_schema.h"

namespace stasis {

// The first structure record behind the environment.
struct TreeRecord {
  static constexpr RecordType kType = RecordType::kTree;
  static constexpr std::string_view kName = "tree";

  ImagePid root;
  std::uint32_t processes = 0;
  std::int32_t highest_fd = -1;  // of any process: the coordinator keeps clear of the numbers up to it

  static constexpr auto fields() {
    return std::tuple{field<1>("root", &TreeRecord::root), field<2>("processes", &TreeRecord::processes),
                      field<3>("highest_fd", &TreeRecord::highest_fd)};
  }
};

// What became of a process by a stop or continue signal, and its parent has not asked for yet (wait(2) with WUNTRACED
// and WCONTINUED).
enum class UnaskedChange : std::uint8_t { kNone = 0, kStopped = 1, kContinued = 2 };
constexpr auto enum_names(UnaskedChange) {
  return std::array{EnumName{UnaskedChange::kNone, "none"}, EnumName{UnaskedChange::kStopped, "stopped"},
                    EnumName{UnaskedChange::kContinued, "continued"}};
}

// One process; the records of its threads follow it, the leader's first. Parents stand before their children. One that
// has ended and was not waited for (a zombie) has no threads and no objects.
struct ProcessRecord {
  static constexpr RecordType kType = RecordType::kProcess;
  static constexpr std::string_view kName = "process";

  ImagePid pid;
  ImagePid parent;         // 0: outside the tree
  ImagePid process_group;  // 0: its leader is outside the tree's pid namespace
  ImagePid session;
  std::uint32_t threads = 0;
  std::int32_t exit_signal = 17;
  bool foreground = false;  // its group was the foreground group of its terminal
  bool stopped = false;     // by a stop signal
  ObjRef memory;
  ObjRef file_table;
  ObjRef fs;
  ObjRef sighand;                          // null, as the three above, for a zombie
  std::vector<std::byte> pending_signals;  // siginfo_t one behind another
  ProcessAttributes attributes;
  ProcessLimits limits;
  ProcessTimers timers;
  std::uint64_t xcomp_permission = 0;  // ARCH_GET_XCOMP_PERM: extended states the process may use
  bool zombie = false;
  std::int32_t wait_status = 0;  // of a zombie, as wait4(2) reports it
  std::string name;              // of a zombie; others' are their leaders'
  UnaskedChange unasked = UnaskedChange::kNone;

  static constexpr auto fields() {
    using R = ProcessRecord;
    return std::tuple{field<1>("pid", &R::pid),
                      field<2>("parent", &R::parent),
                      field<3>("process_group", &R::process_group),
                      field<4>("session", &R::session),
                      field<5>("threads", &R::threads),
                      field<6>("exit_signal", &R::exit_signal),
                      field<7>("foreground", &R::foreground),
                      field<8>("stopped", &R::stopped),
                      field<9>("memory", &R::memory, Null::kAllowed),
                      field<10>("file_table", &R::file_table, Null::kAllowed),
                      field<11>("fs", &R::fs, Null::kAllowed),
                      field<12>("sighand", &R::sighand, Null::kAllowed),
                      field<13>("pending_signals", &R::pending_signals, MaxLength{1 << 24}),
                      field<14>("attributes", &R::attributes),
                      field<15>("limits", &R::limits),
                      field<16>("timers", &R::timers),
                      field<17>("xcomp_permission", &R::xcomp_permission, Show::kHex),
                      field<18>("zombie", &R::zombie),
                      field<19>("wait_status", &R::wait_status, Show::kHex),
                      field<20>("unasked", &R::unasked),
                      field<21>("name", &R::name, MaxLength{15})};
  }
};

}  // namespace stasis
