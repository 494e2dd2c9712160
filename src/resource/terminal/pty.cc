// SPDX-License-Identifier: Apache-2.0
#include "resource/terminal/pty.h"

#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <bitset>
#include <cerrno>
#include <optional>

#include "base/file.h"
#include "base/log.h"
#include "resource/insist.h"

namespace stasis {
namespace {

constexpr std::size_t kMaxContents = std::size_t{1} << 20;
constexpr std::size_t kCharacters = NCCS;
// Of at most this many bytes, and the few special characters, some value is free.
constexpr std::size_t kPiece = 200;
// Giving up loses what was taken out, so it is for a kernel that does not work any more.
constexpr int kPatienceMs = 60'000;

Result<::termios2> get_termios(int fd) {
  ::termios2 settings{};
  if (insist([&] { return ::ioctl(fd, TCGETS2, &settings); }) == 0) return settings;
  return Error::from_errno(errno, "ask for the settings of a terminal");
}

Result<void> set_termios(int fd, const ::termios2& settings) {
  if (insist([&] { return ::ioctl(fd, TCSETS2, &settings); }) == 0) return {};
  return Error::from_errno(errno, "set a terminal");
}

Result<void> set_packets(int master, int on) {
  if (insist([&] { return ::ioctl(master, TIOCPKT, &on); }) == 0) return {};
  return Error::from_errno(errno, "set the packet mode of a terminal");
}

std::string name_of(const PtyPair& pair) {
  const auto number = ask_terminal(pair.master, TIOCGPTN, "number");
  return number ? fmt::format("/dev/pts/{}", *number) : "a terminal";
}

// Settings and packet mode of a terminal; as they were when this goes.
class ScopedPlain {
 public:
  static Result<ScopedPlain> take(const PtyPair& pair) {
    ScopedPlain scope(pair, STASIS_TRY(get_termios(pair.master)));
    scope.packets_ = STASIS_TRY(ask_terminal(pair.master, TIOCGPKT, "packet mode"));
    if (scope.packets_ != 0) STASIS_TRY(set_packets(pair.master, 0));
    return scope;
  }
  ScopedPlain(ScopedPlain&& other) noexcept
      : pair_(std::exchange(other.pair_, {})), before_(other.before_), packets_(other.packets_) {}
  ScopedPlain& operator=(ScopedPlain&&) = delete;
  ~ScopedPlain() {
    if (pair_.master < 0) return;
    say_if_failed(set_termios(pair_.master, before_));
    if (packets_ != 0) say_if_failed(set_packets(pair_.master, 1));
  }
  const ::termios2& before() const { return before_; }

 private:
  ScopedPlain(const PtyPair& pair, const ::termios2& before) : pair_(pair), before_(before) {}
  // A destructor can't fail, but nobody is to search for why a terminal behaves otherwise.
  void say_if_failed(const Result<void>& put_back) const {
    if (!put_back) log::info("terminal", "{} is not as it was: {}", name_of(pair_), put_back.error().to_string());
  }

