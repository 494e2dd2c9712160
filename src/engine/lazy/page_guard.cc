// SPDX-License-Identifier: Apache-2.0
#include "engine/lazy/page_guard.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <syslog.h>
#include <unistd.h>

#include <new>
#include <set>

#include "base/file.h"
#include "kernel/clone3.h"
#include "kernel/pidfd.h"
#include "kernel/proc_dir.h"
#include "kernel/userfaultfd.h"

namespace stasis {
namespace {

constexpr const char* kGuardName = "stasis-guard";

kernel::Userfaultfd duplicate_of(int userfaultfd) {
  return kernel::Userfaultfd(UniqueFd(::fcntl(userfaultfd, F_DUPFD_CLOEXEC, 0)));
}

void kill_who_touches(int userfaultfd) {
  const auto events = duplicate_of(userfaultfd).read_events();
  if (!events) return;
  for (const kernel::UffdEvent& event : *events) {
    const auto* const fault = std::get_if<kernel::UffdFault>(&event);
    if (fault && fault->thread != 0) ::kill(static_cast<pid_t>(fault->thread), SIGKILL);
  }
}

struct GuardStart {
  const GuardBoard* board;
  const std::string* image;
  int server;  // pidfd
};

[[noreturn]] void guard(const GuardStart& start) {
  ::prctl(PR_SET_NAME, kGuardName);
  ::pollfd server{.fd = start.server, .events = POLLIN, .revents = 0};
  while (::poll(&server, 1, -1) < 0 && errno == EINTR) {
  }
  if (!start.board->done()) {
    tell_of_end(fmt::format("{}: the process that was filling the program's memory was killed", *start.image));
    end_program(*start.board);
  }
  ::_exit(0);
}

void run_guard(void* start) noexcept { guard(*static_cast<const GuardStart*>(start)); }

}  // namespace

Result<GuardBoard> GuardBoard::create() {
  void* const at =
      ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return Error::from_errno(errno, "map the guard's board");
  return GuardBoard(new (at) Shared);  // a fresh mapping is all zeros
}

GuardBoard::~GuardBoard() {
  if (shared_) ::munmap(shared_, sizeof(Shared));
}

Result<void> GuardBoard::append(Numbers& numbers, std::atomic<std::uint32_t>& count, int number) {
  const std::uint32_t used = count.load();
  for (std::uint32_t i = 0; i < used; ++i) {
    if (numbers[i].load() != 0) continue;
    numbers[i].store(number + 1);
    return {};
  }
  if (used == kMost) return Error(Errc::kOverflow, "more processes than a lazy restart can guard");
  numbers[used].store(number + 1);
  count.store(used + 1);
  return {};
}

Result<void> GuardBoard::add_process(int pidfd) { return append(shared_->processes, shared_->process_count, pidfd); }
Result<void> GuardBoard::add_init(int pidfd) {
  return append(shared_->processes, shared_->process_count, pidfd | kOnlyBelow);
}
Result<void> GuardBoard::add_memory(int userfaultfd) {
  return append(shared_->memories, shared_->memory_count, userfaultfd);
}

void GuardBoard::remove_memory(int userfaultfd) {
  for (std::uint32_t i = 0; i < shared_->memory_count.load(); ++i) {
    int expected = userfaultfd + 1;
    if (shared_->memories[i].compare_exchange_strong(expected, 0)) return;
  }
}

std::vector<int> GuardBoard::memories() const {
  std::vector<int> found;
  for (std::uint32_t i = 0; i < shared_->memory_count.load(); ++i) {
    if (const int number = shared_->memories[i].load()) found.push_back(number - 1);
  }
  return found;
}

bool GuardBoard::in_namespace() const {
  for (std::uint32_t i = 0; i < shared_->process_count.load(); ++i) {
    const int number = shared_->processes[i].load() - 1;
    if (number >= 0 && (number & kOnlyBelow)) return true;
  }
  return false;
}

std::vector<HostPid> GuardBoard::victims() const {
  std::set<HostPid> found;
  std::vector<HostPid> queue;
  for (std::uint32_t i = 0; i < shared_->process_count.load(); ++i) {
    const int number = shared_->processes[i].load() - 1;
    if (number < 0) continue;
    const HostPid pid = kernel::pid_of_pidfd(number & ~kOnlyBelow);
    if (pid.value() == 0) continue;
    if (!(number & kOnlyBelow)) found.insert(pid);
    queue.push_back(pid);
  }
  while (!queue.empty()) {
    const auto proc = kernel::ProcDir::open(queue.back());
    queue.pop_back();
    const auto children = proc ? proc->children() : Result<std::vector<HostPid>>(proc.error());
    if (!children) continue;
    for (const HostPid child : *children) {
      if (found.insert(child).second) queue.push_back(child);
    }
  }
  return {found.begin(), found.end()};
}

// By a question that changes nothing wherever it is asked: no memory of ours is registered for write protection.
bool has_memory(int userfaultfd) {
  constexpr std::uint64_t kTop = 0x7fff'ffff'f000, kPage = 0x1000;
  const auto asked = duplicate_of(userfaultfd).write_protect({.start = kTop - kPage, .end = kTop}, false);
  return asked || asked.error().code() != Errc::kVanished;
}

void end_program(const GuardBoard& board) {
  constexpr int kPauseMs = 20;
  for (;;) {
    for (const HostPid pid : board.victims()) ::kill(pid.value(), SIGKILL);
    std::vector<::pollfd> living;
    for (const int memory : board.memories()) {
      if (has_memory(memory)) living.push_back({.fd = memory, .events = POLLIN, .revents = 0});
    }
    if (living.empty()) return;
    ::poll(living.data(), living.size(), kPauseMs);
    for (const ::pollfd& memory : living) {
      // Threads are named by their numbers in their own pid namespace: where that is another, there are victims enough.
      if ((memory.revents & POLLIN) && !board.in_namespace()) kill_who_touches(memory.fd);
    }
  }
}

void tell_of_end(const std::string& text) {
  const std::string line = "stasis: " + text + ": the program is killed, as its memory can't be completed\n";
  static_cast<void>(write_full(STDERR_FILENO, std::as_bytes(std::span(line))));
  ::openlog("stasis", LOG_PID, LOG_DAEMON);
  ::syslog(LOG_ERR, "%s", line.c_str() + sizeof("stasis: ") - 1);
}

// A copy of a process with one thread, in which malloc works as it did.
Result<UniqueFd> start_guard(const GuardBoard& board, int server, const std::string& image) {
  GuardStart start{.board = &board, .image = &image, .server = server};
  const HostPid pid = STASIS_TRY(kernel::clone3_process(CLONE_FILES, SIGCHLD, {}, run_guard, &start));
  return kernel::pidfd_open(pid);
}

}  // namespace stasis
