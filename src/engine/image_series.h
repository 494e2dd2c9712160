// SPDX-License-Identifier: Apache-2.0
// ImageSeries: the images that a `stasis run` keeps, and the lock that makes them its own.
//
//   FILE         the newest image; always there once there was one, always whole
//   FILE.N       older ones, which are kept by number, or because one that is kept is a difference to them; N counts up
//   and is never used again, so that the greatest N is the newest of them FILE.damaged what stood at FILE when it could
//   not be read and an older one was used .FILE.lock   held (flock(2)) while the run or its program lives; has the
//   run's pid
//
// A new image replaces FILE by rename(2); right before that checkpoint, FILE gets its second name FILE.N by link(2). So
// at any moment of a crash FILE is an image that was published whole. What is too old is removed after the new one
// stands.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "stasis/result.h"

namespace stasis {

// One thread at a time.
class ImageSeries {
 public:
  struct Options {
    unsigned keep = 1;    // how many images stay, at least 1
    bool chains = false;  // a new image may be a difference to the one before
  };
  // Takes the lock, and removes what an interrupted run left half written.
  // Errors: kBusy (another run has it), and whatever forbids to write in the directory.
  static Result<ImageSeries> open(const std::string& file, Options options);
  // Whoever forks without exec holds the lock, too.
  ImageSeries(ImageSeries&&) = default;
  ImageSeries& operator=(ImageSeries&&) = delete;
  ~ImageSeries();

  const std::string& file() const { return file_; }
  // What a restart can try, newest first; empty if FILE does not exist.
  Result<std::vector<std::string>> candidates() const;
  // FILE could not be read, but the older `candidate` could: it becomes FILE again.
  Result<void> fall_back_to(const std::string& candidate);

  // Around a checkpoint that writes FILE: the present image gets its other name / what is too old goes, or, where
  // no new image came to be, the name.
  Result<void> before_checkpoint();
  void after_checkpoint();
  // The name that FILE has and keeps, if a new image should be a difference to it: not if too many are in a row
  // already, or if all differences together are as large as a whole image. Empty: it should be whole. REQUIRES:
  // before_checkpoint().
  std::string parent() const;

  // All images, FILE last.
  Result<void> remove();

 private:
  struct Older {
    std::uint64_t number = 0;
    std::string name;
  };
  ImageSeries(std::string file, Options options);
  Result<void> take_lock();
  void remove_leftovers() const;
  // The name of the image that this one is a difference to, if it is one of the series; else empty.
  Result<std::string> parent_of(const std::string& name) const;
  // Ascending; regular files that are images.
  Result<std::vector<Older>> older() const;
  Result<std::vector<std::string>> names() const;
  std::string lock_name() const { return "." + name_ + ".lock"; }

  std::string file_;  // as given
  std::string name_;  // its last component
  std::string directory_path_;
  unsigned keep_;
  bool chains_;
  UniqueFd directory_;
  UniqueFd lock_;
  std::int32_t owner_ = 0;  // the process that opened it
};

}  // namespace stasis
