// SPDX-License-Identifier: Apache-2.0
#include "engine/run_family.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/file.h"
#include "engine/foreground.h"
#include "engine/job_control.h"
#include "engine/tracked_tree.h"

namespace stasis {
namespace {

constexpr int kCannotExecute = 126, kNoSuchCommand = 127;  // as shells have it
constexpr auto kRestartTimeout = std::chrono::hours(24);   // a signal ends it earlier

// Everything but what the kernel means for the thread itself, and the ticks of Patience.
void block_signals() {
  sigset_t set;
  sigfillset(&set);
  for (const int signal : {SIGALRM, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&set, signal);
  ::sigprocmask(SIG_SETMASK, &set, nullptr);
}

// ---- minder ----

std::atomic<bool> g_told_to_end{false};
void told_to_end(int) { g_told_to_end.store(true, std::memory_order_relaxed); }

// Until the program runs, a signal to end gives the restart up.
void heed_signals_to_end() {
  block_signals();
  struct sigaction action{};
  action.sa_handler = told_to_end;
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    if (is_ignored(signal)) continue;
    ::sigaction(signal, &action, nullptr);
    sigaddset(&set, signal);
  }
  ::sigprocmask(SIG_UNBLOCK, &set, nullptr);
}

[[noreturn]] void execute(const std::vector<std::string>& command, const SignalState& signals, int report) {
  signals.restore();
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  const int error = errno;
  static_cast<void>(write_full(report, std::as_bytes(std::span(&error, 1))));
  ::_exit(kNoSuchCommand);
}

// The supervisor stops, whom the shell waits for.
void tell_of_stop(const RunSocket& supervisor, int signal) {
  static_cast<void>(supervisor.send({.word = RunWord::kStopped, .status = signal}));
}

// Starts the program and waits for its end.
RunMessage start_and_wait(const RunRequest& request, const SignalState& signals, const RunSocket& supervisor) {
  hold_signals();
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return RunMessage::of(RunWord::kNotStarted, Error::from_errno(errno, "pipe"));
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  const pid_t program = ::fork();
  if (program < 0) return RunMessage::of(RunWord::kNotStarted, Error::from_errno(errno, "fork"));
  if (program == 0) execute(request.command, signals, write_end.get());
  write_end.reset();
  int failure = 0;
  const auto size = read_full(read_end.get(), std::as_writable_bytes(std::span(&failure, 1)));
  if (size && *size == sizeof failure) {
    ::waitpid(program, nullptr, 0);
    auto message = RunMessage::of(RunWord::kNotStarted, Error::from_errno(failure, request.command.front()));
    message.status = failure == ENOENT ? kNoSuchCommand : kCannotExecute;
    return message;
  }
  static_cast<void>(supervisor.send({.word = RunWord::kRunning, .pid = program}));
  TerminalLoan terminal;
  JobControl job(terminal, HostPid(program), [&](int signal) { tell_of_stop(supervisor, signal); });
  const auto end = wait_for({.receiver = HostPid(program),
                             .ended = [&](HostPid child, int status) -> std::optional<ProgramEnd> {
                               if (child.value() != program) return std::nullopt;
                               return program_end(status);
                             },
                             .stopped =
                                 [&](HostPid child, int signal) {
                                   if (child.value() == program) job.stopped(signal);
                                 },
                             .go_on = [&] { return job.go_on(); }});
  RunMessage message{.word = RunWord::kEnd};
  message.end = end.value_or(ProgramEnd{.how = ProgramEnd::How::kSignalled, .value = SIGKILL});
  return message;
}

RunMessage restart_and_wait(const std::string& image, FilePolicy files, const RunSocket& supervisor) {
  heed_signals_to_end();
  RestartRequest request{.image = image, .timeout = kRestartTimeout, .cancelled = &g_told_to_end};
  request.policy.files = files;
  request.running = [&](HostPid root, const RestartReport&) {
    static_cast<void>(supervisor.send({.word = RunWord::kRunning, .pid = root.value()}));
  };
  request.stopped = [&](HostPid, int signal) { tell_of_stop(supervisor, signal); };
  const auto end = restart(request);
  if (!end) return RunMessage::of(RunWord::kNotStarted, end.error());
  RunMessage message{.word = RunWord::kEnd};
  message.end = *end;
  return message;
}

[[noreturn]] void be_minder(const RunRequest& request, const std::string& image, const SignalState& signals,
                            const RunSocket& supervisor) {
  static_cast<void>(supervisor.send({.word = RunWord::kHello, .pid = ::getpid()}));
  static_cast<void>(supervisor.send(image.empty() ? start_and_wait(request, signals, supervisor)
                                                  : restart_and_wait(image, request.files, supervisor)));
  ::_exit(0);
}

// ---- engine ----

RunMessage save(const RunRequest& request, const RunMessage& order, TrackedTree& tracked,
                const std::atomic<bool>& cancelled) {
  CheckpointRequest wanted{.pid = HostPid(order.pid),
                           .output = request.image,
                           .after = order.after,
                           .codec = request.codec,
                           .timeout = std::chrono::nanoseconds(order.timeout_ns),
                           .policy = request.policy};
  wanted.cancelled = &cancelled;
  if (request.track) wanted.tracked = &tracked;
  // After a restart, or a checkpoint that failed, nobody knows what has changed: a whole image is the quickest.
  if (request.track && tracked.has_base()) wanted.parent = order.parent();
  const auto report = checkpoint(wanted);
  if (!report) return RunMessage::of(RunWord::kFailed, report.error());
  RunMessage message{.word = RunWord::kSaved};
  message.report = *report;
  return message;
}

[[noreturn]] void be_engine(const RunRequest& request, const RunSocket& supervisor, pid_t minder,
                            const std::atomic<bool>& cancelled) {
  block_signals();
  TrackedTree tracked;
  while (const auto order = supervisor.receive()) {
    if (order->word == RunWord::kBye) {
      ::waitpid(minder, nullptr, 0);
      break;
    }
    if (!supervisor.send(save(request, *order, tracked, cancelled))) break;
  }
  ::_exit(0);
}

}  // namespace

// ---- what they share ----

Result<SharedFlag> SharedFlag::create() {
  void* const room =
      ::mmap(nullptr, sizeof(std::atomic<bool>), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) return Error::from_errno(errno, "mmap");
  return SharedFlag(new (room) std::atomic<bool>(false));
}

SharedFlag::~SharedFlag() {
  if (flag_) ::munmap(flag_, sizeof *flag_);
}

SignalState SignalState::take() {
  SignalState state;
  ::sigprocmask(SIG_SETMASK, nullptr, &state.mask_);
  struct sigaction ignore{}, standard{};
  ignore.sa_handler = SIG_IGN;
  standard.sa_handler = SIG_DFL;
  ::sigaction(SIGPIPE, &ignore, &state.pipe_);
  ::sigaction(SIGCHLD, &standard, &state.child_);
  hold_signals();
  return state;
}

void SignalState::restore() const {
  ::sigaction(SIGPIPE, &pipe_, nullptr);
  ::sigaction(SIGCHLD, &child_, nullptr);
  ::sigprocmask(SIG_SETMASK, &mask_, nullptr);
}

Result<RunFamily> RunFamily::launch(const RunRequest& request, const std::string& image, const SignalState& signals,
                                    const std::atomic<bool>& cancelled) {
  auto [to_engine, engine] = STASIS_TRY(RunSocket::create_pair());
  auto [to_minder, minder] = STASIS_TRY(RunSocket::create_pair());
  const pid_t pid = ::fork();
  if (pid < 0) return Error::from_errno(errno, "fork");
  if (pid == 0) {
    to_engine.close();
    to_minder.close();
    const pid_t child = ::fork();
    if (child < 0) ::_exit(1);
    if (child == 0) {
      engine.close();
      be_minder(request, image, signals, minder);
    }
    minder.close();
    be_engine(request, engine, child, cancelled);
  }
  return RunFamily{.engine_pid = HostPid(pid), .engine = std::move(to_engine), .minder = std::move(to_minder)};
}

}  // namespace stasis
