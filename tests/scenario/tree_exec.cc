// SPDX-License-Identifier: Apache-2.0
// scenario: modes=plain,leave,freezes,restart,twice,namespace,user-twice
// Four processes that do nothing but run their own program anew: a freeze meets each of them in the middle of it.
#include <array>

#include "tree.h"

namespace {

constexpr int kProcesses = 4;

// Counts in its arguments, until "go on".
[[noreturn]] void run_again(char** argv) {
  if (scenario::exists(scenario::path("go"))) _exit(0);
  const std::string next = std::to_string(std::atol(argv[2]) + 1);
  std::string program = argv[0], word = argv[1], count = next;
  std::array<char*, 4> arguments = {program.data(), word.data(), count.data(), nullptr};
  execv("/proc/self/exe", arguments.data());
  _exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3) run_again(argv);
  std::array<pid_t, kProcesses> processes{};
  for (pid_t& pid : processes) {
    pid = fork();
    SETUP(pid);
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      execl("/proc/self/exe", argv[0], "again", "0", nullptr);
      _exit(3);
    }
  }

  scenario::ready_and_wait();

  for (const pid_t pid : processes) {
    int status = -1;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(status == 0, "a process ended with wait status %x", status);
  }
  return scenario::finish();
}
