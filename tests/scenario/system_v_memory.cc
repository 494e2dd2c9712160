// SPDX-License-Identifier: Apache-2.0
// System V shared memory: same id and key, attached at several addresses, in parts, read-only; deleted while attached.
// scenario: ipc failed-restarts
#include <sys/mman.h>
#include <sys/shm.h>

#include <algorithm>
#include <vector>

#include "scenario.h"

namespace {

const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));

unsigned char* attach(int id, int flags = 0) {
  void* const at = shmat(id, nullptr, flags);
  if (at == reinterpret_cast<void*>(-1)) scenario::broken_setup("shmat", __FILE__, __LINE__);
  return static_cast<unsigned char*>(at);
}

void fill(unsigned char* at, std::size_t bytes, unsigned seed) {
  for (std::size_t i = 0; i < bytes; ++i) at[i] = static_cast<unsigned char>((i * 31 + seed) >> 3);
}
bool holds(const unsigned char* at, std::size_t bytes, unsigned seed, std::size_t from = 0) {
  for (std::size_t i = 0; i < bytes; ++i)
    if (at[i] != static_cast<unsigned char>(((i + from) * 31 + seed) >> 3)) return false;
  return true;
}

shmid_ds look(int id) {
  shmid_ds segment{};
  CHECK(shmctl(id, IPC_STAT, &segment) == 0, "segment %d is not there: %s", id, std::strerror(errno));
  return segment;
}

}  // namespace

int main() {
  const key_t key = 0x57a50000 + getpid();
  const int named = SETUP(shmget(key, 5 * page - 100, IPC_CREAT | IPC_EXCL | 0640));
  unsigned char* const first = attach(named);
  const unsigned char* const second = attach(named, SHM_RDONLY);
  fill(first, 5 * page - 100, 1);

  const int gone = SETUP(shmget(IPC_PRIVATE, 8 * page, IPC_CREAT | 0600));
  unsigned char* const whole = attach(gone);
  unsigned char* const parts = attach(gone);
  fill(whole, 8 * page, 2);
  munmap(parts + 2 * page, 3 * page);
  mprotect(parts + 6 * page, page, PROT_READ);
  // Something else lies in the hole now.
  auto* const inside = static_cast<unsigned char*>(SETUP(
      mmap(parts + 3 * page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)));
  inside[0] = 77;
  SETUP(shmctl(gone, IPC_RMID, nullptr));

  scenario::write_file(scenario::path("objects"), "shm " + std::to_string(named) + "\n");

  scenario::ready_and_wait();

  CHECK(holds(first, 5 * page - 100, 1), "the contents differ");
  CHECK(std::equal(second, second + 5 * page - 100, first), "the second attachment differs");
  first[5] = 99;
  CHECK(second[5] == 99, "the two attachments are not one memory");
  const shmid_ds segment = look(named);
  CHECK_EQ(segment.shm_nattch, 2);
  CHECK_EQ(segment.shm_segsz, 5 * page - 100);
  CHECK_EQ(segment.shm_perm.mode & 0777, 0640);
  CHECK_EQ(segment.shm_perm.__key, key);
  CHECK_EQ(segment.shm_perm.uid, geteuid());
  CHECK_EQ(shmget(key, 0, 0), named);
  CHECK(mprotect(const_cast<unsigned char*>(second), page, PROT_READ | PROT_WRITE) == -1,
        "a read-only attachment can become writable");

  CHECK(holds(whole, 8 * page, 2), "the deleted segment's contents differ");
  CHECK(holds(parts, 2 * page, 2) && holds(parts + 5 * page, 3 * page, 2, 5 * page), "the parts differ");
  whole[7 * page] = 55;
  CHECK(parts[7 * page] == 55, "the parts are another memory");
  CHECK(inside[0] == 77 && inside[1] == 0, "what lay in the hole differs");
  const shmid_ds deleted = look(gone);
  CHECK((deleted.shm_perm.mode & SHM_DEST) != 0, "the deleted segment is not deleted");
  CHECK_EQ(shmdt(parts), 0);
  CHECK_EQ(shmdt(whole), 0);
  shmid_ds none{};
  CHECK(shmctl(gone, IPC_STAT, &none) == -1, "the deleted segment stays when nobody has it any more");
  CHECK_EQ(shmdt(second), 0);
  CHECK_EQ(shmdt(first), 0);
  CHECK_EQ(shmctl(named, IPC_RMID, nullptr), 0);
  return scenario::finish();
}
