// SPDX-License-Identifier: Apache-2.0
#include "engine/lazy/page_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <optional>
#include <vector>

#include "base/file.h"
#include "base/log.h"
#include "engine/lazy/page_guard.h"
#include "engine/lazy/page_store.h"
#include "engine/lazy/pending_pages.h"
#include "image/page_runs.h"
#include "kernel/page_size.h"
#include "kernel/pidfd.h"
#include "kernel/proc_dir.h"
#include "kernel/userfaultfd.h"
#include "kernel/vm_flags.h"

namespace stasis {
namespace {

using kernel::UffdFault;
using Filled = kernel::Userfaultfd::Filled;

constexpr const char* kServerName = "stasis-pages";
// Given at once: around what was touched; while nobody waits.
constexpr std::uint64_t kAroundFault = std::uint64_t{64} << 10, kAtOnce = std::uint64_t{128} << 10;
// Units in memory that are not all given yet. One more, and the oldest is given first.
constexpr std::size_t kOpenUnits = 8;
constexpr int kIdleMs = 50;

// One address space that is being filled.
struct Space {
  kernel::Userfaultfd uffd;
  ObjRef object;
  std::optional<HostPid> pid;  // none: a child that the program made
  PendingPages pending;
  bool moved = false;  // some of it is not where it was in the image
  bool gone = false;   // nobody has it any more
  std::vector<UffdFault> waiting;
};

struct OpenUnit {
  std::size_t unit = 0;
  std::size_t run = 0;  // those before it are given
};

class PageServer {
 public:
  PageServer(PageServing& serving, GuardBoard& board, PageStore store)
      : serving_(serving), line_(serving.line), board_(board), store_(std::move(store)) {}
  Result<void> start();
  // Until all is given.
  Result<void> run();
  bool released() const { return released_; }

 private:
  enum class Outcome { kDone, kEventWaits };

  Result<void> look_around();
  void look_for_the_dead();
  Result<void> hear_restart();
  Result<void> keep_guarded();
  Result<void> add_memory(PageMessage message);
  Result<void> hear(Space& space);
  Result<void> forked(const Space& parent, kernel::Userfaultfd child);
  std::vector<PageRun> wiped_on_fork(const Space& parent) const;
  Result<void> answer_faults();
  Result<Outcome> answer(Space& space, const UffdFault& fault);
  Result<Outcome> give_zeros(Space& space, std::uint64_t page, bool write);
  Result<Outcome> give(Space& space, std::uint64_t start, std::span<const std::byte> pages);
  Result<std::optional<Filled>> judge(Space& space, const Result<Filled>& filled);
  Result<void> open(std::size_t unit);
  Result<Outcome> give_some(OpenUnit& open);
  Result<void> give_ahead();
  bool all_given(const OpenUnit& open) const { return open.run == store_.unit(open.unit).runs.size(); }
  void close_finished();
  bool is_busy() const;

