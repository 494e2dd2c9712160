// SPDX-License-Identifier: Apache-2.0
// scenario: root
// Processes with a root directory of their own (chroot): one that is wholly inside, one whose working directory is
// outside, and two that share what one of them changes.
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <climits>

#include "tree.h"

namespace {

bool holds(const char* path, const std::string& text) {
  char buffer[64] = "";
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  const ssize_t got = fd < 0 ? -1 : read(fd, buffer, sizeof buffer);
  if (fd >= 0) close(fd);
  return got == static_cast<ssize_t>(text.size()) && text == std::string(buffer, text.size());
}

bool is_working_directory(const char* path) {
  char buffer[PATH_MAX] = "";
  // The system call: the library turns "(unreachable)" into an error.
  return syscall(SYS_getcwd, buffer, sizeof buffer) > 0 && std::strcmp(buffer, path) == 0;
}

const sockaddr_un kName = {AF_UNIX, "/stasis scenario socket"};

bool connects_to_itself(int listener) {
  const int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  return connect(client, reinterpret_cast<const sockaddr*>(&kName), sizeof kName) == 0 &&
         accept(listener, nullptr, nullptr) >= 0;
}

void enter(const std::string& root, const char* directory) {
  SETUP(chroot(root.c_str()));
  if (directory != nullptr) SETUP(chdir(directory));
}

}  // namespace

int main() {
  const std::string jail = scenario::path("jail"), cell = jail + "/cell";
  SETUP(mkdir(jail.c_str(), 0755));
  SETUP(mkdir(cell.c_str(), 0755));
  scenario::write_file(jail + "/where", "jail");
  scenario::write_file(cell + "/where", "cell");
  scenario::write_file(scenario::path("where"), "outside");
  SETUP(chdir(scenario::path("").c_str()));

  int held = -1, listener = -1;
  scenario::Member inside(
      [&] {
        enter(jail, "/cell");
        held = SETUP(open("/where", O_RDONLY | O_CLOEXEC));
        umask(0027);
        listener = SETUP(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        SETUP(bind(listener, reinterpret_cast<const sockaddr*>(&kName), sizeof kName));
        SETUP(listen(listener, 5));
      },
      [&](char question) -> long {
        char byte = 0;
        switch (question) {
          case 'r':
            return holds("/where", "jail") && holds("where", "cell") && holds("/../../where", "jail");
          case 'd':
            return is_working_directory("/cell");
          case 'o':
            return access("/proc/self/maps", F_OK) == 0 || access(jail.c_str(), F_OK) == 0;
          case 'h':
            return pread(held, &byte, 1, 0) == 1 && byte == 'j';
          case 'm':
            return mkdir("/made", 0777);
          case 's':
            return connects_to_itself(listener);
          default:
            return -1;
        }
      });
  // It could leave: the kernel lets it, so it must find this door open still.
  scenario::Member half([&] { enter(cell, nullptr); },
                        [&](char question) -> long {
                          switch (question) {
                            case 'r':
                              return holds("/where", "cell");
                            case 'd':
                              return holds("where", "outside");
                            default:
                              return -1;
                          }
                        });
  scenario::Member sharing([] {},
                           [&](char question) -> long {
                             if (question == 'c') return chroot(jail.c_str()) == 0 && chdir("/cell") == 0;
                             return holds("/where", "jail") && holds("where", "cell");
                           });
  pid_t twin = 0;
  scenario::Member pair(
      [&] {
        // Its twin has its root directory, too, whoever changes it.
        twin = static_cast<pid_t>(syscall(SYS_clone, CLONE_FS | SIGCHLD, 0, 0, 0, 0));
        if (twin == 0) {
          prctl(PR_SET_PDEATHSIG, SIGKILL);
          for (;;) pause();
        }
        SETUP(twin);
        enter(jail, "/");
      },
      [&](char question) -> long {
        if (question == 'k') return kill(twin, SIGKILL) == 0 && waitpid(twin, nullptr, 0) == twin;
        return twin;
      });
  CHECK_EQ(sharing.ask('c'), 1);

  scenario::ready_and_wait();

  CHECK_EQ(inside.ask('r'), 1);
  CHECK_EQ(inside.ask('d'), 1);
  CHECK_EQ(inside.ask('o'), 0);
  CHECK_EQ(inside.ask('h'), 1);
  CHECK_EQ(inside.ask('m'), 0);
  CHECK_EQ(inside.ask('s'), 1);
  CHECK(!scenario::exists(kName.sun_path), "a socket of the chroot lies outside");
  struct stat made = {};
  CHECK(stat((jail + "/made").c_str(), &made) == 0 && (made.st_mode & 0777) == 0750,
        "what is made inside is not there");
  CHECK_EQ(half.ask('r'), 1);
  CHECK_EQ(half.ask('d'), 1);
  CHECK_EQ(sharing.ask('r'), 1);
  const std::string twin_root = "/proc/" + std::to_string(pair.ask('t')) + "/root";
  char link[PATH_MAX] = "";
  CHECK(readlink(twin_root.c_str(), link, sizeof link - 1) > 0 && jail == link, "the twin's root is %s", link);
  CHECK_EQ(pair.ask('k'), 1);
  CHECK(scenario::exists(scenario::path("where")), "the parent is in a chroot");
  for (scenario::Member* member : {&inside, &half, &sharing, &pair}) member->end();
  return scenario::finish();
}
