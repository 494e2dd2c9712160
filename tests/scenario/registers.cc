// SPDX-License-Identifier: Apache-2.0
// A thread that computes in registers finds them unchanged: general registers, flags, x87, MXCSR, AVX-512 with its
// masks, AMX tiles. Each thread loads them, spins in one piece of assembly until told to stop, and stores them again.
// scenario: also-static
#include <cpuid.h>
#include <sys/syscall.h>

#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "scenario.h"

// long spin_general(const volatile int* stop, unsigned long* out): fills 13 registers with 0x1111.. to 0xdddd.., sets
// the carry and direction flags, spins, stores the registers and the flags to out[0..13].
asm(R"(
.pushsection .text
.globl spin_general
spin_general:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  push %rsi
  mov %rdi, %r15
  movabs $0x1111111111111111, %rax
  mov %rax, %rbx
  add %rax, %rbx
  lea (%rax,%rbx), %rcx
  lea (%rax,%rcx), %rdx
  lea (%rax,%rdx), %rsi
  lea (%rax,%rsi), %rdi
  lea (%rax,%rdi), %rbp
  lea (%rax,%rbp), %r8
  lea (%rax,%r8), %r9
  lea (%rax,%r9), %r10
  lea (%rax,%r10), %r11
  lea (%rax,%r11), %r12
  lea (%rax,%r12), %r13
  std
1:
  # r14 holds the flag; only it changes.
  movslq (%r15), %r14
  pause
  test %r14, %r14
  jz 1b
  pushf
  pop %r14
  cld
  mov (%rsp), %r15
  mov %rax, 0(%r15)
  mov %rbx, 8(%r15)
  mov %rcx, 16(%r15)
  mov %rdx, 24(%r15)
  mov %rsi, 32(%r15)
  mov %rdi, 40(%r15)
  mov %rbp, 48(%r15)
  mov %r8, 56(%r15)
  mov %r9, 64(%r15)
  mov %r10, 72(%r15)
  mov %r11, 80(%r15)
  mov %r12, 88(%r15)
  mov %r13, 96(%r15)
  mov %r14, 104(%r15)
  pop %rsi
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret

# void spin_x87(const volatile int* stop, const double* in8, double* out8, const unsigned* mxcsr_in, unsigned* mxcsr_out)
.globl spin_x87
spin_x87:
  ldmxcsr (%rcx)
  fninit
  fldl 56(%rsi)
  fldl 48(%rsi)
  fldl 40(%rsi)
  fldl 32(%rsi)
  fldl 24(%rsi)
  fldl 16(%rsi)
  fldl 8(%rsi)
  fldl 0(%rsi)
1:
  pause
  cmpl $0, (%rdi)
  je 1b
  fstpl 0(%rdx)
  fstpl 8(%rdx)
  fstpl 16(%rdx)
  fstpl 24(%rdx)
  fstpl 32(%rdx)
  fstpl 40(%rdx)
  fstpl 48(%rdx)
  fstpl 56(%rdx)
  stmxcsr (%r8)
  ret

# void spin_avx512(const volatile int* stop, const void* in, void* out): 32 zmm (2048 bytes), then k1..k7 (8 bytes each)
.macro zmm_all op from
  .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    \op \n
  .endr
.endm
.macro zmm_load n
  vmovdqu64 64*\n(%rsi), %zmm\n
.endm
.macro zmm_store n
  vmovdqu64 %zmm\n, 64*\n(%rdx)
.endm
.globl spin_avx512
spin_avx512:
  zmm_all zmm_load
  .irp n,1,2,3,4,5,6,7
    kmovq 2048+8*\n(%rsi), %k\n
  .endr
1:
  pause
  cmpl $0, (%rdi)
  je 1b
  zmm_all zmm_store
  .irp n,1,2,3,4,5,6,7
    kmovq %k\n, 2048+8*\n(%rdx)
  .endr
  vzeroupper
  ret

# void spin_avx(const volatile int* stop, const void* in, void* out): 16 ymm (512 bytes)
.globl spin_avx
spin_avx:
  .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    vmovdqu 32*\n(%rsi), %ymm\n
  .endr
1:
  pause
  cmpl $0, (%rdi)
  je 1b
  .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    vmovdqu %ymm\n, 32*\n(%rdx)
  .endr
  vzeroupper
  ret

# void spin_amx(const volatile int* stop, const void* in, void* out, const void* config): 8 tiles of 16 rows x 64 bytes
.globl spin_amx
spin_amx:
  ldtilecfg (%rcx)
  mov $64, %eax
  .irp n,0,1,2,3,4,5,6,7
    tileloadd 1024*\n(%rsi,%rax,1), %tmm\n
  .endr
1:
  pause
  cmpl $0, (%rdi)
  je 1b
  mov $64, %eax
  .irp n,0,1,2,3,4,5,6,7
    tilestored %tmm\n, 1024*\n(%rdx,%rax,1)
  .endr
  tilerelease
  ret
.popsection
)");
extern "C" {
void spin_general(const volatile int* stop, unsigned long* out);
void spin_x87(const volatile int* stop, const double* in, double* out, const unsigned* mxcsr_in, unsigned* mxcsr_out);
void spin_avx512(const volatile int* stop, const void* in, void* out);
void spin_avx(const volatile int* stop, const void* in, void* out);
void spin_amx(const volatile int* stop, const void* in, void* out, const void* config);
}

