// SPDX-License-Identifier: Apache-2.0
// A sealed mapping (mseal, Linux 6.10) keeps its contents and stays sealed.
#include <sys/mman.h>
#include <sys/syscall.h>

#include <fstream>

#include "scenario.h"

int main() {
  constexpr long kMseal = 462;
  constexpr std::size_t kBytes = 65536;
  auto* at = static_cast<unsigned char*>(
      SETUP(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
  for (std::size_t i = 0; i < kBytes; ++i) at[i] = static_cast<unsigned char>(i * 31 >> 3);
  mprotect(at, kBytes, PROT_READ);
  const bool sealed = syscall(kMseal, at, kBytes, 0) == 0;
  if (!sealed) scenario::skip_part("mseal");

  scenario::ready_and_wait();

  bool same = true;
  for (std::size_t i = 0; i < kBytes; ++i) same = same && at[i] == static_cast<unsigned char>(i * 31 >> 3);
  CHECK(same, "the contents differ");
  if (sealed) {
    CHECK(mprotect(at, kBytes, PROT_READ | PROT_WRITE) == -1 && errno == EPERM, "the mapping is not sealed any more");
    CHECK(munmap(at, kBytes) == -1 && errno == EPERM, "the mapping can be unmapped");
  }
  return scenario::finish();
}
