// SPDX-License-Identifier: Apache-2.0
// For scenarios of several processes: children that do what they are told through memory of their own, and die with
// their parent, whatever becomes of it.
#pragma once

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <array>
#include <functional>

#include "scenario.h"

namespace scenario {

// A child process and two pipes to it. The child answers each byte it gets by calling `answer`, until the pipe ends.
class Member {
 public:
  using Answer = std::function<long(char question)>;

  // Forks; in the child `set_up` runs first, then it serves. `flags`: CLONE_* for a raw clone.
  Member(const std::function<void()>& set_up, const Answer& answer, unsigned long flags = 0) {
    std::array<int, 2> questions{}, answers{};
    if (pipe2(questions.data(), O_CLOEXEC) != 0 || pipe2(answers.data(), O_CLOEXEC) != 0)
      broken_setup("pipe2", __FILE__, __LINE__);
    pid_ = static_cast<pid_t>(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0));
    if (pid_ < 0) broken_setup("clone", __FILE__, __LINE__);
    if (pid_ == 0) {
      // With a shared descriptor table nothing may be closed.
      if (!(flags & CLONE_FILES_FLAG)) {
        close(questions[1]);
        close(answers[0]);
      }
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      set_up();
      serve(questions[0], answers[1], answer);
    }
    if (!(flags & CLONE_FILES_FLAG)) {
      close(questions[0]);
      close(answers[1]);
    }
    ask_ = questions[1];
    tell_ = answers[0];
    ask('?');  // it is set up
  }
  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;

  pid_t pid() const { return pid_; }
  // What it answers; a member that does not answer fails the scenario.
  long ask(char question) {
    long answer = -1;
    if (write(ask_, &question, 1) != 1 || read(tell_, &answer, sizeof answer) != sizeof answer) {
      CHECK(false, "process %d does not answer '%c': %s", pid_, question, std::strerror(errno));
    }
    return answer;
  }
  // Its wait status once it was told to end.
  int end() {
    // Not by the pipe's end: members that were born later hold it as well.
    const char bye = '.';
    CHECK_EQ(write(ask_, &bye, 1), 1);
    int status = -1;
    CHECK_EQ(waitpid(pid_, &status, 0), pid_);
    return status;
  }

 private:
  static constexpr unsigned long CLONE_FILES_FLAG = 0x400;
  [[noreturn]] static void serve(int ask, int tell, const Answer& answer) {
    char question = 0;
    while (read(ask, &question, 1) == 1 && question != '.') {
      const long value = question == '?' ? 0 : answer(question);
      if (write(tell, &value, sizeof value) != sizeof value) break;
    }
    _exit(7);
  }

  pid_t pid_ = 0;
  int ask_ = -1;
  int tell_ = -1;
};

}  // namespace scenario
