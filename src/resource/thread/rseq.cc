// SPDX-License-Identifier: Apache-2.0
#include "resource/thread/rseq.h"

#include <span>

#include "base/log.h"

namespace stasis {
namespace {

constexpr std::uint64_t kCriticalSectionOffset = 8;  // rseq_cs in struct rseq

// struct rseq_cs
struct CriticalSection {
  std::uint32_t version, flags;
  std::uint64_t start, post_commit_offset, abort;
};
static_assert(sizeof(CriticalSection) == 32);

template <class T>
bool read_there(const kernel::ProcessMemory& memory, std::uint64_t address, T& value) {
  return memory.read(address, std::as_writable_bytes(std::span(&value, 1))).has_value();
}

}  // namespace

Result<kernel::RseqConfiguration> settle_rseq(const kernel::ProcessMemory& memory, TracedThread& thread) {
  auto configuration = kernel::ptrace_get_rseq_configuration(thread.tid());
  if (!configuration && configuration.error().code() == Errc::kKernelFeature) return kernel::RseqConfiguration{};
  if (!configuration || !configuration->pointer) return configuration;
  if (arch::interrupted_syscall(thread.registers) >= 0) return configuration;
  std::uint64_t pointer = 0;
  CriticalSection section{};
  if (!read_there(memory, configuration->pointer + kCriticalSectionOffset, pointer) || !pointer) return configuration;
  if (!read_there(memory, pointer, section)) return configuration;
  const std::uint64_t ip = arch::instruction_pointer(thread.registers);
  if (ip - section.start < section.post_commit_offset) {
    log::debug("thread", "thread {} was in a restartable sequence: to its abort handler", thread.tid().value());
    arch::set_instruction_pointer(thread.registers, section.abort);
    arch::forget_syscall(thread.registers);
  }
  return configuration;
}

}  // namespace stasis
