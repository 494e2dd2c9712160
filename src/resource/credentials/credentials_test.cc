// SPDX-License-Identifier: Apache-2.0
#include "resource/credentials/credentials.h"

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <fstream>
#include <numeric>

#include "resource/testing/child.h"

namespace stasis {
namespace {

using testing::Child;
using testing::Frozen;

constexpr std::uint64_t bit(unsigned capability) { return std::uint64_t{1} << capability; }

Credentials ask(Frozen& frozen) {
  Batch batch = frozen.batch();
  const CredentialsQuery query(batch);
  frozen.run(batch);
  CredentialsCache cache;
  auto credentials = query.take(batch, frozen.proc(), frozen.tid(), cache);
  EXPECT_TRUE(credentials) << credentials.error().to_string();
  return credentials ? *credentials : Credentials{};
}

Result<void> restore(Frozen& fresh, const Credentials& wanted) {
  const Credentials inherited = ask(fresh);
  const Setgroups setgroups = *read_setgroups(fresh.proc());
  Result<void> planned;
  Result<void> done = fresh.run_checked([&](Batch& batch, BatchChecks& checks) {
    planned = restore_credentials(wanted, inherited, setgroups, batch, checks);
  });
  return planned ? std::move(done) : std::move(planned);
}

// The lines of status that show credentials.
std::string shown(Frozen& frozen) {
  std::istringstream status(*frozen.proc().read("status"));
  std::string lines;
  for (std::string line; std::getline(status, line);) {
    for (const char* key : {"Uid:", "Gid:", "Groups:", "Cap"}) {
      if (line.starts_with(key)) lines += line + "\n";
    }
  }
  return lines;
}

bool set_capabilities(std::uint64_t effective, std::uint64_t permitted, std::uint64_t inheritable) {
  auto low = [](std::uint64_t set) { return static_cast<std::uint32_t>(set); };
  auto high = [](std::uint64_t set) { return static_cast<std::uint32_t>(set >> 32); };
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct data[2]{{low(effective), low(permitted), low(inheritable)},
                                 {high(effective), high(permitted), high(inheritable)}};
  return ::syscall(SYS_capset, &header, data) == 0;
}

// A service that left root but kept two capabilities.
bool become_odd() {
  const gid_t groups[] = {7, 5, 6};
  constexpr std::uint64_t kKept = bit(CAP_NET_BIND_SERVICE) | bit(CAP_KILL);
  constexpr std::uint64_t kHeld = kKept | bit(CAP_SETPCAP) | bit(CAP_SETUID) | bit(CAP_SETGID);
  return ::setgroups(3, groups) == 0 && ::prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE) == 0 &&
         ::prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT) == 0 && ::setresgid(100, 101, 102) == 0 &&
         ::setresuid(1000, 1001, 1002) == 0 && ::setfsgid(103) == 101 && ::setfsuid(1003) == 1001 &&
         set_capabilities(kHeld, kHeld, kKept) &&
         ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0) == 0 &&
         set_capabilities(bit(CAP_KILL), kKept, kKept);
}

bool become_user() {
  return ::setgroups(0, nullptr) == 0 && ::setresgid(1000, 1000, 1000) == 0 && ::setresuid(1000, 1000, 1000) == 0;
}

class CredentialsOfRoot : public ::testing::Test {
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "root alone can change credentials";
  }
};

TEST_F(CredentialsOfRoot, AreReadAsTheyWereSet) {
  Child odd(become_odd);
  ASSERT_TRUE(odd.ready());
  Frozen frozen(odd.pid());
  const Credentials credentials = ask(frozen);
  EXPECT_EQ(credentials.uids, (std::array<std::uint32_t, 4>{1000, 1001, 1002, 1003}));
  EXPECT_EQ(credentials.gids, (std::array<std::uint32_t, 4>{100, 101, 102, 103}));
  EXPECT_EQ(credentials.groups, (std::vector<std::uint32_t>{5, 6, 7}));
  EXPECT_EQ(credentials.permitted, bit(CAP_NET_BIND_SERVICE) | bit(CAP_KILL));
  EXPECT_EQ(credentials.effective, bit(CAP_KILL));
  EXPECT_EQ(credentials.inheritable, bit(CAP_NET_BIND_SERVICE) | bit(CAP_KILL));
  EXPECT_EQ(credentials.ambient, bit(CAP_NET_BIND_SERVICE));
  EXPECT_EQ(credentials.bounding & bit(CAP_SYS_MODULE), 0u);
  EXPECT_EQ(credentials.securebits, static_cast<std::uint32_t>(SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT));
}

