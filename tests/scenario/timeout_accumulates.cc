// SPDX-License-Identifier: Apache-2.0
// Relative time-outs are used up across freezes and restarts (see timeouts.h): of calls that the kernel restarts from
// its own notes, and of those that it ends with EINTR.
// scenario: modes=plain,freezes,restarts,user-restarts
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>

#include "timeouts.h"

namespace {

using scenario::the_timeout;
using scenario::TimedCalls;

// A time-out that the kernel can't write back to: the calls that would do so end with EINTR instead.
void* read_only(const void* bytes, std::size_t size) {
  void* const page = SETUP(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::memcpy(page, bytes, size);
  SETUP(mprotect(page, 4096, PROT_READ));
  return page;
}

void add_waits(TimedCalls& calls) {
  calls.add("rt_sigtimedwait", -1, EAGAIN, [] {
    const std::uint64_t set = std::uint64_t{1} << (SIGUSR2 - 1);
    return syscall(SYS_rt_sigtimedwait, &set, nullptr, &the_timeout, 8);
  });
  calls.add("nanosleep", 0, 0, [] { return syscall(SYS_nanosleep, &the_timeout, nullptr); });
  calls.add("nanosleep with a remainder", 0, 0, [] {
    timespec left{};
    return syscall(SYS_nanosleep, &the_timeout, &left);
  });
  calls.add("clock_nanosleep", 0, 0,
            [] { return syscall(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &the_timeout, nullptr); });
  calls.add("futex", -1, ETIMEDOUT, [] {
    std::uint32_t word = 0;
    return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &the_timeout, nullptr, 0);
  });
}

void add_descriptors(TimedCalls& calls) {
  calls.add("poll", 0, 0, [] { return syscall(SYS_poll, nullptr, 0, 1500); });
  calls.add("select", 0, 0, [] {
    timeval time = {1, 500000};
    return syscall(SYS_select, 0, nullptr, nullptr, nullptr, &time);
  });
  calls.add("ppoll", 0, 0, [] {
    timespec time = the_timeout;
    return syscall(SYS_ppoll, nullptr, 0, &time, nullptr, 8);
  });
  calls.add("select with a read-only time-out", 0, 0, [] {
    const timeval time = {1, 500000};
    return syscall(SYS_select, 0, nullptr, nullptr, nullptr, read_only(&time, sizeof time));
  });
  calls.add("ppoll with a read-only time-out", 0, 0,
            [] { return syscall(SYS_ppoll, nullptr, 0, read_only(&the_timeout, sizeof the_timeout), nullptr, 8); });
  calls.add("epoll_wait", 0, 0, [] {
    const int fd = SETUP(epoll_create1(EPOLL_CLOEXEC));
    epoll_event event{};
    const long result = syscall(SYS_epoll_wait, fd, &event, 1, 1500);
    close(fd);
    return result;
  });
}

}  // namespace

int main() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  scenario::TimedCalls calls;
  add_waits(calls);
  add_descriptors(calls);
  calls.start();

  scenario::ready_and_wait();

  calls.check();
  return scenario::finish();
}
