// SPDX-License-Identifier: Apache-2.0
#include "engine/run.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <mutex>
#include <optional>

#include "engine/image_series.h"
#include "engine/job_control.h"
#include "engine/run_family.h"
#include "kernel/pidfd.h"
#include "kernel/proc_dir.h"
#include "stasis/worker.h"

namespace stasis {
namespace {

using SteadyClock = std::chrono::steady_clock;
using Event = RunEvent::What;

constexpr std::array kSignals = {SIGHUP,  SIGINT,  SIGQUIT,  SIGTERM, SIGUSR1, SIGUSR2,
                                 SIGALRM, SIGCONT, SIGWINCH, SIGTSTP, SIGPIPE, SIGURG};

// Of the time between SIGTERM and our end, the part that the last checkpoint may take.
std::chrono::nanoseconds last_checkpoint_share(std::chrono::nanoseconds grace) { return grace * 3 / 4; }

bool is_gone(const Error& error) { return error.code() == Errc::kVanished || error.code() == Errc::kNoSuchProcess; }

// The supervisor. Two threads: the main one (signals, the minder's news) and the worker's (checkpoints).
class RunSession {
 public:
  RunSession(const RunRequest& request, ImageSeries series, SharedFlag cancelled)
      : request_(request), series_(std::move(series)), cancelled_(std::move(cancelled)) {}
  ~RunSession();

  Result<ProgramEnd> run();

 private:
  struct Periodic : DelayedWork {
    explicit Periodic(RunSession& owner) : DelayedWork(method<&Periodic::run>), session(owner) {}
    void run() { session.save_as_usual(); }
    RunSession& session;
  };
  struct Last : Work {
    explicit Last(RunSession& owner) : Work(method<&Last::run>), session(owner) {}
    void run() { session.save_at_last(); }
    RunSession& session;
  };

  Result<void> watch_signals();
  Result<std::optional<ProgramEnd>> launch();
  Result<std::optional<RunMessage>> launch(const std::string& image);
  Result<std::optional<ProgramEnd>> launch_command();
  Result<RunMessage> supervise();
  Result<ProgramEnd> conclude(const RunMessage& end);
  void end_family();
  std::optional<RunMessage> minder_news();
  void take_signal();
  void stop_with_the_program(int signal);
  void begin_to_end();
  void watch_the_time();
  void pass_on(int signal);
  void kill_program();

  // On the worker.
  void save_as_usual();
  void save_at_last();
  Result<CheckpointReport> save(AfterCheckpoint after, std::chrono::nanoseconds timeout);
  Result<RunMessage> await_answer();

  void tell(const RunEvent& event);

  const RunRequest& request_;
  ImageSeries series_;
  SharedFlag cancelled_;
  SignalState signals_ = SignalState::take();
  UniqueFd signal_fd_;
  UniqueFd wake_;  // the worker has news for the main thread
  RunFamily family_;
  UniqueFd minder_;  // pidfds
  UniqueFd program_;
  HostPid pid_;               // the program's root
  bool minder_done_ = false;  // it has told its last

  std::unique_ptr<Worker> worker_;
  Periodic periodic_{*this};
  Last last_{*this};
  std::mutex telling_;

  // SIGTERM has come.
  std::atomic<bool> ending_{false};
  std::atomic<SteadyClock::time_point> last_must_be_done_{SteadyClock::time_point::max()};
  SteadyClock::time_point must_end_{SteadyClock::time_point::max()};
  enum class LastCheckpoint { kNone, kDone, kFailed };
  std::atomic<LastCheckpoint> last_result_{LastCheckpoint::kNone};
  bool term_passed_on_ = false;
  bool killed_ = false;
};

RunSession::~RunSession() {
  if (worker_) {
    (*cancelled_).store(true);
    static_cast<void>(worker_->stop());
  }
  end_family();
}

void RunSession::tell(const RunEvent& event) {
  const std::scoped_lock lock(telling_);
  if (request_.tell) request_.tell(event);
}

// ---- the beginning ----

Result<void> RunSession::watch_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kSignals) sigaddset(&set, signal);
  signal_fd_ = UniqueFd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!signal_fd_ || !wake_) return Error::from_errno(errno, "watch signals");
  return {};
}