  PtyPair pair_;
  ::termios2 before_;
  int packets_ = 0;
};

// poll(2), which a signal to us must not end: taking it for "nothing waits" would put what is left behind what was
// taken.
Result<bool> is_ready(int fd, short events, int milliseconds = 0) {
  pollfd poll{.fd = fd, .events = events, .revents = 0};
  int found = 0;
  do {
    found = insist([&] { return ::poll(&poll, 1, milliseconds); });
  } while (found < 0 && errno == EINTR);
  if (found < 0) return Error::from_errno(errno, "ask whether a terminal is ready");
  return found > 0 && (poll.revents & events) != 0;
}

// One read(2) of what waits; nullopt: nothing does.
Result<std::optional<std::vector<std::byte>>> read_once(int fd) {
  std::vector<std::byte> bytes(1 << 16);
  if (!STASIS_TRY(is_ready(fd, POLLIN))) return std::nullopt;
  ssize_t got = 0;
  do {
    got = insist([&] { return ::read(fd, bytes.data(), bytes.size()); });
  } while (got < 0 && errno == EINTR);
  if (got < 0 && (errno == EIO || errno == EAGAIN)) return std::nullopt;  // hung up, and read to the end
  if (got < 0) return Error::from_errno(errno, "read a terminal");
  bytes.resize(static_cast<std::size_t>(got));
  return bytes;
}

// What was read is in `all` after an error, too.
Result<void> read_all(int fd, std::vector<std::byte>& all) {
  while (const auto part = STASIS_TRY(read_once(fd))) {
    if (part->empty()) break;
    all.insert(all.end(), part->begin(), part->end());
  }
  return {};
}

// Asked when all is out: what is put back comes behind what still waits.
Result<void> check_size(std::size_t bytes) {
  if (bytes <= kMaxContents) return {};
  return Error(Errc::kOverflow, "too much waits in a terminal");
}

Result<void> write_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if (!STASIS_TRY(is_ready(fd, POLLOUT, kPatienceMs)))
      return Error(Errc::kTimeout, "a terminal does not take its old contents");
    const ssize_t put = insist([&] { return ::write(fd, bytes.data(), bytes.size()); });
    if (put < 0 && errno != EAGAIN && errno != EINTR) return Error::from_errno(errno, "write to a terminal");
    if (put > 0) bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  return {};
}

Error jammed() {
  return Error(Errc::kUnsupportedObject, "the output of a terminal is stopped or jammed")
      .with_help("let it go on (Ctrl-Q)");
}

// Input is taken as it is: no echo, no signals, no editing, no translation.
::termios2 plain_input(const ::termios2& before) {
  ::termios2 plain = before;
  plain.c_iflag = 0;
  plain.c_lflag &= static_cast<tcflag_t>(ICANON | TOSTOP);
  const auto end_of_line = before.c_cc[VEOL], other_end = before.c_cc[VEOL2];
  std::ranges::fill(plain.c_cc, cc_t{0});  // _POSIX_VDISABLE
  if ((before.c_lflag & ICANON) != 0) plain.c_cc[VEOL] = end_of_line, plain.c_cc[VEOL2] = other_end;
  return plain;
}

// Values that occur in a piece of input, or are special.
std::bitset<256> used_in(std::span<const std::byte> piece, const ::termios2& settings) {
  std::bitset<256> used;
  used.set(0);
  used.set('\n');
  for (const std::byte byte : piece) used.set(std::to_integer<std::size_t>(byte));
  for (const cc_t special : settings.c_cc) used.set(special);
  return used;
}

cc_t take_free(std::bitset<256>& used) {
  std::size_t value = 1;
  while (used.test(value)) ++value;
  used.set(value);
  return static_cast<cc_t>(value);
}

// The kernel passes input on by a worker of its own. A stop character behind the input shows when it has arrived: the
// slave takes no output then.
Result<void> wait_until_taken(const PtyPair& pair, const ::termios2& settings) {
  const auto stop = static_cast<std::byte>(settings.c_cc[VSTOP]), start = static_cast<std::byte>(settings.c_cc[VSTART]);
  STASIS_TRY(write_all(pair.master, std::span(&stop, 1)));
  Result<bool> waits = is_ready(pair.slave, POLLOUT);
  for (int waited = 0; waits && *waits && waited < kPatienceMs * 10; ++waited) {
    ::usleep(100);
    waits = is_ready(pair.slave, POLLOUT);
  }
  // Whatever came of it: a terminal that stays stopped would be our doing.
  STASIS_TRY(write_all(pair.master, std::span(&start, 1)));
  if (STASIS_TRY(std::move(waits))) return Error(Errc::kTimeout, "a terminal does not take its old input");
  if (STASIS_TRY(is_ready(pair.slave, POLLOUT, kPatienceMs))) return {};
  return Error(Errc::kTimeout, "a terminal does not go on");
}

Result<void> put_piece(const PtyPair& pair, const ::termios2& plain, std::span<const std::byte> piece, LineEnd end) {
  ::termios2 settings = plain;
  std::bitset<256> used = used_in(piece, settings);
  settings.c_iflag |= IXON;
  settings.c_cc[VSTOP] = take_free(used);
  settings.c_cc[VSTART] = take_free(used);
  const bool lines = (settings.c_lflag & ICANON) != 0;
  if (lines) settings.c_cc[VEOF] = take_free(used);
  STASIS_TRY(set_termios(pair.master, settings));
  std::vector<std::byte> bytes(piece.begin(), piece.end());
  if (lines && end == LineEnd::kEndOfFile) bytes.push_back(static_cast<std::byte>(settings.c_cc[VEOF]));
  STASIS_TRY(write_all(pair.master, bytes));
  return wait_until_taken(pair, settings);
}

bool is_terminated(std::span<const std::byte> line, const ::termios2& settings) {
  if (line.empty()) return false;
  const auto last = std::to_integer<cc_t>(line.back());
  return last == '\n' || (last != 0 && (last == settings.c_cc[VEOL] || last == settings.c_cc[VEOL2]));
}

// What was taken is in `input` after an error, too.
Result<void> take_input(const PtyPair& pair, const ::termios2& before, std::vector<TerminalLineRecord>& input) {
  const bool lines = (before.c_lflag & ICANON) != 0;
  std::size_t total = 0;
  while (lines) {
    auto line = STASIS_TRY(read_once(pair.slave));
    if (!line) break;
    total += line->size() + 1;
    const LineEnd end = is_terminated(*line, before) ? LineEnd::kTerminator : LineEnd::kEndOfFile;
    input.push_back({.bytes = *std::move(line), .end = end});
  }
  // What is no line yet can be read only where there are no lines.
  ::termios2 raw = plain_input(before);
  raw.c_lflag &= ~static_cast<tcflag_t>(ICANON);
  raw.c_cc[VMIN] = 1;
  raw.c_cc[VTIME] = 0;
  STASIS_TRY(set_termios(pair.master, raw));
  std::vector<std::byte> rest;
  const auto read = read_all(pair.slave, rest);
  total += rest.size();
  if (!rest.empty()) input.push_back({.bytes = std::move(rest), .end = LineEnd::kNone});
  STASIS_TRY(read);
  return check_size(total);
}

}  // namespace

