// SPDX-License-Identifier: Apache-2.0
#include "resource/epoll/epoll.h"

#include <sched.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <map>

#include "kernel/kcmp.h"
#include "resource/checkpoint_context.h"
#include "resource/file_kinds.h"
#include "resource/open_file/anonymous_file.h"
#include "stasis/worker.h"

namespace stasis {
namespace {

namespace text = kernel::text;

// The kernel keeps these through a one-shot entry's firing; without any other bit the entry is switched off.
constexpr std::uint32_t kPrivateBits = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE;

// "name: value" or "name:value", base as the kernel prints it (fs/eventpoll.c, ep_show_fdinfo).
template <class Number>
bool take_field(std::string_view& rest, std::string_view name, Number& value, int base) {
  std::string_view key;
  if (!text::take_until(rest, ':', key) || text::trim(key) != name) return false;
  return text::number(text::take_word(rest), value, base);
}

Result<bool> ask_kcmp(const FileHolder& candidate, const FileHolder& epoll, const EpollTarget& target,
                      std::uint32_t offset) {
  return kernel::kcmp_epoll_target(candidate.task(), candidate.fd, epoll.task(), epoll.fd, target.number, offset);
}

// Descriptors of the tree that may be the target: first the one that has its number in a process that has the set.
std::vector<std::pair<FileHolder, OpenFile*>> candidates_for(const OpenFile& epoll, const EpollTarget& target,
                                                             const OpenFileTable& tree) {
  std::vector<std::pair<FileHolder, OpenFile*>> candidates;
  for (const auto& file : tree.files) {
    if (file->stat.st_ino != target.inode) continue;
    const auto likely = std::ranges::find_if(file->holders, [&](const FileHolder& holder) {
      return holder.fd == target.number &&
             std::ranges::find(epoll.holders, holder.pid, &FileHolder::pid) != epoll.holders.end();
    });
    if (likely != file->holders.end()) {
      candidates.insert(candidates.begin(), {*likely, file.get()});
    } else {
      candidates.emplace_back(file->holders.front(), file.get());
    }
  }
  return candidates;
}

Result<std::vector<OpenFile*>> find_files(const OpenFile& epoll, std::span<const EpollTarget> targets,
                                          const OpenFileTable& tree) {
  return find_epoll_files(epoll, targets, tree, ask_kcmp);
}

Error lost_entry(const OpenFile& epoll, const EpollTarget& target) {
  return epoll
      .obstacle(Errc::kExternalPeer,
                fmt::format("it watches a file (added as descriptor {}) that only a process outside "
                            "of the tree has",
                            target.number))
      .to_error();
}

}  // namespace

Result<std::vector<EpollTarget>> parse_epoll_targets(const kernel::FdInfo& info) {
  std::vector<EpollTarget> targets;
  std::string_view rest = info.rest;
  while (!rest.empty()) {
    std::string_view line = text::take_line(rest);
    if (!line.starts_with("tfd:")) continue;
    const std::string_view whole = line;
    EpollTarget target;
    std::int64_t pos = 0;
    if (!take_field(line, "tfd", target.number, 10) || !take_field(line, "events", target.events, 16) ||
        !take_field(line, "data", target.data, 16) || !take_field(line, "pos", pos, 10) ||
        !take_field(line, "ino", target.inode, 16) || target.number < 0) {
      return text::malformed("fdinfo", whole);
    }
    targets.push_back(target);
  }
  return targets;
}

Result<std::vector<OpenFile*>> find_epoll_files(const OpenFile& epoll, std::span<const EpollTarget> targets,
                                                const OpenFileTable& tree, const IsEpollTarget& is_target) {
  std::vector<OpenFile*> files;
  std::map<std::int32_t, std::uint32_t> seen;  // entries of one number, in the order in which the kernel counts them
  for (const EpollTarget& target : targets) {
    const std::uint32_t offset = seen[target.number]++;
    OpenFile* found = nullptr;
    for (const auto& [holder, file] : candidates_for(epoll, target, tree)) {
      if (!STASIS_TRY(is_target(holder, epoll.holders.front(), target, offset))) continue;
      found = file;
      break;
    }
    files.push_back(found);
  }
  return files;
}

bool claims_epoll(const OpenFile& file, const OpenFileTable&) { return file.link == "anon_inode:[eventpoll]"; }

std::optional<Obstacle> epoll_obstacle(const OpenFile& file, const OpenFileTable& tree, const CheckpointPolicy&) {
  const auto targets = parse_epoll_targets(file.info);
  if (!targets) return file.obstacle(targets.error().code(), targets.error().message());
  const auto files = find_files(file, *targets, tree);
  // In a process that runs on (`stasis check`) an entry may be gone since it was listed.
  if (!files) return file.obstacle(files.error().code(), files.error().message(), files.error().help());
  for (std::size_t i = 0; i < files->size(); ++i) {
    if ((*files)[i] != nullptr) continue;
    const Error lost = lost_entry(file, (*targets)[i]);
    return file.obstacle(lost.code(), lost.message());
  }
  return std::nullopt;
}

Result<void> checkpoint_epoll(void* context, ObjRef ref, void* object) {
  CheckpointContext& ctx = CheckpointContext::of(context);
  const OpenFile& file = *static_cast<OpenFile*>(object);
  EpollRecord record{.flags = file.info.flags, .entries = {}};
  const auto targets = STASIS_TRY(parse_epoll_targets(file.info));
  const auto files = STASIS_TRY(find_files(file, targets, ctx.files));
  for (std::size_t i = 0; i < targets.size(); ++i) {
    if (files[i] == nullptr) return lost_entry(file, targets[i]);
    const FileKind* const kind = find_file_kind(*files[i], ctx.files);
    if (kind == nullptr) {
      return files[i]->obstacle(Errc::kUnsupportedObject, "a descriptor of this kind can't be saved").to_error();
    }
    const ObjRef watched = STASIS_TRY(ctx.objects.checkpoint_obj(context, files[i], kind->ops.type));
    record.entries.push_back({.number = targets[i].number,
                              .events = targets[i].events,
                              .data = targets[i].data,
                              .file = watched,
                              .kind = kind->ops.type});
  }
  return ctx.write_object(ref, kind::kEpoll, record);
}

namespace {

struct Watch {
  std::int32_t number;
  epoll_event event;
  int source;
};

bool is_switched_off(std::uint32_t events) { return (events & EPOLLONESHOT) != 0 && (events & ~kPrivateBits) == 0; }

Result<void> add_watch(int epoll, Watch watch) {
  if (watch.source != watch.number && ::dup2(watch.source, watch.number) < 0) {
    return Error::from_errno(errno, fmt::format("make descriptor {}", watch.number));
  }
  const int failed = ::epoll_ctl(epoll, EPOLL_CTL_ADD, watch.number, &watch.event);
  const int code = errno;
  if (watch.source != watch.number) ::close(watch.number);
  if (failed == 0) return {};
  return Error::from_errno(code, fmt::format("watch descriptor {} by epoll", watch.number));
}

// In a thread whose descriptor table is its own.
Result<void> fill_set(int epoll, std::vector<Watch> watches) {
  if (::unshare(CLONE_FILES) != 0) return Error::from_errno(errno, "get an own descriptor table");
  // What is needed must lie above all numbers that are made.
  int above = 0;
  for (const Watch& watch : watches) above = std::max(above, watch.number + 1);
  const auto move_up = [&](int& fd) -> Result<void> {
    if (fd >= above) return {};
    fd = ::fcntl(fd, F_DUPFD_CLOEXEC, above);
    if (fd >= 0) return {};
    return Error::from_errno(errno, "duplicate a descriptor").with_help("raise the limit of open files (ulimit -n)");
  };
  STASIS_TRY(move_up(epoll));
  for (Watch& watch : watches) STASIS_TRY(move_up(watch.source));
  // Entries that are switched off come first: they can be switched off again only by firing, before anything else can.
  std::ranges::stable_partition(watches, [](const Watch& watch) { return is_switched_off(watch.event.events); });
  auto next = watches.begin();
  for (; next != watches.end() && is_switched_off(next->event.events); ++next) STASIS_TRY(add_watch(epoll, *next));
  std::vector<epoll_event> fired(static_cast<std::size_t>(next - watches.begin()));
  if (!fired.empty()) ::epoll_wait(epoll, fired.data(), static_cast<int>(fired.size()), 0);
  for (; next != watches.end(); ++next) STASIS_TRY(add_watch(epoll, *next));
  return {};
}

class RestoredEpoll : public RestoredFile {
 public:
  std::span<OwnWatch> own_watches() override { return own_watches_; }
  void add_own_watch(OwnWatch watch) { own_watches_.push_back(watch); }

