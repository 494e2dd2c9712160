// SPDX-License-Identifier: Apache-2.0
#include "resource/terminal/terminal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "base/file.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::RoundTrip;

struct Pair {
  Pair() {
    int ends[2] = {-1, -1};
    if (::openpty(&ends[0], &ends[1], nullptr, nullptr, nullptr) != 0) return;
    master.reset(ends[0]);
    slave.reset(ends[1]);
    for (const int end : ends) ::fcntl(end, F_SETFD, FD_CLOEXEC);
  }
  PtyPair both() const { return {.master = master.get(), .slave = slave.get()}; }
  termios settings() const {
    termios now{};
    ::tcgetattr(slave.get(), &now);
    return now;
  }
  void set(const termios& settings) const { ASSERT_EQ(::tcsetattr(slave.get(), TCSANOW, &settings), 0); }
  void make_raw() const {
    termios raw = settings();
    ::cfmakeraw(&raw);
    set(raw);
  }

  UniqueFd master;
  UniqueFd slave;
};

void put(int fd, std::string_view text) {
  ASSERT_EQ(::write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
}
// One read(2) of what waits, or comes in time; "(nothing)".
std::string take(int fd, int milliseconds = 120'000) {
  pollfd poll{.fd = fd, .events = POLLIN, .revents = 0};
  if (::poll(&poll, 1, milliseconds) <= 0) return "(nothing)";
  char bytes[8192];
  const ssize_t got = ::read(fd, bytes, sizeof bytes);
  return got < 0 ? "(error)" : std::string(bytes, static_cast<std::size_t>(got));
}
void wait_for_input(int fd) {
  pollfd poll{.fd = fd, .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&poll, 1, 120'000), 1);
}
// So many bytes are there to be read: the kernel passes them on, an echo one by one, by a worker of its own.
void wait_for_bytes(int fd, int bytes) {
  int there = 0;
  for (int i = 0; i < 120'000 && there < bytes; ++i) {
    ASSERT_EQ(::ioctl(fd, FIONREAD, &there), 0);
    if (there < bytes) ::usleep(1000);
  }
  ASSERT_GE(there, bytes);
}

bool same(const termios& a, const termios& b) {
  return a.c_iflag == b.c_iflag && a.c_oflag == b.c_oflag && a.c_cflag == b.c_cflag && a.c_lflag == b.c_lflag &&
         std::equal(std::begin(a.c_cc), std::end(a.c_cc), std::begin(b.c_cc));
}

TEST(Pty, OutputIsSeenAndStaysThere) {
  const Pair pair;
  put(pair.slave.get(), "one\ntwo");
  wait_for_bytes(pair.master.get(), 8);
  for (const int packets : {0, 1}) {
    ASSERT_EQ(::ioctl(pair.master.get(), TIOCPKT, &packets), 0);
    const auto output = copy_output(pair.both());
    ASSERT_TRUE(output) << output.error().to_string();
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(output->data()), output->size()), "one\r\ntwo");
  }
  EXPECT_EQ(take(pair.master.get()), std::string("\0one\r\ntwo", 9));
}

TEST(Pty, LinesEndOfFileAndAnUnfinishedLineAreSeenAndStayThere) {
  const Pair pair;
  const termios before = pair.settings();
  put(pair.master.get(), "line\nno newline\x04\x04rest");
  const std::string echo = "line\r\nno newlinerest";
  wait_for_bytes(pair.master.get(), static_cast<int>(echo.size()));
  EXPECT_EQ(take(pair.master.get()), echo);
  wait_for_input(pair.slave.get());
  const auto input = copy_input(pair.both());
  ASSERT_TRUE(input) << input.error().to_string();
  ASSERT_EQ(input->size(), 4u);
  EXPECT_EQ((*input)[0].bytes.size(), 5u);
  EXPECT_EQ((*input)[0].end, LineEnd::kTerminator);
  EXPECT_EQ((*input)[1].bytes.size(), 10u);
  EXPECT_EQ((*input)[1].end, LineEnd::kEndOfFile);
  EXPECT_EQ((*input)[2].bytes.size(), 0u);
  EXPECT_EQ((*input)[2].end, LineEnd::kEndOfFile);
  EXPECT_EQ((*input)[3].bytes.size(), 4u);
  EXPECT_EQ((*input)[3].end, LineEnd::kNone);
  EXPECT_TRUE(same(pair.settings(), before));
  EXPECT_EQ(take(pair.slave.get()), "line\n");
  EXPECT_EQ(take(pair.slave.get()), "no newline");
  EXPECT_EQ(take(pair.slave.get()), "");
  EXPECT_EQ(take(pair.slave.get(), 50), "(nothing)");
  put(pair.master.get(), "\n");
  EXPECT_EQ(take(pair.slave.get()), "rest\n");
}

