// SPDX-License-Identifier: Apache-2.0
// A tree keeps its parents, sessions and process groups: leaders that are gone, orphaned groups, a daemon in its own
// session, a child that stayed in the session its parent has left, grandchildren; who waits for whom, and the exit
// statuses.
// scenario: failed-restarts
#include <sys/resource.h>

#include "tree.h"

using scenario::Member;

namespace {

constexpr char kPid = 'p', kParent = 'P', kSession = 's', kGroup = 'g';

long about_me(char question) {
  switch (question) {
    case kPid:
      return getpid();
    case kParent:
      return getppid();
    case kSession:
      return getsid(0);
    case kGroup:
      return getpgid(0);
    default:
      return -1;
  }
}

struct Kin {
  long pid, parent, session, group;
  static Kin of(Member& member) {
    return {member.ask(kPid), member.ask(kParent), member.ask(kSession), member.ask(kGroup)};
  }
  void check_is(const Kin& before, const char* who) const {
    CHECK(pid == before.pid, "%s: pid %ld, was %ld", who, pid, before.pid);
    CHECK(parent == before.parent, "%s: parent %ld, was %ld", who, parent, before.parent);
    CHECK(session == before.session, "%s: session %ld, was %ld", who, session, before.session);
    CHECK(group == before.group, "%s: group %ld, was %ld", who, group, before.group);
  }
};

// Becomes a member of the group of a process that then ends.
void join_group_of_the_dead() {
  const pid_t leader = fork();
  if (leader == 0) {
    setpgid(0, 0);
    for (;;) pause();
  }
  setpgid(leader, leader);
  if (setpgid(0, leader) != 0) _exit(3);
  kill(leader, SIGKILL);
  waitpid(leader, nullptr, 0);
}

}  // namespace

int main() {
  // The root may get a session of its own after its first child, which stays in the old one (the runner's).
  Member early([] {}, about_me);
  const bool left = setsid() > 0;  // else it leads one already
  Member plain([] {}, about_me);
  Member daemon([] { setsid(); }, about_me);
  Member leader([] { setpgid(0, 0); }, about_me);
  Member follower([&] { setpgid(0, leader.pid()); }, about_me);
  Member of_the_dead(join_group_of_the_dead, about_me);
  Member with_child(
      [] {
        setpgid(0, 0);
        static Member inner([] { setsid(); }, about_me);
        static Member second([] {}, about_me);
      },
      about_me);

  struct {
    const char* name;
    Member& member;
    Kin before;
  } all[] = {{"early", early, {}},          {"plain", plain, {}},       {"daemon", daemon, {}},
             {"leader", leader, {}},        {"follower", follower, {}}, {"of_the_dead", of_the_dead, {}},
             {"with_child", with_child, {}}};
  for (auto& one : all) one.before = Kin::of(one.member);
  const pid_t me = getpid(), session = getsid(0), group = getpgid(0);

  scenario::ready_and_wait();

  CHECK_EQ(getpid(), me);
  CHECK_EQ(getsid(0), session);
  CHECK_EQ(getpgid(0), group);
  for (auto& one : all) {
    const Kin now = Kin::of(one.member);
    // The session of the surroundings is that of whoever restarts.
    if (left && std::strcmp(one.name, "early") == 0) {
      CHECK(now.session != session, "the early child is in the root's session %d", session);
      CHECK(now.parent == me, "the early child's parent is %ld", now.parent);
      continue;
    }
    now.check_is(one.before, one.name);
  }
  for (auto& one : all) CHECK_EQ(one.member.end(), 7 << 8);
  return scenario::finish();
}
