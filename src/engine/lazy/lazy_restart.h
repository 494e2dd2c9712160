// SPDX-License-Identifier: Apache-2.0
// LazyRestart: `restart --lazy` as the restart sees it. Large private memory is not filled but handed over to a page
// server (page_server.h), which gives pages from then on.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "engine/lazy/page_line.h"
#include "kernel/userfaultfd.h"
#include "stasis/image.h"

namespace stasis {

class LazyRestart {
 public:
  // What it takes: a file that can be read again, and the rights to serve another process's page faults.
  static Result<void> check_possible(const ImageReader& image);
  // Makes the page server. `keeps_stderr`: it may say there, later, why it had to end the program. Dropped before
  // release(), the server goes. REQUIRES: check_possible(); one thread.
  static Result<LazyRestart> start(const ImageReader& image, const std::string& name, bool keeps_stderr);

  // Only what has at least as many bytes in the image is worth it: for less, faults cost more than they save.
  static constexpr std::uint64_t kLeastBytes = std::uint64_t{256} << 10;
  // What must be on in a userfaultfd that is handed over.
  static Result<void> enable(kernel::Userfaultfd& uffd);

  // Whoever is to end if the memory can't be completed. kOnlyBelow: not the process, but all its descendants.
  enum class Whom { kProcess, kOnlyBelow };
  Result<void> add_process(HostPid pid, Whom whom = Whom::kProcess) const;
  // Memory of the process added last, registered: pages of `object` that lie in `areas`.
  Result<void> add_memory(ObjRef object, const kernel::Userfaultfd& uffd, std::vector<PageRun> areas) const;
  // The program is about to run.
  Result<void> release();
  // Why something failed: what the server has to say about it, or else `error`.
  Error explain(Error error) const;

 private:
  explicit LazyRestart(PageLine line) : line_(std::move(line)) {}

  PageLine line_;
};

}  // namespace stasis
