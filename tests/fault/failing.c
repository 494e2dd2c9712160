// SPDX-License-Identifier: Apache-2.0
// usage: failing N[-M][:CALL,...[@PATH]] PROGRAM ARGUMENT...    Runs the program and makes its N-th system call (from
// 1) fail, or the N-th to the M-th; of those with the numbers CALL, if there are any, on a descriptor of what has a
// name that begins with PATH.
//
// A call is not made and yields EIO. Not counted: what only lets go
// or ends (ptrace requests by which a tracee runs on, exit, sigreturn), memory management (running out of memory is
// another story), and what the loader does before main. Ends as the program ends. With N = 0 nothing fails, and the
// number of calls goes to stderr.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static int is_among(const char* calls, unsigned long long call) {
  while (calls != NULL && *calls != '\0') {
    char* end = NULL;
    if (strtoull(calls + 1, &end, 10) == call) return 1;
    calls = end;
  }
  return calls == NULL;
}

// Is what the call is about, by its first argument (of poll by the first that is polled), one whose name begins with
// that?
static int is_at(const char* path, pid_t pid, const struct user_regs_struct* regs) {
  if (path == NULL) return 1;
  int fd = (int)regs->rdi;
  if (regs->orig_rax == SYS_poll) {
    struct iovec to = {&fd, sizeof fd}, from = {(void*)regs->rdi, sizeof fd};
    if (process_vm_readv(pid, &to, 1, &from, 1, 0) != sizeof fd) return 0;
  }
  char link[64], name[4096];
  snprintf(link, sizeof link, "/proc/%d/fd/%d", (int)pid, fd);
  const ssize_t got = readlink(link, name, sizeof name);
  const size_t length = strlen(path);
  return got >= (ssize_t)length && memcmp(name, path, length) == 0;
}

static int counts(const struct user_regs_struct* regs) {
  switch (regs->orig_rax) {
    case SYS_exit:
    case SYS_exit_group:
    case SYS_rt_sigreturn:
    case SYS_rt_sigaction:
    case SYS_rt_sigprocmask:
    case SYS_restart_syscall:
    case SYS_brk:
    case SYS_mmap:
    case SYS_munmap:
    case SYS_mremap:
    case SYS_mprotect:
    case SYS_madvise:
    case SYS_futex:
    case SYS_kill:
    case SYS_pidfd_send_signal:
    case SYS_tgkill:
    case SYS_close:
      return 0;
    case SYS_ptrace:
      return regs->rdi != PTRACE_CONT && regs->rdi != PTRACE_SYSCALL && regs->rdi != PTRACE_DETACH &&
             regs->rdi != PTRACE_LISTEN;
    default:
      return 1;
  }
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  char* end = NULL;
  const long wanted = strtol(argv[1], &end, 10);
  const long last = *end == '-' ? strtol(end + 1, NULL, 10) : wanted;
  const char* const calls = strchr(argv[1], ':');
  char* const at = strchr(argv[1], '@');
  const char* const path = at == NULL ? NULL : at + 1;
  if (at != NULL) *at = '\0';
  const pid_t pid = fork();
  if (pid == 0) {
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    execv(argv[2], argv + 2);
    _exit(127);
  }
  int status = 0;
  if (waitpid(pid, &status, 0) != pid) return 98;
  ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  // With rseq the C library's own start is as good as over.
  int loaded = 0, entering = 1, deliver = 0;
  long number = 0;
  for (;;) {
    ptrace(PTRACE_SYSCALL, pid, 0, deliver);
    deliver = 0;
    if (waitpid(pid, &status, 0) != pid) return 98;
    if (WIFEXITED(status)) {
      if (wanted == 0) fprintf(stderr, "system calls: %ld\n", number);
      return WEXITSTATUS(status);
    }
    if (WIFSIGNALED(status)) {
      fprintf(stderr, "ended by signal %d\n", WTERMSIG(status));
      return 128 + WTERMSIG(status);
    }
    if (WSTOPSIG(status) != (SIGTRAP | 0x80)) {
      if (WSTOPSIG(status) != SIGTRAP) deliver = WSTOPSIG(status);
      continue;
    }
    struct user_regs_struct regs;
    ptrace(PTRACE_GETREGS, pid, 0, &regs);
    if (entering) {
      if (regs.orig_rax == SYS_rseq)
        loaded = 1;
      else if (loaded && is_among(calls, regs.orig_rax) && counts(&regs) && is_at(path, pid, &regs) &&
               ++number >= wanted && number <= last) {
        fprintf(stderr, "failing call %ld: system call %lld\n", number, (long long)regs.orig_rax);
        regs.orig_rax = (unsigned long long)-1;
        ptrace(PTRACE_SETREGS, pid, 0, &regs);
        ptrace(PTRACE_SYSCALL, pid, 0, 0);
        if (waitpid(pid, &status, 0) != pid) return 98;
        ptrace(PTRACE_GETREGS, pid, 0, &regs);
        regs.rax = (unsigned long long)-EIO;
        ptrace(PTRACE_SETREGS, pid, 0, &regs);
        continue;
      }
    }
    entering = !entering;
  }
}
