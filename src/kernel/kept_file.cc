// SPDX-License-Identifier: Apache-2.0
#include "kernel/kept_file.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <array>
#include <span>

#include "base/file.h"

namespace stasis::kernel {
namespace {

bool leaves_enough(int fd) {
  rlimit limit{};
  return ::getrlimit(RLIMIT_NOFILE, &limit) == 0 && static_cast<rlim_t>(fd) < limit.rlim_cur / 2;
}

}  // namespace

KeptFile KeptFile::open(const ProcDir& proc, const std::string& name) {
  auto fd = proc.open_file(name, O_RDONLY);
  if (!fd || !leaves_enough(fd->get())) return {};
  return KeptFile(*std::move(fd));
}

Result<std::string> KeptFile::read() const {
  std::string text;
  std::array<char, 4096> part;
  for (;;) {
    const std::size_t got =
        STASIS_TRY(pread_full(fd_.get(), std::as_writable_bytes(std::span(part)), static_cast<off_t>(text.size())));
    text.append(part.data(), got);
    if (got < part.size()) return text;
  }
}

}  // namespace stasis::kernel
