// SPDX-License-Identifier: Apache-2.0
// A program whose children come and go by vfork and posix_spawn all the time, in four processes: the freeze wins, no
// child is lost or waited for twice.
#include <spawn.h>

#include <array>

#include "tree.h"

extern char** environ;

namespace {

constexpr int kSpawners = 4;

// Runs children until "go on", each of which ends with a status of its own; 0 if each was as expected.
int spawn_on() {
  const std::string go = scenario::path("go");
  int rounds = 0;
  do {
    const int wanted = rounds % 100 + 1;
    const std::string command = "exit " + std::to_string(wanted);
    std::array<char, 3> shell = {'s', 'h', 0}, option = {'-', 'c', 0};
    std::string text = command;
    std::array<char*, 4> arguments = {shell.data(), option.data(), text.data(), nullptr};
    pid_t pid = 0;
    if (posix_spawn(&pid, "/bin/sh", nullptr, nullptr, arguments.data(), environ) != 0) return 1;
    int status = 0;
    if (waitpid(pid, &status, 0) != pid || status != wanted << 8) return 2;
    const pid_t brief = vfork();
    if (brief == 0) _exit(3);
    if (waitpid(brief, &status, 0) != brief || status != 3 << 8) return 3;
    ++rounds;
  } while (!scenario::exists(go));
  return 0;
}

}  // namespace

int main() {
  std::array<pid_t, kSpawners> spawners{};
  for (pid_t& pid : spawners) {
    pid = fork();
    SETUP(pid);
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      _exit(spawn_on());
    }
  }

  scenario::ready_and_wait();

  for (const pid_t pid : spawners) {
    int status = -1;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(status == 0, "a spawner ended with wait status %x", status);
  }
  errno = 0;
  CHECK_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  CHECK_EQ(errno, ECHILD);
  return scenario::finish();
}
