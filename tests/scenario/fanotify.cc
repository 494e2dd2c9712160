// SPDX-License-Identifier: Apache-2.0
// fanotify: marks stay and go on reporting; nothing of the restart is seen in them. Root's marks on mounts and file
// systems are compared by what the kernel tells of them, as others work there, too.
#include <poll.h>
#include <sys/fanotify.h>

#include <algorithm>
#include <array>
#include <vector>

#include "scenario.h"

namespace {

struct Event {
  std::uint64_t mask;
  std::string name;
};

// Events of a group that reports directories and names.
std::vector<Event> take_events(int fd) {
  alignas(fanotify_event_metadata) std::array<char, 8192> bytes;
  auto left = read(fd, bytes.data(), bytes.size());
  std::vector<Event> events;
  for (auto* event = reinterpret_cast<fanotify_event_metadata*>(bytes.data()); FAN_EVENT_OK(event, left);
       event = FAN_EVENT_NEXT(event, left)) {
    Event found{event->mask, ""};
    const auto* const info = reinterpret_cast<const fanotify_event_info_fid*>(event + 1);
    if (event->event_len > sizeof *event && info->hdr.info_type == FAN_EVENT_INFO_TYPE_DFID_NAME) {
      const auto* const handle = reinterpret_cast<const file_handle*>(info->handle);
      found.name = reinterpret_cast<const char*>(handle->f_handle) + handle->handle_bytes;
    }
    if (event->fd >= 0) close(event->fd);
    events.push_back(std::move(found));
  }
  return events;
}

bool is(const Event& event, std::uint64_t mask, const std::string& name) {
  return event.mask == mask && event.name == name;
}

std::string contents(const std::string& file) {
  std::string text;
  std::array<char, 4096> part;
  const int fd = SETUP(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  for (ssize_t got; (got = read(fd, part.data(), part.size())) > 0;)
    text.append(part.data(), static_cast<std::size_t>(got));
  close(fd);
  return text;
}

// What the kernel tells of a group, but the ids of mounts, sorted.
std::vector<std::string> told(int fd) {
  const std::string text = contents("/proc/self/fdinfo/" + std::to_string(fd));
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    if (line.rfind("fanotify ", 0) != 0 && line.rfind("flags:", 0) != 0) continue;
    if (const auto id = line.find("mnt_id:"); id != std::string::npos) line.erase(id, line.find(' ', id) - id);
    lines.push_back(std::move(line));
  }
  std::sort(lines.begin(), lines.end());
  return lines;
}

void mark(int fd, unsigned flags, std::uint64_t mask, const std::string& path) {
  SETUP(fanotify_mark(fd, FAN_MARK_ADD | flags, mask, AT_FDCWD, path.c_str()));
}

}  // namespace

int main() {
  const std::string watched = scenario::path("watched");
  SETUP(mkdir(watched.c_str(), 0700));
  scenario::write_file(watched + "/file", "1");
  scenario::write_file(watched + "/quiet", "1");
  SETUP(chdir(scenario::path("").c_str()));

  // An ordinary user may have this one.
  const int names = SETUP(fanotify_init(FAN_REPORT_DFID_NAME | FAN_NONBLOCK | FAN_CLOEXEC, O_RDONLY));
  mark(names, FAN_MARK_ONLYDIR, FAN_CREATE | FAN_DELETE | FAN_MODIFY | FAN_EVENT_ON_CHILD, watched);
  mark(names, 0, FAN_ATTRIB, watched + "/file");
  mark(names, FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_MODIFY, watched + "/quiet");
  const bool root = geteuid() == 0;
  const int descriptors =
      root ? SETUP(fanotify_init(FAN_CLASS_CONTENT | FAN_UNLIMITED_QUEUE | FAN_NONBLOCK, O_RDWR | O_CLOEXEC)) : -1;
  const int wide = root ? SETUP(fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDONLY)) : -1;
  if (root) {
    mark(descriptors, 0, FAN_CLOSE_WRITE, watched + "/file");
    mark(wide, FAN_MARK_MOUNT, FAN_OPEN_EXEC, "/dev/shm");
    mark(wide, FAN_MARK_FILESYSTEM, FAN_DELETE_SELF, "/dev/shm");
  }
  const auto names_told = told(names);
  const auto descriptors_told = root ? told(descriptors) : names_told, wide_told = root ? told(wide) : names_told;

  scenario::ready_and_wait();

  CHECK(take_events(names).empty(), "there are events of which the program knows nothing");
  CHECK(told(names) == names_told, "marks of the first group are others");
  scenario::write_file(watched + "/quiet", "22");
  scenario::write_file(watched + "/new", "");
  SETUP(chmod((watched + "/file").c_str(), 0640));
  const auto events = take_events(names);
  CHECK(events.size() == 2 && is(events[0], FAN_CREATE, "new") && is(events[1], FAN_ATTRIB, "file"),
        "there are %zu events, or others", events.size());
  if (root) {
    CHECK(told(descriptors) == descriptors_told, "marks of the second group are others");
    CHECK(told(wide) == wide_told, "marks on mounts and file systems are others");
    close(SETUP(open((watched + "/file").c_str(), O_WRONLY | O_CLOEXEC)));
    const auto closed = take_events(descriptors);
    CHECK(closed.size() == 1 && closed[0].mask == FAN_CLOSE_WRITE, "there are %zu events with descriptors",
          closed.size());
  }
  return scenario::finish();
}