Result<int> ask_terminal(int fd, unsigned long request, const char* what) {
  int value = 0;
  if (insist([&] { return ::ioctl(fd, request, &value); }) == 0) return value;
  return Error::from_errno(errno, fmt::format("ask a terminal for its {}", what));
}

Result<TerminalSettings> get_settings(int fd) {
  const ::termios2 termios = STASIS_TRY(get_termios(fd));
  ::winsize size{};
  if (::ioctl(fd, TIOCGWINSZ, &size) != 0) return Error::from_errno(errno, "ask for the size of a terminal");
  const auto characters = std::as_bytes(std::span(termios.c_cc));
  return TerminalSettings{.iflag = termios.c_iflag,
                          .oflag = termios.c_oflag,
                          .cflag = termios.c_cflag,
                          .lflag = termios.c_lflag,
                          .characters = {characters.begin(), characters.end()},
                          .input_speed = termios.c_ispeed,
                          .output_speed = termios.c_ospeed,
                          .rows = size.ws_row,
                          .columns = size.ws_col,
                          .width = size.ws_xpixel,
                          .height = size.ws_ypixel};
}

Result<void> set_modes(int fd, const TerminalSettings& settings) {
  if (settings.characters.size() != kCharacters) return Error(Errc::kBadImage, "settings of another kind of terminal");
  ::termios2 termios = STASIS_TRY(get_termios(fd));
  termios.c_iflag = settings.iflag;
  termios.c_oflag = settings.oflag;
  termios.c_cflag = settings.cflag;
  termios.c_lflag = settings.lflag;
  std::ranges::transform(settings.characters, termios.c_cc, [](std::byte b) { return std::to_integer<cc_t>(b); });
  termios.c_ispeed = settings.input_speed;
  termios.c_ospeed = settings.output_speed;
  return set_termios(fd, termios);
}

