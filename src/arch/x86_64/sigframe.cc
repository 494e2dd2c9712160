// SPDX-License-Identifier: Apache-2.0
#include "arch/x86_64/sigframe.h"

#include <cstring>

#include "arch/x86_64/xstate.h"

namespace stasis::arch {
namespace {

// struct sigcontext_64 of arch/x86/include/uapi/asm/sigcontext.h
struct Sigcontext {
  std::uint64_t r8, r9, r10, r11, r12, r13, r14, r15, di, si, bp, bx, dx, ax, cx, sp, ip, flags;
  std::uint16_t cs, gs, fs, ss;
  std::uint64_t err, trapno, oldmask, cr2, fpstate, reserved[8];
};
static_assert(sizeof(Sigcontext) == 256);

// struct rt_sigframe of arch/x86/include/asm/sigframe.h
struct RtSigframe {
  std::uint64_t return_address;
  std::uint64_t uc_flags, uc_link;
  std::uint64_t stack_pointer;
  std::uint32_t stack_flags, stack_padding;
  std::uint64_t stack_size;
  Sigcontext context;
  std::uint64_t mask;
  std::byte info[128];
};
static_assert(sizeof(RtSigframe) == 8 + 16 + 24 + 256 + 8 + 128);

constexpr std::uint64_t kFlags = 1 | 2 | 4;               // UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
constexpr std::uint32_t kInvalidStackFlags = 0x12345678;  // refused by sigaltstack(2), so the present stack stays
constexpr std::uint64_t kXstateAlignment = 64;

Sigcontext context_of(Registers r, std::uint64_t fpstate) {
  if (awaits_restart(r)) rewind_syscall(r);
  return Sigcontext{.r8 = r.r8,
                    .r9 = r.r9,
                    .r10 = r.r10,
                    .r11 = r.r11,
                    .r12 = r.r12,
                    .r13 = r.r13,
                    .r14 = r.r14,
                    .r15 = r.r15,
                    .di = r.rdi,
                    .si = r.rsi,
                    .bp = r.rbp,
                    .bx = r.rbx,
                    .dx = r.rdx,
                    .ax = r.rax,
                    .cx = r.rcx,
                    .sp = r.rsp,
                    .ip = r.rip,
                    .flags = r.eflags,
                    .cs = static_cast<std::uint16_t>(r.cs),
                    .gs = static_cast<std::uint16_t>(r.gs),
                    .fs = static_cast<std::uint16_t>(r.fs),
                    .ss = static_cast<std::uint16_t>(r.ss),
                    .err = 0,
                    .trapno = 0,
                    .oldmask = 0,
                    .cr2 = 0,
                    .fpstate = fpstate,
                    .reserved = {}};
}

// A frame whose extended state lies at the aligned address `fpstate`, the frame itself right below it.
Sigframe assemble(const SigframeInput& input, std::span<const std::byte> xstate, std::uint64_t fpstate) {
  const std::uint64_t address = ((fpstate - sizeof(RtSigframe)) & ~std::uint64_t{15}) - 8;  // as the ABI leaves rsp
  RtSigframe frame{};
  frame.return_address = input.return_address;
  frame.uc_flags = kFlags;
  frame.stack_flags = kInvalidStackFlags;
  frame.context = context_of(input.registers, fpstate);
  frame.mask = input.signal_mask;
  Sigframe result{.bytes = std::vector<std::byte>(fpstate + xstate.size() - address), .address = address};
  std::memcpy(result.bytes.data(), &frame, sizeof frame);
  std::memcpy(result.bytes.data() + (fpstate - address), xstate.data(), xstate.size());
  return result;
}

}  // namespace

std::size_t sigframe_size(std::span<const std::byte> xstate) {
  return sizeof(RtSigframe) + xstate.size() + sizeof(std::uint32_t) + 2 * kXstateAlignment;
}

Result<Sigframe> make_sigframe_below(const SigframeInput& input, std::uint64_t top) {
  const auto xstate = STASIS_TRY(xstate_for_sigframe(input.xstate));
  return assemble(input, xstate, (top - xstate.size()) & ~(kXstateAlignment - 1));
}

Result<Sigframe> make_sigframe_above(const SigframeInput& input, std::uint64_t bottom) {
  const auto xstate = STASIS_TRY(xstate_for_sigframe(input.xstate));
  const std::uint64_t lowest = bottom + sizeof(RtSigframe) + 8 + 16;
  return assemble(input, xstate, (lowest + kXstateAlignment - 1) & ~(kXstateAlignment - 1));
}

}  // namespace stasis::arch
