// SPDX-License-Identifier: Apache-2.0
#include "kernel/namespaces.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <optional>
#include <string>

#include "base/file.h"
#include "kernel/clocks.h"
#include "kernel/proc_dir.h"
#include "kernel/trial.h"

namespace stasis::kernel {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kTwoDays = 2 * 24 * 3600 * kSecond;

Error wrong(std::string what) { return Error(Errc::kInternal, std::move(what)); }

std::uint64_t namespace_id(const char* name) {
  struct ::stat info{};
  return ::stat(fmt::format("/proc/self/ns/{}", name).c_str(), &info) == 0 ? info.st_ino : 0;
}

// In the child that becomes process 1: is everything as the plan said?
Result<void> inspect(uid_t uid, gid_t gid, std::int64_t monotonic_before, const NamespacePlan& plan) {
  STASIS_TRY(settle_in_namespaces());
  if (::getpid() != 1) return wrong("not process 1");
  if (::getuid() != uid || ::geteuid() != uid || ::getgid() != gid) return wrong("ids changed");
  // /proc is that of the new namespace: it shows this process as 1 and nobody else.
  const ProcDir self = STASIS_TRY(ProcDir::open(HostPid(1)));
  if (STASIS_TRY(self.status()).ns_pid != std::vector<std::int32_t>{1}) return wrong("/proc shows outer pids");
  if (ProcDir::open(HostPid(::getppid() == 0 ? 2 : ::getppid()))) return wrong("others are visible");
  if (plan.time) {
    const std::int64_t passed = read_clocks().monotonic_ns - monotonic_before;
    if (passed < plan.time->monotonic_ns || passed > plan.time->monotonic_ns + 600 * kSecond) {
      return wrong("the monotonic clock was not shifted");
    }
  }
  return {};
}

// Runs the whole sequence in a child of the calling process.
Result<void> go(const NamespacePlan& plan) {
  return try_in_child([&]() -> Result<void> {
    const uid_t uid = ::geteuid();
    const gid_t gid = ::getegid();
    const std::int64_t before = read_clocks().monotonic_ns;
    const std::uint64_t ipc = namespace_id("ipc"), mount = namespace_id("mnt");
    STASIS_TRY(enter_namespaces(plan));
    if (namespace_id("ipc") == ipc || namespace_id("mnt") == mount) return wrong("namespaces were kept");
    return try_in_child([&] { return inspect(uid, gid, before, plan); });
  });
}

// As somebody without privileges; 65534 is nobody.
Result<void> as_user(uid_t uid, const std::function<Result<void>()>& action) {
  return try_in_child([&]() -> Result<void> {
    if (::setresgid(uid, uid, uid) != 0 || ::setresuid(uid, uid, uid) != 0) return Error::from_errno(errno, "setuid");
    ::prctl(PR_SET_DUMPABLE, 1);  // an exec would do that
    return action();
  });
}

bool can_become_others() {
  return as_user(1000, [] { return Result<void>(); }) && as_user(65534, [] { return Result<void>(); });
}

// Skips the test when the kernel forbids it; other failures fail the test.
#define EXPECT_DONE_OR_SKIP(result)                                                                             \
  do {                                                                                                          \
    const auto done = (result);                                                                                 \
    if (!done && (done.error().code() == Errc::kNotPermitted || done.error().code() == Errc::kKernelFeature)) { \
      GTEST_SKIP() << done.error().to_string();                                                                 \
    }                                                                                                           \
    EXPECT_TRUE(done) << done.error().to_string();                                                              \
  } while (0)

TEST(Namespaces, APrivilegedProcessNeedsNoUserNamespace) {
  const auto needed = user_namespace_needed();
  ASSERT_TRUE(needed);
  if (*needed != UserNamespace::kKeep) GTEST_SKIP() << "needs CAP_SYS_ADMIN";
  const std::uint64_t user = namespace_id("user");
  EXPECT_DONE_OR_SKIP(try_in_child([&]() -> Result<void> {
    STASIS_TRY(enter_namespaces({.user = UserNamespace::kKeep}));
    return namespace_id("user") == user ? Result<void>() : wrong("a user namespace was made");
  }));
  EXPECT_DONE_OR_SKIP(go({.user = UserNamespace::kKeep}));
}

TEST(Namespaces, TheCallerGetsThemWithAUserNamespace) { EXPECT_DONE_OR_SKIP(go({})); }

TEST(Namespaces, TheClocksCanBeShifted) {
  EXPECT_DONE_OR_SKIP(go({.time = TimeShift{.monotonic_ns = kTwoDays, .boottime_ns = kTwoDays}}));
}

TEST(Namespaces, ShiftsAddUpWhenNested) {
  EXPECT_DONE_OR_SKIP(try_in_child([]() -> Result<void> {
    const std::int64_t before = read_clocks().monotonic_ns;
    STASIS_TRY(enter_namespaces({.time = TimeShift{kTwoDays, kTwoDays}}));
    return try_in_child([&]() -> Result<void> {
      STASIS_TRY(settle_in_namespaces());
      STASIS_TRY(go({.time = TimeShift{kSecond * 3600, 0}}));
      return try_in_child([&]() -> Result<void> {
        STASIS_TRY(enter_namespaces({.user = UserNamespace::kKeep, .time = TimeShift{kTwoDays, 0}}));
        return try_in_child([&]() -> Result<void> {
          return read_clocks().monotonic_ns - before >= 2 * kTwoDays ? Result<void>() : wrong("shifts do not add up");
        });
      });
    });
  }));
}

TEST(Namespaces, NobodyAndOrdinaryUsersGetThem) {
  if (!can_become_others()) GTEST_SKIP() << "needs root to become somebody else";
  for (const uid_t uid : {1000u, 65534u}) {
    EXPECT_DONE_OR_SKIP(as_user(uid, []() -> Result<void> {
      if (STASIS_TRY(user_namespace_needed()) != UserNamespace::kNew) return wrong("still privileged");
      STASIS_TRY(go({}));
      return go({.time = TimeShift{kTwoDays, 0}});
    }));
  }
}

TEST(Namespaces, AUserInsideAUserNamespaceWithoutSubordinateIdsGetsThem) {
  const auto nested = [] {
    return try_in_child([]() -> Result<void> {
      STASIS_TRY(enter_namespaces({}));
      return try_in_child([]() -> Result<void> {
        STASIS_TRY(settle_in_namespaces());
        STASIS_TRY(go({}));
        return go({.user = UserNamespace::kKeep});  // process 1 there has all capabilities
      });
    });
  };
  EXPECT_DONE_OR_SKIP(nested());
  if (can_become_others()) EXPECT_DONE_OR_SKIP(as_user(65534, nested));
}

TEST(Namespaces, WithoutPrivilegesAndUserNamespaceTheErrorNamesTheCapability) {
  if (!can_become_others()) GTEST_SKIP() << "needs root to become somebody else";
  const auto result = as_user(65534, [] { return enter_namespaces({.user = UserNamespace::kKeep}); });
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::kNotPermitted);
  EXPECT_NE(result.error().help().find("CAP_SYS_ADMIN"), std::string::npos);
}

