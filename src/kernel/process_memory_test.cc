// SPDX-License-Identifier: Apache-2.0
#include "kernel/process_memory.h"

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <numeric>
#include <vector>

namespace stasis::kernel {
namespace {

// A child that holds a copy of this process's memory and sleeps.
class RemoteProcess : public ::testing::Test {
 protected:
  void SetUp() override {
    page_ = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    void* const area = ::mmap(nullptr, kPages * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(area, MAP_FAILED);
    area_ = static_cast<std::byte*>(area);
    for (std::size_t i = 0; i < kPages * page_; ++i) area_[i] = static_cast<std::byte>(i * 7 + i / page_);
    expected_.assign(area_, area_ + kPages * page_);
    // One page without rights in the middle, one hole near the end.
    ASSERT_EQ(::mprotect(area_ + 3 * page_, page_, PROT_NONE), 0);
    ASSERT_EQ(::munmap(area_ + 6 * page_, page_), 0);
    pid_ = ::fork();
    ASSERT_GE(pid_, 0);
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;) ::pause();
    }
    auto proc = ProcDir::open(HostPid(pid_));
    ASSERT_TRUE(proc);
    auto memory = ProcessMemory::open(*proc);
    ASSERT_TRUE(memory) << memory.error().to_string();
    memory_.emplace(*std::move(memory));
  }

  void TearDown() override {
    if (pid_ > 0) kill_child();
    ::munmap(area_, kPages * page_);
  }

  void kill_child() {
    ::kill(pid_, SIGKILL);
    ASSERT_EQ(::waitpid(pid_, nullptr, 0), pid_);
    pid_ = 0;
  }

  std::uint64_t at(std::size_t page) const { return reinterpret_cast<std::uint64_t>(area_) + page * page_; }

  static constexpr std::size_t kPages = 8;
  std::size_t page_ = 0;
  std::byte* area_ = nullptr;
  std::vector<std::byte> expected_;
  pid_t pid_ = 0;
  std::optional<ProcessMemory> memory_;
};

TEST_F(RemoteProcess, ReadsAcrossAPageWithoutRights) {
  std::vector<std::byte> bytes(6 * page_);
  ASSERT_TRUE(memory_->read(at(0), bytes));
  EXPECT_EQ(std::memcmp(bytes.data(), expected_.data(), bytes.size()), 0);
}

TEST_F(RemoteProcess, ReadsMoreRangesThanOneCallTakes) {
  std::vector<RemoteRange> ranges;
  std::vector<std::byte> wanted;
  for (std::size_t i = 0; i < 3000; ++i) {
    const std::size_t offset = i * 8 % (6 * page_), size = i % 5;  // empty ranges too
    ranges.push_back({at(0) + offset, size});
    wanted.insert(wanted.end(), expected_.begin() + static_cast<std::ptrdiff_t>(offset),
                  expected_.begin() + static_cast<std::ptrdiff_t>(offset + size));
  }
  std::vector<std::byte> bytes(wanted.size());
  ASSERT_TRUE(memory_->read(ranges, bytes));
  EXPECT_EQ(bytes, wanted);
}

TEST_F(RemoteProcess, AHoleIsAnErrorThatNamesItsAddress) {
  std::vector<std::byte> bytes(8 * page_);
  const auto result = memory_->read(at(0), bytes);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::kIo);
  EXPECT_NE(result.error().message().find(fmt::format("{:#x}", at(6))), std::string::npos) << result.error().message();
}

TEST_F(RemoteProcess, WritesAcrossAPageWithoutRights) {
  std::vector<std::byte> bytes(5 * page_);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 13);
  ASSERT_TRUE(memory_->write(at(1), bytes));
  std::vector<std::byte> back(bytes.size());
  ASSERT_TRUE(memory_->read(at(1), back));
  EXPECT_EQ(back, bytes);
  EXPECT_FALSE(memory_->write(at(6), std::span(bytes).first(1)));
}

TEST_F(RemoteProcess, ObjectsRoundTrip) {
  const RemotePtr<std::uint64_t> pointer(at(2) + 8);
  ASSERT_TRUE(memory_->store(pointer, std::uint64_t{0x1122334455667788}));
  EXPECT_EQ(memory_->load(pointer), 0x1122334455667788u);
}

TEST_F(RemoteProcess, ADeadProcessIsVanished) {
  kill_child();
  std::byte byte{};
  const auto result = memory_->read(at(0), std::span(&byte, 1));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::kVanished);
}

}  // namespace
}  // namespace stasis::kernel
