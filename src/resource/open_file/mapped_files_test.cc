// SPDX-License-Identifier: Apache-2.0
#include "resource/open_file/mapped_files.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include "kernel/page_size.h"
#include "resource/memory/memory_image.h"
#include "resource/testing/child.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

OpenFileTable gather_with_mappings(Hold hold) {
  const auto proc = kernel::ProcDir::open(HostPid(::getpid()));
  EXPECT_TRUE(proc);
  const auto vmas = proc->smaps();
  EXPECT_TRUE(vmas);
  const ProcessHandle self{.proc = &*proc, .pidfd = nullptr, .vmas = &*vmas};
  auto table = gather_open_files(std::span(&self, 1), hold);
  EXPECT_TRUE(table) << table.error().to_string();
  return *std::move(table);
}

struct Mapping {
  Mapping(std::size_t pages, int flags, int fd = -1)
      : size(pages * kernel::page_size()), at(::mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0)) {
    EXPECT_NE(at, MAP_FAILED);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { ::munmap(at, size); }
  std::uint64_t start() const { return reinterpret_cast<std::uint64_t>(at); }
  OpenInode* in(const OpenFileTable& table) const { return table.find_mapped(HostPid(::getpid()), start()); }

  std::size_t size;
  void* at;
};

TEST(MappedFiles, TwoMappingsOfAMemfdAndItsDescriptorAreOneInode) {
  const UniqueFd fd(::memfd_create("both", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(fd.get(), 1 << 16), 0);
  const Mapping a(2, MAP_SHARED, fd.get()), b(3, MAP_PRIVATE, fd.get());
  const OpenFileTable table = gather_with_mappings(Hold::kDont);
  ASSERT_NE(a.in(table), nullptr);
  EXPECT_EQ(a.in(table), b.in(table));
  EXPECT_EQ(a.in(table), testing::find_file(table, fd.get())->inode);
  EXPECT_EQ(a.in(table)->mapped, nullptr);
  ASSERT_EQ(a.in(table)->views.size(), 2u);
  EXPECT_NE(a.in(table)->views[0].shared, a.in(table)->views[1].shared);
}

TEST(MappedFiles, SharedAnonymousMemoryHasAnInodeWithoutDescriptor) {
  const Mapping a(2, MAP_SHARED | MAP_ANONYMOUS), b(2, MAP_SHARED | MAP_ANONYMOUS);
  const Mapping own(2, MAP_PRIVATE | MAP_ANONYMOUS);
  const OpenFileTable table = gather_with_mappings(Hold::kDont);
  ASSERT_NE(a.in(table), nullptr);
  EXPECT_NE(a.in(table), b.in(table));
  EXPECT_EQ(own.in(table), nullptr);
  ASSERT_NE(a.in(table)->mapped, nullptr);
  EXPECT_EQ(a.in(table)->mapped->link, "/dev/zero (deleted)");
  EXPECT_TRUE(a.in(table)->files.empty());
  EXPECT_TRUE(table.mapped_writable.contains(a.in(table)->id));
}

TEST(MappedFiles, AProcessOutsideThatSharesTheMemoryIsNamed) {
  const Mapping memory(2, MAP_SHARED | MAP_ANONYMOUS);
  const testing::Child child;
  const auto proc = kernel::ProcDir::open(child.pid());
  ASSERT_TRUE(proc);
  const auto vmas = proc->smaps();
  ASSERT_TRUE(vmas);
  const ProcessHandle handle{.proc = &*proc, .pidfd = nullptr, .vmas = &*vmas};
  // This process never counts as an outsider, so a second child is one.
  const testing::Child other;
  const auto table = gather_open_files(std::span(&handle, 1), Hold::kDont);
  ASSERT_TRUE(table) << table.error().to_string();
  const OpenInode* const inode = table->find_mapped(child.pid(), memory.start());
  ASSERT_NE(inode, nullptr);
  const auto obstacle = mapped_file_obstacle(*inode, *table);
  ASSERT_TRUE(obstacle);
  EXPECT_EQ(obstacle->code, Errc::kExternalPeer);
  EXPECT_NE(obstacle->why.find(std::to_string(other.pid().value())), std::string::npos) << obstacle->why;
}

TEST(MappedFiles, OriginIsToldByTheName) {
  EXPECT_EQ(memory_origin("/dev/zero (deleted)"), MemoryOrigin::kAnonymous);
  EXPECT_EQ(memory_origin("/memfd:x (deleted)"), MemoryOrigin::kMemFd);
  EXPECT_EQ(memory_origin("/SYSV0000002a (deleted)"), MemoryOrigin::kSystemV);
  EXPECT_EQ(memory_origin("/dev/zero"), std::nullopt);
  EXPECT_EQ(memory_origin("/dev/shm/x (deleted)"), std::nullopt);
  kernel::Vma ring;
  ring.inode = 7;
  ring.deleted = ring.shared = true;
  ring.path = "/[aio]";
  EXPECT_EQ(nameless_link(ring), "");
  ring.path = "[anon_shmem:buffers]";
  ring.deleted = false;
  EXPECT_EQ(nameless_link(ring), "/dev/zero (deleted)");
}

}  // namespace
}  // namespace stasis
