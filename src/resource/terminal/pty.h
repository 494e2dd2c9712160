// SPDX-License-Identifier: Apache-2.0
// The calls on a pseudo-terminal: its settings, and its contents in both directions (pty(7), ioctl_tty(2),
// drivers/tty/n_tty.c).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "base/unique_fd.h"
#include "stasis/image_schema.h"
#include "stasis/result.h"

namespace stasis {

// struct termios2 and struct winsize.
struct TerminalSettings {
  std::uint32_t iflag = 0;
  std::uint32_t oflag = 0;
  std::uint32_t cflag = 0;
  std::uint32_t lflag = 0;
  std::vector<std::byte> characters;  // c_cc
  std::uint32_t input_speed = 0;
  std::uint32_t output_speed = 0;
  std::uint32_t rows = 0;
  std::uint32_t columns = 0;
  std::uint32_t width = 0;  // pixels
  std::uint32_t height = 0;

  static constexpr auto fields() {
    using R = TerminalSettings;
    return std::tuple{field<1>("iflag", &R::iflag, Show::kOctal),
                      field<2>("oflag", &R::oflag, Show::kOctal),
                      field<3>("cflag", &R::cflag, Show::kOctal),
                      field<4>("lflag", &R::lflag, Show::kOctal),
                      field<5>("characters", &R::characters, MaxLength{64}),
                      field<6>("input_speed", &R::input_speed),
                      field<7>("output_speed", &R::output_speed),
                      field<8>("rows", &R::rows),
                      field<9>("columns", &R::columns),
                      field<10>("width", &R::width),
                      field<11>("height", &R::height)};
  }
};

// What one read(2) of a slave yields. In canonical mode that is a line; a line that was ended by the end-of-file
// character has no terminator of its own, and is empty where it stands alone: that read says end of file. The last may
// be a line that nobody has ended yet.
enum class LineEnd : std::uint8_t { kTerminator = 0, kEndOfFile = 1, kNone = 2 };
constexpr auto enum_names(LineEnd) {
  return std::array{EnumName{LineEnd::kTerminator, "terminator"}, EnumName{LineEnd::kEndOfFile, "end_of_file"},
                    EnumName{LineEnd::kNone, "none"}};
}
struct TerminalLineRecord {
  std::vector<std::byte> bytes;
  LineEnd end = LineEnd::kNone;

  static constexpr auto fields() {
    using R = TerminalLineRecord;
    return std::tuple{field<1>("bytes", &R::bytes, MaxLength{1 << 20}), field<2>("end", &R::end)};
  }
};

// Both ends of a pair; any descriptors of them. Nobody else may use the terminal meanwhile.
struct PtyPair {
  int master = -1;
  int slave = -1;
};

// Of the slave; either end may be asked.
Result<TerminalSettings> get_settings(int fd);
// REQUIRES: as many characters as the kernel has; else kBadImage.
Result<void> set_settings(int fd, const TerminalSettings& settings);
// The same without the size, for a terminal that is somebody's window.
Result<void> set_modes(int fd, const TerminalSettings& settings);

// A new opening of the slave, O_NOCTTY (TIOCGPTPEER, Linux 4.13).
Result<UniqueFd> open_slave(int master, std::uint32_t flags);

// An int that an ioctl yields.
Result<int> ask_terminal(int fd, unsigned long request, const char* what);

// Takes everything out that waits for the master or the slave, and puts it back. The terminal's settings are as before
// when it returns, whatever happens. kUnsupportedObject: output is stopped (^S) or jammed, so that it could not be put
// back.
Result<std::vector<std::byte>> copy_output(const PtyPair& pair);
Result<std::vector<TerminalLineRecord>> copy_input(const PtyPair& pair);
Result<void> put_output(const PtyPair& pair, std::span<const std::byte> output);
Result<void> put_input(const PtyPair& pair, std::span<const TerminalLineRecord> input);

}  // namespace stasis