TEST_F(CredentialsOfRoot, AreRestoredInAFreshProcess) {
  for (bool (*become)() : {become_odd, become_user}) {
    Child odd(become);
    Child fresh;
    ASSERT_TRUE(odd.ready() && fresh.ready());
    Frozen frozen_odd(odd.pid());
    Frozen frozen_fresh(fresh.pid());
    const Credentials wanted = ask(frozen_odd);
    const auto done = restore(frozen_fresh, wanted);
    EXPECT_TRUE(done) << done.error().to_string();
    EXPECT_EQ(ask(frozen_fresh), wanted);
    EXPECT_EQ(shown(frozen_fresh), shown(frozen_odd));
  }
}

TEST_F(CredentialsOfRoot, KeepCapsAloneIsRestored) {
  Child odd([] { return become_user() && ::prctl(PR_SET_KEEPCAPS, 1) == 0; });
  Child fresh(become_user);
  ASSERT_TRUE(odd.ready() && fresh.ready());
  Frozen frozen_odd(odd.pid());
  Frozen frozen_fresh(fresh.pid());
  const Credentials wanted = ask(frozen_odd);
  EXPECT_EQ(wanted.securebits, static_cast<std::uint32_t>(SECBIT_KEEP_CAPS));
  const auto done = restore(frozen_fresh, wanted);
  EXPECT_TRUE(done) << done.error().to_string();
  EXPECT_EQ(ask(frozen_fresh), wanted);
}

TEST_F(CredentialsOfRoot, ManyGroupsAreReadWhole) {
  Child many([] {
    std::vector<gid_t> groups(100);
    std::iota(groups.begin(), groups.end(), 2000);
    return ::setgroups(groups.size(), groups.data()) == 0;
  });
  Child fresh;
  ASSERT_TRUE(many.ready() && fresh.ready());
  Frozen frozen_many(many.pid());
  Frozen frozen_fresh(fresh.pid());
  const Credentials wanted = ask(frozen_many);
  EXPECT_EQ(wanted.groups.size(), 100u);
  EXPECT_TRUE(restore(frozen_fresh, wanted));
  EXPECT_EQ(shown(frozen_fresh), shown(frozen_many));
}

TEST_F(CredentialsOfRoot, CapabilitiesThatTheCallerLacksAreRefusedByName) {
  Child fresh(become_user);
  ASSERT_TRUE(fresh.ready());
  Frozen frozen(fresh.pid());
  Credentials wanted = ask(frozen);
  wanted.permitted |= bit(CAP_SYS_ADMIN);
  const auto refused = restore(frozen, wanted);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::kMissingCapability);
  EXPECT_NE(refused.error().message().find("CAP_SYS_ADMIN"), std::string::npos);
}

TEST_F(CredentialsOfRoot, GroupsThatTheCallerIsNotInAreRefused) {
  Child fresh(become_user);
  ASSERT_TRUE(fresh.ready());
  Frozen frozen(fresh.pid());
  Credentials wanted = ask(frozen);
  wanted.groups = {4711};
  EXPECT_EQ(restore(frozen, wanted).error().code(), Errc::kMissingCapability);
}

TEST_F(CredentialsOfRoot, AChangeOfUserWithoutSetpcapKeepsWhatWasHeld) {
  constexpr std::uint64_t kHeld = bit(CAP_SETUID) | bit(CAP_SETGID) | bit(CAP_KILL);
  Child fresh([] { return set_capabilities(kHeld, kHeld, 0); });
  ASSERT_TRUE(fresh.ready());
  Frozen frozen(fresh.pid());
  Credentials wanted = ask(frozen);
  wanted.uids.fill(1000);
  wanted.permitted = wanted.effective = bit(CAP_KILL);
  const auto done = restore(frozen, wanted);
  EXPECT_TRUE(done) << done.error().to_string();
  EXPECT_EQ(ask(frozen), wanted);
}

// As a user restarts: a user namespace that maps his own ids alone, all capabilities there.
bool enter_user_namespace() {
  const uid_t uid = ::getuid();
  const gid_t gid = ::getgid();
  if (::unshare(CLONE_NEWUSER) != 0) return false;
  std::ofstream("/proc/self/setgroups") << "deny";
  std::ofstream("/proc/self/uid_map") << uid << " " << uid << " 1";
  std::ofstream("/proc/self/gid_map") << gid << " " << gid << " 1";
  return ::getuid() == uid && ::getgid() == gid;
}

