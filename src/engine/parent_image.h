// SPDX-License-Identifier: Apache-2.0
// ParentImage: the image that an incremental checkpoint is a difference to.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/ids.h"
#include "image/environment.h"
#include "image/parent_file.h"
#include "resource/memory/unchanged_pages.h"

namespace stasis {

class ParentImage {
 public:
  // `output`: where the new image goes, which must not be the parent or one of its own. Errors: kParentImage, kUsage.
  static Result<ParentImage> open(const std::string& path, const std::string& output);
  ParentImage(ParentImage&&) = default;
  ParentImage& operator=(ParentImage&&) = default;

  // Says in a new image's environment whose child it is; `name`: how to find the parent, empty: decided here. kRefused:
  // the parent was made on a machine of another kind.
  Result<void> name_in(EnvironmentRecord& environment, const std::string& name) const;
  ImageHash hash() const { return reader_.image_hash(); }
  // It will be read while the process is stopped.
  void read_ahead() const;
  // The address space of that process, if the parent has it.
  std::optional<PageBase> memory_of(ImagePid pid) const;

 private:
  ParentImage(ParentFile file, ImageReader reader) : file_(std::move(file)), reader_(std::move(reader)) {}
  Result<void> refuse_output(const std::string& output) const;
  Result<void> find_memories();

  ParentFile file_;
  ImageReader reader_;
  std::string recorded_;  // path
  std::map<ImagePid, ObjRef> memories_;
};

}  // namespace stasis
