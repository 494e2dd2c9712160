// SPDX-License-Identifier: Apache-2.0
#include "resource/locks/file_signals.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "resource/testing/child.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

FileSignalsRecord look(int fd) {
  const OpenFileTable table = testing::gather_own_files();
  const auto record = look_at_signals(*testing::find_file(table, fd), table);
  EXPECT_TRUE(record) << record.error().to_string();
  return record ? *record : FileSignalsRecord{};
}

// Adds nothing to a process, but says which calls there would be.
std::size_t calls_for(const FileSignalsRecord& record) {
  testing::Child child;
  testing::Frozen frozen(child.pid());
  Batch batch = frozen.batch();
  BatchChecks checks;
  restore_signals(record, batch, checks);
  return checks.size();
}

TEST(FileSignals, OwnerSignalAndAsyncAreSeen) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  EXPECT_TRUE(look(write_end.get()).empty());
  ASSERT_EQ(::fcntl(read_end.get(), F_SETOWN, ::getpid()), 0);
  ASSERT_EQ(::fcntl(read_end.get(), F_SETSIG, SIGURG), 0);  // which is ignored here
  ASSERT_EQ(::fcntl(read_end.get(), F_SETFL, O_ASYNC), 0);
  // A group is only looked at: nothing may send it signals.
  ASSERT_EQ(::fcntl(write_end.get(), F_SETOWN, -::getpgrp()), 0);
  EXPECT_EQ(look(write_end.get()).owner_kind, FileOwnerKind::kGroup);
  EXPECT_EQ(look(write_end.get()).owner.value(), ::getpgrp());
  const FileSignalsRecord record = look(read_end.get());
  EXPECT_EQ(record.owner_kind, FileOwnerKind::kProcess);
  EXPECT_EQ(record.owner.value(), ::getpid());
  EXPECT_EQ(record.signal, static_cast<unsigned>(SIGURG));
  EXPECT_TRUE(record.asynchronous);
  EXPECT_EQ(calls_for(record), 3u);
  EXPECT_EQ(calls_for(FileSignalsRecord{}), 0u);
}

TEST(FileSignals, ALeaseIsSeenWithItsOwner) {
  const sample::ScratchDir dir;
  const UniqueFd file(::open((dir / "file").c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(::fcntl(file.get(), F_SETLEASE, F_RDLCK), 0);
  const FileSignalsRecord record = look(file.get());
  EXPECT_EQ(record.lease, FileLease::kRead);
  EXPECT_EQ(record.owner_kind, FileOwnerKind::kProcess);
  EXPECT_EQ(record.owner.value(), ::getpid());
  // Somebody wants to write: the lease is being broken.
  EXPECT_EQ(::fcntl(file.get(), F_SETSIG, SIGURG), 0);
  const UniqueFd writer(::open((dir / "file").c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
  EXPECT_FALSE(writer);
  const OpenFileTable table = testing::gather_own_files();
  const auto broken = look_at_signals(*testing::find_file(table, file.get()), table);
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().code(), Errc::kUnsupportedObject);
}

TEST(FileSignals, AnOwnerOutsideIsAnError) {
  const testing::Child outside;
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  ASSERT_EQ(::fcntl(read_end.get(), F_SETOWN, outside.pid().value()), 0);
  const OpenFileTable table = testing::gather_own_files();
  const auto record = look_at_signals(*testing::find_file(table, read_end.get()), table);
  ASSERT_FALSE(record);
  EXPECT_EQ(record.error().code(), Errc::kExternalPeer);
}

}  // namespace
}  // namespace stasis
