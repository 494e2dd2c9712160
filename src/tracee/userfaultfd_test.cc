// SPDX-License-Identifier: Apache-2.0
#include "tracee/userfaultfd.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

namespace stasis {
namespace {

// A child that reads a page number from a pipe, writes to that page of its memory, and answers.
class Writer {
 public:
  Writer() {
    area_ =
        static_cast<char*>(::mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ::madvise(area_, kPages * kPage, MADV_NOHUGEPAGE);
    if (::pipe(orders_) != 0 || ::pipe(answers_) != 0) ::abort();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(orders_[1]);
      unsigned char page = 0;
      while (::read(orders_[0], &page, 1) == 1) {
        area_[page * kPage] = 1;
        if (::write(answers_[1], &page, 1) != 1) break;
      }
      ::_exit(0);
    }
    write_page(0);  // it is set up
  }
  ~Writer() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    for (const int fd : {orders_[0], orders_[1], answers_[0], answers_[1]}) ::close(fd);
    ::munmap(area_, kPages * kPage);
  }
  HostPid pid() const { return HostPid(pid_); }
  kernel::PageRun pages(std::size_t first, std::size_t count) const {
    const auto start = reinterpret_cast<std::uint64_t>(area_) + first * kPage;
    return {start, start + count * kPage};
  }
  void write_page(unsigned char page) {
    unsigned char answer = 0;
    EXPECT_EQ(::write(orders_[1], &page, 1), 1);
    EXPECT_EQ(::read(answers_[0], &answer, 1), 1);
  }
  std::size_t descriptors() const { return kernel::ProcDir::open(pid())->fds()->size(); }

  static constexpr std::size_t kPage = 4096, kPages = 8;

 private:
  char* area_ = nullptr;
  int orders_[2], answers_[2];
  pid_t pid_ = -1;
};

std::unique_ptr<TracedProcess> open(HostPid pid, const Patience& patience) {
  auto process = TracedProcess::attach(pid, TracedProcess::Seccomp::kNone);
  EXPECT_TRUE(process) << process.error().to_string();
  EXPECT_TRUE((*process)->settle(patience));
  const auto vmas = *(*process)->proc().maps();
  EXPECT_TRUE((*process)->open_gate(find_gadgets((*process)->memory(), vmas), vmas, patience));
  return std::move(*process);
}

TEST(RemoteUserfaultfd, TracksWritesOfARunningProcessAndLeavesNothingInIt) {
  Writer writer;
  const Patience patience(std::chrono::seconds(120), nullptr);
  const std::size_t descriptors = writer.descriptors();
  kernel::Userfaultfd uffd;
  {
    auto process = open(writer.pid(), patience);
    auto made = make_userfaultfd_in(*process, kernel::UffdFaults::kUserMode, patience);
    ASSERT_TRUE(made) << made.error().to_string();
    uffd = std::move(*made);
    ASSERT_TRUE(process->resume());
  }
  EXPECT_EQ(writer.descriptors(), descriptors);
  using namespace kernel::uffd;
  if (auto enabled = uffd.enable(kPagefaultWp | kWpUnpopulated | kWpAsync); !enabled) {
    GTEST_SKIP() << enabled.error().to_string();
  }
  ASSERT_TRUE(uffd.register_range(writer.pages(0, Writer::kPages), kernel::Userfaultfd::kWriteProtect));
  const auto scanner = kernel::PageScanner::open(*kernel::ProcDir::open(writer.pid()));
  ASSERT_TRUE(scanner);
  if (!scanner->uses_ioctl()) GTEST_SKIP() << "needs PAGEMAP_SCAN";
  const auto all = writer.pages(0, Writer::kPages);
  std::vector<kernel::PageRun> written;
  ASSERT_TRUE(scanner->take_written(all.start, all.end, written));
  written.clear();
  writer.write_page(2);
  writer.write_page(5);
  ASSERT_TRUE(scanner->take_written(all.start, all.end, written));
  EXPECT_EQ(written, (std::vector{writer.pages(2, 1), writer.pages(5, 1)}));
  uffd = kernel::Userfaultfd();
  EXPECT_FALSE(scanner->take_written(all.start, all.end, written));
  writer.write_page(2);
}

TEST(RemoteUserfaultfd, ADescriptorThatIsToBeClosedIsClosedWhenTheCoordinatorIsKilled) {
  Writer writer;
  const std::size_t descriptors = writer.descriptors();
  const pid_t coordinator = ::fork();
  if (coordinator == 0) {
    const Patience patience(std::chrono::seconds(120), nullptr);
    auto process = open(writer.pid(), patience);
    Batch batch(process->carrier_slot());
    batch.call(SYS_userfaultfd, kernel::userfaultfd_flags(kernel::UffdFaults::kUserMode));
    if (!process->run(batch, patience) || batch.result(0) < 0) ::_exit(1);
    if (!process->close_if_killed(static_cast<int>(batch.result(0)))) ::_exit(1);
    if (writer.descriptors() != descriptors + 1) ::_exit(1);
    ::raise(SIGKILL);
  }
  int status = 0;
  ::waitpid(coordinator, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  writer.write_page(1);
  EXPECT_EQ(writer.descriptors(), descriptors);
}

}  // namespace
}  // namespace stasis
