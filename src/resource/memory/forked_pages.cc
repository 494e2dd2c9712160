// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/forked_pages.h"

#include <algorithm>
#include <cstring>

#include "image/page_runs.h"
#include "kernel/page_size.h"
#include "resource/memory/page_reader.h"
#include "work/side_by_side.h"

namespace stasis {
namespace {

using kernel::VmFlag;

// Of each side, what stays in the cache from reading to comparing.
constexpr std::uint64_t kWindow = std::uint64_t{256} << 10;

bool same_file(const MappedFileRecord& a, const MappedFileRecord& b) {
  return a.path == b.path && a.device == b.device && a.inode == b.inode && a.size == b.size &&
         a.mtime_ns == b.mtime_ns && a.writable == b.writable && a.build_id == b.build_id;
}

// Does fork(2) copy the area as it is, and can what comes from it be dropped page by page?
bool forks_plainly(const VmaRecord& vma) {
  constexpr std::array kNot = {VmFlag::kDontCopy,  VmFlag::kWipeOnFork,  VmFlag::kLocked,      VmFlag::kHugeTlb,
                               VmFlag::kDroppable, VmFlag::kMixedMap,    VmFlag::kPfnMap,      VmFlag::kIo,
                               VmFlag::kSealed,    VmFlag::kShadowStack, VmFlag::kUffdMissing, VmFlag::kUffdWp,
                               VmFlag::kUffdMinor};
  const kernel::VmFlags flags = vma.vm_flags();
  return !vma.shared && vma.guards.empty() && vma.huge_page == 0 &&
         (vma.backing == VmaBacking::kAnonymous || vma.backing == VmaBacking::kFile) &&
         std::ranges::none_of(kNot, [&](VmFlag flag) { return flags.has(flag); });
}

// What says nothing about the area itself.
std::uint64_t lasting_flags(const VmaRecord& vma) {
  kernel::VmFlags flags = vma.vm_flags();
  flags.clear(VmFlag::kSoftDirty);
  return flags.bits();
}

bool is_part_of(const MemoryRecord& parent, const VmaRecord& whole, const MemoryRecord& child, const VmaRecord& part) {
  if (part.start < whole.start || part.end > whole.end || part.prot != whole.prot || part.backing != whole.backing ||
      part.name != whole.name || lasting_flags(part) != lasting_flags(whole) || !forks_plainly(whole) ||
      !forks_plainly(part)) {
    return false;
  }
  if (part.backing != VmaBacking::kFile) return true;
  return part.offset - whole.offset == part.start - whole.start &&
         same_file(parent.files[whole.file], child.files[part.file]);
}

bool has_sealed_areas(const MemoryRecord& record) {
  return std::ranges::any_of(record.vmas, [](const VmaRecord& vma) { return vma.vm_flags().has(VmFlag::kSealed); });
}

bool same_vdso(const MemoryRecord& parent, const MemoryRecord& child) {
  std::vector<const VmaRecord*> theirs, own;
  const auto collect = [](const MemoryRecord& record, std::vector<const VmaRecord*>& areas) {
    for (const VmaRecord& vma : record.vmas) {
      if (vma.backing == VmaBacking::kVdso) areas.push_back(&vma);
    }
  };
  collect(parent, theirs);
  collect(child, own);
  return parent.vdso != 0 && parent.vdso == child.vdso &&
         std::ranges::equal(theirs, own, [](const VmaRecord* a, const VmaRecord* b) {
           return a->start == b->start && a->end == b->end;
         });
}

// The part of ascending `runs` that lies in [start, end), whole runs.
std::span<const PageRun> between(std::span<const PageRun> runs, std::uint64_t start, std::uint64_t end) {
  const auto first =
      std::ranges::upper_bound(runs, start, {}, [](const PageRun& run) { return run.start + run.length; });
  const auto last = std::ranges::lower_bound(first, runs.end(), end, {}, &PageRun::start);
  return std::span(first, last);
}

// What is in any of the lists.
std::vector<PageRun> unite(std::vector<std::span<const PageRun>> lists) {
  std::vector<PageRun> all;
  for (const auto list : lists) all.insert(all.end(), list.begin(), list.end());
  std::ranges::sort(all, {}, &PageRun::start);
  std::vector<PageRun> result;
  for (const PageRun& run : all) {
    const std::uint64_t at = result.empty() ? 0 : result.back().start + result.back().length;
    const std::uint64_t end = run.start + run.length;
    if (end > at) append(result, {.start = std::max(at, run.start), .length = end - std::max(at, run.start)});
  }
  return result;
}

// Children [first, last) of one parent, and so many pages of it as are compared at a time.
struct Window {
  std::size_t first, last;
  std::vector<PageRun> runs;
  std::uint64_t size = 0;
  std::vector<std::vector<PageRun>> same;  // found, by child
};

void cut_into_windows(std::size_t first, std::size_t last, std::span<const PageRun> runs,
                      std::vector<Window>& windows) {
  const std::size_t before = windows.size();
  for (const PageRun& run : runs) {
    for (std::uint64_t done = 0; done < run.length;) {
      if (windows.size() == before || windows.back().size == kWindow)
        windows.push_back({.first = first, .last = last, .runs = {}, .same = {}});
      Window& window = windows.back();
      const std::uint64_t part = std::min(run.length - done, kWindow - window.size);
      window.runs.push_back({.start = run.start + done, .length = part});
      window.size += part;
      done += part;
    }
  }
}

struct Buffers {
  std::vector<std::byte> parents, childs;
};

// Those pages of `runs`, which are part of the window, that are equal in both buffers.
std::vector<PageRun> compare(std::span<const PageRun> window, std::span<const PageRun> runs, const Buffers& buffers) {
  const std::uint64_t page = kernel::page_size();
  std::vector<PageRun> same;
  std::size_t at = 0, base = 0;  // in the child's bytes; of *whole in the parent's
  auto whole = window.begin();
  for (const PageRun& run : runs) {
    for (; whole->start + whole->length <= run.start; ++whole) base += whole->length;
    for (std::uint64_t i = 0; i < run.length; i += page, at += page) {
      const std::size_t parents = base + (run.start + i - whole->start);
      if (std::memcmp(&buffers.parents[parents], &buffers.childs[at], page) == 0)
        append(same, {.start = run.start + i, .length = page});
    }
  }
  return same;
}

Result<void> search(Window& window, std::span<const ParentAndChild> pairs,
                    std::span<const std::vector<PageRun>> candidates, Buffers& buffers) {
  const PageHolder& parent = pairs[window.first].parent;
  buffers.parents.resize(window.size);
  STASIS_TRY(PageReader(parent.memory, parent.shared).read(window.runs, buffers.parents));
  const std::uint64_t end = window.runs.back().start + window.runs.back().length;
  for (std::size_t i = window.first; i < window.last; ++i) {
    const auto runs = intersect(window.runs, between(candidates[i], window.runs.front().start, end));
    buffers.childs.resize(total_length(runs));
    STASIS_TRY(PageReader(pairs[i].child.memory, pairs[i].child.shared).read(runs, buffers.childs));
    window.same.push_back(compare(window.runs, runs, buffers));
  }
  return {};
}

}  // namespace

std::vector<const VmaRecord*> forked_areas(const MemoryRecord& parent, const MemoryRecord& child) {
  if (!same_vdso(parent, child) || has_sealed_areas(parent) ||
      !same_file(parent.files[parent.executable], child.files[child.executable])) {
    return {};
  }
  std::vector<const VmaRecord*> areas;
  auto whole = parent.vmas.begin();
  for (const VmaRecord& vma : child.vmas) {
    while (whole != parent.vmas.end() && whole->end <= vma.start) ++whole;
    if (whole == parent.vmas.end()) break;
    if (is_part_of(parent, *whole, child, vma)) areas.push_back(&vma);
  }
  return areas;
}

Result<std::vector<std::vector<PageRun>>> find_forked_pages(std::span<const ParentAndChild> pairs,
                                                            const Patience& patience) {
  std::vector<std::vector<PageRun>> candidates(pairs.size());
  for (std::size_t i = 0; i < pairs.size(); ++i)
    candidates[i] = intersect(pairs[i].parent.shared, pairs[i].child.shared);
  std::vector<Window> windows;
  for (std::size_t first = 0, last = 0; first < pairs.size(); first = last) {
    while (last < pairs.size() && &pairs[last].parent.memory == &pairs[first].parent.memory) ++last;
    const auto family = std::span(candidates).subspan(first, last - first);
    cut_into_windows(first, last, unite({family.begin(), family.end()}), windows);
  }
  std::vector<Buffers> buffers(most_side_by_side());
  const auto search_one = [&](std::size_t i, std::size_t place) -> Result<void> {
    STASIS_TRY(patience.check());
    return search(windows[i], pairs, candidates, buffers[place]);
  };
  STASIS_TRY(side_by_side({.count = windows.size(), .worth_a_thread = 4}, search_one));
  std::vector<std::vector<PageRun>> found(pairs.size());
  for (const Window& window : windows) {
    for (std::size_t i = window.first; i < window.last; ++i) {
      for (const PageRun& run : window.same[i - window.first]) append(found[i], run);
    }
  }
  return found;
}

}  // namespace stasis
