// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/file.h"
#include "kernel/areas_in_motion.h"
#include "kernel/proc_children.h"
#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

// Files that the kernel writes in one go: a read that does not fill its buffer has all of it.
bool is_one_record(std::string_view name) {
  constexpr std::array<std::string_view, 11> kNames = {"stat",          "status",          "sched",         "schedstat",
                                                       "syscall",       "wchan",           "comm",          "cgroup",
                                                       "oom_score_adj", "coredump_filter", "timens_offsets"};
  if (name.starts_with("fdinfo/")) return true;
  return std::ranges::find(kNames, name.substr(name.rfind('/') + 1)) != kNames.end();
}

Result<std::string> read_all(int fd, std::string_view name) {
  std::array<char, 8192> first;
  const ssize_t got = ::read(fd, first.data(), first.size());
  if (got < 0 && errno != EINTR) return Error::from_errno(errno, "read");
  std::string text(first.data(), static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  const bool whole = got == 0 || (got > 0 && text.size() < first.size() && is_one_record(name));
  if (!whole) text += STASIS_TRY(read_fd(fd));
  return text;
}

std::string task_file(HostPid tid, std::string_view name) { return fmt::format("task/{}/{}", tid.value(), name); }

}  // namespace

std::string_view namespace_name(Namespace kind) {
  constexpr std::array<std::string_view, 10> kNames = {
      "cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"};
  return kNames[static_cast<std::size_t>(kind)];
}

Result<ProcDir> ProcDir::open(HostPid pid) {
  auto dir = open_at(AT_FDCWD, fmt::format("/proc/{}", pid.value()), O_RDONLY | O_DIRECTORY);
  const Error none(Errc::kNoSuchProcess, fmt::format("there is no process {}", pid.value()));
  if (!dir) return dir.error().sys_errno() == ENOENT ? none : Error(std::move(dir).error());
  ProcDir proc(pid, *std::move(dir));
  const auto status = proc.status();
  if (!status) return status.error().code() == Errc::kVanished ? none : Error(status.error());
  if (status->tgid != pid.value()) {
    return Error(Errc::kNoSuchProcess, fmt::format("{} is a thread of process {}", pid.value(), status->tgid))
        .with_help("name the process instead");
  }
  const ProcStat stat = STASIS_TRY(proc.stat());
  proc.start_time_ = stat.starttime;
  if (stat.zombie()) STASIS_TRY(proc.look_again());
  return proc;
}

Result<ProcDir> ProcDir::duplicate() const {
  UniqueFd dir(::fcntl(dir_.get(), F_DUPFD_CLOEXEC, 0));
  if (!dir) return Error::from_errno(errno, "duplicate a descriptor");
  ProcDir proc(pid_, std::move(dir));
  proc.start_time_ = start_time_;
  proc.live_tid_ = live_tid_;
  if (live_dir_) {
    proc.live_dir_ = UniqueFd(::fcntl(live_dir_.get(), F_DUPFD_CLOEXEC, 0));
    if (!proc.live_dir_) return Error::from_errno(errno, "duplicate a descriptor");
  }
  return proc;
}

Result<void> ProcDir::look_again() {
  live_dir_.reset();
  live_tid_ = pid_;
  const auto leader = thread_stat(pid_);
  if (leader && !leader->zombie()) return {};
  for (const HostPid tid : STASIS_TRY(threads())) {
    const auto stat = thread_stat(tid);
    if (!stat || stat->zombie()) continue;
    // /proc knows threads by number, too, though it does not list them.
    auto dir = open_at(AT_FDCWD, fmt::format("/proc/{}", tid.value()), O_RDONLY | O_DIRECTORY);
    if (!dir) continue;
    live_dir_ = *std::move(dir);
    live_tid_ = tid;
    return {};
  }
  return {};
}

// What the leader's own entry has even when it has ended: what belongs to it, or to the process as the kernel counts.
int ProcDir::dir_of(const std::string& name) const {
  const bool leaders = name.starts_with("task") || name == "stat" || name == "status" || name == "timers";
  return leaders || !live_dir_ ? dir_.get() : live_dir_.get();
}