void RunSession::end_family() {
  if (minder_done_) static_cast<void>(family_.engine.send({.word = RunWord::kBye}));
  minder_done_ = false;
  family_.engine.close();
  family_.minder.close();
  if (!family_.engine_pid) return;
  while (::waitpid(family_.engine_pid.value(), nullptr, 0) < 0 && errno == EINTR) {
  }
  family_.engine_pid = {};
}

// One attempt. Nothing: the program runs. Otherwise the minder's kNotStarted.
Result<std::optional<RunMessage>> RunSession::launch(const std::string& image) {
  family_ = STASIS_TRY(RunFamily::launch(request_, image, signals_, *cancelled_));
  for (;;) {
    std::array<pollfd, 2> wanted{pollfd{.fd = family_.minder.fd(), .events = POLLIN, .revents = 0},
                                 pollfd{.fd = signal_fd_.get(), .events = POLLIN, .revents = 0}};
    if (::poll(wanted.data(), wanted.size(), -1) < 0 && errno != EINTR) return Error::from_errno(errno, "poll");
    // Whoever is told to end while it starts gives up.
    if (wanted[1].revents != 0 && minder_) take_signal();
    if (wanted[0].revents == 0) continue;
    const auto message = family_.minder.receive();
    if (!message) return Error(Errc::kInternal, "the program's minder ended unexpectedly");
    if (message->word == RunWord::kNotStarted) {
      minder_done_ = true;
      return std::optional(*message);
    }
    if (message->word == RunWord::kHello) minder_ = STASIS_TRY(kernel::pidfd_open(HostPid(message->pid)));
    if (message->word != RunWord::kRunning) continue;
    pid_ = HostPid(message->pid);
    auto program = kernel::pidfd_open(pid_);
    if (program) program_ = std::move(*program);
    return std::optional<RunMessage>();
  }
}

// Something: the program does not run, and we end so.
Result<std::optional<ProgramEnd>> RunSession::launch_command() {
  const auto failed = STASIS_TRY(launch(""));
  if (!failed) {
    tell({.what = Event::kStarted, .pid = pid_});
    return std::optional<ProgramEnd>();
  }
  const Error error = failed->error();
  if (failed->status == 0) return error;
  tell({.what = Event::kNotRun, .error = &error});
  return std::optional(ProgramEnd{.how = ProgramEnd::How::kExited, .value = failed->status});
}

// Starts the command, or resumes the newest image that can be read.
Result<std::optional<ProgramEnd>> RunSession::launch() {
  const auto images = STASIS_TRY(series_.candidates());
  if (images.empty()) return launch_command();
  for (std::size_t i = 0;; ++i) {
    const auto failed = STASIS_TRY(launch(images[i]));
    if (!failed) {
      if (i > 0) STASIS_TRY(series_.fall_back_to(images[i]));
      tell({.what = Event::kResumed, .pid = pid_, .image = images[i]});
      return std::optional<ProgramEnd>();
    }
    const bool named = failed->error().message().find(images[i]) != std::string::npos;
    const Error error = named ? failed->error() : failed->error().note(images[i]);
    if (error.code() == Errc::kInterrupted) {
      return std::optional(ProgramEnd{.how = ProgramEnd::How::kSignalled, .value = SIGTERM});
    }
    constexpr int kBadImageStatus = 4;
    const bool bad = errc_info(error.code()).exit_status == kBadImageStatus || error.code() == Errc::kParentImage;
    if (!bad || i + 1 == images.size()) return error;
    end_family();
    tell({.what = Event::kDamaged, .image = images[i], .error = &error});
  }
}

// ---- while it runs ----

