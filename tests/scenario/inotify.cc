// SPDX-License-Identifier: Apache-2.0
// inotify: watches keep their numbers and go on reporting; nothing of the restart is seen in them.
#include <poll.h>
#include <sys/inotify.h>

#include <array>
#include <vector>

#include "scenario.h"

namespace {

struct Event {
  int watch;
  std::uint32_t mask;
  std::string name;
};

std::vector<Event> take_events(int fd) {
  alignas(inotify_event) std::array<char, 8192> bytes;
  const ssize_t got = read(fd, bytes.data(), bytes.size());
  std::vector<Event> events;
  for (ssize_t at = 0; at < got;) {
    const auto* const event = reinterpret_cast<const inotify_event*>(bytes.data() + at);
    events.push_back({event->wd, event->mask, event->len != 0 ? event->name : ""});
    at += static_cast<ssize_t>(sizeof *event + event->len);
  }
  return events;
}

bool is(const Event& event, int watch, std::uint32_t mask, const std::string& name) {
  return event.watch == watch && event.mask == mask && event.name == name;
}

}  // namespace

int main() {
  const std::string watched = scenario::path("watched");
  SETUP(mkdir(watched.c_str(), 0700));
  SETUP(mkdir((watched + "/below").c_str(), 0700));
  scenario::write_file(watched + "/file", "1");
  SETUP(chdir(scenario::path("").c_str()));
  const int fd = SETUP(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  const int gone = SETUP(inotify_add_watch(fd, "/tmp", IN_DELETE_SELF));
  const int directory = SETUP(inotify_add_watch(fd, watched.c_str(), IN_CREATE | IN_DELETE | IN_MOVED_FROM));
  const int below = SETUP(inotify_add_watch(fd, (watched + "/below").c_str(), IN_OPEN | IN_ONLYDIR));
  const int file = SETUP(inotify_add_watch(fd, (watched + "/file").c_str(), IN_MODIFY | IN_ONESHOT));
  SETUP(inotify_rm_watch(fd, gone));
  take_events(fd);
  // It has a file open in a directory whose opens are watched.
  const int open_file = SETUP(open((watched + "/below/open").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  take_events(fd);

  const int waiting = SETUP(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  const int other = SETUP(inotify_add_watch(waiting, watched.c_str(), IN_CREATE));
  scenario::write_file(watched + "/early", "");
  take_events(fd);

  scenario::ready_and_wait();

  CHECK(take_events(fd).empty(), "there are events of which the program knows nothing");
  scenario::write_file(watched + "/new", "");
  scenario::write_file(watched + "/file", "22");
  close(SETUP(open((watched + "/below").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
  unlink((watched + "/new").c_str());
  const auto events = take_events(fd);
  CHECK(events.size() == 5 && is(events[0], directory, IN_CREATE, "new") && is(events[1], file, IN_MODIFY, "") &&
            is(events[2], file, IN_IGNORED, "") && is(events[3], below, IN_OPEN | IN_ISDIR, "") &&
            is(events[4], directory, IN_DELETE, "new"),
        "there are %zu events, or others", events.size());
  const auto old = take_events(waiting);
  CHECK(old.size() >= 2 && (is(old[0], other, IN_CREATE, "early") || is(old[0], -1, IN_Q_OVERFLOW, "")) &&
            is(old[1], other, IN_CREATE, "new"),
        "events that waited are neither there nor said to be lost: %zu", old.size());
  CHECK(fcntl(open_file, F_GETFD) >= 0, "the open file is gone");
  return scenario::finish();
}