TEST(TimeOffsets, AreAddedWithNormalisedNanoseconds) {
  const std::string current = "monotonic           10         500000000\nboottime            -3         900000000\n";
  EXPECT_EQ(shifted_time_offsets(current, {700'000'000, 200'000'000}),
            "monotonic 11 200000000\nboottime -2 100000000\n");
  EXPECT_EQ(shifted_time_offsets(current, {-700'000'000, -kSecond}), "monotonic 9 800000000\nboottime -4 900000000\n");
  EXPECT_EQ(shifted_time_offsets("1 0 0\n7 0 0\n", {-1, 1}), "1 -1 999999999\n7 0 1\n");
}

TEST(TimeOffsets, AreReadAsNanoseconds) {
  const std::string text = "monotonic           10         500000000\nboottime            -3         900000000\n";
  EXPECT_EQ(parse_time_offsets(text), (TimeShift{10'500'000'000, -2'100'000'000}));
  EXPECT_EQ(parse_time_offsets("1 2 0\n7 0 3\n"), (TimeShift{2 * kSecond, 3}));
  EXPECT_EQ(parse_time_offsets(""), TimeShift{});
  EXPECT_FALSE(parse_time_offsets("monotonic 1\n"));
  EXPECT_FALSE(parse_time_offsets("monotonic 9223372036854775807 0\n"));
}

TEST(TimeOffsets, OfAProcessAreThoseOfItsTimeNamespace) {
  const auto ours = time_offsets(*ProcDir::open(HostPid(::getpid())));
  ASSERT_TRUE(ours);
  EXPECT_DONE_OR_SKIP(try_in_child([&]() -> Result<void> {
    STASIS_TRY(enter_namespaces({.time = TimeShift{kTwoDays, -1}}));
    return try_in_child([&]() -> Result<void> {
      STASIS_TRY(settle_in_namespaces());
      const ProcDir self = STASIS_TRY(ProcDir::open(HostPid(::getpid())));
      const TimeShift here = STASIS_TRY(time_offsets(self));
      const TimeShift wanted{ours->monotonic_ns + kTwoDays, ours->boottime_ns - 1};
      return here == wanted ? Result<void>() : wrong("other offsets than were set");
    });
  }));
}

TEST(TimeOffsets, MalformedTextAndOverflowAreRefused) {
  EXPECT_FALSE(shifted_time_offsets("", {}));
  EXPECT_FALSE(shifted_time_offsets("monotonic 1\n", {}));
  EXPECT_FALSE(shifted_time_offsets("monotonic 1 1000000000\n", {}));
  EXPECT_EQ(shifted_time_offsets("monotonic 9223372036854775807 0\n", {kSecond, 0}).error().code(), Errc::kOverflow);
}

TEST(Trial, ErrorsComeBackWithCodeMessageAndHelp) {
  const auto result = try_in_child([]() -> Result<void> { return Error(Errc::kPidTaken, "taken").with_help("wait"); });
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::kPidTaken);
  EXPECT_EQ(result.error().to_string(), "taken (wait)");
  EXPECT_TRUE(try_in_child([] { return Result<void>(); }));
}

TEST(Trial, ADeathIsReported) {
  const auto result = try_in_child([]() -> Result<void> {
    ::kill(::getpid(), SIGKILL);
    return {};
  });
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Errc::kInternal);
}

TEST(Clocks, RunForwardsAndTheBootHasAnId) {
  const Clocks a = read_clocks(), b = read_clocks();
  EXPECT_LE(a.monotonic_ns, b.monotonic_ns);
  EXPECT_LE(a.monotonic_ns, a.boottime_ns);
  EXPECT_GT(a.realtime_ns, 0);
  EXPECT_EQ(boot_id()->size(), 36u);
}

}  // namespace
}  // namespace stasis::kernel