Result<void> set_settings(int fd, const TerminalSettings& settings) {
  STASIS_TRY(set_modes(fd, settings));
  const ::winsize size{.ws_row = static_cast<unsigned short>(settings.rows),
                       .ws_col = static_cast<unsigned short>(settings.columns),
                       .ws_xpixel = static_cast<unsigned short>(settings.width),
                       .ws_ypixel = static_cast<unsigned short>(settings.height)};
  if (::ioctl(fd, TIOCSWINSZ, &size) == 0) return {};
  return Error::from_errno(errno, "set the size of a terminal");
}

Result<UniqueFd> open_slave(int master, std::uint32_t flags) {
  constexpr std::uint32_t kKnown = O_ACCMODE | O_NONBLOCK | O_APPEND;
  // With O_CLOEXEC here the kernel would keep that as a flag of the open file, and /proc tell it of every descriptor.
  const int how = static_cast<int>(flags & kKnown) | O_NOCTTY;
  UniqueFd slave(::ioctl(master, TIOCGPTPEER, how));
  if (slave && ::fcntl(slave.get(), F_SETFD, FD_CLOEXEC) == 0) return slave;
  return Error::from_errno(errno, "open a terminal");
}

Result<std::vector<std::byte>> copy_output(const PtyPair& pair) {
  const bool can_put_back = STASIS_TRY(is_ready(pair.slave, POLLOUT));
  std::vector<std::byte> output;
  const auto take = [&]() -> Result<void> {
    const ScopedPlain scope = STASIS_TRY(ScopedPlain::take(pair));
    if (!STASIS_TRY(is_ready(pair.master, POLLIN))) return {};
    if (!can_put_back) return jammed();
    return read_all(pair.master, output);
  };
  STASIS_TRY(
      take_and_put_back("terminal", name_of(pair) + ", its output", take, [&] { return put_output(pair, output); }));
  STASIS_TRY(check_size(output.size()));
  return output;
}

Result<void> put_output(const PtyPair& pair, std::span<const std::byte> output) {
  if (output.empty()) return {};
  const ScopedPlain scope = STASIS_TRY(ScopedPlain::take(pair));
  ::termios2 plain = scope.before();
  plain.c_oflag &= ~static_cast<tcflag_t>(OPOST);
  STASIS_TRY(set_termios(pair.master, plain));
  return write_all(pair.slave, output);
}

Result<std::vector<TerminalLineRecord>> copy_input(const PtyPair& pair) {
  // With output stopped, the arrival of what is put back could not be seen.
  if (!STASIS_TRY(is_ready(pair.slave, POLLOUT))) return jammed();
  std::vector<TerminalLineRecord> input;
  const auto take = [&]() -> Result<void> {
    const ScopedPlain scope = STASIS_TRY(ScopedPlain::take(pair));
    return take_input(pair, scope.before(), input);
  };
  STASIS_TRY(
      take_and_put_back("terminal", name_of(pair) + ", its input", take, [&] { return put_input(pair, input); }));
  return input;
}

Result<void> put_input(const PtyPair& pair, std::span<const TerminalLineRecord> input) {
  if (input.empty()) return {};
  const ScopedPlain scope = STASIS_TRY(ScopedPlain::take(pair));
  const ::termios2 plain = plain_input(scope.before());
  Result<void> first;  // what can still be put back is
  const auto put = [&](std::span<const std::byte> piece, LineEnd end) {
    if (auto done = put_piece(pair, plain, piece, end); !done && first) first = std::move(done);
  };
  for (const TerminalLineRecord& line : input) {
    std::span<const std::byte> rest = line.bytes;
    while (rest.size() > kPiece) {
      put(rest.first(kPiece), LineEnd::kNone);
      rest = rest.subspan(kPiece);
    }
    put(rest, line.end);
  }
  return first;
}

}  // namespace stasis
