// SPDX-License-Identifier: Apache-2.0
// Forked pages: those that a process has from its parent by fork(2) and neither has written since (copy on write). They
// stand in the image once, with the parent. After the restart they are one page again where the child's area lies
// inside one of the parent's (forked_areas()): the child is cloned from the parent when that one's memory stands, and
// keeps these areas. Elsewhere, and where somebody else makes the child, they are copied.
//
// What is certain is the comparison of the bytes while both processes are stopped. Nothing else decides: page frames
// are shown to root alone and may move between two looks. Compared is only what both may share: the kernel tells of
// each page whether it is mapped once (pagemap, bit 56, which everybody may see), of each area whether it has others
// (smaps). A tree whose processes share nothing costs nothing so.
#pragma once

#include <span>
#include <vector>

#include "kernel/process_memory.h"
#include "resource/memory/memory_record.h"
#include "tracee/patience.h"

namespace stasis {

// The areas of the child, ascending, that lie inside areas of the parent and differ in nothing that a fork copies; none
// where a fork of this parent would not do: another program, another vdso, sealed memory that can't be unmapped.
std::vector<const VmaRecord*> forked_areas(const MemoryRecord& parent, const MemoryRecord& child);

// A stopped process's address space, and the pages in it that others may have as well (ascending).
struct PageHolder {
  const kernel::ProcessMemory& memory;
  std::span<const PageRun> shared;
};

struct ParentAndChild {
  PageHolder parent;
  PageHolder child;
};

// For each pair the pages that are equal and may be one. Children of one parent should stand together:
// what they have in common with it is read once from there. Works on all CPUs.
Result<std::vector<std::vector<PageRun>>> find_forked_pages(std::span<const ParentAndChild> pairs,
                                                            const Patience& patience);

}  // namespace stasis
