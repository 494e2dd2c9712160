// SPDX-License-Identifier: Apache-2.0
#include "engine/image_rights.h"

#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "kernel/become_user.h"
#include "kernel/proc_dir.h"

namespace stasis {
namespace {
constexpr gid_t kOverflowGid = 65534;  // sysctl kernel.overflowgid
}

Result<ImageOwner> owner_of_image(int fd, const std::string& name) {
  if (::geteuid() != 0) return ImageOwner{};
  struct ::stat st{};
  if (::fstat(fd, &st) != 0) return Error::from_errno(errno, "stat " + name);
  const bool others_write = (st.st_mode & (S_IWGRP | S_IWOTH)) != 0 && (S_ISREG(st.st_mode) || S_ISFIFO(st.st_mode));
  if (st.st_uid == 0 && others_write) {
    return Error(Errc::kNotPermitted, name + ": others may write this image of root's")
        .with_help("chmod go-w it if you trust what it holds");
  }
  if (st.st_uid == 0) return ImageOwner{};
  const auto self = STASIS_TRY(kernel::ProcDir::open(HostPid(::getpid())));
  const std::uint64_t bounding = STASIS_TRY(self.status()).cap_bounding;
  ImageOwner owner{.trust = ImageTrust::kOwner, .uid = st.st_uid, .gid = st.st_gid, .groups = {}, .bounding = bounding};
  if (const ::passwd* const user = ::getpwuid(st.st_uid)) {
    owner.gid = user->pw_gid;
    int count = 64;
    std::vector<gid_t> groups(64);
    if (::getgrouplist(user->pw_name, user->pw_gid, groups.data(), &count) >= 0)
      groups.resize(static_cast<std::size_t>(count));
    owner.groups = std::move(groups);
  } else if (::getgrgid(st.st_gid) != nullptr) {
    // Nobody says what groups the user is in. A directory may have given the file a group that its owner is not in
    // (set-group-ID); that of a number which nobody has named is the user's own.
    owner.gid = kOverflowGid;
  }
  return owner;
}

Result<void> become_owner(const ImageOwner& owner) {
  if (owner.trust == ImageTrust::kCaller) return {};
  log::info("restart", "the image belongs to user {}: restarting with that user's rights", owner.uid);
  auto became = kernel::become_user(owner.uid, owner.gid, owner.groups);
  if (!became) return std::move(became).error().note(std::string("becoming the owner of the image"));
  return {};
}

}  // namespace stasis
