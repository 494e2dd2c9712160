// SPDX-License-Identifier: Apache-2.0
// Pseudo-terminals with both ends in the program: settings, size, what waits in both directions, packet mode, a slave
// that was closed.
// scenario: failures failing-calls failed-restarts
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <termios.h>

#include <array>

#include "scenario.h"

namespace {

void put(int fd, const std::string& text) { SETUP(write(fd, text.data(), text.size())); }

// One read(2) of what waits or comes in time.
std::string take_part(int fd, int milliseconds = 120000) {
  pollfd poll = {.fd = fd, .events = POLLIN, .revents = 0};
  if (::poll(&poll, 1, milliseconds) <= 0) return "(nothing)";
  std::array<char, 8192> bytes;
  const ssize_t got = read(fd, bytes.data(), bytes.size());
  return got < 0 ? "(error)" : std::string(bytes.data(), static_cast<std::size_t>(got));
}

// So many bytes: the kernel passes them on one by one, by a worker of its own.
std::string take(int fd, std::size_t bytes) {
  std::string all;
  while (all.size() < bytes) {
    const std::string part = take_part(fd);
    all += part;
    if (part == "(nothing)" || part == "(error)") break;
  }
  return all;
}

// Waits until they can be read.
void await_input(int fd, int bytes) {
  int there = 0;
  scenario::wait_until([&] { return ioctl(fd, FIONREAD, &there) != 0 || there >= bytes; });
  SETUP(there >= bytes ? 0 : -1);
}

struct Terminal {
  int master = -1;
  int slave = -1;
  std::string name;
  termios settings{};
};

Terminal make(bool raw) {
  Terminal t;
  SETUP(openpty(&t.master, &t.slave, nullptr, nullptr, nullptr));
  SETUP(tcgetattr(t.slave, &t.settings));
  if (raw) cfmakeraw(&t.settings);
  t.settings.c_cc[VQUIT] = 5;
  SETUP(tcsetattr(t.slave, TCSANOW, &t.settings));
  SETUP(tcgetattr(t.slave, &t.settings));
  t.name = ptsname(t.master);
  return t;
}

void check_settings(const Terminal& t) {
  termios now{};
  CHECK(tcgetattr(t.slave, &now) == 0 && now.c_iflag == t.settings.c_iflag && now.c_oflag == t.settings.c_oflag &&
            now.c_cflag == t.settings.c_cflag && now.c_lflag == t.settings.c_lflag && now.c_cc[VQUIT] == 5,
        "%s: the settings differ", t.name.c_str());
  CHECK(isatty(t.slave) == 1, "%s is no terminal", t.name.c_str());
}

}  // namespace

int main() {
  const Terminal lines = make(false), raw = make(true), closed = make(true);
  const winsize size = {.ws_row = 50, .ws_col = 132, .ws_xpixel = 0, .ws_ypixel = 0};
  SETUP(ioctl(lines.master, TIOCSWINSZ, &size));
  put(lines.slave, "output\n");
  put(lines.master, "first\nsecond\nthi");
  const std::string expected_output = "output\r\nfirst\r\nsecond\r\nthi";
  await_input(lines.master, static_cast<int>(expected_output.size()));
  const int on = 1;
  SETUP(ioctl(raw.master, TIOCPKT, &on));
  std::string bytes;
  for (int i = 0; i < 2000; ++i) bytes += static_cast<char>(i * 7);
  put(raw.master, bytes);
  await_input(raw.slave, static_cast<int>(bytes.size()));
  put(raw.slave, "raw\n");
  await_input(raw.master, 4);
  put(closed.slave, "last words");
  await_input(closed.master, 10);
  close(closed.slave);
  const int again = SETUP(open(lines.name.c_str(), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));

  const int kept_on_exec = SETUP(dup(lines.slave));
  // As a terminal emulator gives it to its shell: made to be closed, and then its standard input.
  const int peer = SETUP(ioctl(raw.master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  SETUP(dup2(peer, 0));

  scenario::ready_and_wait();

  check_settings(lines);
  check_settings(raw);
  CHECK_EQ(fcntl(kept_on_exec, F_GETFD), 0);
  CHECK_EQ(fcntl(0, F_GETFD), 0);
  CHECK_EQ(fcntl(again, F_GETFD), FD_CLOEXEC);
  // Somebody else may have got the number meanwhile.
  CHECK(lines.name == ptsname(lines.master) || scenario::exists(lines.name), "%s became %s", lines.name.c_str(),
        ptsname(lines.master));
  winsize now{};
  CHECK(ioctl(lines.slave, TIOCGWINSZ, &now) == 0 && now.ws_row == 50 && now.ws_col == 132, "the size is %dx%d",
        now.ws_row, now.ws_col);
  const std::string output = take(lines.master, expected_output.size());
  CHECK(output == expected_output, "the output is %s", output.c_str());
  CHECK(take_part(lines.slave) == "first\n", "the first line differs");
  CHECK(take_part(again) == "second\n", "the second line differs");
  CHECK(take_part(lines.slave, 20) == "(nothing)", "a line that is not finished can be read");
  put(lines.master, "rd\n");
  CHECK(take_part(again) == "third\n", "the third line differs");
  CHECK(take(lines.master, 4) == "rd\r\n", "there is no echo any more");
  CHECK((fcntl(again, F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK is lost");

  CHECK(take(raw.master, 5) == std::string("\0raw\n", 5), "packet mode or raw output differs");
  const std::string found = take(raw.slave, bytes.size());
  CHECK(found == bytes, "raw input differs: %zu bytes", found.size());

  CHECK(take(closed.master, 10) == "last words", "what a closed slave wrote is lost");
  CHECK(take(closed.master, 1) == "(error)", "a closed slave does not hang up");
  return scenario::finish();
}