Error ProcDir::explain(Error cause, const std::string& name) const {
  const int code = cause.sys_errno();
  Error error = std::move(cause).note(fmt::format("process {}", pid_.value()));
  if (code == ENOENT || code == ESRCH) {
    // A file that this kernel has not is another matter than a process that ended.
    if (::faccessat(dir_.get(), "stat", F_OK, 0) != 0 || name.starts_with("task/") || name.starts_with("fd")) {
      return std::move(error).with_code(Errc::kVanished);
    }
    return error;
  }
  if (code == EACCES || code == EPERM) {
    return std::move(error)
        .with_code(Errc::kNotOwner)
        .with_help(
            "it belongs to another user, runs with more privileges, or has made itself undumpable; root can do it");
  }
  return error;
}

Result<std::string> ProcDir::read(const std::string& name) const {
  const auto fd = open_at(dir_of(name), name, O_RDONLY);
  if (!fd) return explain(Error(fd.error()), name);
  auto text = read_all(fd->get(), name);
  if (!text) return explain(std::move(text).error().note(name), name);
  return text;
}

Result<UniqueFd> ProcDir::open_file(const std::string& name, int flags) const {
  auto fd = open_at(dir_of(name), name, flags);
  if (!fd) return explain(std::move(fd).error(), name);
  return fd;
}

Result<std::string> ProcDir::link(const std::string& name) const {
  auto target = read_link(dir_of(name), name);
  if (!target) return explain(std::move(target).error(), name);
  return target;
}

Result<void> ProcDir::check_alive() const {
  STASIS_TRY(read("stat"));
  return {};
}

bool ProcDir::has_ended() const {
  constexpr std::uint32_t kExiting = 0x4;  // PF_EXITING
  constexpr std::uint64_t kKilled = std::uint64_t{1} << (SIGKILL - 1);
  const auto gone = [](const Error& error) { return error.code() == Errc::kVanished; };
  const auto tids = threads();
  if (!tids) return gone(tids.error());
  return std::ranges::all_of(*tids, [&](HostPid tid) {
    const auto stat = thread_stat(tid);
    if (!stat) return gone(stat.error());
    if (stat->zombie() || (stat->flags & kExiting) != 0) return true;
    const auto status = thread_status(tid);
    return status ? (status->sig_pending & kKilled) != 0 : gone(status.error());
  });
}

Result<ProcStat> ProcDir::stat() const {
  const std::string text = STASIS_TRY(read("stat"));
  ProcStat stat = STASIS_TRY(parse_stat(text));
  if (!live_dir_) return stat;
  const ProcStat live = STASIS_TRY(thread_stat(live_tid_));
  for (const auto member : {&ProcStat::vsize, &ProcStat::startcode, &ProcStat::endcode, &ProcStat::startstack,
                            &ProcStat::start_data, &ProcStat::end_data, &ProcStat::start_brk, &ProcStat::arg_start,
                            &ProcStat::arg_end, &ProcStat::env_start, &ProcStat::env_end}) {
    stat.*member = live.*member;
  }
  stat.rss = live.rss;
  return stat;
}

Result<ProcStatus> ProcDir::status() const {
  const std::string text = STASIS_TRY(read("status"));
  ProcStatus status = STASIS_TRY(parse_status(text));
  if (!live_dir_) return status;
  const ProcStatus live = STASIS_TRY(thread_status(live_tid_));
  status.umask = live.umask;
  status.fd_size = live.fd_size;
  status.vm_rss = live.vm_rss;
  status.vm_size = live.vm_size;
  status.thp_enabled = live.thp_enabled;
  return status;
}

Result<std::vector<Vma>> ProcDir::maps() const {
  return parse_areas_in_motion(parse_maps, [this] { return read("maps"); });
}
Result<std::vector<Vma>> ProcDir::smaps() const {
  return parse_areas_in_motion(parse_smaps, [this] { return read("smaps"); });
}
Result<Limits> ProcDir::limits() const { return parse_limits(STASIS_TRY(read("limits"))); }
Result<std::vector<PosixTimer>> ProcDir::timers() const { return parse_timers(STASIS_TRY(read("timers"))); }
Result<std::vector<AuxvEntry>> ProcDir::auxv() const { return parse_auxv(STASIS_TRY(read("auxv"))); }
Result<std::vector<Mount>> ProcDir::mounts() const { return parse_mountinfo(STASIS_TRY(read("mountinfo"))); }
Result<std::vector<CgroupMembership>> ProcDir::cgroups() const { return parse_cgroup(STASIS_TRY(read("cgroup"))); }
Result<std::string> ProcDir::cmdline() const { return read("cmdline"); }
Result<std::string> ProcDir::environ() const { return read("environ"); }

