// SPDX-License-Identifier: Apache-2.0
// Opening paths that came from somebody else: openat2(2), and somebody else's rights (man 7 credentials, setfsuid(2)).
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "stasis/result.h"

namespace stasis::kernel {

// open(2) with O_CLOEXEC that follows no magic link (/proc/PID/fd/N and the like). `mode` only with O_CREAT and
// O_TMPFILE. Missing: kFileMissing. Linux 5.6.
Result<UniqueFd> open_without_magic(const std::string& path, int flags, mode_t mode = 0);

// A user as the file system sees one.
struct FileCredentials {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
};

// While one lives, this thread (no other) touches files with these rights, without the capabilities that would override
// them. Needs CAP_SETUID and CAP_SETGID.
class ScopedFileCredentials {
 public:
  static Result<ScopedFileCredentials> take(const FileCredentials& credentials);
  ScopedFileCredentials(ScopedFileCredentials&& other) noexcept;
  ScopedFileCredentials& operator=(ScopedFileCredentials&&) = delete;
  ~ScopedFileCredentials();

 private:
  ScopedFileCredentials() = default;
  FileCredentials previous_;
  bool active_ = false;
};

}  // namespace stasis::kernel
