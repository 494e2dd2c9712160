// SPDX-License-Identifier: Apache-2.0
#include "engine/restart_session.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/file.h"
#include "base/log.h"
#include "base/stream.h"
#include "base/without_memory.h"
#include "engine/foreground.h"
#include "engine/image_rights.h"
#include "engine/init_channel.h"
#include "engine/job_control.h"
#include "engine/pidfile.h"
#include "image/environment.h"
#include "image/parent_file.h"
#include "kernel/clocks.h"
#include "kernel/namespaces.h"
#include "resource/external_stream/external_stream.h"
#include "resource/object_table.h"
#include "resource/process/process_record.h"

namespace stasis {
namespace {

constexpr int kCapSysAdmin = 21;
constexpr int kCapCheckpointRestore = 40;

// The name by which a checkpoint recognises a pid namespace that Stasis made.
constexpr const char* kInitName = "stasis-init";

// A detached process 1 must not keep the caller's pipes and terminal open.
void let_go_of_streams() {
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(null.get(), fd);
}

// Is the pid free? A zombie of it is waited for a moment: its parent is about to reap it.
bool is_free(ImagePid pid) {
  constexpr int kTries = 100;
  for (int i = 0; i < kTries; ++i) {
    if (::kill(pid.value(), 0) != 0 && errno == ESRCH) return true;
    const auto proc = kernel::ProcDir::open(HostPid(pid.value()));
    const auto stat = proc ? proc->stat() : Result<kernel::ProcStat>(proc.error());
    if (stat && !stat->zombie()) return false;
    ::usleep(1000);
  }
  return false;
}

Result<std::int64_t> difference(std::int64_t then, std::int64_t now) {
  std::int64_t result = 0;
  if (!__builtin_sub_overflow(then, now, &result)) return result;
  return Error(Errc::kBadImage, "the clocks of the image are out of range");
}

// What the program had at its terminal: by the lowest descriptor that led there.
Result<std::optional<TerminalSettings>> settings_of_terminal(const ImageReader& image) {
  std::optional<TerminalSettings> settings;
  std::int32_t lowest = std::numeric_limits<std::int32_t>::max();
  for (std::size_t i = 0; i < image.record_count(); ++i) {
    const RawRecord raw = image.record(i);
    if (raw.type != RecordType::kExternal) continue;
    const auto stream = STASIS_TRY(decode<ExternalRecord>(raw.payload, ExternalRecord::kName));
    if (!stream.settings || stream.numbers.empty() || stream.numbers.front() >= lowest) continue;
    lowest = stream.numbers.front();
    settings = stream.settings;
  }
  return settings;
}

class RestartSession {
 public:
  explicit RestartSession(const RestartRequest& request) : request_(request) {}
  Result<ProgramEnd> run();

 private:
  Result<void> open_image();
  Result<void> read_image();
  Result<void> start_page_server();
  Result<bool> needs_namespace() const;
  Result<std::optional<kernel::TimeShift>> time_shift() const;
  RestartTreeRequest tree_request();
  KeepGoing keep_going() const;
  std::string image_name() const { return request_.image == "-" ? "standard input" : request_.image; }
  void pass_on_early_signal(HostPid receiver) const;
  Result<bool> may_lend();
  JobControl job_of(HostPid root);
  void tell_of_size(HostPid root) const;
  Result<ProgramEnd> run_here();
  Result<ProgramEnd> run_in_namespaces(std::optional<kernel::TimeShift> shift);
  [[noreturn]] void be_init(InitChannel channel);
  Result<HostPid> await_running(const kernel::ProcDir& init, InitChannel& channel);
  Result<ProgramEnd> stand_by(HostPid init, HostPid root, InitChannel& channel);
  static void end_process_1(HostPid init);