void RunSession::pass_on(int signal) {
  if (minder_) static_cast<void>(kernel::pidfd_send_signal(minder_.get(), signal));
}

void RunSession::kill_program() {
  if (program_) static_cast<void>(kernel::pidfd_send_signal(program_.get(), SIGKILL));
}

// The shell has its prompt again; SIGCONT wakes us, and the minder wakes the program.
void RunSession::stop_with_the_program(int signal) {
  // Where nobody could wake us, Ctrl-Z is nothing.
  if (!stop_like(pid_, signal) && signal == SIGTSTP) pass_on(SIGCONT);
}

void RunSession::take_signal() {
  signalfd_siginfo info{};
  if (::read(signal_fd_.get(), &info, sizeof info) != static_cast<ssize_t>(sizeof info)) return;
  const int signal = static_cast<int>(info.ssi_signo);
  // From the terminal: our whole group has it, the minder too, which passes it on where it must be.
  const bool from_terminal = info.ssi_code == SI_KERNEL;
  if (signal == SIGTERM && pid_) {
    begin_to_end();
  } else if (!from_terminal) {
    pass_on(signal);
  }
}

void RunSession::begin_to_end() {
  if (ending_.exchange(true)) return;
  const auto now = SteadyClock::now();
  must_end_ = now + request_.grace;
  last_must_be_done_.store(now + last_checkpoint_share(request_.grace));
  // A checkpoint that is going on is given up: the last one saves more, and ends the program.
  (*cancelled_).store(true);
  worker_->cancel(periodic_);
  worker_->queue(last_);
}

void RunSession::watch_the_time() {
  if (last_result_.load() == LastCheckpoint::kFailed && !term_passed_on_) {
    term_passed_on_ = true;
    pass_on(SIGTERM);
  }
  if (SteadyClock::now() < must_end_ || killed_) return;
  killed_ = true;
  tell({.what = Event::kTimeIsUp, .pid = pid_});
  kill_program();
}

// Something: its last.
std::optional<RunMessage> RunSession::minder_news() {
  if (const auto message = family_.minder.receive()) {
    if (message->word == RunWord::kStopped) {
      stop_with_the_program(message->status);
      return std::nullopt;
    }
    minder_done_ = true;
    return *message;
  }
  return RunMessage::of(RunWord::kFailed, Error(Errc::kTargetLost,
                                                "the program's minder was killed; how the program "
                                                "ends can't be told"));
}

Result<RunMessage> RunSession::supervise() {
  worker_ = STASIS_TRY(Worker::create({.name = "stasis-run"}));
  if (request_.every > std::chrono::nanoseconds::zero()) worker_->queue_delayed(periodic_, request_.every);
  constexpr int kTick = 50;  // ms, while the time is short
  for (;;) {
    std::array<pollfd, 3> wanted{pollfd{.fd = family_.minder.fd(), .events = POLLIN, .revents = 0},
                                 pollfd{.fd = signal_fd_.get(), .events = POLLIN, .revents = 0},
                                 pollfd{.fd = wake_.get(), .events = POLLIN, .revents = 0}};
    if (::poll(wanted.data(), wanted.size(), ending_ ? kTick : -1) < 0 && errno != EINTR) {
      return Error::from_errno(errno, "poll");
    }
    if (wanted[0].revents != 0) {
      if (const auto last = minder_news()) return *last;
    }
    if (wanted[1].revents != 0) take_signal();
    if (wanted[2].revents != 0) {
      std::uint64_t count = 0;
      static_cast<void>(::read(wake_.get(), &count, sizeof count));
    }
    if (ending_) watch_the_time();
  }
}

// ---- checkpoints, on the worker ----

