// SPDX-License-Identifier: Apache-2.0
// Under what seccomp filters a thread is, or that it is in strict mode (man 2 seccomp).
//
// Filters can be read, and system calls run in spite of them, only by a tracer that suspends them: that takes
// CAP_SYS_ADMIN in the first user namespace, at a checkpoint as at a restart. Threads get theirs by inheritance: what
// all threads of a process have in common is installed before they are made, so that it is the same for the kernel (it
// matters to SECCOMP_FILTER_FLAG_TSYNC).
#pragma once

#include <memory>
#include <span>
#include <tuple>
#include <vector>

#include "base/ids.h"
#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/restart_context.h"
#include "stasis/image_schema.h"
#include "tracee/call_runner.h"

namespace stasis {

struct SeccompFilter {
  std::vector<std::uint64_t> program;  // struct sock_filter
  bool log = false;                    // SECCOMP_FILTER_FLAG_LOG

  bool operator==(const SeccompFilter&) const = default;
  static constexpr auto fields() {
    using R = SeccompFilter;
    return std::tuple{field<1>("program", &R::program, Show::kHex, MaxLength{4096}), field<2>("log", &R::log)};
  }
};

// Filters, the oldest first, or strict mode without any.
struct SeccompRecord {
  static constexpr RecordType kType = RecordType::kSeccomp;
  static constexpr std::string_view kName = "seccomp";

  bool strict = false;
  std::vector<SeccompFilter> filters;

  bool operator==(const SeccompRecord&) const = default;
  static constexpr auto fields() {
    using R = SeccompRecord;
    return std::tuple{field<1>("strict", &R::strict), field<2>("filters", &R::filters, MaxLength{4096})};
  }
};

// What was read of a tree's threads, each kind of confinement once. Outlives the object hash that refers to it.
class SeccompTable {
 public:
  // Of a stopped thread whose filters are suspended; `mode` as in its status, not 0. Error kSeccomp: a filter that
  // can't be saved.
  Result<SeccompRecord*> read(HostPid tid, std::uint32_t mode);

 private:
  std::vector<std::unique_ptr<SeccompRecord>> known_;
};

struct RestoredSeccomp : RestoredObject {
  SeccompRecord record;
};

// Object = SeccompRecord*.
Result<void> checkpoint_seccomp(void* context, ObjRef ref, void* object);
Result<void*> restore_seccomp(void* context, ObjRef ref);

inline constexpr ObjOps kSeccompOps = {kind::kSeccomp,       "seccomp",          nullptr,
                                       RestoredObject::drop, checkpoint_seccomp, restore_seccomp};

// How many of their first filters all of these have. A null has none.
std::size_t common_filters(std::span<const SeccompRecord* const> threads);
// Installs the filters from number `first` on, and strict mode, in the thread that `run` runs batches in. REQUIRES:
// suspended filters, and CAP_SYS_ADMIN or no_new_privs.
using RunBatch = std::function<Result<void>(const Batch&)>;
Result<void> install_filters(std::span<const SeccompFilter> filters, Batch batch, const RunBatch& run);
Result<void> enter_strict_mode(Batch batch, const RunBatch& run);

}  // namespace stasis
