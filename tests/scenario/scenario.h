// SPDX-License-Identifier: Apache-2.0
// What every scenario program uses: say ready, wait for "go on", check, report.
//
// A scenario is one ordinary program in one file. It sets up some state, calls ready_and_wait(), and then checks that
// the state is what it was. In between the runner (tests/run_scenario.py) does nothing, checkpoints it, or kills and
// restarts it, as its mode says; the program can't tell. Everything goes through files in $SCENARIO_DIR, so that no
// descriptor of the program depends on the runner.
//
// A line `// scenario: WORD...` in the source tells the runner (see tests/scenario/CMakeLists.txt):
//   modes=a,b  only these modes     root  needs root     no-user  not as an ordinary user
//   ipc  makes SysV or POSIX objects (such tests run one at a time)     also-static  run a static build as well
//   ports  has TCP or UDP ports, which nobody may be given between checkpoint and restart (one at a time)
//   alone  while no other test runs     huge  has huge pages, which the runner makes (one at a time)
//   failures, failing-calls, failed-restarts  also in this mode
#pragma once

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>

namespace scenario {

// A path in the scenario's own directory.
inline std::string path(const std::string& name) {
  const char* dir = std::getenv("SCENARIO_DIR");
  if (dir == nullptr) {
    std::fputs("SCENARIO_DIR is not set; run this through tests/run_scenario.py\n", stderr);
    std::exit(2);
  }
  return std::string(dir) + "/" + name;
}

inline std::int64_t now_ns(clockid_t clock = CLOCK_MONOTONIC) {
  timespec ts{};
  clock_gettime(clock, &ts);
  return ts.tv_sec * std::int64_t{1000000000} + ts.tv_nsec;
}

// Waits by short sleeps; a signal that ends one early does no harm.
inline void pause_ms(long ms) {
  const timespec ts = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&ts, nullptr);
}

// Waits until it is so, or for longer than any machine needs that is only busy; says whether it is so.
template <class Condition>
bool wait_until(Condition condition) {
  const std::int64_t limit = now_ns(CLOCK_MONOTONIC) + 120 * std::int64_t{1000000000};
  while (!condition()) {
    if (now_ns(CLOCK_MONOTONIC) > limit) return condition();
    pause_ms(1);
  }
  return true;
}

inline bool exists(const std::string& file) { return access(file.c_str(), F_OK) == 0; }

inline void write_file(const std::string& file, const std::string& text) {
  const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0 || write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    std::perror(file.c_str());
    std::exit(2);
  }
  close(fd);
}

struct Report {
  pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  int checks = 0;
  std::string failures;
};
inline Report& report() {
  static Report the_report;
  return the_report;
}

// Notes one check; `format` says what differs. Any thread.
__attribute__((format(printf, 4, 5))) inline bool check(bool ok, const char* file, int line, const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  pthread_mutex_lock(&report().lock);
  ++report().checks;
  if (!ok) {
    const char* slash = std::strrchr(file, '/');
    report().failures +=
        std::string(slash != nullptr ? slash + 1 : file) + ":" + std::to_string(line) + ": " + text + "\n";
  }
  pthread_mutex_unlock(&report().lock);
  return ok;
}

// The set-up is complete; returns once the runner says "go on", which may be in another life.
inline void ready_and_wait() {
  const std::string go = path("go");
  write_file(path("ready"), "");
  while (!exists(go)) pause_ms(5);
}

// Something of the set-up can't be had here (a CPU feature, a newer kernel call): noted in the result, not a failure.
inline void skip_part(const std::string& what) { std::printf("part skipped: %s\n", what.c_str()); }

// Writes the verdict; what main() returns. A scenario without a single check fails.
inline int finish() {
  Report& r = report();
  if (r.checks == 0) r.failures += "nothing was checked\n";
  write_file(path("result"), r.failures.empty() ? "PASS\n" : r.failures);
  return r.failures.empty() ? 0 : 1;
}

// The set-up itself failed: nothing can be said about checkpoint and restart.
[[noreturn]] inline void broken_setup(const char* what, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: set-up: %s: %s\n", file, line, what, std::strerror(errno));
  std::exit(2);
}

}  // namespace scenario

// CHECK(condition, "format", ...): what was expected and what was found, in the words of the format.
#define CHECK(condition, ...) ::scenario::check((condition), __FILE__, __LINE__, __VA_ARGS__)
#define CHECK_EQ(found, expected)                                                                          \
  __extension__({                                                                                          \
    const auto check_found_ = static_cast<long long>(found);                                               \
    const auto check_expected_ = static_cast<long long>(expected);                                         \
    ::scenario::check(check_found_ == check_expected_, __FILE__, __LINE__, "%s is %lld, not %lld", #found, \
                      check_found_, check_expected_);                                                      \
  })
// SETUP(call): a call of the set-up that must succeed (>= 0 or non-null); yields its value.
#define SETUP(...)                                                                                              \
  __extension__({                                                                                               \
    auto setup_value_ = (__VA_ARGS__);                                                                          \
    if (setup_value_ == decltype(setup_value_)(-1)) ::scenario::broken_setup(#__VA_ARGS__, __FILE__, __LINE__); \
    setup_value_;                                                                                               \
  })
