// SPDX-License-Identifier: Apache-2.0
// scenario: root
// Credentials of each thread and each process: user and group ids, supplementary groups, capabilities, securebits,
// no_new_privs; dumpable; and what comes of them: files belong to whom they did, forbidden calls stay forbidden.
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>

#include <array>
#include <vector>

#include "tree.h"

namespace {

struct Credentials {
  std::array<uid_t, 4> uids{};  // real, effective, saved, of the file system
  std::array<gid_t, 4> gids{};
  std::vector<gid_t> groups;
  std::array<__user_cap_data_struct, 2> capabilities{};
  std::uint64_t bounding = 0;
  std::uint64_t ambient = 0;
  int securebits = 0;
  int no_new_privs = 0;

  static Credentials own() {
    Credentials c;
    syscall(SYS_getresuid, &c.uids[0], &c.uids[1], &c.uids[2]);
    syscall(SYS_getresgid, &c.gids[0], &c.gids[1], &c.gids[2]);
    c.uids[3] = static_cast<uid_t>(syscall(SYS_setfsuid, -1));
    c.gids[3] = static_cast<gid_t>(syscall(SYS_setfsgid, -1));
    c.groups.resize(static_cast<std::size_t>(getgroups(0, nullptr)));
    getgroups(static_cast<int>(c.groups.size()), c.groups.data());
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    syscall(SYS_capget, &header, c.capabilities.data());
    for (int i = 0; i < 64; ++i) {
      if (prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1) c.bounding |= std::uint64_t{1} << i;
      if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, i, 0, 0) == 1) c.ambient |= std::uint64_t{1} << i;
    }
    c.securebits = prctl(PR_GET_SECUREBITS);
    c.no_new_privs = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
    return c;
  }
  bool is(const Credentials& other) const {
    return uids == other.uids && gids == other.gids && groups == other.groups &&
           std::memcmp(&capabilities, &other.capabilities, sizeof capabilities) == 0 && bounding == other.bounding &&
           ambient == other.ambient && securebits == other.securebits && no_new_privs == other.no_new_privs;
  }
};

// By the bare system calls: those of the library change every thread.
void set_ids(uid_t uid, gid_t gid) {
  SETUP(syscall(SYS_setresgid, gid, gid, gid));
  SETUP(syscall(SYS_setresuid, uid, uid, uid));
}

void set_capabilities(std::uint32_t effective, std::uint32_t permitted, std::uint32_t inheritable) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  const std::array<__user_cap_data_struct, 2> data = {__user_cap_data_struct{effective, permitted, inheritable},
                                                      __user_cap_data_struct{0, 0, 0}};
  SETUP(syscall(SYS_capset, &header, data.data()));
}

uid_t owner_of_new_file(const std::string& name) {
  const int fd = open(name.c_str(), O_CREAT | O_WRONLY | O_EXCL | O_CLOEXEC, 0600);
  struct stat st = {};
  const uid_t owner = fd >= 0 && fstat(fd, &st) == 0 ? st.st_uid : static_cast<uid_t>(-1);
  if (fd >= 0) close(fd);
  unlink(name.c_str());
  return owner;
}

struct ThreadPlan {
  const char* name;
  void (*change)();
  uid_t owner;  // of files that it makes
  pthread_t thread{};
};

pthread_barrier_t changed, checked;

void* serve(void* argument) {
  const auto& plan = *static_cast<ThreadPlan*>(argument);
  plan.change();
  const Credentials before = Credentials::own();
  pthread_barrier_wait(&changed);
  pthread_barrier_wait(&checked);
  CHECK(Credentials::own().is(before), "thread %s has other credentials", plan.name);
  CHECK_EQ(owner_of_new_file(scenario::path(std::string("of ") + plan.name)), plan.owner);
  return nullptr;
}

}  // namespace

int main() {
  SETUP(chmod(scenario::path("").c_str(), 0777));
  std::array<ThreadPlan, 4> plans = {
      ThreadPlan{"unchanged", [] {}, 0},
      ThreadPlan{"a user",
                 [] {
                   const std::array<gid_t, 3> groups = {5, 77, 1005};
                   SETUP(syscall(SYS_setgroups, groups.size(), groups.data()));
                   set_ids(1234, 4321);
                 },
                 1234},
      ThreadPlan{"a file server",
                 [] {
                   syscall(SYS_setfsgid, 88);
                   syscall(SYS_setfsuid, 99);
                 },
                 99},
      ThreadPlan{"a capable user",
                 [] {
                   SETUP(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT, 0, 0, 0));
                   SETUP(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP_LOCKED));
                   set_ids(2345, 2345);
                   constexpr std::uint32_t kBind = 1u << CAP_NET_BIND_SERVICE, kOwn = 1u << CAP_CHOWN;
                   set_capabilities(kBind, kBind | kOwn, kBind);
                   SETUP(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
                   SETUP(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
                 },
                 2345}};
  pthread_barrier_init(&changed, nullptr, plans.size() + 1);
  pthread_barrier_init(&checked, nullptr, plans.size() + 1);
  for (ThreadPlan& plan : plans) {
    if (pthread_create(&plan.thread, nullptr, serve, &plan) != 0) return 2;
  }
  pthread_barrier_wait(&changed);

  // A daemon that has given everything up for good, and nobody may look into.
  Credentials given_up;
  scenario::Member daemon(
      [&] {
        SETUP(setgroups(0, nullptr));
        set_ids(3456, 3456);
        SETUP(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
        given_up = Credentials::own();
      },
      [&](char question) -> long {
        switch (question) {
          case 'c':
            return Credentials::own().is(given_up);
          case 'd':
            return prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
          case 'r':
            return setresuid(0, 0, 0) == -1 && errno == EPERM;
          case 'w':
            return open(scenario::path("secret").c_str(), O_RDONLY) == -1 && errno == EACCES;
          default:
            return -1;
        }
      });
  // One that can come back.
  scenario::Member visitor([] { SETUP(setresuid(1000, 1000, 0)); },
                           [](char question) -> long {
                             if (question == 'b') return setresuid(0, 0, 0) == 0 && geteuid() == 0;
                             return geteuid();
                           });
  scenario::write_file(scenario::path("secret"), "for root");
  const Credentials own = Credentials::own();

  scenario::ready_and_wait();

  pthread_barrier_wait(&checked);
  for (const ThreadPlan& plan : plans) pthread_join(plan.thread, nullptr);
  CHECK(Credentials::own().is(own), "the main thread has other credentials");
  for (const char question : {'c', 'r', 'w'}) CHECK(daemon.ask(question) == 1, "the daemon, asked '%c'", question);
  CHECK_EQ(daemon.ask('d'), 0);
  CHECK_EQ(visitor.ask('e'), 1000);
  CHECK_EQ(visitor.ask('b'), 1);
  daemon.end();
  visitor.end();
  return scenario::finish();
}