// The engine's answer. One that is stuck beyond the time of the last checkpoint is killed, which harms nobody.
Result<RunMessage> RunSession::await_answer() {
  constexpr int kTick = 100;  // ms
  constexpr auto kMargin = std::chrono::milliseconds(500);
  pollfd wanted{.fd = family_.engine.fd(), .events = POLLIN, .revents = 0};
  for (;;) {
    const int ready = ::poll(&wanted, 1, kTick);
    if (ready > 0) break;
    if (SteadyClock::now() - kMargin < last_must_be_done_.load()) continue;
    ::kill(family_.engine_pid.value(), SIGKILL);
    return Error(Errc::kTimeout, "the checkpoint did not end in time");
  }
  if (const auto answer = family_.engine.receive()) return *answer;
  return Error(Errc::kTargetLost, "the process that makes the checkpoints has ended");
}

Result<CheckpointReport> RunSession::save(AfterCheckpoint after, std::chrono::nanoseconds timeout) {
  STASIS_TRY(series_.before_checkpoint());
  RunMessage order{.word = RunWord::kSave, .pid = pid_.value()};
  order.after = after;
  order.timeout_ns = timeout.count();
  if (request_.track) order.set_parent(series_.parent());
  auto answer = [&]() -> Result<RunMessage> {
    STASIS_TRY(family_.engine.send(order));
    return await_answer();
  }();
  series_.after_checkpoint();
  if (!answer) return answer.error();
  if (answer->word != RunWord::kSaved) return answer->error();
  return answer->report;
}

void RunSession::save_as_usual() {
  if (ending_) return;
  const auto report = save(AfterCheckpoint::kLeaveRunning, request_.timeout);
  if (report) tell({.what = Event::kSaved, .pid = pid_, .image = request_.image, .report = &*report});
  // Given up because the program has ended, or is to end: no failure.
  if (!report && !(*cancelled_).load() && !is_gone(report.error())) {
    tell({.what = Event::kNotSaved, .pid = pid_, .error = &report.error()});
  }
  if (!ending_) worker_->queue_delayed(periodic_, request_.every);
}

void RunSession::save_at_last() {
  (*cancelled_).store(false);
  const auto left = last_must_be_done_.load() - SteadyClock::now();
  const auto report = save(AfterCheckpoint::kKill, left);
  if (report) {
    tell({.what = Event::kLastSaved, .pid = pid_, .image = request_.image, .report = &*report});
  } else if (!is_gone(report.error())) {
    tell({.what = Event::kLastNotSaved, .pid = pid_, .error = &report.error()});
  }
  last_result_.store(report ? LastCheckpoint::kDone : LastCheckpoint::kFailed);
  constexpr std::uint64_t kOne = 1;
  static_cast<void>(::write(wake_.get(), &kOne, sizeof kOne));
}

// ---- the end ----

Result<ProgramEnd> RunSession::conclude(const RunMessage& end) {
  (*cancelled_).store(true);
  if (!ending_) last_must_be_done_.store(SteadyClock::now() + request_.grace);  // no stuck disk may keep us
  static_cast<void>(worker_->stop());
  end_family();
  if (last_result_.load() == LastCheckpoint::kDone) {
    return ProgramEnd{.how = ProgramEnd::How::kSignalled, .value = SIGTERM};
  }
  if (end.word != RunWord::kEnd) return end.error();
  const bool done = end.end.how == ProgramEnd::How::kExited && end.end.value == 0;
  if (done) {
    STASIS_TRY(series_.remove());
  } else if (!STASIS_TRY(series_.candidates()).empty()) {
    tell({.what = Event::kKept, .image = request_.image});
  }
  return end.end;
}

Result<ProgramEnd> RunSession::run() {
  STASIS_TRY(watch_signals());
  if (const auto end = STASIS_TRY(launch())) return *end;
  return conclude(STASIS_TRY(supervise()));
}

}  // namespace

Result<ProgramEnd> run(const RunRequest& request) {
  auto series = STASIS_TRY(ImageSeries::open(request.image, {.keep = request.keep, .chains = request.track}));
  auto cancelled = STASIS_TRY(SharedFlag::create());
  return RunSession(request, std::move(series), std::move(cancelled)).run();
}

}  // namespace stasis
