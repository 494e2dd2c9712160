// SPDX-License-Identifier: Apache-2.0
// The guard of a page server (page_server.h): a second process with the same descriptors. Memory whose userfaultfd is
// closed reads zeros where pages have not come yet; so when the server dies, the guard, who still holds it, ends the
// program instead. Killed itself, it is made anew by the server. Who kills both at once (kill -9) gets what the kernel
// does then: zeros.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/unique_fd.h"
#include "stasis/result.h"

namespace stasis {

// What server and guard both know: memory that they share. Only the server writes.
class GuardBoard {
 public:
  static Result<GuardBoard> create();
  GuardBoard(GuardBoard&& other) noexcept : shared_(std::exchange(other.shared_, nullptr)) {}
  GuardBoard& operator=(GuardBoard&&) = delete;
  ~GuardBoard();

  // Descriptors, by their number in the table that both have.
  Result<void> add_process(int pidfd);  // to be killed, and its descendants
  Result<void> add_init(int pidfd);     // only its descendants
  Result<void> add_memory(int userfaultfd);
  void remove_memory(int userfaultfd);
  // Nothing is left to guard.
  void set_done() { shared_->done.store(true); }
  bool done() const { return shared_->done.load(); }

  // Processes to be killed, as far as they and their descendants are still there.
  std::vector<HostPid> victims() const;
  std::vector<int> memories() const;
  // Does the program live below a process 1 of its own (add_init())?
  bool in_namespace() const;

 private:
  static constexpr std::size_t kMost = std::size_t{1} << 16;
  static constexpr int kOnlyBelow = 1 << 30;
  using Numbers = std::array<std::atomic<int>, kMost>;  // descriptor + 1; 0: none
  struct Shared {
    std::atomic<bool> done;
    std::atomic<std::uint32_t> process_count, memory_count;
    Numbers processes, memories;
  };
  explicit GuardBoard(Shared* shared) : shared_(shared) {}
  static Result<void> append(Numbers& numbers, std::atomic<std::uint32_t>& count, int number);

  Shared* shared_;
};

// Kills the program, and stays until its memory is gone: a process that nobody knew of ends when it touches a page that
// did not come.
void end_program(const GuardBoard& board);

// Is there still a process with the memory of this userfaultfd?
bool has_memory(int userfaultfd);

// Said on stderr (as far as there is one) and in the system's log.
void tell_of_end(const std::string& text);

// Makes the guard of the calling process, which shares its descriptors; `server`: a pidfd of this process, which must
// stay open as long as it lives. Returns a pidfd of the guard. REQUIRES: one thread.
Result<UniqueFd> start_guard(const GuardBoard& board, int server, const std::string& image);

}  // namespace stasis
