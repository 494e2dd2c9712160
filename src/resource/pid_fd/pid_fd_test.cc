// SPDX-License-Identifier: Apache-2.0
#include "resource/pid_fd/pid_fd.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "kernel/pidfd.h"
#include "resource/testing/child.h"
#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::RoundTrip;

TEST(PidFd, OfAProcessOfTheTreeIsOpenedByTheTaskItself) {
  RoundTrip trip;
  const auto self = kernel::pidfd_open(HostPid(::getpid()));
  ASSERT_TRUE(self);
  const auto saved = trip.save({self->get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  const auto call = trip.file(0)->own_call();
  ASSERT_TRUE(call);
  EXPECT_EQ(call->number, SYS_pidfd_open);
  EXPECT_EQ(call->arguments[0], static_cast<std::uint64_t>(::getpid()));
}

TEST(PidFd, OfAProcessThatIsGoneSaysSoAgain) {
  RoundTrip trip;
  const pid_t child = ::fork();
  if (child == 0) ::_exit(7);
  const auto fd = kernel::pidfd_open(HostPid(child));
  ASSERT_TRUE(fd);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  const auto saved = trip.save({fd->get()});
  ASSERT_TRUE(saved) << saved.error().to_string();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  pollfd poll{.fd = trip.fd(0), .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&poll, 1, 0), 1);
  EXPECT_EQ(kernel::pidfd_send_signal(trip.fd(0), 0).error().code(), Errc::kVanished);
}

TEST(PidFd, OfAProcessOutsideIsAnObstacle) {
  const testing::Child outside;
  const auto fd = kernel::pidfd_open(outside.pid());
  ASSERT_TRUE(fd);
  const OpenFileTable table = testing::gather_own_files();
  const auto obstacle = pid_fd_obstacle(*testing::find_file(table, fd->get()), table, {});
  ASSERT_TRUE(obstacle);
  EXPECT_EQ(obstacle->code, Errc::kExternalPeer);
}

TEST(PidFd, HostileRecordsAreRefused) {
  EXPECT_FALSE(testing::restore_record(PidFdRecord{.pid = ImagePid(-3)}, kind::kPidFd));
}

}  // namespace
}  // namespace stasis