TEST(CredentialsOfUser, CapabilitiesOfTheNamespaceAreDroppedToWhatTheTaskHad) {
  const bool root = ::geteuid() == 0;
  Child plain([=] { return !root || become_user(); });
  Child fresh([=] { return (!root || become_user()) && ::prctl(PR_SET_DUMPABLE, 1) == 0 && enter_user_namespace(); });
  ASSERT_TRUE(plain.ready());
  if (!fresh.ready()) GTEST_SKIP() << "no user namespaces here";
  Frozen frozen_plain(plain.pid());
  Frozen frozen_fresh(fresh.pid());
  const Credentials wanted = ask(frozen_plain);
  ASSERT_EQ(wanted.permitted, 0u);
  ASSERT_NE(ask(frozen_fresh).permitted, 0u);
  EXPECT_EQ(*read_setgroups(frozen_fresh.proc()), Setgroups::kDenied);
  const auto done = restore(frozen_fresh, wanted);
  EXPECT_TRUE(done) << done.error().to_string();
  EXPECT_EQ(ask(frozen_fresh), wanted);
  EXPECT_EQ(shown(frozen_fresh), shown(frozen_plain));
}

TEST(CredentialsOfUser, NothingIsCalledWhereNothingDiffers) {
  Child fresh;
  ASSERT_TRUE(fresh.ready());
  Frozen frozen(fresh.pid());
  const Credentials own = ask(frozen);
  Batch batch = frozen.batch();
  BatchChecks checks;
  EXPECT_TRUE(restore_credentials(own, own, Setgroups::kDenied, batch, checks));
  EXPECT_TRUE(batch.empty());
}

TEST(Credentials, SurviveTheImage) {
  const Credentials credentials{.uids = {1, 2, 3, 4},
                                .gids = {5, 6, 7, 8},
                                .groups = {9, 10},
                                .inheritable = 11,
                                .permitted = 12,
                                .effective = 13,
                                .bounding = 14,
                                .ambient = 15,
                                .securebits = 16};
  std::vector<std::byte> bytes;
  ASSERT_TRUE(encode(credentials, bytes));
  EXPECT_EQ(*decode<Credentials>(bytes, "credentials"), credentials);
}

TEST(CredentialsCache, KnowsOnlyWhatItWasTold) {
  CredentialsCache cache;
  CredentialAnswer answer;
  answer.uids.fill(7);
  cache.insert(answer, Credentials{.bounding = 0x77});
  ASSERT_NE(cache.find(answer), nullptr);
  EXPECT_EQ(cache.find(answer)->bounding, 0x77u);
  answer.uids[3] = 8;
  EXPECT_EQ(cache.find(answer), nullptr);
}

TEST(CheckCredentials, RefusesWhatTheOwnerOfTheImageIsNot) {
  const ImageOwner user{.trust = ImageTrust::kOwner, .uid = 1000, .gid = 1000, .groups = {50}};
  const Credentials root{.bounding = 0xff};
  Credentials own{.bounding = 0xff};
  own.uids.fill(1000);
  own.gids.fill(1000);
  own.groups = {50, 1000};
  EXPECT_TRUE(check_credentials(own, root, user));
  for (auto change :
       {+[](Credentials& c) { c.uids[2] = 0; }, +[](Credentials& c) { c.gids[3] = 0; },
        +[](Credentials& c) { c.groups.push_back(0); }, +[](Credentials& c) { c.permitted = 1; },
        +[](Credentials& c) { c.inheritable = 1; }, +[](Credentials& c) { c.ambient = 1; },
        +[](Credentials& c) { c.securebits = SECBIT_NO_SETUID_FIXUP; }, +[](Credentials& c) { c.bounding = 0x7f; }}) {
    Credentials wanted = own;
    change(wanted);
    const auto checked = check_credentials(wanted, root, user);
    ASSERT_FALSE(checked);
    EXPECT_EQ(checked.error().code(), Errc::kRefused);
    EXPECT_TRUE(check_credentials(wanted, root, ImageOwner{}));
  }
}

// In a new user namespace a task has them all, whatever its maker had.
TEST(CheckCredentials, WhatNoProgramOfTheOwnersHasHereMayBeMissing) {
  const ImageOwner user{.trust = ImageTrust::kOwner, .uid = 1000, .gid = 1000, .groups = {}, .bounding = 0x7f};
  Credentials own{.bounding = 0x7f};
  own.uids.fill(1000);
  own.gids.fill(1000);
  EXPECT_TRUE(check_credentials(own, Credentials{.bounding = 0xff}, user));
  own.bounding = 0x3f;
  EXPECT_FALSE(check_credentials(own, Credentials{.bounding = 0xff}, user));
}

}  // namespace
}  // namespace stasis
