// SPDX-License-Identifier: Apache-2.0
// OutputFile: a file that appears under its name whole or not at all.
#pragma once

#include <string>

#include "base/unique_fd.h"
#include "stasis/image.h"
#include "stasis/result.h"

namespace stasis {

// Written beside its target with mode 0600: without a name (O_TMPFILE) where that works, else as ".NAME.RANDOM.part".
// publish() gives it its name; destroyed before, it is gone. What stands at the target is only ever replaced if it is a
// regular file (checked at create and again at publish). One thread.
class OutputFile {
 public:
  // Errors: kOutputExists, kInvalidArgument (no file name in `path`), kSystem, kNotPermitted, kNoSpace.
  static Result<OutputFile> create(const std::string& path, Staging staging, Existing existing);
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile() { discard(); }

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }
  // Empty for a file without a name.
  std::string staging_path() const;
  // Syncs, names, syncs the directory. On error nothing is visible, except where syncing the directory itself failed.
  Result<void> publish(Durability durability);
  void discard();

 private:
  OutputFile(UniqueFd directory, std::string path, std::string name, Existing existing)
      : directory_(std::move(directory)), path_(std::move(path)), name_(std::move(name)), existing_(existing) {}
  Result<void> open_unnamed();
  Result<void> open_named();
  Result<void> check_target() const;
  Result<void> link_unnamed();
  Result<void> rename_named();
  Result<void> sync_directory() const;

  UniqueFd directory_;
  UniqueFd fd_;
  std::string path_;     // as the caller named it, for messages
  std::string name_;     // last component
  std::string staging_;  // name in directory_ while not published; empty: no name
  Existing existing_;
};

}  // namespace stasis
