// SPDX-License-Identifier: Apache-2.0
#include "resource/file_contents/visible_contents.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kernel/page_size.h"
#include "kernel/process_memory.h"

namespace stasis {
namespace {

Result<kernel::ProcessMemory> memory_of(HostPid pid) {
  const auto proc = STASIS_TRY(kernel::ProcDir::open(pid));
  return kernel::ProcessMemory::open(proc);
}

bool can_read(const kernel::ProcessMemory& memory, std::uint64_t address) {
  std::byte byte{};
  return memory.read(address, std::span(&byte, 1)).has_value();
}

}  // namespace

Result<std::uint64_t> readable_part(const MappedView& view) {
  const kernel::ProcessMemory memory = STASIS_TRY(memory_of(view.pid));
  const std::uint64_t page = kernel::page_size();
  const std::uint64_t pages = (view.end - view.start) / page;
  if (can_read(memory, view.end - page)) return view.end - view.start;
  std::uint64_t good = 0, bad = pages - 1;  // pages below `good` can be read, `bad` can't
  while (good < bad) {
    const std::uint64_t middle = good + (bad - good) / 2;
    if (can_read(memory, view.start + middle * page)) {
      good = middle + 1;
    } else {
      bad = middle;
    }
  }
  return good * page;
}

Result<std::uint64_t> visible_size(const OpenInode& inode) {
  std::uint64_t size = 0;
  for (const MappedView& view : inode.views) {
    const std::uint64_t part = STASIS_TRY(readable_part(view));
    if (part != 0) size = std::max(size, view.offset + part);
  }
  return size;
}

namespace {

Result<void> write_visible(ImageWriter& image, ObjRef object, const OpenInode& inode, std::uint64_t size,
                           const Patience& patience) {
  std::vector<const MappedView*> views;
  for (const MappedView& view : inode.views) {
    if (view.shared) views.push_back(&view);
  }
  std::ranges::sort(views, {}, [](const MappedView* view) { return view->offset; });
  std::vector<std::byte> pages;
  std::uint64_t at = 0;
  for (const MappedView* const view : views) {
    const std::uint64_t end = std::min(size, view->offset + (view->end - view->start));
    at = std::max(at, view->offset);
    if (at >= end) continue;
    const kernel::ProcessMemory memory = STASIS_TRY(memory_of(view->pid));
    while (at < end) {
      STASIS_TRY(patience.check());
      pages.resize(std::min(end - at, kUsualChunkBytes));
      STASIS_TRY(memory.read(view->start + (at - view->offset), pages));
      const PageRun run{.start = at, .length = pages.size()};
      STASIS_TRY(image.add_chunk(object, std::span(&run, 1), pages, ZeroPages::kDrop));
      at += pages.size();
    }
  }
  return {};
}

}  // namespace

Result<void> write_visible_later(CheckpointContext& context, ObjRef object, const OpenInode& inode,
                                 std::uint64_t size) {
  return context.contents.add([&image = context.image, &patience = context.patience, object, &inode, size] {
    return write_visible(image, object, inode, size, patience);
  });
}

Result<void> fill_memory(std::span<std::byte> memory, std::span<const PageRun> runs, std::span<const std::byte> pages) {
  for (const PageRun& run : runs) {
    if (run.length > pages.size()) return Error(Errc::kBadImage, "a chunk is shorter than its runs");
    if (run.start >= memory.size() || run.length > memory.size() - run.start) {
      return Error(Errc::kBadImage, "contents behind the end of shared memory");
    }
    std::ranges::copy(pages.first(run.length), memory.subspan(run.start).begin());
    pages = pages.subspan(run.length);
  }
  return {};
}

Result<void> fill_mapped(int fd, std::uint64_t size, std::uint64_t page, std::span<const PageRun> runs,
                         std::span<const std::byte> pages) {
  for (const PageRun& run : runs) {
    if (run.length > pages.size()) return Error(Errc::kBadImage, "a chunk is shorter than its runs");
    if (run.start >= size || run.length > size - run.start) {
      return Error(Errc::kBadImage, "contents behind the end of shared memory");
    }
    const std::uint64_t start = run.start & ~(page - 1);
    const std::uint64_t end = std::min((run.start + run.length + page - 1) & ~(page - 1), size);
    void* const at = ::mmap(nullptr, end - start, PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(start));
    if (at == MAP_FAILED) return Error::from_errno(errno, "map shared memory to fill it");
    // Huge pages may be short: touching them would be SIGBUS, asking for them first is an error.
    if (::madvise(at, end - start, MADV_POPULATE_WRITE) != 0) {
      const int code = errno;
      ::munmap(at, end - start);
      return Error::from_errno(code, "get huge pages").with_help("raise /proc/sys/vm/nr_hugepages");
    }
    std::memcpy(static_cast<std::byte*>(at) + (run.start - start), pages.data(), run.length);
    ::munmap(at, end - start);
    pages = pages.subspan(run.length);
  }
  return {};
}

}  // namespace stasis
