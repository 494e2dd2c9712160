// SPDX-License-Identifier: Apache-2.0
// A process in a control group of its own is in it again, or where the restart is if the group is gone; its parent is
// where it was.
// scenario: root modes=plain,leave,restart,detach,twice,namespace,group-gone
#include "tree.h"

namespace {

std::string memberships() {
  std::string text(8192, '\0');
  const int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
  const ssize_t got = fd < 0 ? -1 : read(fd, text.data(), text.size());
  close(fd);
  text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  return text;
}

// A hierarchy in which groups can be made; empty: none.
std::string hierarchy() {
  for (const char* const place : {"/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"}) {
    if (scenario::exists(std::string(place) + "/cgroup.procs")) return place;
  }
  return {};
}

}  // namespace

int main() {
  const std::string place = hierarchy();
  const std::string group = place + "/stasis-scenario-" + std::to_string(getpid());
  const bool possible = !place.empty() && mkdir(group.c_str(), 0755) == 0;
  if (!possible) scenario::skip_part("no control group can be made here");
  std::string inside;
  const std::string outside = memberships();
  scenario::Member member(
      [&] {
        const int fd = possible ? open((group + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC) : -1;
        if (possible) SETUP(write(fd, "0", 1));
        if (possible) close(fd);
        inside = memberships();
        if (possible && inside == outside) scenario::broken_setup("no membership is seen", __FILE__, __LINE__);
      },
      [&](char question) -> long { return memberships() == (question == 'm' ? inside : outside); });
  if (possible) scenario::write_file(scenario::path("group"), group);

  scenario::ready_and_wait();

  const bool gone = scenario::exists(scenario::path("gone"));
  CHECK(member.ask(gone ? 'o' : 'm') == 1, "it is in other control groups");
  CHECK(memberships() == outside, "the parent is in other control groups: %s", memberships().c_str());
  member.end();
  if (possible && !gone)
    CHECK(scenario::wait_until([&] { return rmdir(group.c_str()) == 0; }), "the group can't be removed");
  return scenario::finish();
}
