// SPDX-License-Identifier: Apache-2.0
// Twenty children, one of them with a line of twelve descendants, each with memory of its own that it fills with its
// own pattern, and a pipe that all write to.
#include <array>
#include <vector>

#include "tree.h"

namespace {

constexpr int kWide = 20;
constexpr int kDeep = 12;
constexpr std::size_t kWords = 8192;

struct Note {
  int who;
  long sum;
};

void fill(std::vector<long>& memory, long seed) {
  for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = seed * 1000003 + static_cast<long>(i);
}

long sum(const std::vector<long>& memory) {
  long total = 0;
  for (const long word : memory) total += word;
  return total;
}

[[noreturn]] void live(int who, int deeper, int notes) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::vector<long> memory(kWords);
  fill(memory, who);
  pid_t child = 0;
  if (deeper > 0) {
    child = fork();
    if (child == 0) live(who + 100, deeper - 1, notes);
  }
  const Note ready = {who, 0};
  if (write(notes, &ready, sizeof ready) != sizeof ready) _exit(1);
  while (!scenario::exists(scenario::path("go"))) scenario::pause_ms(5);
  const Note note = {who, sum(memory)};
  if (write(notes, &note, sizeof note) != sizeof note) _exit(1);
  int status = 0;
  if (child != 0 && (waitpid(child, &status, 0) != child || status != 0)) _exit(2);
  _exit(0);
}

}  // namespace

int main() {
  std::array<int, 2> notes{};
  SETUP(pipe2(notes.data(), O_CLOEXEC));
  std::vector<pid_t> children;
  for (int i = 0; i < kWide; ++i) {
    const pid_t pid = fork();
    SETUP(pid);
    if (pid == 0) live(i + 1, i == 3 ? kDeep : 0, notes[1]);
    children.push_back(pid);
  }
  close(notes[1]);
  Note note{};
  for (int i = 0; i < kWide + kDeep; ++i) SETUP(read(notes[0], &note, sizeof note) == sizeof note ? 0 : -1);

  scenario::ready_and_wait();

  int heard = 0;
  while (read(notes[0], &note, sizeof note) == sizeof note) {
    std::vector<long> expected(kWords);
    fill(expected, note.who);
    CHECK(note.sum == sum(expected), "process %d has other memory than it filled", note.who);
    ++heard;
  }
  CHECK_EQ(heard, kWide + kDeep);
  for (const pid_t child : children) {
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
  }
  return scenario::finish();
}
