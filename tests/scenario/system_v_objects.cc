// SPDX-License-Identifier: Apache-2.0
// System V semaphores and message queues keep ids, keys, values and messages.
// scenario: ipc failures failed-restarts
#include <sys/msg.h>
#include <sys/sem.h>

#include "scenario.h"

namespace {

struct Message {
  long type;
  char text[16];
};

void put(int queue, long type, const char* text) {
  Message message{.type = type, .text = ""};
  std::snprintf(message.text, sizeof message.text, "%s", text);
  SETUP(msgsnd(queue, &message, std::strlen(text), 0));
}
std::string take(int queue, long type = 0) {
  Message message{};
  const ssize_t got = msgrcv(queue, &message, sizeof message.text, type, IPC_NOWAIT);
  return got < 0 ? "(nothing)"
                 : std::to_string(message.type) + ":" + std::string(message.text, static_cast<std::size_t>(got));
}

}  // namespace

int main() {
  const key_t key = 0x57a60000 + getpid();
  const int semaphores = SETUP(semget(key, 3, IPC_CREAT | IPC_EXCL | 0640));
  SETUP(semctl(semaphores, 0, SETVAL, 5));
  sembuf take_two = {.sem_num = 0, .sem_op = -2, .sem_flg = 0};
  SETUP(semop(semaphores, &take_two, 1));
  SETUP(semctl(semaphores, 2, SETVAL, 9));
  const int queue = SETUP(msgget(key, IPC_CREAT | IPC_EXCL | 0600));
  put(queue, 3, "first");
  put(queue, 1, "second");
  put(queue, 3, "");
  scenario::write_file(scenario::path("objects"),
                       "sem " + std::to_string(semaphores) + "\nmsg " + std::to_string(queue) + "\n");

  scenario::ready_and_wait();

  CHECK_EQ(semget(key, 3, 0), semaphores);
  CHECK_EQ(semctl(semaphores, 0, GETVAL), 3);
  CHECK_EQ(semctl(semaphores, 1, GETVAL), 0);
  CHECK_EQ(semctl(semaphores, 2, GETVAL), 9);
  semid_ds status{};
  union {
    semid_ds* buffer;
  } argument = {.buffer = &status};
  CHECK_EQ(semctl(semaphores, 0, IPC_STAT, argument), 0);
  CHECK_EQ(status.sem_perm.mode & 0777, 0640);
  CHECK_EQ(msgget(key, 0), queue);
  CHECK(take(queue, 1) == "1:second", "a message by its type");
  CHECK(take(queue) == "3:first", "the first message");
  CHECK(take(queue) == "3:", "the empty message");
  CHECK(take(queue) == "(nothing)", "a message too many");
  semctl(semaphores, 0, IPC_RMID);
  msgctl(queue, IPC_RMID, nullptr);
  return scenario::finish();
}
