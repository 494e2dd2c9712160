// SPDX-License-Identifier: Apache-2.0
// General registers of a stopped thread and what the kernel's system-call convention makes of them. Nothing above
// src/arch names a register; it asks through these functions. Source: kernel arch/x86/kernel/{ptrace,signal}.c.
#pragma once

#include <sys/user.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace stasis::arch {

// The NT_PRSTATUS register set.
using Registers = user_regs_struct;

// Values that only the kernel sees between an interrupted system call and its restart (include/linux/errno.h).
inline constexpr std::int64_t kErestartSys = -512;
inline constexpr std::int64_t kErestartNoIntr = -513;
inline constexpr std::int64_t kErestartNoHand = -514;
inline constexpr std::int64_t kErestartBlock = -516;

inline constexpr std::size_t kSyscallInsnLength = 2;  // 0f 05

inline std::uint64_t instruction_pointer(const Registers& regs) { return regs.rip; }
inline void set_instruction_pointer(Registers& regs, std::uint64_t ip) { regs.rip = ip; }
inline std::uint64_t stack_pointer(const Registers& regs) { return regs.rsp; }
inline void set_stack_pointer(Registers& regs, std::uint64_t sp) { regs.rsp = sp; }

// The call in which the thread was interrupted, or -1 if it was not in one. As the kernel does, only the lower half of
// the register is looked at (syscall_get_nr; see also wait_note.h).
inline std::int64_t interrupted_syscall(const Registers& regs) { return static_cast<std::int32_t>(regs.orig_rax); }
inline void set_interrupted_syscall(Registers& regs, std::int64_t nr) {
  regs.orig_rax = static_cast<std::uint64_t>(nr);
}
inline std::int64_t syscall_result(const Registers& regs) { return static_cast<std::int64_t>(regs.rax); }
inline void set_syscall_result(Registers& regs, std::int64_t value) { regs.rax = static_cast<std::uint64_t>(value); }
// Takes the thread out of the kernel's restart logic: what the result register holds is what the program sees.
inline void forget_syscall(Registers& regs) { regs.orig_rax = static_cast<std::uint64_t>(-1); }
inline std::array<std::uint64_t, 6> syscall_arguments(const Registers& regs) {
  return {regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9};
}

// Is the result one that the kernel replaces by a restart when the thread goes on?
inline bool awaits_restart(const Registers& regs) {
  const std::int64_t result = syscall_result(regs);
  return interrupted_syscall(regs) >= 0 &&
         (result == kErestartSys || result == kErestartNoIntr || result == kErestartNoHand || result == kErestartBlock);
}

// Makes the thread execute its interrupted call once more from the start, without the kernel's help.
inline void rewind_syscall(Registers& regs) {
  regs.rax = regs.orig_rax;
  regs.rip -= kSyscallInsnLength;
  forget_syscall(regs);
}

// Registers of `base` set up to execute system call `nr` at the syscall instruction `insn`.
inline Registers with_syscall(Registers base, std::uint64_t insn, std::int64_t nr,
                              const std::array<std::uint64_t, 6>& args) {
  base.rip = insn;
  base.rax = static_cast<std::uint64_t>(nr);
  forget_syscall(base);
  base.rdi = args[0];
  base.rsi = args[1];
  base.rdx = args[2];
  base.r10 = args[3];
  base.r8 = args[4];
  base.r9 = args[5];
  return base;
}

}  // namespace stasis::arch
