// SPDX-License-Identifier: Apache-2.0
// Every parser of /proc text, and what looks into a target's vdso, with any bytes: no crash, no endless loop, and what
// is accepted is well-formed. All parsers see every input, as each is cheap and most inputs are refused by the first
// line.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "arch/x86_64/vdso.h"
#include "base/panic.h"
#include "kernel/namespaces.h"
#include "kernel/proc_auxv.h"
#include "kernel/proc_cgroup.h"
#include "kernel/proc_children.h"
#include "kernel/proc_fdinfo.h"
#include "kernel/proc_limits.h"
#include "kernel/proc_locks.h"
#include "kernel/proc_maps.h"
#include "kernel/proc_mountinfo.h"
#include "kernel/proc_sched.h"
#include "kernel/proc_stat.h"
#include "kernel/proc_status.h"
#include "kernel/proc_timers.h"

namespace {

using namespace stasis::kernel;

void check_areas(const stasis::Result<std::vector<Vma>>& vmas) {
  if (!vmas) return;
  std::uint64_t end = 0;
  for (const Vma& vma : *vmas) {
    STASIS_INVARIANT(vma.start >= end && vma.end > vma.start);
    STASIS_INVARIANT(find_vma(*vmas, vma.start) == &vma && find_vma(*vmas, vma.end - 1) == &vma);
    STASIS_INVARIANT(parse_vm_flags(vma.flags.to_string()).flags == vma.flags);
    end = vma.end;
  }
  STASIS_INVARIANT(same_layout(*vmas, *vmas));
  (void)stasis::arch::find_vdso(*vmas);
}

void check_shift(std::string_view text) {
  const auto shifted = shifted_time_offsets(text, {1'999'999'999, -1});
  if (!shifted) return;
  // What it wrote can be read again, and taken back unless it was at the edge.
  STASIS_INVARIANT(shifted_time_offsets(*shifted, {}).has_value());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  check_areas(parse_maps(text));
  check_areas(parse_smaps(text));
  if (const auto stat = parse_stat(text)) STASIS_INVARIANT(stat->comm.size() <= size);
  (void)parse_status(text);
  if (const auto info = parse_fdinfo(text)) {
    STASIS_INVARIANT(info->rest.size() <= size + 1);
    (void)fdinfo_value(info->rest, "tfd");
  }
  (void)parse_timers(text);
  (void)parse_limits(text);
  if (const auto children = parse_children(text)) {
    for (const stasis::HostPid child : *children) STASIS_INVARIANT(child.value() > 0);
  }
  (void)parse_mountinfo(text);
  (void)parse_sched(text);
  if (const auto auxv = parse_auxv(text)) STASIS_INVARIANT(auxv->empty() || auxv->back().type == 0);
  (void)parse_locks(text);
  (void)parse_cgroup(text);
  check_shift(text);

  const auto bytes = std::as_bytes(std::span(data, size));
  if (const auto id = stasis::arch::vdso_build_id(bytes)) STASIS_INVARIANT(!id->empty() && id->size() < size);
  if (const auto at = stasis::arch::find_syscall_instruction(bytes)) STASIS_INVARIANT(*at + 2 <= size);
  return 0;
}
