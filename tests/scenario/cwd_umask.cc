// SPDX-License-Identifier: Apache-2.0
// Working directory and umask.
#include <climits>

#include "scenario.h"

int main() {
  const std::string dir = scenario::path("a directory");
  SETUP(mkdir(dir.c_str(), 0755));
  SETUP(chdir(dir.c_str()));
  umask(0037);
  char before[PATH_MAX];
  SETUP(getcwd(before, sizeof before) == nullptr ? -1 : 0);

  scenario::ready_and_wait();

  char after[PATH_MAX] = "";
  CHECK(getcwd(after, sizeof after) != nullptr && std::strcmp(before, after) == 0, "the directory is %s, not %s", after,
        before);
  const int fd = open("made after", O_CREAT | O_WRONLY, 0666);
  struct stat st = {};
  CHECK(fd >= 0 && stat((dir + "/made after").c_str(), &st) == 0, "a relative path leads elsewhere");
  CHECK_EQ(st.st_mode & 0777, 0640);
  CHECK_EQ(umask(0), 0037);
  return scenario::finish();
}
