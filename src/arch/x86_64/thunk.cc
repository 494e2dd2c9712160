// SPDX-License-Identifier: Apache-2.0
#include "arch/x86_64/thunk.h"

// r13 = GateControl, r14 = number of operations left, r15 = next operation.
__asm__(R"(
.pushsection .rodata
.globl stasis_thunk_begin, stasis_thunk_report, stasis_thunk_tiles, stasis_thunk_end
.hidden stasis_thunk_begin, stasis_thunk_report, stasis_thunk_tiles, stasis_thunk_end
stasis_thunk_begin:
    mov   $0, %ebx                  # 0: the batch, 1: healing
1:  test  %r14, %r14
    jz    2f
    mov   0(%r15), %rax
    mov   8(%r15), %rdi
    mov   16(%r15), %rsi
    mov   24(%r15), %rdx
    mov   32(%r15), %r10
    mov   40(%r15), %r8
    mov   48(%r15), %r9
    syscall
    test  %rax, %rax
    jz    5f
6:  mov   %rax, 56(%r15)
    add   $64, %r15
    dec   %r14
    cmp   $-4096, %rax              # unsigned above: -4095..-1
    jbe   1b
    cmpq  $0, 0(%r13)
    je    1b
2:  test  %ebx, %ebx
    jnz   3f
    mov   $297, %eax                # rt_tgsigqueueinfo(tgid, tid, signal, &report)
    mov   8(%r13), %rdi
    mov   16(%r13), %rsi
    mov   24(%r13), %rdx
    lea   64(%r13), %r10
    syscall
stasis_thunk_report:
    mov   $1, %ebx
    movq  $0, 0(%r13)
    mov   32(%r13), %r15
    mov   40(%r13), %r14
    jmp   1b
3:  mov   48(%r13), %rsp
    cmpq  $0, 56(%r13)
    jne   4f
    mov   $15, %eax                 # rt_sigreturn
    syscall
    ud2
4:  mov   192(%r13), %rdi           # munmap(gate), by code that outlives it
    mov   200(%r13), %rsi
    mov   $11, %eax
    jmp   *56(%r13)
5:  cmpq  $56, 0(%r15)              # clone: a child that nobody holds ends
    jne   6b
    mov   $231, %eax                # exit_group(0)
    xor   %edi, %edi
    syscall
    ud2
stasis_thunk_tiles:
    ldtilecfg (%r12)
    tilezero %tmm0
    tilerelease
    jmp   stasis_thunk_begin
stasis_thunk_end:
.popsection
)");

extern "C" {
extern const std::byte stasis_thunk_begin[], stasis_thunk_report[], stasis_thunk_tiles[], stasis_thunk_end[];
}

namespace stasis::arch {

std::span<const std::byte> thunk_code() { return {stasis_thunk_begin, stasis_thunk_end}; }

std::size_t thunk_report_offset() { return static_cast<std::size_t>(stasis_thunk_report - stasis_thunk_begin); }

Registers with_thunk(Registers base, std::uint64_t thunk, std::uint64_t control, std::uint64_t ops,
                     std::uint64_t count) {
  constexpr std::uint64_t kTrapAndDirection = 0x100 | 0x400;
  base.rip = thunk;
  base.rax = 0;
  forget_syscall(base);
  base.r13 = control;
  base.r14 = count;
  base.r15 = ops;
  base.eflags &= ~kTrapAndDirection;
  return base;
}

Registers touching_tiles(Registers entry, std::uint64_t configuration) {
  entry.rip += static_cast<std::uint64_t>(stasis_thunk_tiles - stasis_thunk_begin);
  entry.r12 = configuration;
  return entry;
}

std::span<const std::byte> syscall_return_pattern() {
  static constexpr std::array bytes{std::byte{0x0f}, std::byte{0x05}, std::byte{0xc3}};
  return bytes;
}

std::span<const std::byte> sigreturn_pattern() {
  static constexpr std::array bytes{std::byte{0x48}, std::byte{0xc7}, std::byte{0xc0}, std::byte{0x0f}, std::byte{0},
                                    std::byte{0},    std::byte{0},    std::byte{0x0f}, std::byte{0x05}};
  return bytes;
}

}  // namespace stasis::arch
