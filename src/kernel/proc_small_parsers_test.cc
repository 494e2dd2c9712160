// SPDX-License-Identifier: Apache-2.0
// The parsers of auxv, cgroup, children, fdinfo, limits, locks, mountinfo, sched and timers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <cstring>
#include <string>

#include "kernel/multicast.h"
#include "kernel/proc_auxv.h"
#include "kernel/proc_cgroup.h"
#include "kernel/proc_children.h"
#include "kernel/proc_fdinfo.h"
#include "kernel/proc_limits.h"
#include "kernel/proc_locks.h"
#include "kernel/proc_mountinfo.h"
#include "kernel/proc_sched.h"
#include "kernel/proc_text.h"
#include "kernel/proc_timers.h"
#include "kernel/waiting_connections.h"

namespace stasis::kernel {
namespace {

using testing::ElementsAre;

TEST(Auxv, EndsAtNullAndDropsTheRest) {
  const std::uint64_t words[] = {6, 4096, 3, 64, 0, 0, 9, 9};
  const std::string_view bytes(reinterpret_cast<const char*>(words), sizeof words);
  const auto auxv = parse_auxv(bytes);
  ASSERT_TRUE(auxv);
  EXPECT_THAT(*auxv, ElementsAre(AuxvEntry{6, 4096}, AuxvEntry{3, 64}, AuxvEntry{0, 0}));
  EXPECT_EQ(auxv_value(*auxv, 6), 4096u);
  EXPECT_EQ(auxv_value(*auxv, 7), std::nullopt);
  EXPECT_FALSE(parse_auxv(bytes.substr(0, 32)));
  EXPECT_FALSE(parse_auxv(bytes.substr(0, 40)));
  EXPECT_TRUE(parse_auxv("")->empty());
}

TEST(Cgroup, ReadsBothVersions) {
  const auto list = parse_cgroup("9:name=systemd:/a:b\n8:cpu,cpuacct:/\n0::/user.slice\n");
  ASSERT_TRUE(list);
  ASSERT_EQ(list->size(), 3u);
  EXPECT_EQ((*list)[0].path, "/a:b");
  EXPECT_EQ((*list)[1].controllers, "cpu,cpuacct");
  EXPECT_EQ((*list)[2].hierarchy, 0u);
  EXPECT_FALSE(parse_cgroup("0:/\n"));
  EXPECT_FALSE(parse_cgroup("x::/\n"));
}

TEST(Children, ReadsPidsAndRefusesOtherThings) {
  EXPECT_THAT(*parse_children("12 34 "), ElementsAre(HostPid(12), HostPid(34)));
  EXPECT_TRUE(parse_children("")->empty());
  EXPECT_FALSE(parse_children("12 x"));
  EXPECT_FALSE(parse_children("0"));
  EXPECT_FALSE(parse_children("-3"));
}

TEST(FdInfo, KeepsTheLinesOfItsKind) {
  const auto info = parse_fdinfo(
      "pos:\t-1\nflags:\t02100002\nmnt_id:\t15\nino:\t1063\neventfd-count:                2\nino:99 sdev:1\n"
      "lock:\t1: OFDLCK ADVISORY  READ -1 fe:01:77 10 19\n");
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(info->pos, -1);
  EXPECT_EQ(info->flags, 02100002u);
  EXPECT_EQ(info->mnt_id, 15);
  EXPECT_EQ(info->ino, 1063u);
  EXPECT_EQ(info->rest, "eventfd-count:                2\nino:99 sdev:1\n");
  EXPECT_EQ(fdinfo_value(info->rest, "eventfd-count"), "2");
  EXPECT_EQ(fdinfo_value(info->rest, "clockid"), std::nullopt);
  ASSERT_EQ(info->locks.size(), 1u);
  EXPECT_EQ(info->locks[0].kind, LockKind::kOfd);
  EXPECT_EQ(info->locks[0].pid, -1);
  EXPECT_EQ(info->locks[0].start, 10u);
  EXPECT_EQ(info->locks[0].end, 19u);
}

TEST(FdInfo, RefusesMalformedHeads) {
  EXPECT_FALSE(parse_fdinfo(""));
  EXPECT_FALSE(parse_fdinfo("pos:\t0\nflags:\t02\n"));
  EXPECT_FALSE(parse_fdinfo("pos:\t0\nflags:\t09\nmnt_id:\t1\n"));
  EXPECT_FALSE(parse_fdinfo("pos:\t0\nflags:\t02\nmnt_id:\t1\nlock:\tgarbage\n"));
  EXPECT_FALSE(parse_fdinfo("pos:\t0\nflags:\t02\nmnt_id:\t1\n")->ino);
}

std::string limits_text() {
  std::string text = "Limit                     Soft Limit           Hard Limit           Units     \n";
  for (std::size_t i = 0; i < kLimitCount; ++i) {
    std::string line(limit_name(i));
    line.resize(26, ' ');
    text += line + std::to_string(i) + "                    unlimited            units     \n";
  }
  return text;
}

TEST(Limits, ReadsAllOfThem) {
  const auto limits = parse_limits(limits_text());
  ASSERT_TRUE(limits) << limits.error().to_string();
  EXPECT_EQ((*limits)[RLIMIT_NOFILE].soft, static_cast<std::uint64_t>(RLIMIT_NOFILE));
  EXPECT_EQ((*limits)[RLIMIT_NOFILE].hard, kUnlimited);
}

TEST(Limits, RefusesMissingAndMalformedOnes) {
  std::string text = limits_text();
  EXPECT_FALSE(parse_limits(text.substr(0, text.find("Max realtime timeout"))));
  EXPECT_FALSE(parse_limits(text.replace(text.find("unlimited"), 9, "unlimitid")));
}

TEST(Locks, ReadsWaitersLeasesAndOpenEnds) {
  const auto locks = parse_locks(
      "1: POSIX  ADVISORY  WRITE 3548 fd:01:78 0 EOF\n1: -> POSIX  ADVISORY  WRITE 9 fd:01:78 0 EOF\n"
      "2: LEASE  ACTIVE    READ 12 fd:01:79 0 EOF\n3: FLOCK  ADVISORY  READ 5 <none>:0 0 EOF\n");
  ASSERT_TRUE(locks) << locks.error().to_string();
  ASSERT_EQ(locks->size(), 4u);
  EXPECT_FALSE((*locks)[0].waiting);
  EXPECT_EQ((*locks)[0].dev_major, 0xfdu);
  EXPECT_EQ((*locks)[0].inode, 78u);
  EXPECT_EQ((*locks)[0].end, std::nullopt);
  EXPECT_TRUE((*locks)[1].waiting);
  EXPECT_EQ((*locks)[2].kind, LockKind::kLease);
  EXPECT_EQ((*locks)[2].state, "ACTIVE");
  EXPECT_EQ((*locks)[3].access, LockAccess::kRead);
}

TEST(Mountinfo, ReadsOptionalTagsAndEscapes) {
  const auto mounts = parse_mountinfo(
      "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue\n"
      "22 27 0:21 / /proc rw - proc proc rw\n"
      "23 27 0:22 / /x rw - tmpfs  rw\n");
  ASSERT_TRUE(mounts) << mounts.error().to_string();
  EXPECT_EQ((*mounts)[0].mount_point, "/mnt 2");
  EXPECT_THAT((*mounts)[0].tags, ElementsAre("shared:1", "master:2"));
  EXPECT_EQ((*mounts)[0].super_options, "rw,errors=continue");
  EXPECT_TRUE((*mounts)[1].tags.empty());
  EXPECT_EQ((*mounts)[2].source, "");
  EXPECT_FALSE(parse_mountinfo("36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1\n"));
  EXPECT_FALSE(parse_mountinfo("36 35 980 / / rw - a b c\n"));
}

TEST(Sched, ReadsTheClockAndIsNotFooledByTheName) {
  const auto info = parse_sched(
      "se.exec_start : 1 (5918, #threads: 1)\n-----\nse.exec_start                                :        "
      "876592.803721\n"
      "nr_switches                                  :                   17\n");
  ASSERT_TRUE(info) << info.error().to_string();
  EXPECT_EQ(info->exec_start_ns, 876592803721u);
  EXPECT_EQ(info->switches, 17u);
  EXPECT_FALSE(parse_sched("x\nse.exec_start : 12\n"));
  EXPECT_FALSE(parse_sched("")->exec_start_ns);
}

TEST(Timers, ReadsSignalAndThreadTimers) {
  const auto timers = parse_timers(
      "ID: 0\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n"
      "ID: 4711\nsignal: 14/0\nnotify: signal/tid.2635\nClockID: -6\n");
  ASSERT_TRUE(timers) << timers.error().to_string();
  ASSERT_EQ(timers->size(), 2u);
  EXPECT_EQ((*timers)[0].value, 0x7fff86e452a8u);
  EXPECT_EQ((*timers)[0].notify, SIGEV_SIGNAL);
  EXPECT_EQ((*timers)[0].target, 2634);
  EXPECT_EQ((*timers)[1].id, 4711);
  EXPECT_EQ((*timers)[1].notify, SIGEV_SIGNAL | 4);
  EXPECT_EQ((*timers)[1].clock_id, -6);
  EXPECT_FALSE(parse_timers("signal: 60/0\n"));
  EXPECT_FALSE(parse_timers("ID: 0\nnotify: whistle/pid.1\n"));
  EXPECT_TRUE(parse_timers("")->empty());
}

TEST(Malformed, ShowsTheLineShortenedAndPrintable) {
  const Error error = text::malformed("stat", "a\x1b[31m" + std::string(200, 'x'));
  EXPECT_EQ(error.message().find('\x1b'), std::string::npos);
  EXPECT_LT(error.message().size(), 140u);
}

TEST(Multicast, GroupsOfInterfacesAreRead) {
  const auto four = parse_igmp(
      "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"
      "1\tlo        :     2      V3\n\t\t\t\t030201EF     1 0:00000000\t\t0\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"
      "4\teth0      :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\t\t\t\tnonsense\n");
  ASSERT_EQ(four.size(), 3u);
  EXPECT_EQ(four[0].address.to_string(), "239.1.2.3:0");
  EXPECT_EQ(four[0].interface_name, "lo");
  EXPECT_EQ(four[2].interface, 4u);
  EXPECT_EQ(four[2].interface_name, "eth0");
  const auto six =
      parse_igmp6("1    lo              ff120000000000000000000000000001     1 0000000C 0\nnonsense\n7 x ff\n");
  ASSERT_EQ(six.size(), 1u);
  EXPECT_EQ(six[0].address.to_string(), "[ff12::1]:0");
  EXPECT_TRUE(is_multicast(six[0].address));
  EXPECT_TRUE(is_multicast(four[0].address));
  EXPECT_FALSE(is_multicast({.bytes = {127, 0, 0, 1}}));
}

TEST(WaitingConnections, AreThoseThatNobodyHas) {
  const std::string head = "   0: 0100007F:1F90 0100007F:C350 ";
  const auto found =
      parse_waiting_connections(head + "01 00000000:00000005 00:00000000 00000000     0        0 0 1 0000 100 0\n" +
                                head + "01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000 100 0\n" +
                                head + "06 00000000:00000000 03:00001000 00000000     0        0 0 3 0000\n" + head +
                                "08 00000000:00000001 00:00000000 00000000     0        0 0 1 0000 100 0\nnonsense\n");
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].unread, 5u);
  EXPECT_EQ(found[0].local.port, 8080);
  EXPECT_EQ(found[0].remote.port, 50000);
  EXPECT_EQ(found[1].state, 8);
}

}  // namespace
}  // namespace stasis::kernel
