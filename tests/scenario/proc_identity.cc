// SPDX-License-Identifier: Apache-2.0
// /proc/self tells the same story before and after: maps, the flags of smaps, masks and ids of status, limits, timers,
// fdinfo, auxv, the mm fields of stat, environ, cmdline, exe, cwd, comm, task names. Whatever is compared is read into
// static memory, so that looking changes nothing.
#include <dirent.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <array>
#include <atomic>
#include <string_view>

#include "scenario.h"

namespace {

constexpr std::size_t kEntries = 64;
constexpr std::size_t kText = 262144;

struct Entry {
  std::array<char, 64> name;
  std::size_t bytes;
  std::array<char, kText> text;
  std::string_view view() const { return {text.data(), bytes}; }
};

struct Snapshot {
  std::size_t count = 0;
  std::array<Entry, kEntries> entries;
};
Snapshot first;
Snapshot second;
std::array<char, 2 * kText> raw;

std::string_view read_whole(const char* name) {
  const int fd = open(name, O_RDONLY | O_CLOEXEC);
  std::size_t filled = 0;
  for (;;) {
    const ssize_t got = read(fd, raw.data() + filled, raw.size() - filled);
    if (got <= 0) break;
    filled += static_cast<std::size_t>(got);
  }
  close(fd);
  return {raw.data(), filled};
}

Entry& add(Snapshot& snapshot, const char* name) {
  if (snapshot.count == kEntries) scenario::broken_setup("too many entries", __FILE__, __LINE__);
  Entry& entry = snapshot.entries.at(snapshot.count++);
  std::snprintf(entry.name.data(), entry.name.size(), "%s", name);
  entry.bytes = 0;
  return entry;
}

void append(Entry& entry, std::string_view text) {
  const std::size_t room = entry.text.size() - entry.bytes;
  if (text.size() > room) scenario::broken_setup("a file of /proc is too long", __FILE__, __LINE__);
  entry.bytes += text.copy(entry.text.data() + entry.bytes, room);
}

std::string_view next_line(std::string_view& rest) {
  const std::size_t end = std::min(rest.find('\n'), rest.size());
  const std::string_view line = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return line;
}

void whole(Snapshot& snapshot, const char* name) { append(add(snapshot, name), read_whole(name)); }

// Lines for which `wanted` is true.
template <class Wanted>
Entry& lines(Snapshot& snapshot, const char* name, Wanted wanted) {
  Entry& entry = add(snapshot, name);
  std::string_view rest = read_whole(name);
  while (!rest.empty()) {
    const std::string_view line = next_line(rest);
    if (!wanted(line)) continue;
    append(entry, line);
    append(entry, "\n");
  }
  return entry;
}

Entry& link_target(Snapshot& snapshot, const char* name) {
  Entry& entry = add(snapshot, name);
  const ssize_t got = readlink(name, entry.text.data(), entry.text.size());
  entry.bytes = got < 0 ? 0 : static_cast<std::size_t>(got);
  return entry;
}

// The fields of stat that describe the memory map and the terminal-independent ids of scheduling.
void stat_fields(Snapshot& snapshot) {
  Entry& entry = add(snapshot, "/proc/self/stat (mm fields)");
  std::string_view rest = read_whole("/proc/self/stat");
  rest.remove_prefix(rest.rfind(')') + 2);
  for (int field = 3; !rest.empty(); ++field) {
    const std::size_t end = std::min(rest.find_first_of(" \n"), rest.size());
    // 18 priority, 19 nice, 20 threads, 26-28 code and stack, 31-34 signals, 38 exit signal, 40-41 policy, 45-51 data
    // to environment
    const bool wanted = (field >= 18 && field <= 20) || (field >= 26 && field <= 28) || (field >= 31 && field <= 34) ||
                        field == 38 || field == 40 || field == 41 || (field >= 45 && field <= 51);
    if (wanted) {
      append(entry, rest.substr(0, end));
      append(entry, " ");
    }
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
}

void each_name(const char* dir, void (*take)(Snapshot&, const char*), Snapshot& snapshot) {
  const int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  std::array<char, 8192> buffer{};
  const long got = syscall(SYS_getdents64, fd, buffer.data(), buffer.size());
  close(fd);
  for (long at = 0; at < got;) {
    const auto* entry = reinterpret_cast<const dirent64*>(buffer.data() + at);
    at += entry->d_reclen;
    // The descriptor of this very directory is no part of the story.
    if (entry->d_name[0] != '.' && std::strtol(entry->d_name, nullptr, 10) != fd) take(snapshot, entry->d_name);
  }
}

void take_fd(Snapshot& snapshot, const char* number) {
  std::array<char, 64> name{};
  std::snprintf(name.data(), name.size(), "/proc/self/fdinfo/%s", number);
  // Another mount namespace has other mount ids.
  Entry& info = lines(snapshot, name.data(), [](std::string_view line) { return !line.starts_with("mnt_id"); });
  std::snprintf(name.data(), name.size(), "/proc/self/fd/%s", number);
  Entry& target = link_target(snapshot, name.data());
  if (!target.view().starts_with("pipe:")) return;
  // The kernel numbers a new pipe anew.
  target.bytes = 5;
  info.bytes = std::min(info.bytes, info.view().find("ino:"));
}

void take_task(Snapshot& snapshot, const char* number) {
  std::array<char, 64> name{};
  std::snprintf(name.data(), name.size(), "/proc/self/task/%s/status", number);
  lines(snapshot, name.data(), [](std::string_view line) {
    constexpr std::string_view kSame[] = {
        "Name:",   "Umask:",      "Tgid:",    "Pid:",          "NSpid",        "TracerPid:",   "Uid:",
        "Gid:",    "Groups:",     "Threads:", "SigPnd:",       "ShdPnd:",      "SigBlk:",      "SigIgn:",
        "SigCgt:", "NoNewPrivs:", "Seccomp:", "Cpus_allowed:", "CoreDumping:", "THP_enabled:", "untag_mask:",
        "VmLck:",  "VmData:",     "VmStk:",   "VmExe:",        "VmLib:",       "VmSize:"};
    if (line.starts_with("NSpid")) return false;  // one number more in a namespace
    for (const std::string_view same : kSame)
      if (line.starts_with(same)) return true;
    return false;
  });
}

void take(Snapshot& snapshot) {
  snapshot.count = 0;
  whole(snapshot, "/proc/self/maps");
  lines(snapshot, "/proc/self/smaps", [](std::string_view line) {
    return line.starts_with("VmFlags") || line.starts_with("Locked") || line.starts_with("THPeligible") ||
           (line.size() > 12 && line.find('-') < 17 && line.find("kB") == std::string_view::npos);
  });
  for (const char* name : {"/proc/self/limits", "/proc/self/timers", "/proc/self/environ", "/proc/self/cmdline",
                           "/proc/self/auxv", "/proc/self/comm", "/proc/self/personality", "/proc/self/coredump_filter",
                           "/proc/self/oom_score_adj", "/proc/self/timerslack_ns"})
    whole(snapshot, name);
  for (const char* name : {"/proc/self/exe", "/proc/self/cwd", "/proc/self/root"}) link_target(snapshot, name);
  stat_fields(snapshot);
  each_name("/proc/self/fdinfo", take_fd, snapshot);
  each_name("/proc/self/task", take_task, snapshot);
}

bool someone_is_traced = false;
void look_for_tracer(Snapshot&, const char* number) {
  std::array<char, 64> name{};
  std::snprintf(name.data(), name.size(), "/proc/self/task/%s/status", number);
  if (read_whole(name.data()).find("TracerPid:\t0\n") == std::string_view::npos) someone_is_traced = true;
}

// A tracer can let go of threads only one after another. Stasis lets the main thread go last, as that is the one that
// looks at /proc/self most; any other thread may for some microseconds still see a tracer. Bounded: in the end nobody
// is traced, which the comparison then checks.
void await_no_tracer() {
  scenario::wait_until([] {
    someone_is_traced = false;
    each_name("/proc/self/task", look_for_tracer, second);
    return !someone_is_traced;
  });
}

void compare() {
  CHECK_EQ(second.count, first.count);
  for (std::size_t i = 0; i < std::min(first.count, second.count); ++i) {
    const Entry& before = first.entries.at(i);
    const Entry& after = second.entries.at(i);
    if (!CHECK(std::string_view(before.name.data()) == after.name.data(), "%s stands where %s was", after.name.data(),
               before.name.data()))
      break;
    if (before.view() == after.view()) {
      CHECK(true, " ");
      continue;
    }
    std::string_view a = before.view();
    std::string_view b = after.view();
    int shown = 0;
    while ((!a.empty() || !b.empty()) && shown < 4) {
      const std::string_view old_line = next_line(a);
      const std::string_view new_line = next_line(b);
      if (old_line != new_line && ++shown > 0)
        CHECK(false, "%s:\n    before: %.*s\n    after:  %.*s", before.name.data(), static_cast<int>(old_line.size()),
              old_line.data(), static_cast<int>(new_line.size()), new_line.data());
    }
  }
}

std::atomic<bool> stop = false;
std::atomic<int> running = 0;
void* thread_main(void* name) {
  pthread_setname_np(pthread_self(), static_cast<const char*>(name));
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN + 4);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ++running;
  while (!stop) scenario::pause_ms(5);
  return nullptr;
}

}  // namespace

