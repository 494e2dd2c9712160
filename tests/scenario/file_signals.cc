// SPDX-License-Identifier: Apache-2.0
// What files send signals for: O_ASYNC with owner and signal of its own, and leases.
#include <signal.h>
#include <sys/wait.h>

#include <array>

#include "scenario.h"

namespace {

volatile sig_atomic_t which = 0;
volatile sig_atomic_t from = -1;
void on_signal(int number, siginfo_t* info, void*) {
  which = number;
  from = info->si_fd;
}
void wait_for_signal() {
  scenario::wait_until([] { return which != 0; });
}

}  // namespace

int main() {
  struct sigaction action{};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  for (const int number : {SIGIO, SIGRTMIN + 3, SIGRTMIN + 4}) SETUP(sigaction(number, &action, nullptr));
  std::array<int, 2> pipe_ends{};
  SETUP(pipe2(pipe_ends.data(), O_CLOEXEC));
  const f_owner_ex owner = {.type = F_OWNER_PID, .pid = getpid()};
  SETUP(fcntl(pipe_ends[0], F_SETOWN_EX, &owner));
  SETUP(fcntl(pipe_ends[0], F_SETSIG, SIGRTMIN + 3));
  SETUP(fcntl(pipe_ends[0], F_SETFL, O_ASYNC | O_NONBLOCK));
  const std::string file = scenario::path("leased");
  scenario::write_file(file, "text");
  const int leased = SETUP(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  SETUP(fcntl(leased, F_SETSIG, SIGRTMIN + 4));
  SETUP(fcntl(leased, F_SETLEASE, F_RDLCK));
  const std::string other = scenario::path("owned");
  scenario::write_file(other, "text");
  const int owned = SETUP(open(other.c_str(), O_RDWR | O_CLOEXEC));
  SETUP(fcntl(owned, F_SETLEASE, F_WRLCK));

  scenario::ready_and_wait();

  CHECK_EQ(which, 0);
  f_owner_ex found{};
  CHECK_EQ(fcntl(pipe_ends[0], F_GETOWN_EX, &found), 0);
  CHECK_EQ(found.type, F_OWNER_PID);
  CHECK_EQ(found.pid, getpid());
  CHECK_EQ(fcntl(pipe_ends[0], F_GETSIG), SIGRTMIN + 3);
  CHECK_EQ(fcntl(pipe_ends[0], F_GETFL) & (O_ASYNC | O_NONBLOCK), O_ASYNC | O_NONBLOCK);
  CHECK_EQ(write(pipe_ends[1], "x", 1), 1);
  wait_for_signal();
  CHECK_EQ(which, SIGRTMIN + 3);
  CHECK_EQ(from, pipe_ends[0]);
  which = 0;
  CHECK_EQ(fcntl(leased, F_GETLEASE), F_RDLCK);
  CHECK_EQ(fcntl(owned, F_GETLEASE), F_WRLCK);
  const int writing = open(file.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
  CHECK(writing == -1 && errno == EWOULDBLOCK, "a leased file can be opened for writing");
  wait_for_signal();
  CHECK_EQ(which, SIGRTMIN + 4);
  CHECK_EQ(from, leased);
  CHECK_EQ(fcntl(leased, F_SETLEASE, F_UNLCK), 0);
  return scenario::finish();
}
