// SPDX-License-Identifier: Apache-2.0
// The fixed cost of a checkpoint and of a restart: whole commands on a tiny static program, from the start of `stasis`
// to its end. Goals on an idle machine: 10 ms each (median of 20), frozen for less than 2 ms (the counter `freeze_us`).
//
// And what the object hash costs in a real restart, per shared object: the same program with that many pipes, of three
// objects each (the pipe and its two ends), is restarted. drop_references: ObjHash::clear() before the program runs,
// which closes our descriptor of each end; free_memory: free_later() once it runs.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

// A directory of this run and the tiny program; both end with it.
class Place {
 public:
  Place() {
    std::string name = (fs::temp_directory_path() / "stasis-bench-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    dir_ = name;
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() { fs::remove_all(dir_); }
  std::string path(const char* name) const { return dir_ / name; }

 private:
  fs::path dir_;
};

// Starts a program with its output in `out` and its messages in `err`, if given; the tiny program is a session leader,
// as a job would be.
pid_t start(const std::vector<std::string>& words, const std::string& out, short flags = 0,
            const std::string& err = "") {
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (!err.empty()) posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if ((flags & POSIX_SPAWN_SETSID) != 0) posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addclosefrom_np(&actions, 3);  // what the bench itself was given is no part of the program
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, flags);
  pid_t pid = -1;
  if (posix_spawn(&pid, argv[0], &actions, &attributes, argv.data(), environ) != 0)
    throw std::runtime_error("can't start " + words[0]);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  return pid;
}

int wait_for(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

std::string text_of(const std::string& file) {
  std::ifstream stream(file);
  std::stringstream text;
  text << stream.rdbuf();
  return text.str();
}

// Seconds that `stasis WORDS` takes; throws if it fails.
double timed(const Place& place, std::vector<std::string> words, const std::string& err = "") {
  words.insert(words.begin(), STASIS_COMMAND);
  const auto begin = std::chrono::steady_clock::now();
  const int status = wait_for(start(words, place.path("out"), 0, err));
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  if (status != 0) throw std::runtime_error("stasis " + words[1] + " failed");
  return taken.count();
}

pid_t start_tiny(const Place& place, std::int64_t pipes = 0) {
  const pid_t pid =
      start({TINY_PROGRAM, place.path("running"), std::to_string(pipes)}, "/dev/null", POSIX_SPAWN_SETSID);
  while (!fs::exists(place.path("running"))) usleep(1000);
  return pid;
}

void end(pid_t pid) {
  kill(pid, SIGKILL);
  wait_for(pid);
}

double number_after(const std::string& text, const std::string& key) {
  const std::size_t at = text.find("\"" + key + "\"");
  return at == std::string::npos ? -1 : std::strtod(text.c_str() + text.find(':', at) + 1, nullptr);
}

void end_restarted(const Place& place) {
  const pid_t restarted = std::stoi(text_of(place.path("pid")));
  kill(restarted, SIGKILL);
  while (kill(restarted, 0) == 0) usleep(500);  // its pid must be free again
}

void checkpoint(benchmark::State& state) try {
  const Place place;
  const pid_t tiny = start_tiny(place);
  double freeze = 0;
  for (auto _ : state) {
    state.SetIterationTime(
        timed(place, {"checkpoint", std::to_string(tiny), "-o", place.path("image"), "--leave-running", "--json"}));
    freeze += number_after(text_of(place.path("out")), "freeze_us");
  }
  state.counters["freeze_us"] = benchmark::Counter(freeze, benchmark::Counter::kAvgIterations);
  end(tiny);
} catch (const std::exception& error) {
  state.SkipWithError(error.what());
}

void restart(benchmark::State& state) try {
  const Place place;
  const pid_t tiny = start_tiny(place);
  timed(place, {"checkpoint", std::to_string(tiny), "-o", place.path("image"), "--kill"});
  wait_for(tiny);
  for (auto _ : state) {
    state.SetIterationTime(timed(place, {"restart", place.path("image"), "--detach", "--pidfile", place.path("pid")}));
    end_restarted(place);
  }
} catch (const std::exception& error) {
  state.SkipWithError(error.what());
}

// The number that follows `words` in a log.
double logged(const std::string& text, const std::string& words) {
  const std::size_t at = text.find(words);
  if (at == std::string::npos) throw std::runtime_error("the log of stasis does not say: " + words);
  return std::strtod(text.c_str() + at + words.size(), nullptr);
}

void hash_in_restart(benchmark::State& state, const char* words) try {
  const Place place;
  const pid_t tiny = start_tiny(place, state.range(0));
  timed(place, {"checkpoint", std::to_string(tiny), "-o", place.path("image"), "--kill"});
  wait_for(tiny);
  setenv("STASIS_LOG", "restart:debug", 1);
  double objects = 0;
  for (auto _ : state) {
    timed(place, {"restart", place.path("image"), "--detach", "--pidfile", place.path("pid")}, place.path("log"));
    const std::string log = text_of(place.path("log"));
    objects = logged(log, "references to ");
    state.SetIterationTime(logged(log, words) * 1e-9);
    end_restarted(place);
  }
  unsetenv("STASIS_LOG");
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(objects));
  state.counters["objects"] = objects;
} catch (const std::exception& error) {
  unsetenv("STASIS_LOG");
  state.SkipWithError(error.what());
}

BENCHMARK(checkpoint)
    ->Name("checkpoint_tiny/stasis")
    ->UseManualTime()
    ->Iterations(1)
    ->Repetitions(20)
    ->Unit(benchmark::kMillisecond);
BENCHMARK(restart)
    ->Name("restart_tiny/stasis")
    ->UseManualTime()
    ->Iterations(1)
    ->Repetitions(20)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(hash_in_restart, drop, "objects dropped in ")
    ->Name("drop_references/stasis")
    ->Arg(10)
    ->Arg(100)
    ->Arg(1000)
    ->UseManualTime()
    ->Iterations(1);
BENCHMARK_CAPTURE(hash_in_restart, free, "their memory freed in ")
    ->Name("free_memory/stasis")
    ->Arg(10)
    ->Arg(100)
    ->Arg(1000)
    ->UseManualTime()
    ->Iterations(1);

}  // namespace
