// SPDX-License-Identifier: Apache-2.0
// usage: tiny FILE [PIPES]    The smallest program worth saving: makes FILE, then sleeps on and on. With PIPES open.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) return 2;
  const int pipes = argc == 3 ? atoi(argv[2]) : 0;
  const rlim_t wanted = 2 * (rlim_t)pipes + 64;
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return 1;
  if (files.rlim_cur < wanted) files.rlim_cur = wanted;
  if (files.rlim_max < wanted) files.rlim_max = wanted;
  if (setrlimit(RLIMIT_NOFILE, &files) != 0) return 1;
  for (int i = 0; i < pipes; ++i) {
    int ends[2];
    if (pipe(ends) != 0) return 1;
  }
  const int fd = open(argv[1], O_WRONLY | O_CREAT, 0600);
  if (fd < 0) return 1;
  close(fd);
  const struct timespec second = {1, 0};
  for (;;) nanosleep(&second, NULL);
}
