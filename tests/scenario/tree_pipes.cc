// SPDX-License-Identifier: Apache-2.0
// Pipes and FIFOs between processes: contents, sizes, packets; a pipe whose other end is gone says so at once, and one
// whose last writer ends later says so then.
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "tree.h"

using scenario::Member;

namespace {

std::array<int, 2> make_pipe(int flags = 0) {
  std::array<int, 2> ends{};
  SETUP(pipe2(ends.data(), flags | O_CLOEXEC));
  return ends;
}

std::string take(int fd) {
  std::array<char, 256> bytes{};
  const ssize_t got = read(fd, bytes.data(), bytes.size());
  return got < 0 ? "(" + std::to_string(errno) + ")" : std::string(bytes.data(), static_cast<std::size_t>(got));
}
void put(int fd, const std::string& text) { SETUP(write(fd, text.data(), text.size())); }

std::array<int, 2> full, packets, last_writer;
std::string fifo;
int fifo_in_child = -1;

long answer(char question) {
  switch (question) {
    case 'r':  // as many bytes as the full pipe holds
    {
      std::array<char, 4096> bytes{};
      long sum = 0;
      fcntl(full[0], F_SETFL, O_NONBLOCK);
      for (ssize_t got = 0; (got = read(full[0], bytes.data(), bytes.size())) > 0;) sum += got;
      return sum;
    }
    case 'p':
      return static_cast<long>(take(packets[0]).size());
    case 'f':
      return write(fifo_in_child, "late", 4);
    case 'c':
      return close(last_writer[1]);
    default:
      return -1;
  }
}

}  // namespace

int main() {
  signal(SIGPIPE, SIG_IGN);
  full = make_pipe(O_NONBLOCK);
  SETUP(fcntl(full[1], F_SETPIPE_SZ, 1 << 18));
  const std::string block(4096, 'b');
  long bytes = 0;
  for (ssize_t put_now = 0; (put_now = write(full[1], block.data(), block.size())) > 0;) bytes += put_now;
  packets = make_pipe(O_DIRECT);
  put(packets[1], "one");
  put(packets[1], "three");
  last_writer = make_pipe();
  put(last_writer[1], "rest");
  fifo = scenario::path("fifo");
  SETUP(mkfifo(fifo.c_str(), 0600));
  const int fifo_here = SETUP(open(fifo.c_str(), O_RDWR | O_CLOEXEC));
  put(fifo_here, "early");
  const std::array<int, 2> no_writer = make_pipe(), no_reader = make_pipe(), empty = make_pipe(O_NONBLOCK);
  put(no_writer[1], "end");

  Member child(
      [&] {
        fifo_in_child = SETUP(open(fifo.c_str(), O_WRONLY | O_CLOEXEC));
        // What is half closed is so in every process.
        close(no_writer[1]);
        close(no_reader[0]);
        close(empty[1]);
      },
      answer);
  close(no_writer[1]);
  close(no_reader[0]);
  close(empty[1]);
  close(last_writer[1]);

  scenario::ready_and_wait();

  CHECK(take(no_writer[0]) == "end", "what a writer left is lost");
  CHECK(take(no_writer[0]).empty(), "a pipe without writer is not at its end");
  CHECK(take(empty[0]).empty(), "an empty pipe without writer is not at its end");
  CHECK(write(no_reader[1], "x", 1) == -1 && errno == EPIPE, "a pipe without reader takes bytes");
  CHECK_EQ(fcntl(full[1], F_GETPIPE_SZ), 1 << 18);
  CHECK(write(full[1], block.data(), block.size()) == -1 && errno == EAGAIN, "the full pipe takes more");
  CHECK_EQ(child.ask('r'), bytes);
  CHECK_EQ(write(full[1], "again", 5), 5);
  CHECK_EQ(child.ask('r'), 5L);
  CHECK_EQ(child.ask('p'), 3L);
  CHECK_EQ(child.ask('p'), 5L);
  CHECK(take(last_writer[0]) == "rest", "the contents of a pipe differ");
  CHECK_EQ(child.ask('c'), 0L);
  CHECK(take(last_writer[0]).empty(), "a pipe is not at its end when its last writer is gone");
  CHECK(take(fifo_here) == "early", "the contents of a FIFO differ");
  CHECK_EQ(child.ask('f'), 4L);
  CHECK(take(fifo_here) == "late", "a FIFO does not lead to the other process");
  CHECK_EQ(child.end(), 7 << 8);
  return scenario::finish();
}