  const RestartRequest& request_;
  UniqueFd file_;
  std::optional<ImageReader> image_;
  ImageOwner owner_;
  std::optional<LazyRestart> lazy_;
  Pidfile pidfile_;
  TerminalLoan terminal_;
};

Result<void> RestartSession::open_image() {
  const bool stream = request_.image == "-";
  if (!stream) file_ = STASIS_TRY(open_input(request_.image, keep_going()));
  const int fd = stream ? STDIN_FILENO : file_.get();
  owner_ = STASIS_TRY(owner_of_image(fd, image_name()));
  // By the caller's rights; what follows is done by those of the image's owner.
  pidfile_ = STASIS_TRY(Pidfile::open(request_.pidfile));
  STASIS_TRY(become_owner(owner_));
  return read_image();
}

// While a stream brings nothing.
KeepGoing RestartSession::keep_going() const {
  return [this](std::chrono::nanoseconds stalled) -> Result<void> {
    if (request_.cancelled && request_.cancelled->load(std::memory_order_relaxed)) {
      return Error(Errc::kInterrupted, "interrupted by a signal");
    }
    if (stalled < request_.timeout) return {};
    return Error(Errc::kTimeout, fmt::format("{} has brought nothing for {:.1f} s", image_name(),
                                             std::chrono::duration<double>(stalled).count()))
        .with_help("--timeout allows more");
  };
}

Result<void> RestartSession::read_image() {
  ReaderOptions options{.known = resource_records(), .keep_going = keep_going()};
  // What is brought in while the program runs is nothing to wait for.
  if (request_.filling == RestartRequest::Filling::kBefore) options.progress = request_.progress;
  image_ = STASIS_TRY(ImageReader::from_fd(file_ ? file_.get() : STDIN_FILENO, std::move(options)));
  return image_->open_parents(file_ ? directory_of(request_.image) : "");
}

// While we are in the namespaces of our caller: it is none of the program's.
Result<void> RestartSession::start_page_server() {
  if (request_.filling != RestartRequest::Filling::kLazy) return {};
  lazy_.reset();
  STASIS_TRY(LazyRestart::check_possible(*image_));
  lazy_.emplace(STASIS_TRY(LazyRestart::start(*image_, image_name(), request_.detach == Detach::kNo)));
  return {};
}

Result<bool> RestartSession::needs_namespace() const {
  if (request_.pids == PidsPolicy::kNamespace) return true;
  const bool may_choose =
      STASIS_TRY(kernel::has_capability(kCapCheckpointRestore)) || STASIS_TRY(kernel::has_capability(kCapSysAdmin));
  if (!may_choose && request_.pids == PidsPolicy::kKeep) {
    return Error(Errc::kMissingCapability, "choosing pids takes CAP_CHECKPOINT_RESTORE")
        .with_help("leave --pids out, or use --pids namespace");
  }
  if (!may_choose) return true;
  for (const ImagePid pid : STASIS_TRY(image_pids(*image_))) {
    if (is_free(pid)) continue;
    if (request_.pids == PidsPolicy::kAuto) return true;
    const auto comm = read_file(AT_FDCWD, fmt::format("/proc/{}/comm", pid.value()));
    const std::string holder = comm ? comm->substr(0, comm->find('\n')) : "a thread";
    return Error(Errc::kPidTaken, fmt::format("pid {} of the image is in use by {}", pid.value(), holder))
        .with_help("--pids namespace restores the program with its pids in a namespace of its own");
  }
  return false;
}

// Clocks that start at boot must not go back. On another boot they go on from where the image has them; on the same one
// they have gone on meanwhile, as far ahead of the host's as they were.
Result<std::optional<kernel::TimeShift>> RestartSession::time_shift() const {
  const EnvironmentRecord& then = image_->environment();
  const kernel::Clocks now = kernel::read_clocks();
  const kernel::TimeShift resume{.monotonic_ns = STASIS_TRY(difference(then.monotonic_ns, now.monotonic_ns)),
                                 .boottime_ns = STASIS_TRY(difference(then.boottime_ns, now.boottime_ns))};
  if (then.boot_id != STASIS_TRY(kernel::boot_id())) return resume;
  const auto self = STASIS_TRY(kernel::ProcDir::open(HostPid(::getpid())));
  const kernel::TimeShift ours = STASIS_TRY(kernel::time_offsets(self));
  kernel::TimeShift shift{.monotonic_ns = STASIS_TRY(difference(then.monotonic_offset_ns, ours.monotonic_ns)),
                          .boottime_ns = STASIS_TRY(difference(then.boottime_offset_ns, ours.boottime_ns))};
  shift.monotonic_ns = std::max(shift.monotonic_ns, resume.monotonic_ns);
  shift.boottime_ns = std::max(shift.boottime_ns, resume.boottime_ns);
  if (shift == kernel::TimeShift{}) return std::nullopt;
  return shift;
}

RestartTreeRequest RestartSession::tree_request() {
  RestartTreeRequest request{.policy = request_.policy,
                             .timeout = request_.timeout,
                             .cancelled = request_.cancelled,
                             .filled = request_.filled};
  request.policy.session = request_.detach == Detach::kYes ? SessionPolicy::kDetached : SessionPolicy::kForeground;
  request.owner = owner_;
  request.lazy = lazy_ ? &*lazy_ : nullptr;
  return request;
}

// A signal to end that came when the restart could no longer be given up: it is the program's.
void RestartSession::pass_on_early_signal(HostPid receiver) const {
  if (request_.cancelled && request_.cancelled->load(std::memory_order_relaxed)) ::kill(receiver.value(), SIGTERM);
}

// For a program that was in the foreground: the terminal is there, and ours to lend. (In the background it had the
// modes of somebody else.)
Result<bool> RestartSession::may_lend() {
  if (request_.detach == Detach::kYes) return false;
  if (auto settings = STASIS_TRY(settings_of_terminal(*image_))) terminal_.expect(*std::move(settings));
  return terminal_.is_ours();
}

// As the terminal tells its foreground group.
void RestartSession::tell_of_size(HostPid root) const {
  if (!terminal_.has_other_size()) return;
  const pid_t group = ::getpgid(root.value());
  ::kill(group > 0 && group != ::getpgrp() ? -group : root.value(), SIGWINCH);
}

JobControl RestartSession::job_of(HostPid root) {
  return JobControl(terminal_, root, [this, root](int signal) {
    if (request_.stopped) return request_.stopped(root, signal);
    // Where nobody could wake us, Ctrl-Z is nothing.
    if (!stop_like(root, signal) && signal == SIGTSTP) ::raise(SIGCONT);
  });
}

Result<ProgramEnd> RestartSession::run_here() {
  RestartTreeRequest tree = tree_request();
  tree.before_release = [&](const RestoredTree& restored) -> Result<void> {
    hold_signals();
    STASIS_TRY(pidfile_.write(restored.root));
    if (restored.foreground_group && STASIS_TRY(may_lend())) terminal_.lend_to(*restored.foreground_group);
    if (request_.running) request_.running(restored.root, restored.report);
    return {};
  };
  const RestoredTree restored = STASIS_TRY(restart_tree(*image_, tree));
  if (request_.detach == Detach::kYes) return ProgramEnd{};
  pass_on_early_signal(restored.root);
  tell_of_size(restored.root);
  JobControl job = job_of(restored.root);
  const auto end = wait_for({.receiver = restored.root,
                             .ended = [&](HostPid child, int status) -> std::optional<ProgramEnd> {
                               if (child != restored.root) return std::nullopt;
                               return program_end(status);
                             },
                             .stopped =
                                 [&](HostPid child, int signal) {
                                   if (child == restored.root) job.stopped(signal);
                                 },
                             .go_on = [&] { return job.go_on(); }});
  if (!end) return Error(Errc::kInternal, "the program vanished without a status");
  return *end;
}

Result<ProgramEnd> RestartSession::run_in_namespaces(std::optional<kernel::TimeShift> shift) {
  const auto user = STASIS_TRY(kernel::user_namespace_needed());
  STASIS_TRY(kernel::enter_namespaces({.user = user, .time = shift}));
  auto [ours, theirs] = STASIS_TRY(InitChannel::create());
  const pid_t init = ::fork();
  if (init < 0) return Error::from_errno(errno, "fork");
  if (init == 0) {
    ours = InitChannel();
    be_init(std::move(theirs));
  }
  theirs = InitChannel();
  lazy_.reset();  // process 1 talks to it
  // Opened before process 1 mounts its own /proc over the one that both of us see.
  const auto proc = STASIS_TRY(kernel::ProcDir::open(HostPid(init)));
  ours.send_go(InitChannel::Go::kOn);
  const auto root = await_running(proc, ours);
  if (!root) {
    ours = InitChannel();
    end_process_1(HostPid(init));
    return root.error();
  }
  return request_.detach == Detach::kYes ? ProgramEnd{} : stand_by(proc.pid(), *root, ours);
}

// Without a channel, or told to end, it takes back what it has done; one that does not is killed.
void RestartSession::end_process_1(HostPid init) {
  constexpr int kTries = 200;
  constexpr useconds_t kPause = 10'000;
  ::kill(init.value(), SIGTERM);
  for (int i = 0; i < kTries; ++i) {
    if (::waitpid(init.value(), nullptr, WNOHANG | __WALL) != 0) return;
    ::usleep(kPause);
  }
  ::kill(init.value(), SIGKILL);
}

// Process 1 of the new pid namespace: restarts the tree, then reaps until nobody is left.
void RestartSession::be_init(InitChannel channel) {
  ::prctl(PR_SET_NAME, kInitName);
  if (request_.detach == Detach::kYes) ::setsid();
  const auto restore = [&]() -> Result<RestoredTree> {
    STASIS_TRY(channel.await_go());
    STASIS_TRY(kernel::settle_in_namespaces());
    if (lazy_) STASIS_TRY(lazy_->add_process(HostPid(::getpid()), LazyRestart::Whom::kOnlyBelow));
    RestartTreeRequest tree = tree_request();
    tree.before_release = [&](const RestoredTree& restored) -> Result<void> {
      hold_signals();
      channel.send_running(
          {.report = restored.report,
           .terminal = restored.foreground_group ? InitChannel::Terminal::kWanted : InitChannel::Terminal::kNotNeeded});
      if (STASIS_TRY(channel.await_go()) == InitChannel::Go::kWithTerminal) {
        move_terminal_to(*restored.foreground_group);
      }
      return {};
    };
    return restart_tree(*image_, tree);
  };
  auto restored = restore();
  if (!restored) {
    channel.send_failure(restored.error());
    ::_exit(1);
  }
  image_.reset();
  file_.reset();
  if (request_.detach == Detach::kYes) let_go_of_streams();
  Attendance attendance{.receiver = restored->root};
  attendance.ended = [&](HostPid child, int status) -> std::optional<ProgramEnd> {
    if (child == restored->root) channel.send_end(program_end(status));
    return std::nullopt;
  };
  if (request_.detach == Detach::kNo) {
    attendance.stopped = [&](HostPid child, int signal) {
      if (child == restored->root) channel.send_stopped(signal);
    };
    // The restart command does that, when the terminal is the program's again.
    attendance.go_on = [] { return true; };
  }
  wait_for(attendance);
  ::_exit(0);
}

// The root of the tree once it is let go.
Result<HostPid> RestartSession::await_running(const kernel::ProcDir& init, InitChannel& channel) {
  const InitChannel::Ready ready = STASIS_TRY(channel.await_running(request_.cancelled));
  hold_signals();
  const auto children = STASIS_TRY(init.children());
  const HostPid root = children.empty() ? HostPid(0) : children.front();
  STASIS_TRY(pidfile_.write(root));
  const bool lend = ready.terminal == InitChannel::Terminal::kWanted && STASIS_TRY(may_lend());
  if (lend) terminal_.lend_modes();
  if (request_.running) request_.running(root, ready.report);
  channel.send_go(lend ? InitChannel::Go::kWithTerminal : InitChannel::Go::kOn);
  return root;
}

Result<ProgramEnd> RestartSession::stand_by(HostPid init, HostPid root, InitChannel& channel) {
  channel.announce_by(SIGCHLD);
  pass_on_early_signal(init);
  tell_of_size(root);
  JobControl job = job_of(root);
  Attendance attendance{.receiver = init};
  attendance.ended = [](HostPid, int) -> std::optional<ProgramEnd> { return std::nullopt; };
  attendance.news = [&]() -> std::optional<ProgramEnd> {
    while (const auto news = channel.take_news()) {
      if (news->end) return news->end;
      job.stopped(news->stopped_by);
    }
    return std::nullopt;
  };
  attendance.go_on = [&] {
    if (!job.go_on()) ::kill(root.value(), SIGCONT);
    return true;
  };
  if (const auto end = wait_for(attendance)) return *end;
  if (const auto end = attendance.news()) return *end;
  return Error(Errc::kTargetLost, "the program's pid namespace ended without a status");
}

Result<ProgramEnd> RestartSession::run() {
  // Where the caller ignores it, children would go without a trace.
  ::signal(SIGCHLD, SIG_DFL);
  STASIS_TRY(open_image());
  const auto shift = STASIS_TRY(time_shift());
  STASIS_TRY(start_page_server());
  if (shift || STASIS_TRY(needs_namespace())) return run_in_namespaces(shift);
  auto end = run_here();
  if (end || end.error().code() != Errc::kPidTaken) return end;
  // Somebody has taken one of the pids since we looked. A stream can't be read a second time.
  struct ::stat st{};
  const bool readable_again = file_ && ::fstat(file_.get(), &st) == 0 && S_ISREG(st.st_mode);
  if (request_.pids == PidsPolicy::kKeep || !readable_again) return end;
  if (::lseek(file_.get(), 0, SEEK_SET) != 0) return Error::from_errno(errno, "rewind " + request_.image);
  STASIS_TRY(read_image());
  STASIS_TRY(start_page_server());
  return run_in_namespaces(std::nullopt);
}

}  // namespace

Result<ProgramEnd> restart(const RestartRequest& request) {
  return or_no_memory([&] { return RestartSession(request).run(); });
}

}  // namespace stasis
