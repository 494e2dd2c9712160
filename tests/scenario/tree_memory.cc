// SPDX-License-Identifier: Apache-2.0
// Memory that processes share is one memory afterwards: by inheritance, by a descriptor, by System V; memory that they
// do not share is not.
// scenario: ipc
#include <sys/mman.h>
#include <sys/shm.h>

#include "tree.h"

using scenario::Member;

namespace {

const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));

volatile long* inherited = nullptr;  // mapped by the parent, at the same place in both
volatile long* elsewhere = nullptr;  // the same memory, mapped by the child a second time
volatile long* by_descriptor = nullptr;
volatile long* segment = nullptr;
volatile long* own = nullptr;
int memory = -1;
int deleted = -1;

volatile long* map(int flags, int fd = -1, off_t offset = 0) {
  return static_cast<volatile long*>(SETUP(mmap(nullptr, 4 * page, PROT_READ | PROT_WRITE, flags, fd, offset)));
}
volatile long* attach(int id) { return static_cast<volatile long*>(SETUP(shmat(id, nullptr, 0))); }

long bump(volatile long& cell) {
  cell = cell + 1;
  return cell;
}

void set_up_child() {
  elsewhere = static_cast<volatile long*>(SETUP(mremap(const_cast<long*>(inherited), 0, 4 * page, MREMAP_MAYMOVE)));
  by_descriptor = map(MAP_SHARED, memory);
  segment = attach(deleted);
}

long answer(char question) {
  switch (question) {
    case 'i':
      return bump(inherited[1]);
    case 'e':
      return bump(elsewhere[1]);
    case 'd':
      return bump(by_descriptor[600]);
    case 's':
      return bump(segment[3]);
    case 'o':
      return bump(own[0]);
    default:
      return -1;
  }
}

}  // namespace

int main() {
  inherited = map(MAP_SHARED | MAP_ANONYMOUS);
  own = map(MAP_SHARED | MAP_ANONYMOUS);
  memory = SETUP(memfd_create("shared", MFD_CLOEXEC));
  SETUP(ftruncate(memory, static_cast<off_t>(8 * page)));
  by_descriptor = map(MAP_SHARED, memory);
  deleted = SETUP(shmget(IPC_PRIVATE, 4 * page, IPC_CREAT | 0600));
  segment = attach(deleted);
  inherited[1] = 10;
  by_descriptor[600] = 20;
  segment[3] = 30;
  Member first(set_up_child, answer);
  // Another memory at the address that the first child has for the parent's.
  Member second(
      [] {
        set_up_child();
        munmap(const_cast<long*>(own), 4 * page);
        own = static_cast<volatile long*>(SETUP(mmap(const_cast<long*>(own), 4 * page, PROT_READ | PROT_WRITE,
                                                     MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)));
      },
      answer);
  SETUP(shmctl(deleted, IPC_RMID, nullptr));
  close(memory);
  CHECK_EQ(first.ask('i'), 11L);

  scenario::ready_and_wait();

  CHECK_EQ(inherited[1], 11L);
  CHECK_EQ(first.ask('i'), 12L);
  CHECK_EQ(second.ask('e'), 13L);
  CHECK_EQ(first.ask('e'), 14L);
  CHECK_EQ(inherited[1], 14L);
  CHECK_EQ(first.ask('d'), 21L);
  CHECK_EQ(second.ask('d'), 22L);
  CHECK_EQ(by_descriptor[600], 22L);
  CHECK_EQ(first.ask('s'), 31L);
  CHECK_EQ(second.ask('s'), 32L);
  CHECK_EQ(segment[3], 32L);
  shmid_ds status{};
  CHECK_EQ(shmctl(deleted, IPC_STAT, &status), 0);
  CHECK_EQ(status.shm_nattch, 5);  // the children have what they inherited, too
  CHECK_EQ(first.ask('o'), 1L);
  CHECK_EQ(second.ask('o'), 1L);
  CHECK_EQ(own[0], 1L);
  CHECK_EQ(first.end(), 7 << 8);
  CHECK_EQ(second.end(), 7 << 8);
  CHECK_EQ(shmdt(const_cast<long*>(segment)), 0);
  CHECK(shmctl(deleted, IPC_STAT, &status) == -1, "the deleted segment stays when nobody has it any more");
  return scenario::finish();
}
