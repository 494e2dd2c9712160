// SPDX-License-Identifier: Apache-2.0
// usage: tiny FILE    The smallest program worth saving: makes FILE, then sleeps on and on.
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const int fd = open(argv[1], O_WRONLY | O_CREAT, 0600);
  if (fd < 0) return 1;
  close(fd);
  const struct timespec second = {1, 0};
  for (;;) nanosleep(&second, NULL);
}
