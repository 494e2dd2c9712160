// SPDX-License-Identifier: Apache-2.0
#include "engine/lazy/lazy_restart.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "engine/lazy/page_server.h"
#include "kernel/pidfd.h"

namespace stasis {

Result<void> LazyRestart::enable(kernel::Userfaultfd& uffd) {
  using namespace kernel::uffd;
  STASIS_TRY(uffd.enable(kEventFork | kEventRemap | kEventRemove | kEventUnmap | kThreadId));
  return {};
}

Result<void> LazyRestart::check_possible(const ImageReader& image) {
  if (!image.seekable()) {
    return Error(Errc::kRefused, "--lazy needs an image that can be read again later, not a stream")
        .with_help("save it to a file first");
  }
  const auto try_it = []() -> Result<void> {
    auto uffd = STASIS_TRY(kernel::Userfaultfd::create(kernel::UffdFaults::kAll));
    return enable(uffd);
  };
  auto possible = try_it();
  if (possible || possible.error().code() != Errc::kNotPermitted) return possible;
  return Error(Errc::kMissingCapability,
               "--lazy takes CAP_SYS_PTRACE: serving the page faults of a program that may fork")
      .with_help("run as root, on an image of root's, or leave --lazy out");
}

Result<LazyRestart> LazyRestart::start(const ImageReader& image, const std::string& name, bool keeps_stderr) {
  auto [ours, theirs] = STASIS_TRY(PageLine::create_pair());
  const pid_t server = ::fork();
  if (server < 0) return Error::from_errno(errno, "fork");
  if (server == 0) {
    ours.close();
    be_page_server({.image = image, .name = name, .line = std::move(theirs), .keeps_stderr = keeps_stderr});
  }
  return LazyRestart(std::move(ours));
}

Result<void> LazyRestart::add_process(HostPid pid, Whom whom) const {
  const PageWord word = whom == Whom::kProcess ? PageWord::kProcess : PageWord::kInit;
  return line_.send({.word = word, .descriptor = STASIS_TRY(kernel::pidfd_open(pid)), .object = {}, .areas = {}});
}

Result<void> LazyRestart::add_memory(ObjRef object, const kernel::Userfaultfd& uffd, std::vector<PageRun> areas) const {
  UniqueFd copy(::fcntl(uffd.fd(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return Error::from_errno(errno, "duplicate a userfaultfd");
  return line_.send(
      {.word = PageWord::kMemory, .descriptor = std::move(copy), .object = object, .areas = std::move(areas)});
}

Result<void> LazyRestart::release() {
  STASIS_TRY(line_.send({.word = PageWord::kRelease, .descriptor = {}, .object = {}, .areas = {}}));
  line_.close();
  return {};
}

Error LazyRestart::explain(Error error) const {
  auto reason = line_ ? line_.failure() : std::optional<Error>();
  return reason ? *std::move(reason) : error;
}

}  // namespace stasis
