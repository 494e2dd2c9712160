// SPDX-License-Identifier: Apache-2.0
#include "engine/lazy/being_filled.h"

#include <algorithm>

namespace stasis {
namespace {

bool has_userfaultfd(const kernel::ProcDir& proc) {
  const auto fds = proc.fds();
  return fds && std::ranges::any_of(*fds, [&](int fd) {
           const auto link = proc.fd_link(fd);
           return link && *link == "anon_inode:[userfaultfd]";
         });
}

}  // namespace

bool is_being_filled(const TreeImage& tree) {
  const auto waits_for_pages = [](const auto& process) {
    return std::ranges::any_of(process->vmas(),
                               [](const kernel::Vma& vma) { return vma.flags.has(kernel::VmFlag::kUffdMissing); });
  };
  return std::ranges::any_of(tree.processes(), waits_for_pages) &&
         std::ranges::none_of(tree.processes(), [](const auto& process) { return has_userfaultfd(process->proc()); });
}

}  // namespace stasis