TEST(Pty, RawInputOfAllBytesStaysThere) {
  const Pair pair;
  pair.make_raw();
  std::string all;
  for (int i = 0; i < 3000; ++i) all += static_cast<char>(i);
  put(pair.master.get(), all);
  wait_for_bytes(pair.slave.get(), static_cast<int>(all.size()));
  const auto input = copy_input(pair.both());
  ASSERT_TRUE(input) << input.error().to_string();
  ASSERT_EQ(input->size(), 1u);
  EXPECT_EQ(input->front().bytes.size(), all.size());
  std::string found;
  while (found.size() < all.size()) {
    const std::string part = take(pair.slave.get());
    if (part == "(nothing)") break;
    found += part;
  }
  EXPECT_TRUE(found == all);
  EXPECT_EQ(take(pair.master.get(), 50), "(nothing)");
}

TEST(Pty, StoppedOutputIsRefusedAndNothingIsLost) {
  const Pair pair;
  put(pair.slave.get(), "text");
  wait_for_bytes(pair.master.get(), 4);
  put(pair.master.get(), "\x13");  // ^S
  for (int i = 0; i < 120'000; ++i) {
    pollfd poll{.fd = pair.slave.get(), .events = POLLOUT, .revents = 0};
    if (::poll(&poll, 1, 0) == 0) break;
    ::usleep(1000);
  }
  const auto output = copy_output(pair.both());
  ASSERT_FALSE(output);
  EXPECT_EQ(output.error().code(), Errc::kUnsupportedObject);
  EXPECT_EQ(take(pair.master.get()), "text");
}

TEST(Terminal, ThePairComesBack) {
  RoundTrip trip;
  Pair pair;
  termios settings = pair.settings();
  settings.c_lflag &= ~static_cast<tcflag_t>(ECHO);
  settings.c_cc[VINTR] = 7;
  ::cfsetspeed(&settings, B19200);
  pair.set(settings);
  settings = pair.settings();
  const winsize size{.ws_row = 40, .ws_col = 133, .ws_xpixel = 5, .ws_ypixel = 6};
  ASSERT_EQ(::ioctl(pair.master.get(), TIOCSWINSZ, &size), 0);
  const int on = 1;
  ASSERT_EQ(::ioctl(pair.master.get(), TIOCPKT, &on), 0);
  put(pair.slave.get(), "to the master");
  wait_for_bytes(pair.master.get(), 13);
  put(pair.master.get(), "to the slave\nunfinished");
  wait_for_input(pair.slave.get());
  ASSERT_EQ(::fcntl(pair.master.get(), F_SETFL, O_NONBLOCK), 0);
  const UniqueFd reading(::open(::ptsname(pair.master.get()), O_RDONLY | O_NOCTTY | O_CLOEXEC));
  const std::string name = ::ptsname(pair.master.get());
  const auto saved = trip.save({pair.master.get(), pair.slave.get(), reading.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  EXPECT_EQ(take(pair.slave.get()), "to the slave\n");  // the live one keeps it
  pair.master.reset();
  pair.slave.reset();
  ::close(const_cast<UniqueFd&>(reading).release());
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  const int master = trip.fd(0), slave = trip.fd(1);
  EXPECT_EQ(::ptsname(master), name);
  EXPECT_EQ(*read_link(AT_FDCWD, fmt::format("/proc/self/fd/{}", slave)), name);
  EXPECT_EQ(::fcntl(master, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR | O_NONBLOCK);
  EXPECT_EQ(::fcntl(trip.fd(2), F_GETFL) & O_ACCMODE, O_RDONLY);
  termios after{};
  ASSERT_EQ(::tcgetattr(slave, &after), 0);
  EXPECT_TRUE(same(after, settings));
  EXPECT_EQ(::cfgetospeed(&after), unsigned{B19200});
  winsize size_after{};
  ASSERT_EQ(::ioctl(slave, TIOCGWINSZ, &size_after), 0);
  EXPECT_EQ(size_after.ws_col, 133);
  EXPECT_EQ(size_after.ws_row, 40);
  EXPECT_EQ(take(master), std::string("\0to the master", 14));
  EXPECT_EQ(take(slave), "to the slave\n");
  put(master, "\n");
  EXPECT_EQ(take(trip.fd(2)), "unfinished\n");
}

TEST(Terminal, AClosedSlaveHangsUpAgain) {
  RoundTrip trip;
  Pair pair;
  put(pair.slave.get(), "last words");
  wait_for_bytes(pair.master.get(), 10);
  pair.slave.reset();
  const auto saved = trip.save({pair.master.get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  EXPECT_EQ(take(pair.master.get()), "last words");
  EXPECT_EQ(take(pair.master.get()), "(error)");
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  const UniqueFd kept = trip.keep(0);
  trip.objects().clear();
  EXPECT_EQ(take(kept.get()), "last words");
  EXPECT_EQ(take(kept.get()), "(error)");
}

TEST(Terminal, HostileRecordsAreRefused) {
  EXPECT_FALSE(testing::restore_record(TerminalRecord{.index = 1 << 30}, kind::kTerminal));
  EXPECT_FALSE(testing::restore_record(TerminalRecord{.index = 0}, kind::kTerminal));  // without characters
}

}  // namespace
}  // namespace stasis