namespace {

volatile int stop = 0;
std::atomic<int> spinning = 0;

struct Buffer {
  alignas(64) std::array<unsigned char, 8192> in{};
  alignas(64) std::array<unsigned char, 8192> out{};
};

void fill(Buffer& buffer, unsigned seed) {
  for (auto& byte : buffer.in) {
    seed = seed * 1664525U + 1013904223U;
    byte = static_cast<unsigned char>(seed >> 24);
  }
}

void* general_thread(void*) {
  std::array<unsigned long, 14> out{};
  ++spinning;
  spin_general(&stop, out.data());
  for (unsigned long i = 0; i < 13; ++i)
    CHECK(out.at(i) == 0x1111111111111111UL * (i + 1), "general register %lu holds %#lx", i, out.at(i));
  CHECK((out[13] & 0x400) != 0, "the direction flag is lost: flags %#lx", out[13]);
  return nullptr;
}

void* x87_thread(void*) {
  std::array<double, 8> in{};
  std::array<double, 8> out{};
  for (std::size_t i = 0; i < 8; ++i) in.at(i) = 1.5 + static_cast<double>(i);
  const unsigned mxcsr_in = 0x1f80U | 0x6000U | 0x8000U;  // round towards zero, flush to zero
  const unsigned mxcsr_default = 0x1f80U;
  unsigned mxcsr_out = 0;
  ++spinning;
  spin_x87(&stop, in.data(), out.data(), &mxcsr_in, &mxcsr_out);
  asm volatile("ldmxcsr %0" : : "m"(mxcsr_default));
  CHECK(in == out, "x87 registers differ (st0 %f, not %f)", out[0], in[0]);
  CHECK_EQ(mxcsr_out & ~0x3fU, mxcsr_in);
  return nullptr;
}

template <auto spin, std::size_t bytes, unsigned seed, std::size_t skip_from = 0, std::size_t skip_to = 0>
void* vector_thread(void* name) {
  auto buffer = std::make_unique<Buffer>();
  fill(*buffer, seed);
  ++spinning;
  spin(&stop, buffer->in.data(), buffer->out.data());
  for (std::size_t i = 0; i < bytes; ++i) {
    if (i >= skip_from && i < skip_to) continue;
    if (!CHECK(buffer->in.at(i) == buffer->out.at(i), "%s: byte %zu is %#x, not %#x", static_cast<const char*>(name), i,
               buffer->out.at(i), buffer->in.at(i)))
      break;
  }
  return nullptr;
}

void* amx_thread(void*) {
  auto buffer = std::make_unique<Buffer>();
  fill(*buffer, 77);
  alignas(64) std::array<unsigned char, 64> config{};
  config[0] = 1;
  for (std::size_t tile = 0; tile < 8; ++tile) {
    config.at(16 + 2 * tile) = 64;  // bytes a row
    config.at(48 + tile) = 16;      // rows
  }
  ++spinning;
  spin_amx(&stop, buffer->in.data(), buffer->out.data(), config.data());
  for (std::size_t i = 0; i < buffer->in.size(); ++i)
    if (!CHECK(buffer->in.at(i) == buffer->out.at(i), "AMX: byte %zu of the tiles differs", i)) break;
  return nullptr;
}

bool may_use_amx() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & (1U << 24)) == 0) return false;
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequestPermission, 18) == 0;
}

}  // namespace

int main() {
  std::vector<pthread_t> threads;
  const auto start = [&](void* (*function)(void*), const char* name) {
    pthread_t thread{};
    if (pthread_create(&thread, nullptr, function, const_cast<char*>(name)) != 0)
      scenario::broken_setup("pthread_create", __FILE__, __LINE__);
    threads.push_back(thread);
  };
  start(general_thread, nullptr);
  start(x87_thread, nullptr);
  if (__builtin_cpu_supports("avx") != 0)
    start(vector_thread<spin_avx, 512, 5>, "AVX");
  else
    scenario::skip_part("no AVX");
  if (__builtin_cpu_supports("avx512bw") != 0)
    start(vector_thread<spin_avx512, 2048 + 64, 6, 2048, 2056>, "AVX-512");
  else
    scenario::skip_part("no AVX-512");
  if (may_use_amx())
    start(amx_thread, nullptr);
  else
    scenario::skip_part("no AMX");
  while (spinning < static_cast<int>(threads.size())) scenario::pause_ms(1);

  scenario::ready_and_wait();

  stop = 1;
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  return scenario::finish();
}
