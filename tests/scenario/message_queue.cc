// SPDX-License-Identifier: Apache-2.0
// POSIX message queues keep their messages, priorities and limits; unlinked ones too.
// scenario: ipc failures failing-calls failed-restarts
#include <mqueue.h>

#include "scenario.h"

namespace {

void put(mqd_t queue, const std::string& text, unsigned priority) {
  SETUP(mq_send(queue, text.data(), text.size(), priority));
}
std::string take(mqd_t queue) {
  char buffer[64];
  unsigned priority = 0;
  const ssize_t got = mq_receive(queue, buffer, sizeof buffer, &priority);
  return got < 0 ? "(nothing)" : std::to_string(priority) + ":" + std::string(buffer, static_cast<std::size_t>(got));
}

}  // namespace

int main() {
  const std::string name = "/stasis-scenario-" + std::to_string(getpid());
  mq_attr attributes{};
  attributes.mq_maxmsg = 4;
  attributes.mq_msgsize = 64;
  const mqd_t queue = SETUP(mq_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0600, &attributes));
  const mqd_t writing = SETUP(mq_open(name.c_str(), O_WRONLY));
  const mqd_t gone =
      SETUP(mq_open((name + "-gone").c_str(), O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0600, &attributes));
  SETUP(mq_unlink((name + "-gone").c_str()));
  put(queue, "first", 1);
  put(queue, "urgent", 7);
  put(queue, "second", 1);
  put(gone, "kept", 2);
  scenario::write_file(scenario::path("objects"), "mq " + name + "\n");

  scenario::ready_and_wait();

  mq_attr now{};
  CHECK_EQ(mq_getattr(queue, &now), 0);
  CHECK_EQ(now.mq_maxmsg, 4);
  CHECK_EQ(now.mq_msgsize, 64);
  CHECK_EQ(now.mq_curmsgs, 3);
  put(writing, "third", 1);
  CHECK(mq_send(queue, "too many", 8, 1) == -1 && errno == EAGAIN, "the queue takes more than its limit");
  for (const char* expected : {"7:urgent", "1:first", "1:second", "1:third", "(nothing)"}) {
    const std::string found = take(queue);
    CHECK(found == expected, "%s, not %s", found.c_str(), expected);
  }
  CHECK(take(gone) == "2:kept", "the message of the unlinked queue is lost");
  const mqd_t again = mq_open(name.c_str(), O_RDONLY | O_NONBLOCK);
  CHECK(again >= 0, "the queue has lost its name: %s", std::strerror(errno));
  put(queue, "x", 0);
  CHECK(take(again) == "0:x", "the name leads to another queue");
  mq_unlink(name.c_str());
  return scenario::finish();
}
