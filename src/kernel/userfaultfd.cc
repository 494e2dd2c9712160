// SPDX-License-Identifier: Apache-2.0
#include "kernel/userfaultfd.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <array>
#include <cerrno>

#include "kernel/raw.h"
#include "kernel/without.h"

namespace stasis::kernel {
namespace {

static_assert(sizeof(uffd_msg) == 32);

uffdio_range range_of(const PageRun& pages) { return {.start = pages.start, .len = pages.size()}; }

Error failed(std::string_view what, const PageRun& pages) {
  const int code = errno;
  Error error = Error::from_errno(code, fmt::format("{} {:#x}-{:#x}", what, pages.start, pages.end));
  if (code == ENOENT) return std::move(error).with_code(Errc::kNotFound);
  if (code == EBUSY) return std::move(error).with_code(Errc::kBusy);
  return error;
}

// What a filling ioctl says: its own count where some of it was done, else the error.
Result<Userfaultfd::Filled> filled(long result, std::int64_t progress, std::uint64_t size, std::string_view what,
                                   std::uint64_t start) {
  using End = Userfaultfd::Filled::End;
  const int code = errno;
  if (result == 0) return Userfaultfd::Filled{.bytes = size, .end = End::kDone};
  if (code == EAGAIN && progress > 0) {
    // It came so far; why no farther the next call tells.
    return Userfaultfd::Filled{.bytes = static_cast<std::uint64_t>(progress), .end = End::kDone};
  }
  if (code == EAGAIN) return Userfaultfd::Filled{.bytes = 0, .end = End::kEventWaits};
  if (code == EEXIST) return Userfaultfd::Filled{.bytes = 0, .end = End::kPageThere};
  if (code == ENOENT) return Userfaultfd::Filled{.bytes = 0, .end = End::kNotRegistered};
  errno = code;
  return failed(what, {start, start + size});
}

UffdEvent decode(const uffd_msg& message) {
  switch (message.event) {
    case UFFD_EVENT_FORK:
      return UffdForked{UniqueFd(static_cast<int>(message.arg.fork.ufd))};
    case UFFD_EVENT_REMAP:
      return UffdMoved{.from = message.arg.remap.from, .to = message.arg.remap.to, .length = message.arg.remap.len};
    case UFFD_EVENT_REMOVE:
      return UffdRemoved{{.start = message.arg.remove.start, .end = message.arg.remove.end}};
    case UFFD_EVENT_UNMAP:
      return UffdUnmapped{{.start = message.arg.remove.start, .end = message.arg.remove.end}};
    default:
      return UffdFault{.address = message.arg.pagefault.address,
                       .write = (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0,
                       .protected_page = (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0,
                       .thread = message.arg.pagefault.feat.ptid};
  }
}

}  // namespace

int userfaultfd_flags(UffdFaults faults) {
  return O_CLOEXEC | O_NONBLOCK | (faults == UffdFaults::kUserMode ? UFFD_USER_MODE_ONLY : 0);
}

Result<Userfaultfd> Userfaultfd::create(UffdFaults faults) {
  UniqueFd fd(static_cast<int>(raw("userfaultfd", SYS_userfaultfd, userfaultfd_flags(faults))));
  if (!fd) return Error::from_errno(errno, "userfaultfd");
  return Userfaultfd(std::move(fd));
}

Result<std::uint64_t> Userfaultfd::enable(std::uint64_t wanted, std::uint64_t welcome) {
  const auto lacking = [](std::string why) {
    return Error(Errc::kKernelFeature, std::move(why)).with_help("`stasis check` tells what this kernel has");
  };
  if ((wanted & uffd::kWpAsync) != 0 && without("wp_async")) return lacking("wp_async is switched off");
  uffdio_api api{};
  // One refused leaves the descriptor as it was.
  for (const std::uint64_t features : {wanted | welcome, wanted}) {
    api = {.api = UFFD_API, .features = features, .ioctls = 0};
    if (raw("uffdio_api", SYS_ioctl, fd_.get(), UFFDIO_API, &api) == 0) return features;
    if (errno != EINVAL) return Error::from_errno(errno, "enable userfaultfd");
  }
  return lacking(fmt::format("this kernel's userfaultfd lacks some of the features {:#x}", wanted));
}

Result<void> Userfaultfd::register_range(const PageRun& pages, unsigned modes) const {
  uffdio_register request{.range = range_of(pages), .mode = modes, .ioctls = 0};
  if (raw("uffdio_register", SYS_ioctl, fd_.get(), UFFDIO_REGISTER, &request) == 0) return {};
  return failed("register", pages);
}

Result<void> Userfaultfd::unregister(const PageRun& pages) const {
  uffdio_range range = range_of(pages);
  if (raw("uffdio_unregister", SYS_ioctl, fd_.get(), UFFDIO_UNREGISTER, &range) == 0) return {};
  return failed("unregister", pages);
}

Result<Userfaultfd::Answer> Userfaultfd::write_protect(const PageRun& pages, bool protect) const {
  uffdio_writeprotect request{.range = range_of(pages), .mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
  if (raw("uffdio_writeprotect", SYS_ioctl, fd_.get(), UFFDIO_WRITEPROTECT, &request) == 0) return Answer::kDone;
  if (errno == EAGAIN) return Answer::kEventWaits;
  return failed(protect ? "write-protect" : "take the write protection off", pages);
}

Result<Userfaultfd::Filled> Userfaultfd::copy(std::uint64_t to, std::span<const std::byte> from,
                                              Protection protection) const {
  uffdio_copy request{.dst = to,
                      .src = reinterpret_cast<std::uint64_t>(from.data()),
                      .len = from.size(),
                      .mode = protection == Protection::kWriteProtected ? UFFDIO_COPY_MODE_WP : 0,
                      .copy = 0};
  const long result = raw("uffdio_copy", SYS_ioctl, fd_.get(), UFFDIO_COPY, &request);
  return filled(result, request.copy, from.size(), "fill", to);
}

Result<Userfaultfd::Filled> Userfaultfd::zero(const PageRun& pages) const {
  uffdio_zeropage request{.range = range_of(pages), .mode = 0, .zeropage = 0};
  const long result = raw("uffdio_zeropage", SYS_ioctl, fd_.get(), UFFDIO_ZEROPAGE, &request);
  return filled(result, request.zeropage, pages.size(), "fill with zeros", pages.start);
}

Result<void> Userfaultfd::wake(const PageRun& pages) const {
  uffdio_range range = range_of(pages);
  if (raw_no_fault(SYS_ioctl, fd_.get(), UFFDIO_WAKE, &range) == 0) return {};
  return failed("wake", pages);
}

Result<std::vector<UffdEvent>> Userfaultfd::read_events() const {
  std::array<uffd_msg, 64> messages{};
  std::vector<UffdEvent> events;
  const long got = raw("uffd_read", SYS_read, fd_.get(), messages.data(), sizeof messages);
  if (got < 0) {
    if (errno == EAGAIN || errno == EINTR) return events;
    return Error::from_errno(errno, "read the events of a userfaultfd");
  }
  const std::size_t count = static_cast<std::size_t>(got) / sizeof(uffd_msg);
  for (std::size_t i = 0; i < count; ++i) events.push_back(decode(messages[i]));
  return events;
}

}  // namespace stasis::kernel
