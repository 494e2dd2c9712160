// SPDX-License-Identifier: Apache-2.0
#include "kernel/sock_diag.h"

#include <fmt/format.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "base/unique_fd.h"

namespace stasis::kernel {
namespace {

Error failed(int code, std::string_view subject) {
  return Error::from_errno(code, fmt::format("ask about {}", subject));
}

// All messages of one datagram; says whether more are wanted.
Result<bool> receive(int diag, std::string_view subject, const TakeDiagMessage& take) {
  alignas(nlmsghdr) std::array<std::byte, 32768> answer;
  const ssize_t got = ::recv(diag, answer.data(), answer.size(), 0);
  if (got < 0) return failed(errno, subject);
  auto rest = std::span<const std::byte>(answer).first(static_cast<std::size_t>(got));
  if (rest.size() < sizeof(nlmsghdr)) return malformed_answer(subject);
  while (rest.size() >= sizeof(nlmsghdr)) {
    const auto header = copy_out<nlmsghdr>(rest);
    if (header.nlmsg_len > rest.size() || header.nlmsg_len < sizeof header) return malformed_answer(subject);
    if (header.nlmsg_type == NLMSG_DONE) return false;
    const bool more = STASIS_TRY(take(header, rest.first(header.nlmsg_len).subspan(NLMSG_HDRLEN)));
    if (!more) return false;
    rest = rest.subspan(std::min<std::size_t>(NLMSG_ALIGN(header.nlmsg_len), rest.size()));
  }
  return true;
}

}  // namespace

Error malformed_answer(std::string_view subject) {
  return Error(Errc::kSystem, fmt::format("malformed answer about {} from the kernel", subject));
}

Result<void> ask_sock_diag(std::span<const std::byte> request, std::string_view subject, const TakeDiagMessage& take) {
  const UniqueFd diag(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!diag) return Error::from_errno(errno, "open a socket-diagnosis socket").with_code(Errc::kKernelFeature);
  if (::send(diag.get(), request.data(), request.size(), 0) != static_cast<ssize_t>(request.size())) {
    return failed(errno, subject).with_code(Errc::kKernelFeature);
  }
  for (bool more = true; more;) more = STASIS_TRY(receive(diag.get(), subject, take));
  return {};
}

Result<int> diag_error(std::span<const std::byte> payload, std::string_view subject) {
  if (payload.size() < sizeof(nlmsgerr)) return malformed_answer(subject);
  return -copy_out<nlmsgerr>(payload).error;
}

Result<void> for_each_attribute(std::span<const std::byte> attributes, std::string_view subject,
                                const TakeAttribute& take) {
  while (attributes.size() >= sizeof(rtattr)) {
    const auto attribute = copy_out<rtattr>(attributes);
    if (attribute.rta_len < sizeof attribute || attribute.rta_len > attributes.size()) return malformed_answer(subject);
    take(attribute.rta_type, attributes.first(attribute.rta_len).subspan(sizeof attribute));
    attributes = attributes.subspan(std::min<std::size_t>(RTA_ALIGN(attribute.rta_len), attributes.size()));
  }
  return {};
}

}  // namespace stasis::kernel
