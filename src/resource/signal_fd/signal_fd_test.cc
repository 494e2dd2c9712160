// SPDX-License-Identifier: Apache-2.0
#include "resource/signal_fd/signal_fd.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/signalfd.h>

#include "resource/testing/round_trip.h"

namespace stasis {
namespace {

using testing::find_file;
using testing::gather_own_files;

TEST(SignalFd, MaskAndFlagsComeBack) {
  testing::RoundTrip trip;
  sigset_t mask;
  sigemptyset(&mask);
  for (const int signal : {SIGHUP, SIGCHLD, SIGRTMIN, SIGRTMAX}) sigaddset(&mask, signal);
  UniqueFd fd(::signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC));
  const std::string before = find_file(gather_own_files(), fd.get())->info.rest;
  ASSERT_NE(before.find("sigmask"), std::string::npos);
  const int flags = ::fcntl(fd.get(), F_GETFL);
  ASSERT_TRUE(trip.save({fd.get()}));
  fd.reset();
  const auto restored = trip.restore();
  ASSERT_TRUE(restored) << restored.error().to_string();
  EXPECT_EQ(find_file(gather_own_files(), trip.fd(0))->info.rest, before);
  EXPECT_EQ(::fcntl(trip.fd(0), F_GETFL), flags);
}

}  // namespace
}  // namespace stasis
