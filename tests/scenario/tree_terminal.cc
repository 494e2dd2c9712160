// SPDX-License-Identifier: Apache-2.0
// A session at a terminal of the tree: its leader has it as controlling terminal, one of its groups is in the
// foreground, Ctrl-C reaches that group, and closing the master hangs it up.
#include <pty.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "tree.h"

using scenario::Member;

namespace {

int master = -1;
int slave = -1;
volatile sig_atomic_t interrupts = 0;
volatile sig_atomic_t hangups = 0;
void on_signal(int number) {
  if (number == SIGINT) interrupts = interrupts + 1;
  if (number == SIGHUP) hangups = hangups + 1;
}

void catch_signals() {
  struct sigaction action{};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  SETUP(sigaction(SIGINT, &action, nullptr));
  SETUP(sigaction(SIGHUP, &action, nullptr));
}

pid_t job = -1;

void lead_session() {
  close(master);
  catch_signals();
  SETUP(setsid());
  SETUP(ioctl(slave, TIOCSCTTY, 0));
  // A job of its own in the foreground, which counts the signals it gets.
  job = SETUP(fork());
  if (job == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0);
    while (interrupts == 0) scenario::pause_ms(2);
    _exit(21);
  }
  SETUP(setpgid(job, job));
  struct sigaction ignore{};
  ignore.sa_handler = SIG_IGN;
  SETUP(sigaction(SIGTTOU, &ignore, nullptr));
  SETUP(tcsetpgrp(slave, job));
}

long answer(char question) {
  switch (question) {
    case 's':
      return tcgetsid(slave);
    case 'f':
      return tcgetpgrp(slave);
    case 'j': {
      int status = 0;
      return waitpid(job, &status, 0) == job ? status : -1;
    }
    case 'n':
      return interrupts;
    case 't': {  // /dev/tty is that terminal
      const int tty = open("/dev/tty", O_RDWR | O_CLOEXEC);
      const long result = tty < 0 ? -errno : tcgetsid(tty);
      close(tty);
      return result;
    }
    case 'h':
      scenario::wait_until([] { return hangups != 0; });
      return hangups;
    default:
      return job;
  }
}

}  // namespace

int main() {
  SETUP(openpty(&master, &slave, nullptr, nullptr, nullptr));
  const std::string name = ptsname(master);
  Member leader(lead_session, answer);
  close(slave);
  const long group = leader.ask('x');

  scenario::ready_and_wait();

  // Somebody else may have got the number meanwhile.
  CHECK(name == ptsname(master) || scenario::exists(name), "%s became %s", name.c_str(), ptsname(master));
  CHECK_EQ(leader.ask('s'), leader.pid());
  CHECK_EQ(leader.ask('t'), leader.pid());
  CHECK_EQ(leader.ask('f'), group);
  CHECK_EQ(write(master, "\x03", 1), 1);
  CHECK_EQ(leader.ask('j'), 21 << 8);
  CHECK_EQ(leader.ask('n'), 0L);
  close(master);
  CHECK_EQ(leader.ask('h'), 1L);
  CHECK_EQ(leader.end(), 7 << 8);
  return scenario::finish();
}