int main() {
  umask(027);
  signal(SIGUSR1, SIG_IGN);
  signal(SIGUSR2, [](int) {});
  SETUP(open("/dev/null", O_RDWR));
  const int own_file = SETUP(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  SETUP(lseek(own_file, 100, SEEK_SET));
  SETUP(open(scenario::path("").c_str(), O_RDONLY | O_DIRECTORY));
  SETUP(open(scenario::path("log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600));
  std::array<int, 2> ends{};
  SETUP(pipe2(ends.data(), O_NONBLOCK));
  SETUP(dup2(ends[0], 90));
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGUSR2;
  timer_t timer{};
  SETUP(timer_create(CLOCK_MONOTONIC, &event, &timer));
  auto* locked = SETUP(mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  SETUP(mlock(locked, 65536));
  std::array<pthread_t, 3> threads{};
  char names[3][8] = {"alpha", "beta", "gamma"};
  for (std::size_t i = 0; i < threads.size(); ++i)
    pthread_create(&threads.at(i), nullptr, thread_main, static_cast<void*>(names[i]));
  while (running < 3) scenario::pause_ms(1);
  take(first);
  take(second);
  compare();  // looking changes nothing

  scenario::ready_and_wait();

  await_no_tracer();
  take(second);
  compare();
  stop = true;
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  return scenario::finish();
}