 private:
  std::vector<OwnWatch> own_watches_;
};

Result<void> fill_later(int epoll, const EpollRecord& record, const ObjHash& objects) {
  std::vector<Watch> watches;
  for (const EpollEntryRecord& entry : record.entries) {
    const auto* const file = STASIS_TRY(fetch_restored<RestoredFile>(objects, entry.file, entry.kind));
    const int source = file->descriptor_for(entry.number);
    if (source < 0) return file->unbound(entry.number);
    epoll_event event{};
    event.events = entry.events;
    event.data.u64 = entry.data;
    watches.push_back({entry.number, event, source});
  }
  if (watches.empty()) return {};
  Result<void> filled;
  const auto worker = STASIS_TRY(Worker::create({.name = "stasis-epoll"}));
  STASIS_TRY(worker->post([&] { filled = fill_set(epoll, std::move(watches)); }).result());
  (void)worker->flush();
  return filled;
}

Result<void> check(const EpollRecord& record) {
  for (const EpollEntryRecord& entry : record.entries) {
    if (entry.number < 0 || entry.number > (1 << 30) || find_file_kind(entry.kind) == nullptr) {
      return Error(Errc::kBadImage,
                   fmt::format("an epoll set watches descriptor {} of kind {}", entry.number, entry.kind));
    }
  }
  return {};
}

}  // namespace

Result<void*> restore_epoll(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  EpollRecord record = STASIS_TRY(ctx.image.read<EpollRecord>());
  STASIS_TRY(check(record));
  UniqueFd fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!fd) return Error::from_errno(errno, "make an epoll set");
  STASIS_TRY(set_status_flags(fd.get(), record.flags));
  auto file = std::make_unique<RestoredEpoll>();
  file->fd = STASIS_TRY(ctx.park(std::move(fd)));
  for (const EpollEntryRecord& entry : record.entries) {
    if (entry.kind != kind::kSignalFd || is_switched_off(entry.events)) continue;
    const auto* const watched = STASIS_TRY(fetch_restored<RestoredFile>(ctx.objects, entry.file, entry.kind));
    file->add_own_watch({.number = entry.number, .file = watched, .events = entry.events, .data = entry.data});
  }
  UniqueFd own = STASIS_TRY(ctx.park_duplicate(file->fd.get()));
  STASIS_TRY(ctx.deferred.add([record = std::move(record), own = std::move(own), &objects = ctx.objects] {
    return fill_later(own.get(), record, objects);
  }));
  return to_object(std::move(file));
}

}  // namespace stasis
