// SPDX-License-Identifier: Apache-2.0
#include "engine/wp_snapshot.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "base/file.h"
#include "base/log.h"
#include "engine/fault_point.h"
#include "image/page_runs.h"
#include "resource/memory/protected_pages.h"
#include "stasis/worker.h"
#include "tracee/userfaultfd.h"
#include "work/side_by_side.h"

namespace stasis {
namespace {

// Areas with less are saved at once: they are what a program writes to first.
constexpr std::uint64_t kSmallArea = std::uint64_t{256} << 10;
constexpr std::uint64_t kMostSmall = std::uint64_t{8} << 20;
// What is saved before it is written lies in memory until the image has it.
constexpr std::uint64_t kMostKept = std::uint64_t{512} << 20;
constexpr auto kLongestWait = std::chrono::seconds(2);
constexpr std::uint64_t kProtectPiece = std::uint64_t{64} << 20;

class WpSnapshot final : public Snapshot {
 public:
  ~WpSnapshot() override { stop(); }

  std::vector<PageRun> held(const ProcessImage& process) const override {
    const MemoryImage& memory = process.memory();
    return subtract(intersect(memory.own_pages(), pages_.at(process.pid())->areas()), memory.pages_of_files());
  }
  Result<const PageSource*> pages_of(const ProcessImage& process, std::span<const PageRun>) const override {
    return pages_.at(process.pid()).get();
  }
  bool spoiled() const override {
    return std::ranges::any_of(pages_, [](const auto& pair) { return pair.second->spoiled(); });
  }
  void end() override {
    stop();
    pages_.clear();
  }

  Result<void> take(TreeImage& tree, const Patience& patience) {
    stop_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!stop_) return Error::from_errno(errno, "eventfd");
    for (const auto& process : tree.processes()) {
      if (process->owns_memory()) STASIS_TRY(prepare(*process, patience));
    }
    STASIS_TRY(fault_point("protect memory"));
    STASIS_TRY(protect());
    server_ = STASIS_TRY(Worker::create({.name = "stasis-wp"}));
    if (server_->post([this] { serve(); }).refused()) return Error(Errc::kNoMemory, "no memory for a work");
    return {};
  }

 private:
  Result<void> prepare(ProcessImage& process, const Patience& patience) {
    auto uffd = STASIS_TRY(make_userfaultfd_in(process.traced(), kernel::UffdFaults::kAll, patience));
    STASIS_TRY(uffd.enable(kernel::uffd::kPagefaultWp));
    const MemoryImage& memory = process.memory();
    auto pages = STASIS_TRY(ProtectedPages::prepare({.proc = process.proc(),
                                                     .uffd = std::move(uffd),
                                                     .wanted = memory.own_pages(),
                                                     .shared = memory.shared_pages(),
                                                     .kept = kept_}));
    std::uint64_t small = 0;
    for (const kernel::Vma& vma : process.vmas()) {
      if (vma.shared || vma.kernel_special() || vma.flags.has(kernel::VmFlag::kHugeTlb)) continue;
      const PageRun area{.start = vma.start, .length = vma.size()};
      const std::uint64_t own = total_length(intersect(memory.own_pages(), std::span(&area, 1)));
      if (own == 0) continue;
      if (own <= kSmallArea && (small += own) <= kMostSmall) continue;
      // Memory of files, and what another userfaultfd has, is not to be had.
      if (auto added = pages->add_area(area); !added) log::debug("checkpoint", "{}", added.error().message());
    }
    pages_.emplace(process.pid(), std::move(pages));
    return {};
  }

  Result<void> protect() {
    std::vector<std::pair<const ProtectedPages*, PageRun>> pieces;
    for (const auto& [pid, pages] : pages_) {
      for (const PageRun& area : pages->areas()) {
        for (std::uint64_t done = 0; done < area.length; done += kProtectPiece) {
          const std::uint64_t length = std::min(kProtectPiece, area.length - done);
          pieces.emplace_back(pages.get(), PageRun{.start = area.start + done, .length = length});
        }
      }
    }
    return side_by_side({.count = pieces.size(), .worth_a_thread = 2},
                        [&](std::size_t i, std::size_t) { return pieces[i].first->protect(pieces[i].second); });
  }

  // A thread of its own: the program waits for it.
  void serve() {
    std::vector<pollfd> fds = {{.fd = stop_.get(), .events = POLLIN, .revents = 0}};
    std::vector<ProtectedPages*> pages;
    for (const auto& [pid, one] : pages_) {
      fds.push_back({.fd = one->fd(), .events = POLLIN, .revents = 0});
      pages.push_back(one.get());
    }
    for (;;) {
      if (::poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) break;
      if (fds[0].revents != 0) return;
      if (kept_ > kMostKept && !await_room()) break;
      for (std::size_t i = 0; i < pages.size(); ++i) {
        if (fds[i + 1].revents & POLLIN) pages[i]->serve();
        if (fds[i + 1].revents & ~POLLIN) fds[i + 1].fd = -1;
      }
    }
    for (ProtectedPages* const one : pages) one->give_up();
  }

  // Until the image has taken some. If that takes too long the program does not wait any more.
  bool await_room() const {
    const auto until = std::chrono::steady_clock::now() + kLongestWait;
    pollfd stop{.fd = stop_.get(), .events = POLLIN, .revents = 0};
    while (kept_ > kMostKept) {
      if (::poll(&stop, 1, 1) != 0 || std::chrono::steady_clock::now() > until) return false;
    }
    return true;
  }

  void stop() {
    const std::uint64_t one = 1;
    if (server_) static_cast<void>(::write(stop_.get(), &one, sizeof one));
    server_.reset();
  }

  std::map<HostPid, std::unique_ptr<ProtectedPages>> pages_;
  std::atomic<std::uint64_t> kept_ = 0;
  UniqueFd stop_;
  std::unique_ptr<Worker> server_;
};

// userfaultfd(2) for the kernel's faults as well: of a process that has the capability here, not in a namespace of its
// own.
bool may_protect_itself(const kernel::ProcDir& proc) {
  const auto status = proc.status();
  const auto theirs = read_link(proc.fd(), "ns/user");
  const auto ours = read_link(AT_FDCWD, "/proc/self/ns/user");
  return status && theirs && ours && *theirs == *ours && (status->cap_effective >> CAP_SYS_PTRACE & 1) != 0;
}

}  // namespace

bool may_take_wp_snapshot(const TreeImage& tree) {
  return std::ranges::all_of(tree.processes(), [](const auto& process) { return may_protect_itself(process->proc()); });
}

Result<std::unique_ptr<Snapshot>> take_wp_snapshot(TreeImage& tree, const Patience& patience) {
  auto snapshot = std::make_unique<WpSnapshot>();
  STASIS_TRY(snapshot->take(tree, patience));
  return std::unique_ptr<Snapshot>(std::move(snapshot));
}

}  // namespace stasis
