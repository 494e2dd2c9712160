// SPDX-License-Identifier: Apache-2.0
// Pseudo-terminals (pty(7)) whose master the tree has: the master (kTerminal), which stands for the pair with its
// settings and contents, and the openings of the slave (kTerminalSlave). Terminals whose master is outside belong to
// resource/external_stream.
//
// What waits in a terminal can't be looked at without taking it out. It is taken out and put back at once, with all of
// the terminal's processing switched off meanwhile; so it is done only where every holder is in the tree, and stopped.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "resource/terminal/pty.h"
#include "stasis/image_schema.h"

namespace stasis {

struct TerminalRecord {
  static constexpr RecordType kType = RecordType::kTerminal;
  static constexpr std::string_view kName = "terminal";

  std::uint32_t index = 0;  // N of /dev/pts/N
  std::uint32_t flags = 0;  // O_* of the master
  TerminalSettings settings;
  bool locked = false;     // TIOCSPTLCK: the slave can't be opened
  bool packets = false;    // TIOCPKT
  bool exclusive = false;  // TIOCEXCL on the slave
  bool hung_up = false;    // the slave was open, and nobody has it any more
  std::uint32_t mode = 0;  // of /dev/pts/N
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::vector<std::byte> output;          // what the master may read
  std::vector<TerminalLineRecord> input;  // what the slave may read
  ImagePid session;                       // whose controlling terminal it is; 0: nobody's
  ImagePid foreground;                    // its foreground group; 0: none that is known

  static constexpr auto fields() {
    using R = TerminalRecord;
    return std::tuple{field<1>("index", &R::index),
                      field<2>("flags", &R::flags, Show::kOctal),
                      field<3>("settings", &R::settings),
                      field<4>("locked", &R::locked),
                      field<5>("packets", &R::packets),
                      field<6>("exclusive", &R::exclusive),
                      field<7>("hung_up", &R::hung_up),
                      field<8>("mode", &R::mode, Show::kOctal),
                      field<9>("uid", &R::uid),
                      field<10>("gid", &R::gid),
                      field<11>("output", &R::output, MaxLength{1 << 20}),
                      field<12>("input", &R::input),
                      field<13>("session", &R::session),
                      field<14>("foreground", &R::foreground)};
  }
};

struct TerminalSlaveRecord {
  static constexpr RecordType kType = RecordType::kTerminalSlave;
  static constexpr std::string_view kName = "terminal_slave";

  ObjRef terminal;
  std::uint32_t flags = 0;

  static constexpr auto fields() {
    using R = TerminalSlaveRecord;
    return std::tuple{field<1>("terminal", &R::terminal), field<2>("flags", &R::flags, Show::kOctal)};
  }
};

// N of /dev/pts/N, if the file is the master, or a slave (also one opened as /dev/tty).
std::optional<unsigned> master_index(const OpenFile& file);
std::optional<unsigned> slave_index(const OpenFile& file);
// The master of a pair in the tree; null if it is outside.
OpenFile* find_master(const OpenFileTable& tree, unsigned index);

bool claims_terminal(const OpenFile& file, const OpenFileTable& tree);
std::optional<Obstacle> terminal_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                          const CheckpointPolicy& policy);
Result<void> checkpoint_terminal(void* context, ObjRef ref, void* object);
Result<void*> restore_terminal(void* context, ObjRef ref);
bool claims_terminal_slave(const OpenFile& file, const OpenFileTable& tree);
Result<void> checkpoint_terminal_slave(void* context, ObjRef ref, void* object);
Result<void*> restore_terminal_slave(void* context, ObjRef ref);

struct RestoredTerminal : RestoredFile {
  UniqueFd slave;  // ours, parked, as long as the pair is being made
};

inline constexpr FileKind kTerminalKind = {
    .ops = {kind::kTerminal, "terminal", nullptr, RestoredObject::drop, checkpoint_terminal, restore_terminal},
    .claims = claims_terminal,
    .obstacle = terminal_obstacle};
inline constexpr FileKind kTerminalSlaveKind = {
    .ops = {kind::kTerminalSlave, "terminal_slave", nullptr, RestoredObject::drop, checkpoint_terminal_slave,
            restore_terminal_slave},
    .claims = claims_terminal_slave,
    .obstacle = nullptr};

}  // namespace stasis
