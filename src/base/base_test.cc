// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/file.h"
#include "base/ids.h"
#include "base/unique_fd.h"
#include "stasis/result.h"

namespace stasis {
namespace {

Result<int> half(int n) {
  if (n % 2) return Error(Errc::kInvalidArgument, "odd");
  return n / 2;
}

Result<int> quarter(int n) {
  const int h = STASIS_TRY(half(n));
  return STASIS_TRY(half(h));
}

TEST(Result, TryPassesValuesAndErrorsThrough) {
  EXPECT_EQ(*quarter(8), 2);
  ASSERT_FALSE(quarter(6));
  EXPECT_EQ(quarter(6).error().code(), Errc::kInvalidArgument);
}

TEST(Error, OneLineNamesContextThenCauseThenHelp) {
  const Error error = Error::from_errno(ENOENT, "open /x").note("fd 3 of pid 7").with_help("create it");
  EXPECT_EQ(error.to_string(), "fd 3 of pid 7: open /x: No such file or directory (create it)");
  EXPECT_EQ(error.sys_errno(), ENOENT);
}

TEST(Error, TableHasUniqueCodesAndNamesAndKnownExitStatuses) {
  std::set<std::string_view> names;
  std::set<Errc> codes;
  for (const ErrcInfo& row : errc_table()) {
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
    EXPECT_TRUE(codes.insert(row.code).second) << row.name;
    EXPECT_GE(row.exit_status, 1);
    EXPECT_LE(row.exit_status, 5);
    EXPECT_EQ(&errc_info(row.code), &row);
  }
}

TEST(UniqueFd, ClosesOnceAndMoves) {
  int raw = -1;
  {
    UniqueFd a(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    raw = a.get();
    UniqueFd b(std::move(a));
    EXPECT_FALSE(a);  // NOLINT: the moved-from state is the point
    EXPECT_EQ(b.get(), raw);
  }
  EXPECT_EQ(::fcntl(raw, F_GETFD), -1);
}

TEST(File, ReadsSizelessFilesWhole) {
  const auto text = read_file(AT_FDCWD, "/proc/self/status");
  ASSERT_TRUE(text);
  EXPECT_NE(text->find("\nPid:\t"), std::string::npos);
}

TEST(File, WriteToFullDeviceSaysNoSpace) {
  const UniqueFd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  const std::byte byte{1};
  const auto result = write_full(full.get(), std::span(&byte, 1));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::kNoSpace);
}

}  // namespace
}  // namespace stasis
