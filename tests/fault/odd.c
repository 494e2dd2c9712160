/* SPDX-License-Identifier: Apache-2.0
   odd KIND DIR: has an object that can't be saved, says so in DIR/ready ("no" where there is none here), and waits for
   DIR/stop. Status 0: the object is still what it was. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/rtnetlink.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int object = -1;
static int other = -1;
static aio_context_t context;
static pid_t child;

static int descriptor(long fd) {
  object = (int)fd;
  return fd >= 0;
}

static int still_open(void) { return fcntl(object, F_GETFD) >= 0; }

static int io_uring(void) {
  uint32_t parameters[30] = {0}; /* struct io_uring_params */
  return descriptor(syscall(SYS_io_uring_setup, 4, parameters));
}

/* Rings have mappings, too. */
static int io_uring_mapped(void) {
  return io_uring() && mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, object, 0) != MAP_FAILED;
}

static int aio(void) { return syscall(SYS_io_setup, 4, &context) == 0; }
static int aio_still(void) { return syscall(SYS_io_destroy, context) == 0; }

static int perf(void) {
  struct perf_event_attr attributes = {
      .type = PERF_TYPE_SOFTWARE, .size = sizeof attributes, .config = PERF_COUNT_SW_TASK_CLOCK, .exclude_kernel = 1};
  return descriptor(syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC));
}

static int bpf_map(void) {
  union bpf_attr attributes = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};
  return descriptor(syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes));
}

static int page_faults(void) { return descriptor(syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */)); }

/* It answers for others, who would wait for it. */
static int fanotify_permission(void) {
  const int file = open("asked", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  return file >= 0 && close(file) == 0 && descriptor(fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, O_RDONLY)) &&
         fanotify_mark(object, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, "asked") == 0;
}

/* A ring that the kernel fills. */
static int packet_ring(void) {
  const struct tpacket_req request = {.tp_block_size = 4096, .tp_block_nr = 1, .tp_frame_size = 2048, .tp_frame_nr = 2};
  return descriptor(socket(AF_PACKET, SOCK_RAW, 0)) &&
         setsockopt(object, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) == 0;
}

/* One of several that share what comes in. */
static int packet_fanout(void) {
  const int group = 4711 | PACKET_FANOUT_HASH << 16;
  return descriptor(socket(AF_PACKET, SOCK_RAW, htons(0x88b5))) &&
         setsockopt(object, SOL_PACKET, PACKET_FANOUT, &group, sizeof group) == 0;
}

static int netfilter(void) { return descriptor(socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER)); }

static int netlink_unread(void) {
  struct {
    struct nlmsghdr header;
    struct rtgenmsg body;
  } request = {
      .header = {.nlmsg_len = sizeof request, .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}};
  return descriptor(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)) && send(object, &request, sizeof request, 0) > 0;
}
static int netlink_answers(void) {
  static char answer[65536];
  return recv(object, answer, sizeof answer, MSG_DONTWAIT) > 0;
}

static int igmp(void) { return descriptor(socket(AF_INET, SOCK_RAW, IPPROTO_IGMP)); }

static int unaccepted_bytes(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t length = sizeof address;
  return descriptor(socket(AF_INET, SOCK_STREAM, 0)) &&
         bind(object, (const struct sockaddr*)&address, sizeof address) == 0 && listen(object, 5) == 0 &&
         getsockname(object, (struct sockaddr*)&address, &length) == 0 &&
         (other = socket(AF_INET, SOCK_STREAM, 0)) >= 0 &&
         connect(other, (const struct sockaddr*)&address, sizeof address) == 0 && send(other, "hello", 5, 0) == 5;
}
static int bytes_still_there(void) {
  char bytes[8];
  return recv(accept(object, NULL, NULL), bytes, sizeof bytes, 0) == 5;
}

static int network_namespace(void) { return unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0; }

static int undo(void) {
  struct sembuf operation = {.sem_op = 1, .sem_flg = SEM_UNDO};
  object = semget(IPC_PRIVATE, 1, 0600);
  if (object < 0 || semop(object, &operation, 1) != 0) return 0;
  char name[32];
  snprintf(name, sizeof name, "sem %d\n", object);
  const int list = open("objects", O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const int written = write(list, name, strlen(name)) > 0;
  close(list);
  return written;
}
static int undo_still(void) { return semctl(object, 0, GETVAL) == 1 && semctl(object, 0, IPC_RMID) == 0; }

/* A child that its parent traces, as under a debugger. */
static int traced_child(void) {
  child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) pause();
  }
  return child > 0 && ptrace(PTRACE_SEIZE, child, 0, 0) == 0;
}
static int child_still(void) {
  int status;
  return kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child && WTERMSIG(status) == SIGKILL;
}

/* Its child neither ends nor runs another program, and so it stands where nobody can stop it. */
static int vfork_for_long(void) {
  int ends[2];
  char byte;
  if (pipe2(ends, O_CLOEXEC) != 0) return 0;
  child = fork();
  if (child != 0) {
    // Not before it waits there.
    const int begun = child > 0 && read(ends[0], &byte, 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return begun;
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (vfork() == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (write(ends[1], "", 1) != 1) _exit(1);
    while (access("stop", F_OK) != 0) nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    _exit(0);
  }
  _exit(5);
}
static int vfork_ends(void) {
  int status;
  return waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 5;
}

static int device(void) { return descriptor(open("/dev/fuse", O_RDWR)) || descriptor(open("/dev/net/tun", O_RDWR)); }

static int lost_directory(void) { return mkdir("gone", 0700) == 0 && chdir("gone") == 0 && rmdir("../gone") == 0; }
static int always(void) { return 1; }

static const struct {
  const char* name;
  int (*make)(void);
  int (*still)(void);
} kinds[] = {{"io_uring", io_uring, still_open},
             {"io_uring_mapped", io_uring_mapped, still_open},
             {"aio", aio, aio_still},
             {"perf", perf, still_open},
             {"bpf", bpf_map, still_open},
             {"userfaultfd", page_faults, still_open},
             {"fanotify", fanotify_permission, still_open},
             {"packet_ring", packet_ring, still_open},
             {"packet_fanout", packet_fanout, still_open},
             {"netfilter", netfilter, still_open},
             {"netlink_unread", netlink_unread, netlink_answers},
             {"igmp", igmp, still_open},
             {"unaccepted_bytes", unaccepted_bytes, bytes_still_there},
             {"network_namespace", network_namespace, always},
             {"undo", undo, undo_still},
             {"traced_child", traced_child, child_still},
             {"vfork", vfork_for_long, vfork_ends},
             {"device", device, still_open},
             {"lost_directory", lost_directory, always}};

static void say(int directory, const char* text) {
  const int fd = openat(directory, "ready.new", O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (write(fd, text, strlen(text)) < 0) exit(2);
  close(fd);
  renameat(directory, "ready.new", directory, "ready");
}

int main(int count, char** words) {
  if (count != 3) return 2;
  const int directory = open(words[2], O_PATH | O_DIRECTORY);
  for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; ++i) {
    if (strcmp(kinds[i].name, words[1]) != 0) continue;
    const int made = kinds[i].make();
    say(directory, made ? "yes" : "no");
    while (faccessat(directory, "stop", F_OK, 0) != 0) nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    return !made || kinds[i].still() ? 0 : 1;
  }
  return 2;
}
