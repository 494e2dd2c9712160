// SPDX-License-Identifier: Apache-2.0
#include "resource/open_file/other_name.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>

#include "base/unique_fd.h"
#include "kernel/page_size.h"
#include "kernel/proc_dir.h"

namespace stasis {
namespace {

// A page of a file that was made as sem_open(3) makes it: its first name is deleted, and there may be a second one.
class OtherName : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = "/dev/shm/other-name-XXXXXX";
    if (::mkdtemp(directory_.data()) == nullptr) GTEST_SKIP() << "no /dev/shm to write to";
    const UniqueFd fd(::open((directory_ + "/first").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_TRUE(fd);
    ASSERT_EQ(::ftruncate(fd.get(), 100), 0);
    page_ = ::mmap(nullptr, kernel::page_size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    ASSERT_NE(page_, MAP_FAILED);
  }
  void TearDown() override {
    if (page_ != MAP_FAILED) ::munmap(page_, kernel::page_size());
    for (const char* name : {"/first", "/second"}) ::unlink((directory_ + name).c_str());
    ::rmdir(directory_.c_str());
  }
  kernel::Vma found() const {
    auto vmas = kernel::ProcDir::open(HostPid(::getpid()))->maps();
    EXPECT_TRUE(vmas);
    find_other_names(*vmas);
    return *kernel::find_vma(*vmas, reinterpret_cast<std::uint64_t>(page_));
  }

  std::string directory_;
  void* page_ = MAP_FAILED;
};

TEST_F(OtherName, LeadsToTheMapping) {
  ASSERT_EQ(::link((directory_ + "/first").c_str(), (directory_ + "/second").c_str()), 0);
  ASSERT_EQ(::unlink((directory_ + "/first").c_str()), 0);
  EXPECT_EQ(found().path, directory_ + "/second");
  EXPECT_FALSE(found().deleted);
}

TEST_F(OtherName, AnotherFileInTheDirectoryIsNotTaken) {
  const UniqueFd other(::open((directory_ + "/second").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(::unlink((directory_ + "/first").c_str()), 0);
  EXPECT_EQ(found().path, directory_ + "/first");
  EXPECT_TRUE(found().deleted);
}

}  // namespace
}  // namespace stasis
