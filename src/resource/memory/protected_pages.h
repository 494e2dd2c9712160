// SPDX-License-Identifier: Apache-2.0
// ProtectedPages: the memory of a process that runs on, as it was when it was write-protected (userfaultfd,
// synchronous). Who writes to a protected page waits until it has been saved.
//
// Exact, or an error: what was read counts if the page is still protected after the reading, or had been saved before
// its first write. Whatever else happens to the memory meanwhile (unmapped, moved, emptied, another program) takes the
// protection away without a word, and is noticed so.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "kernel/page_scan.h"
#include "kernel/process_memory.h"
#include "kernel/userfaultfd.h"
#include "resource/memory/page_source.h"

namespace stasis {

class ProtectedPages final : public PageSource {
 public:
  struct Request {
    const kernel::ProcDir& proc;
    kernel::Userfaultfd uffd;          // of that process, with kPagefaultWp enabled; nobody waits for its events
    std::vector<PageRun> wanted;       // what will be read; ascending
    std::vector<PageRun> shared;       // see PageReader
    std::atomic<std::uint64_t>& kept;  // gets the bytes that lie in memory here
  };
  // REQUIRES: the process is stopped.
  static Result<std::unique_ptr<ProtectedPages>> prepare(Request request);

  // Registers an area; whatever of it is protected later is the snapshot's. Errors: as Userfaultfd::register_range().
  Result<void> add_area(const PageRun& area);
  const std::vector<PageRun>& areas() const { return areas_; }
  // Any thread, for different ranges at the same time. REQUIRES: inside an area.
  Result<void> protect(const PageRun& range) const;

  Result<void> read(std::span<const PageRun> runs, std::span<std::byte> bytes) const override;
  Result<void> release(std::span<const PageRun> runs) const override;
  // Something of it is lost; so is the snapshot.
  bool spoiled() const { return spoiled_; }

  // To be waited on for reading, then serve(): saves what is about to be written.
  int fd() const { return uffd_.fd(); }
  void serve();
  // Lets everything be written; the snapshot is spoiled unless all was released.
  void give_up();

 private:
  struct Unit {
    std::vector<PageRun> pages;
    std::vector<std::byte> bytes;
    std::uint64_t unread = 0;
  };
  using Units = std::map<std::uint64_t, std::shared_ptr<Unit>>;  // by start

  ProtectedPages(Request request, kernel::ProcessMemory memory, kernel::PageScanner scanner);
  Error lost(const PageRun& run) const;
  Result<void> save_unit(const PageRun& unit);
  std::vector<std::shared_ptr<Unit>> saved_in(const PageRun& span) const;
  std::vector<PageRun> with_gaps(std::span<const PageRun> runs) const;
  Result<void> check_protected(std::span<const PageRun> runs) const;

  kernel::Userfaultfd uffd_;
  std::vector<PageRun> areas_, wanted_, shared_;
  std::atomic<std::uint64_t>& kept_;
  kernel::ProcessMemory memory_;
  kernel::PageScanner scanner_;
  HostPid pid_;
  mutable std::mutex mutex_;
  mutable Units units_;
  mutable std::atomic<bool> spoiled_ = false;
};

}  // namespace stasis