  PageServing& serving_;
  PageLine& line_;
  GuardBoard& board_;
  PageStore store_;
  UniqueFd self_, guard_;
  std::vector<std::unique_ptr<Space>> spaces_;  // a child may be added behind while one is looked at
  std::vector<OpenUnit> open_;                  // the one that was touched last is last
  std::optional<HostPid> last_process_;
  bool released_ = false;
  // Tests of what happens in the middle switch it off: pages come when they are touched, and then only.
  const bool ahead_ = std::getenv("STASIS_FILL_AHEAD") == nullptr;
  const std::uint64_t page_ = kernel::page_size();
  const std::vector<std::byte> zeros_ = std::vector<std::byte>(page_);
};

Result<void> PageServer::start() {
  self_ = STASIS_TRY(kernel::pidfd_open(HostPid(::getpid())));
  guard_ = STASIS_TRY(start_guard(board_, self_.get(), serving_.name));
  return {};
}

// ---- news

bool PageServer::is_busy() const {
  return std::ranges::any_of(spaces_, [&](const auto& space) {
    return !space->waiting.empty() || (released_ && ahead_ && !space->pending.empty());
  });
}

// Only who touches tells us that a program has ended.
void PageServer::look_for_the_dead() {
  for (const auto& space : spaces_) {
    space->gone = space->gone || !has_memory(space->uffd.fd());
    if (space->gone) space->pending = {};
  }
}

Result<void> PageServer::look_around() {
  std::vector<::pollfd> all{{.fd = guard_.get(), .events = POLLIN, .revents = 0},
                            {.fd = line_.fd(), .events = POLLIN, .revents = 0}};  // -1 is passed over
  for (const auto& space : spaces_) all.push_back({.fd = space->uffd.fd(), .events = POLLIN, .revents = 0});
  const int ready = ::poll(all.data(), all.size(), is_busy() ? 0 : kIdleMs);
  if (ready < 0 && errno != EINTR) return Error::from_errno(errno, "poll");
  if (ready == 0 && !is_busy()) look_for_the_dead();
  if (all[0].revents) STASIS_TRY(keep_guarded());
  for (std::size_t i = 2; i < all.size(); ++i) {  // not yet the children that come meanwhile
    if (all[i].revents) STASIS_TRY(hear(*spaces_[i - 2]));
  }
  return all[1].revents ? hear_restart() : Result<void>();
}

Result<void> PageServer::keep_guarded() {
  guard_ = STASIS_TRY(start_guard(board_, self_.get(), serving_.name));
  return {};
}

Result<void> PageServer::hear_restart() {
  auto message = line_.receive();
  if (!message) {
    // The restart was given up; it or the kernel ends what it made.
    for (const auto& space : spaces_) space->gone = true;
    line_.close();
    released_ = true;
    return {};
  }
  switch (message->word) {
    case PageWord::kProcess:
    case PageWord::kInit: {
      const int number = message->descriptor.release();  // for the guard, as long as we live
      if (message->word == PageWord::kInit) return board_.add_init(number);
      last_process_ = kernel::pid_of_pidfd(number);
      return board_.add_process(number);
    }
    case PageWord::kMemory:
      return add_memory(std::move(*message));
    case PageWord::kRelease:
      released_ = true;
      line_.close();
  }
  return {};
}

Result<void> PageServer::add_memory(PageMessage message) {
  Space& space = *spaces_.emplace_back(std::make_unique<Space>());
  space.uffd = kernel::Userfaultfd(std::move(message.descriptor));
  space.object = message.object;
  space.pid = last_process_;
  space.pending.add(intersect(store_.pages(message.object), message.areas));
  return board_.add_memory(space.uffd.fd());
}

// All that has happened, in its order; faults only then.
Result<void> PageServer::hear(Space& space) {
  for (;;) {
    auto events = STASIS_TRY(space.uffd.read_events());
    if (events.empty()) return {};
    for (kernel::UffdEvent& event : events) {
      if (const auto* const fault = std::get_if<UffdFault>(&event)) {
        space.waiting.push_back(*fault);
      } else if (auto* const fork = std::get_if<kernel::UffdForked>(&event)) {
        STASIS_TRY(forked(space, kernel::Userfaultfd(std::move(fork->child))));
      } else if (const auto* const move = std::get_if<kernel::UffdMoved>(&event)) {
        space.pending.move({.start = move->from, .length = move->length}, move->to);
        space.moved = true;
      } else if (const auto* const removed = std::get_if<kernel::UffdRemoved>(&event)) {
        space.pending.remove({.start = removed->pages.start, .length = removed->pages.size()});
      } else if (const auto* const unmapped = std::get_if<kernel::UffdUnmapped>(&event)) {
        space.pending.remove({.start = unmapped->pages.start, .length = unmapped->pages.size()});
      }
    }
  }
}

// The child has what the parent had; what is missing there is missing here. (Children of a program that makes many are
// mostly gone by then.)
Result<void> PageServer::forked(const Space& parent, kernel::Userfaultfd child) {
  look_for_the_dead();
  Space& space = *spaces_.emplace_back(std::make_unique<Space>());
  space.uffd = std::move(child);
  space.object = parent.object;
  space.pending = parent.pending;
  space.moved = parent.moved;
  for (const PageRun& area : wiped_on_fork(parent)) space.pending.remove(area);
  return board_.add_memory(space.uffd.fd());
}

// MADV_WIPEONFORK since the restart: empty in the child, of which no event tells. (Of a child's children nobody knows.)
std::vector<PageRun> PageServer::wiped_on_fork(const Space& parent) const {
  std::vector<PageRun> areas;
  if (!parent.pid) return areas;
  const auto proc = kernel::ProcDir::open(*parent.pid);
  const auto vmas = proc ? proc->smaps() : Result<std::vector<kernel::Vma>>(proc.error());
  if (!vmas) return areas;
  for (const kernel::Vma& vma : *vmas) {
    if (vma.flags.has(kernel::VmFlag::kWipeOnFork))
      areas.push_back({.start = vma.start, .length = vma.end - vma.start});
  }
  return areas;
}

// ---- giving

Result<void> PageServer::answer_faults() {
  for (const auto& one : spaces_) {
    Space& space = *one;
    while (!space.waiting.empty() && !space.gone) {
      const UffdFault fault = space.waiting.front();
      if (STASIS_TRY(answer(space, fault)) == Outcome::kEventWaits) {
        ::sched_yield();  // the event may only be under way
        break;
      }
      space.waiting.erase(space.waiting.begin());
    }
  }
  return {};
}

Result<PageServer::Outcome> PageServer::answer(Space& space, const UffdFault& fault) {
  const std::uint64_t page = fault.address & ~(page_ - 1);
  const auto piece = space.pending.find(page);
  if (!piece) return give_zeros(space, page, fault.write);
  const std::uint64_t source = piece->source + (page - piece->start);
  STASIS_TRY(open(store_.unit_of(space.object, source)));
  const std::uint64_t end = std::min(piece->end(), (page & ~(kAroundFault - 1)) + kAroundFault);
  return give(space, page, store_.view(space.object, source, end - page));
}

// What an answer of the kernel means for the space; nothing: it is gone, or has to be asked again.
Result<std::optional<Filled>> PageServer::judge(Space& space, const Result<Filled>& filled) {
  constexpr useconds_t kPause = 10'000;
  if (filled) return std::optional(*filled);
  if (filled.error().code() == Errc::kVanished) {
    space.gone = true;
    return std::optional<Filled>();
  }
  if (filled.error().code() == Errc::kNoMemory) {
    // The program's own limit, too: the kernel decides who is to go, and we may not be the one to say so.
    ::usleep(kPause);
    return std::optional<Filled>();
  }
  if (filled.error().sys_errno() == EINVAL)
    return std::optional(Filled{.bytes = 0, .end = Filled::End::kNotRegistered});
  return Error(filled.error());
}

// Never touched, or emptied since. Who writes there gets a page at once instead of the page of zeros and then another.
Result<PageServer::Outcome> PageServer::give_zeros(Space& space, std::uint64_t page, bool write) {
  const kernel::PageRun range{.start = page, .end = page + page_};
  const auto filled = STASIS_TRY(judge(space, write ? space.uffd.copy(page, zeros_) : space.uffd.zero(range)));
  if (!filled) return space.gone ? Outcome::kDone : Outcome::kEventWaits;
  if (filled->end == Filled::End::kEventWaits) return Outcome::kEventWaits;
  if (filled->end != Filled::End::kDone) STASIS_TRY(space.uffd.wake(range));
  return Outcome::kDone;
}

// REQUIRES: they are pending.
Result<PageServer::Outcome> PageServer::give(Space& space, std::uint64_t start, std::span<const std::byte> pages) {
  bool one_by_one = false;
  while (!pages.empty() && !space.gone) {
    const auto filled = STASIS_TRY(judge(space, space.uffd.copy(start, one_by_one ? pages.first(page_) : pages)));
    if (!filled) continue;
    space.pending.remove({.start = start, .length = filled->bytes});
    start += filled->bytes;
    pages = pages.subspan(filled->bytes);
    if (filled->end == Filled::End::kDone) continue;
    if (filled->end == Filled::End::kEventWaits) return Outcome::kEventWaits;
    if (filled->end == Filled::End::kNotRegistered && !one_by_one) {
      one_by_one = true;  // several areas by now, or not all of them ours
      continue;
    }
    // There already, or in no area of ours: whatever is there is the program's.
    space.pending.remove({.start = start, .length = page_});
    STASIS_TRY(space.uffd.wake({.start = start, .end = start + page_}));
    start += page_;
    pages = pages.subspan(page_);
  }
  return Outcome::kDone;
}

// The unit is in memory then, and is given next.
Result<void> PageServer::open(std::size_t unit) {
  const auto known = std::ranges::find(open_, unit, &OpenUnit::unit);
  if (known != open_.end()) {
    std::rotate(known, known + 1, open_.end());
    return {};
  }
  while (open_.size() >= kOpenUnits) {
    OpenUnit& oldest = open_.front();
    while (ahead_ && !all_given(oldest)) {
      if (STASIS_TRY(give_some(oldest)) == Outcome::kEventWaits) break;
    }
    store_.drop(oldest.unit);
    open_.erase(open_.begin());
  }
  STASIS_TRY(store_.fetch(unit));
  open_.push_back({.unit = unit});
  return {};
}

// A piece of a unit to whoever has not got it.
Result<PageServer::Outcome> PageServer::give_some(OpenUnit& open) {
  const PageStore::Unit& unit = store_.unit(open.unit);
  for (; open.run < unit.runs.size(); ++open.run) {
    for (const auto& one : spaces_) {
      Space& space = *one;
      if (space.object != unit.object || space.gone) continue;
      const PageRun& run = unit.runs[open.run];
      const auto piece = space.moved ? space.pending.first_from(run) : space.pending.first_in(run);
      if (piece)
        return give(space, piece->start, store_.view(unit.object, piece->source, std::min(piece->length, kAtOnce)));
    }
  }
  return Outcome::kDone;
}

// While nobody waits: what was touched last, then from the beginning.
Result<void> PageServer::give_ahead() {
  if (open_.empty()) {
    const auto next = std::ranges::find_if(spaces_, [](const auto& s) { return !s->gone && !s->pending.empty(); });
    if (next == spaces_.end()) return {};
    return open(store_.unit_of((*next)->object, (*next)->pending.first().source));
  }
  if (STASIS_TRY(give_some(open_.back())) == Outcome::kEventWaits) ::sched_yield();
  if (all_given(open_.back())) {
    store_.drop(open_.back().unit);
    open_.pop_back();
  }
  return {};
}

// Nobody misses anything there: with the last descriptor goes the registration, and who waited tries again.
void PageServer::close_finished() {
  std::erase_if(spaces_, [&](const auto& space) {
    const bool finished = space->gone || (released_ && space->pending.empty() && space->waiting.empty());
    if (finished) board_.remove_memory(space->uffd.fd());
    return finished;
  });
}

Result<void> PageServer::run() {
  while (!released_ || !spaces_.empty()) {
    STASIS_TRY(look_around());
    STASIS_TRY(answer_faults());
    const bool somebody_waits = std::ranges::any_of(spaces_, [](const auto& space) { return !space->waiting.empty(); });
    if (released_ && ahead_ && !somebody_waits) STASIS_TRY(give_ahead());
    close_finished();
  }
  return {};
}

// ---- the process

// Of what the restart has open, the image is ours, and nothing else: a pipe that we held would have no end.
void keep_only(std::vector<int> kept) {
  std::ranges::sort(kept);
  unsigned next = 0;
  for (const int fd : kept) {
    if (fd < 0) continue;
    if (static_cast<unsigned>(fd) > next) ::close_range(next, static_cast<unsigned>(fd) - 1, 0);
    next = static_cast<unsigned>(fd) + 1;
  }
  ::close_range(next, ~0U, 0);
}

std::vector<int> descriptors_of(const ImageReader& image) {
  std::vector<int> all;
  for (const ImageReader* reader = &image; reader; reader = reader->parent()) all.push_back(reader->fd());
  return all;
}

// Neither the terminal nor who ends the restart command means us; and memory that runs short is not ours to give up.
void stand_apart(const PageServing& serving) {
  ::prctl(PR_SET_NAME, kServerName);
  ::setsid();
  sigset_t all;
  sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
  ::signal(SIGCHLD, SIG_IGN);  // guards are not waited for
  static_cast<void>(::chdir("/"));
  std::vector<int> kept = descriptors_of(serving.image);
  kept.push_back(serving.line.fd());
  if (serving.keeps_stderr) kept.push_back(STDERR_FILENO);
  keep_only(std::move(kept));
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) < 0) static_cast<void>(::open("/dev/null", O_RDWR));
  }
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  constexpr std::string_view kNever = "-1000";
  if (const auto score = open_at(AT_FDCWD, "/proc/self/oom_score_adj", O_WRONLY)) {
    static_cast<void>(write_full(score->get(), std::as_bytes(std::span(kNever))));
  }
}

}  // namespace

void be_page_server(PageServing serving) {
  stand_apart(serving);
  auto board = GuardBoard::create();
  const auto serve = [&]() -> Result<void> {
    STASIS_TRY(Result<void>(board ? Result<void>() : Result<void>(board.error())));
    PageServer server(serving, *board, STASIS_TRY(PageStore::make(serving.image)));
    STASIS_TRY(server.start());
    auto served = server.run();
    if (served) return served;
    const Error error = std::move(served).error().note(serving.name);
    if (server.released()) {
      tell_of_end(error.message());
    } else {
      serving.line.send_failure(error);
    }
    end_program(*board);
    return {};
  };
  auto served = serve();
  if (!served && serving.line) serving.line.send_failure(served.error());
  if (board) board->set_done();
  ::_exit(0);
}

}  // namespace stasis