Result<std::vector<std::int32_t>> ProcDir::numbers_in(const std::string& name) const {
  // Not by readdir(3), which asks four times as much of the kernel.
  struct Entry {  // struct linux_dirent64, man 2 getdents
    std::uint64_t inode;
    std::int64_t offset;
    std::uint16_t length;
    std::uint8_t type;
    char name[1];
  };
  const UniqueFd fd = STASIS_TRY(open_file(name, O_RDONLY | O_DIRECTORY));
  std::vector<std::int32_t> numbers;
  alignas(Entry) std::array<char, 16384> entries;
  for (;;) {
    const ssize_t size = ::getdents64(fd.get(), entries.data(), entries.size());
    if (size < 0) return explain(Error::from_errno(errno, "read directory " + name), name);
    if (size == 0) return numbers;
    for (ssize_t at = 0; at < size;) {
      const auto* const entry = reinterpret_cast<const Entry*>(entries.data() + at);
      std::int32_t number = 0;
      if (text::number(std::string_view(entry->name), number) && number >= 0) numbers.push_back(number);
      at += entry->length;
    }
  }
}

Result<std::vector<HostPid>> ProcDir::threads() const {
  std::vector<HostPid> tids;
  for (const std::int32_t tid : STASIS_TRY(numbers_in("task"))) tids.emplace_back(tid);
  if (tids.empty()) return Error(Errc::kVanished, fmt::format("process {} has no threads left", pid_.value()));
  return tids;
}

Result<ProcStat> ProcDir::thread_stat(HostPid tid) const {
  return parse_stat(STASIS_TRY(read(task_file(tid, "stat"))));
}

Result<ProcStatus> ProcDir::thread_status(HostPid tid) const {
  return parse_status(STASIS_TRY(read(task_file(tid, "status"))));
}

Result<SchedInfo> ProcDir::thread_sched(HostPid tid) const {
  return parse_sched(STASIS_TRY(read(task_file(tid, "sched"))));
}

Result<std::string> ProcDir::thread_comm(HostPid tid) const {
  std::string name = STASIS_TRY(read(task_file(tid, "comm")));
  if (name.ends_with('\n')) name.pop_back();
  return name;
}

Result<std::vector<HostPid>> ProcDir::children() const {
  std::vector<HostPid> all;
  for (const HostPid tid : STASIS_TRY(threads())) {
    auto text = read(task_file(tid, "children"));
    if (!text) {
      // The thread ended since it was listed: its children are another thread's now. Without the process: say so.
      if (text.error().code() == Errc::kVanished && check_alive()) continue;
      return std::move(text).error();
    }
    for (const HostPid child : STASIS_TRY(parse_children(*text))) all.push_back(child);
  }
  std::ranges::sort(all);
  all.erase(std::ranges::unique(all).begin(), all.end());
  return all;
}

Result<std::vector<int>> ProcDir::fds() const {
  std::vector<int> fds = STASIS_TRY(numbers_in("fd"));
  std::ranges::sort(fds);
  return fds;
}

Result<FdInfo> ProcDir::fdinfo(int fd) const { return parse_fdinfo(STASIS_TRY(read(fmt::format("fdinfo/{}", fd)))); }

Result<std::string> ProcDir::fd_link(int fd) const { return link(fmt::format("fd/{}", fd)); }

Result<struct ::stat> ProcDir::fd_stat(int fd) const { return link_stat(fmt::format("fd/{}", fd)); }

Result<std::string> ProcDir::exe_link() const { return link("exe"); }
Result<std::string> ProcDir::cwd_link() const { return link("cwd"); }
Result<std::string> ProcDir::root_link() const { return link("root"); }

Result<struct ::stat> ProcDir::link_stat(const std::string& name) const {
  struct ::stat result{};
  if (::fstatat(dir_of(name), name.c_str(), &result, 0) != 0) {
    return explain(Error::from_errno(errno, "stat " + name), name);
  }
  return result;
}

Result<std::uint64_t> ProcDir::ns(Namespace kind) const {
  return STASIS_TRY(link_stat(fmt::format("ns/{}", namespace_name(kind)))).st_ino;
}

}  // namespace stasis::kernel
