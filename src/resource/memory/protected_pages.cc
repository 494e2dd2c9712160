// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/protected_pages.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <variant>

#include "base/log.h"
#include "image/page_runs.h"
#include "resource/memory/page_reader.h"

namespace stasis {
namespace {

constexpr std::uint64_t kUnit = std::uint64_t{64} << 10;

kernel::PageRun to_kernel(const PageRun& run) { return {.start = run.start, .end = run.start + run.length}; }
PageRun from_kernel(const kernel::PageRun& run) { return {.start = run.start, .length = run.size()}; }

// Those of an ascending list that reach into [start, end).
std::span<const PageRun> around(std::span<const PageRun> runs, std::uint64_t start, std::uint64_t end) {
  const auto first =
      std::ranges::upper_bound(runs, start, {}, [](const PageRun& run) { return run.start + run.length; });
  const auto last = std::ranges::lower_bound(first, runs.end(), end, {}, &PageRun::start);
  return {first, last};
}

}  // namespace

ProtectedPages::ProtectedPages(Request request, kernel::ProcessMemory memory, kernel::PageScanner scanner)
    : uffd_(std::move(request.uffd)),
      wanted_(std::move(request.wanted)),
      shared_(std::move(request.shared)),
      kept_(request.kept),
      memory_(std::move(memory)),
      scanner_(std::move(scanner)),
      pid_(request.proc.pid()) {}

// Both are bound to the memory of now: another program of the process has other memory.
Result<std::unique_ptr<ProtectedPages>> ProtectedPages::prepare(Request request) {
  auto memory = STASIS_TRY(kernel::ProcessMemory::open(request.proc));
  auto scanner = STASIS_TRY(kernel::PageScanner::open(request.proc));
  if (!scanner.uses_ioctl()) return Error(Errc::kKernelFeature, "the kernel lacks PAGEMAP_SCAN");
  return std::unique_ptr<ProtectedPages>(new ProtectedPages(std::move(request), std::move(memory), std::move(scanner)));
}

Result<void> ProtectedPages::add_area(const PageRun& area) {
  STASIS_TRY(uffd_.register_range(to_kernel(area), kernel::Userfaultfd::kWriteProtect));
  append(areas_, area);
  return {};
}

Result<void> ProtectedPages::protect(const PageRun& range) const {
  STASIS_TRY(uffd_.write_protect(to_kernel(range), true));
  return {};
}

Error ProtectedPages::lost(const PageRun& run) const {
  spoiled_ = true;
  return Error(Errc::kBusy,
               fmt::format("process {} has given up memory at {:x} before it was saved", pid_.value(), run.start))
      .with_help("try again, or --snapshot cow");
}

std::vector<std::shared_ptr<ProtectedPages::Unit>> ProtectedPages::saved_in(const PageRun& span) const {
  std::vector<std::shared_ptr<Unit>> found;
  const std::lock_guard lock(mutex_);
  for (auto at = units_.lower_bound(span.start / kUnit * kUnit);
       at != units_.end() && at->first < span.start + span.length; ++at) {
    found.push_back(at->second);
  }
  return found;
}

// First the memory, then what was saved of it: a page that is not saved yet was not written yet.
Result<void> ProtectedPages::read(std::span<const PageRun> runs, std::span<std::byte> bytes) const {
  if (auto done = PageReader(memory_, shared_).read(runs, bytes); !done) {
    spoiled_ = true;
    return done;
  }
  for (const PageRun& run : runs) {
    for (const auto& unit : saved_in(run)) {
      const std::byte* from = unit->bytes.data();
      for (const PageRun& page : unit->pages) {
        const std::uint64_t start = std::max(page.start, run.start);
        const std::uint64_t end = std::min(page.start + page.length, run.start + run.length);
        if (start < end) std::memcpy(&bytes[start - run.start], from + (start - page.start), end - start);
        from += page.length;
      }
    }
    bytes = bytes.subspan(run.length);
  }
  return {};
}

// As few ranges as possible: over gaps where nothing is wanted, inside one area.
std::vector<PageRun> ProtectedPages::with_gaps(std::span<const PageRun> runs) const {
  std::vector<PageRun> ranges;
  for (const PageRun& run : runs) {
    if (!ranges.empty()) {
      PageRun& last = ranges.back();
      const std::uint64_t end = last.start + last.length;
      const auto area = around(areas_, last.start, last.start + 1);
      const bool inside = !area.empty() && run.start < area.front().start + area.front().length;
      if (inside && around(wanted_, end, run.start).empty()) {
        last.length = run.start + run.length - last.start;
        continue;
      }
    }
    ranges.push_back(run);
  }
  return ranges;
}

Result<void> ProtectedPages::check_protected(std::span<const PageRun> runs) const {
  const kernel::PageQuery still{.any_of = kernel::kPagePresent | kernel::kPageSwapped, .none_of = kernel::kPageWritten};
  std::vector<PageRun> good;
  std::vector<kernel::PageRun> found;
  for (const PageRun& range : with_gaps(runs)) {
    STASIS_TRY(scanner_.scan(range.start, range.start + range.length, still, found));
  }
  for (const kernel::PageRun& run : found) append(good, from_kernel(run));
  for (const PageRun& run : subtract(runs, good)) {
    std::vector<PageRun> saved;
    for (const auto& unit : saved_in(run)) {
      for (const PageRun& page : unit->pages) append(saved, page);
    }
    const std::vector<PageRun> bad = subtract(std::span(&run, 1), saved);
    if (!bad.empty()) return lost(bad.front());
  }
  return {};
}

Result<void> ProtectedPages::release(std::span<const PageRun> runs) const {
  if (auto good = check_protected(runs); !good) {
    spoiled_ = true;
    return good;
  }
  for (const PageRun& range : with_gaps(runs)) {
    if (!uffd_.write_protect(to_kernel(range), false)) return lost(range);
  }
  const std::lock_guard lock(mutex_);
  for (const PageRun& run : runs) {
    for (auto at = units_.lower_bound(run.start / kUnit * kUnit);
         at != units_.end() && at->first < run.start + run.length;) {
      Unit& unit = *at->second;
      unit.unread -= std::min(unit.unread, total_length(intersect(unit.pages, std::span(&run, 1))));
      if (unit.unread == 0) {
        kept_ -= unit.bytes.size();
        at = units_.erase(at);
      } else {
        ++at;
      }
    }
  }
  return {};
}

// What was released has no meaning any more, but does no harm either.
Result<void> ProtectedPages::save_unit(const PageRun& range) {
  {
    const std::lock_guard lock(mutex_);
    if (units_.contains(range.start)) return {};
  }
  auto unit = std::make_shared<Unit>();
  unit->pages = intersect(around(wanted_, range.start, range.start + range.length), std::span(&range, 1));
  unit->unread = total_length(unit->pages);
  if (unit->unread == 0) return {};
  unit->bytes.resize(unit->unread);
  STASIS_TRY(PageReader(memory_, shared_).read(unit->pages, unit->bytes));
  kept_ += unit->bytes.size();
  const std::lock_guard lock(mutex_);
  units_.emplace(range.start, std::move(unit));
  return {};
}

void ProtectedPages::serve() {
  const auto events = uffd_.read_events();
  if (!events) return give_up();
  for (const kernel::UffdEvent& event : *events) {
    const auto* const fault = std::get_if<kernel::UffdFault>(&event);
    if (!fault) continue;
    const auto area = around(areas_, fault->address, fault->address + 1);
    if (area.empty()) continue;
    const PageRun whole{.start = fault->address / kUnit * kUnit, .length = kUnit};
    const std::vector<PageRun> unit = intersect(area.first(1), std::span(&whole, 1));
    if (auto saved = save_unit(unit.front()); !saved) {
      // The memory went away. Who waits there must not.
      log::debug("checkpoint", "{}", saved.error().message());
      return give_up();
    }
    // Gone by now: so is who waited.
    static_cast<void>(uffd_.write_protect(to_kernel(unit.front()), false));
    static_cast<void>(uffd_.wake(to_kernel(unit.front())));
  }
}

void ProtectedPages::give_up() {
  spoiled_ = true;
  for (const PageRun& area : areas_) static_cast<void>(uffd_.unregister(to_kernel(area)));
}

}  // namespace stasis
