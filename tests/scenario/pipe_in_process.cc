// SPDX-License-Identifier: Apache-2.0
// Pipes inside the process keep contents, sizes and flags; a half-closed pipe gives EOF or SIGPIPE at once, and at no
// moment anything else (two threads watch all the time).
#include <signal.h>

#include <array>
#include <atomic>
#include <vector>

#include "scenario.h"

namespace {

struct Pipe {
  int read_end = -1;
  int write_end = -1;
};

Pipe make_pipe(int flags = 0) {
  std::array<int, 2> ends{};
  SETUP(pipe2(ends.data(), flags));
  return {ends[0], ends[1]};
}

std::string pattern(std::size_t bytes, unsigned seed) {
  std::string text(bytes, '\0');
  for (auto& c : text) {
    seed = seed * 1103515245U + 12345U;
    c = static_cast<char>(seed >> 16);
  }
  return text;
}

std::string read_some(int fd, std::size_t bytes) {
  std::string text(bytes, '\0');
  std::size_t filled = 0;
  while (filled < bytes) {
    const ssize_t got = read(fd, text.data() + filled, bytes - filled);
    if (got <= 0) break;
    filled += static_cast<std::size_t>(got);
  }
  text.resize(filled);
  return text;
}

std::atomic<bool> stop = false;
std::atomic<int> sigpipes = 0;
std::atomic<long> watched = 0;
void on_sigpipe(int) { ++sigpipes; }

// Nobody can write here: a read must see the end, always.
void* watch_end_of_file(void* fd) {
  char byte = 0;
  for (; !stop; ++watched) {
    const ssize_t got = read(static_cast<int>(reinterpret_cast<std::intptr_t>(fd)), &byte, 1);
    if (!CHECK(got == 0, "a half-closed pipe gave %zd (%s) to a reader", got, std::strerror(errno))) break;
  }
  return nullptr;
}

// Nobody can read here: a write must fail with EPIPE, always.
void* watch_broken_pipe(void* fd) {
  for (; !stop; ++watched) {
    const ssize_t got = write(static_cast<int>(reinterpret_cast<std::intptr_t>(fd)), "x", 1);
    if (!CHECK(got == -1 && errno == EPIPE, "a half-closed pipe took %zd bytes (%s)", got, std::strerror(errno))) break;
  }
  return nullptr;
}

}  // namespace

int main() {
  struct sigaction action = {};
  action.sa_handler = on_sigpipe;
  SETUP(sigaction(SIGPIPE, &action, nullptr));

  const Pipe partly = make_pipe(O_CLOEXEC);
  const std::string partly_text = pattern(10000, 1);
  SETUP(write(partly.write_end, partly_text.data(), partly_text.size()));
  const Pipe full = make_pipe(O_NONBLOCK);
  const int full_size = SETUP(fcntl(full.write_end, F_SETPIPE_SZ, 262144));
  const std::string full_text = pattern(static_cast<std::size_t>(full_size), 2);
  CHECK_EQ(write(full.write_end, full_text.data(), full_text.size()), full_size);
  const Pipe small = make_pipe();
  const int small_size = SETUP(fcntl(small.write_end, F_SETPIPE_SZ, 4096));
  const Pipe empty = make_pipe(O_NONBLOCK);
  // Many small writes lie in slots of their own.
  const Pipe slots = make_pipe();
  std::string slots_text;
  for (int i = 0; i < 12; ++i) {
    const std::string piece = pattern(100 + static_cast<std::size_t>(i), 50 + static_cast<unsigned>(i));
    SETUP(write(slots.write_end, piece.data(), piece.size()));
    slots_text += piece;
  }
  const Pipe shared = make_pipe();
  const int shared_copy = SETUP(dup(shared.write_end));
  // Half-closed: only a reader (with and without contents), only a writer.
  const Pipe ended = make_pipe(O_NONBLOCK);
  close(ended.write_end);
  const Pipe ended_with_data = make_pipe();
  SETUP(write(ended_with_data.write_end, "last words", 10));
  close(ended_with_data.write_end);
  const Pipe broken = make_pipe(O_NONBLOCK);
  close(broken.read_end);
  std::array<pthread_t, 2> watchers{};
  pthread_create(watchers.data(), nullptr, watch_end_of_file,
                 reinterpret_cast<void*>(static_cast<std::intptr_t>(ended.read_end)));
  pthread_create(&watchers[1], nullptr, watch_broken_pipe,
                 reinterpret_cast<void*>(static_cast<std::intptr_t>(broken.write_end)));
  while (watched < 2) scenario::pause_ms(1);

  scenario::ready_and_wait();

  CHECK(read_some(partly.read_end, partly_text.size()) == partly_text, "a partly filled pipe has other contents");
  CHECK((fcntl(partly.read_end, F_GETFD) & FD_CLOEXEC) != 0, "close-on-exec of a pipe is lost");
  CHECK_EQ(fcntl(full.write_end, F_GETPIPE_SZ), full_size);
  CHECK_EQ(fcntl(small.write_end, F_GETPIPE_SZ), small_size);
  CHECK(write(full.write_end, "x", 1) == -1 && errno == EAGAIN, "a full pipe takes another byte");
  CHECK(read_some(full.read_end, full_text.size()) == full_text, "a full pipe has other contents");
  char byte = 0;
  CHECK(read(empty.read_end, &byte, 1) == -1 && errno == EAGAIN, "an empty non-blocking pipe does not say EAGAIN");
  CHECK((fcntl(empty.read_end, F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK of a pipe is lost");
  CHECK((fcntl(small.read_end, F_GETFL) & O_NONBLOCK) == 0, "a blocking pipe became non-blocking");
  CHECK(read_some(slots.read_end, slots_text.size()) == slots_text, "a pipe of small writes has other contents");
  CHECK_EQ(write(shared_copy, "abc", 3), 3);
  close(shared.write_end);
  close(shared_copy);
  CHECK(read_some(shared.read_end, 10) == "abc", "a pipe with a duplicated end differs");
  CHECK(read_some(ended_with_data.read_end, 10) == "last words", "what was left in a half-closed pipe is lost");
  CHECK_EQ(read(ended_with_data.read_end, &byte, 1), 0);
  const int sigpipes_before = sigpipes;
  CHECK(write(broken.write_end, "x", 1) == -1 && errno == EPIPE, "no EPIPE from a half-closed pipe");
  CHECK(sigpipes > sigpipes_before, "no SIGPIPE from a half-closed pipe");
  const long watched_before = watched;
  while (watched < watched_before + 2) scenario::pause_ms(1);
  stop = true;
  for (const pthread_t watcher : watchers) pthread_join(watcher, nullptr);
  return scenario::finish();
}
