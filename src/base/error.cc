// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "stasis/result.h"

namespace stasis {
namespace {

constexpr int kOther = 1, kUse = 2, kRefuse = 3, kImage = 4, kRights = 5;

constexpr std::array kTable = {
    ErrcInfo{Errc::kInternal, "internal", kOther, "a defect of Stasis itself; please report it"},
    ErrcInfo{Errc::kSystem, "system", kOther, "a system call failed unexpectedly"},
    ErrcInfo{Errc::kNoMemory, "no_memory", kOther, "memory ran out"},
    ErrcInfo{Errc::kVanished, "vanished", kOther, "the process ended meanwhile"},
    ErrcInfo{Errc::kTimeout, "timeout", kOther, "the operation took longer than --timeout"},
    ErrcInfo{Errc::kInterrupted, "interrupted", kOther, "Stasis was told to stop by a signal"},
    ErrcInfo{Errc::kNoSpace, "no_space", kOther, "the disk or a quota is full"},
    ErrcInfo{Errc::kNoSuchProcess, "no_such_process", kOther, "there is no process with that pid"},
    ErrcInfo{Errc::kIo, "io", kOther, "reading or writing failed"},
    ErrcInfo{Errc::kTargetLost, "target_lost", kOther, "the process died while Stasis held it"},
    ErrcInfo{Errc::kUsage, "usage", kUse, "the command line is wrong"},
    ErrcInfo{Errc::kRefused, "refused", kRefuse, "something can't be saved or restored; nothing was changed"},
    ErrcInfo{Errc::kUnsupportedObject, "unsupported_object", kRefuse, "a descriptor of a kind that can't be saved"},
    ErrcInfo{Errc::kUnsupportedTask, "unsupported_task", kRefuse, "a task in a state that can't be saved"},
    ErrcInfo{Errc::kUnsupportedMemory, "unsupported_memory", kRefuse, "a mapping of a kind that can't be saved"},
    ErrcInfo{Errc::kSeccomp, "seccomp", kRefuse, "the process is under seccomp and its filters can't be suspended"},
    ErrcInfo{Errc::kAlreadyTraced, "already_traced", kRefuse, "another tracer holds the process"},
    ErrcInfo{Errc::kExternalPeer, "external_peer", kRefuse, "a descriptor is connected to something outside the tree"},
    ErrcInfo{Errc::kKernelFeature, "kernel_feature", kRefuse, "this kernel lacks something that is needed"},
    ErrcInfo{Errc::kCpuFeature, "cpu_feature", kRefuse, "this CPU lacks features that the program was using"},
    ErrcInfo{Errc::kVdsoMismatch, "vdso_mismatch", kRefuse, "this kernel's vdso differs from the one in the image"},
    ErrcInfo{Errc::kFileChanged, "file_changed", kRefuse, "a file differs from what it was at the checkpoint"},
    ErrcInfo{Errc::kFileMissing, "file_missing", kRefuse, "a file that the program had open is gone"},
    ErrcInfo{Errc::kPidTaken, "pid_taken", kRefuse, "a pid of the image is in use"},
    ErrcInfo{Errc::kParentImage, "parent_image", kRefuse, "the parent of an incremental image is missing or altered"},
    ErrcInfo{Errc::kOutputExists, "output_exists", kRefuse, "the output is something that must not be overwritten"},
    ErrcInfo{Errc::kOwnTree, "own_tree", kRefuse, "Stasis itself belongs to the tree"},
    ErrcInfo{Errc::kBadImage, "bad_image", kImage, "the image is malformed"},
    ErrcInfo{Errc::kImageTruncated, "image_truncated", kImage, "the image ends too early"},
    ErrcInfo{Errc::kImageChecksum, "image_checksum", kImage, "a checksum of the image does not match"},
    ErrcInfo{Errc::kImageVersion, "image_version", kImage, "the image's format version is not known"},
    ErrcInfo{Errc::kImageUnknownRecord, "image_unknown_record", kImage,
             "the image has a critical record of an unknown kind"},
    ErrcInfo{Errc::kImageArchitecture, "image_architecture", kImage, "the image was made on another architecture"},
    ErrcInfo{Errc::kImageAborted, "image_aborted", kImage, "the checkpoint that wrote the image failed"},
    ErrcInfo{Errc::kImageTooDeep, "image_too_deep", kImage, "records are nested deeper than allowed"},
    ErrcInfo{Errc::kNotPermitted, "not_permitted", kRights, "the kernel does not permit it"},
    ErrcInfo{Errc::kNotOwner, "not_owner", kRights, "the process belongs to somebody else"},
    ErrcInfo{Errc::kMissingCapability, "missing_capability", kRights, "a capability is missing"},
    ErrcInfo{Errc::kInvalidArgument, "invalid_argument", kOther, "an argument is out of its range"},
    ErrcInfo{Errc::kNotFound, "not_found", kOther, "there is no such object"},
    ErrcInfo{Errc::kTypeMismatch, "type_mismatch", kOther, "the object is of another type"},
    ErrcInfo{Errc::kExists, "exists", kOther, "the object is already there"},
    ErrcInfo{Errc::kNested, "nested", kOther, "the call may not be made from within itself"},
    ErrcInfo{Errc::kOverflow, "overflow", kOther, "a number is too large"},
    ErrcInfo{Errc::kBusy, "busy", kOther, "the object is in use"},
    ErrcInfo{Errc::kDraining, "draining", kOther, "the queue is being drained"},
    ErrcInfo{Errc::kDisabled, "disabled", kOther, "the work is disabled"},
    ErrcInfo{Errc::kWrongWorker, "wrong_worker", kOther, "the work belongs to another worker"},
    ErrcInfo{Errc::kWouldDeadlock, "would_deadlock", kOther, "the call would wait for itself"},
    ErrcInfo{Errc::kStopped, "stopped", kOther, "the worker has stopped"},
};

static_assert(std::ranges::is_sorted(kTable, std::ranges::less_equal{}, &ErrcInfo::code) ||
                  std::ranges::is_sorted(kTable, {}, &ErrcInfo::code),
              "errc_table must be in ascending order");

Errc code_of(int sys_errno) {
  switch (sys_errno) {
    case ENOSPC:
    case EDQUOT:
      return Errc::kNoSpace;
    case ESRCH:
      return Errc::kVanished;
    case EPERM:
    case EACCES:
      return Errc::kNotPermitted;
    case ENOMEM:
      return Errc::kNoMemory;
    default:
      return Errc::kSystem;
  }
}

}  // namespace

std::span<const ErrcInfo> errc_table() noexcept { return kTable; }

const ErrcInfo& errc_info(Errc code) noexcept {
  const auto row = std::ranges::find(kTable, code, &ErrcInfo::code);
  return row == kTable.end() ? kTable.front() : *row;
}

Error Error::from_errno(int sys_errno, std::string_view operation, std::source_location where) {
  Error error(code_of(sys_errno), std::string(operation) + ": " + std::strerror(sys_errno), where);
  error.sys_errno_ = sys_errno;
  return error;
}

Error&& Error::note(std::string_view context) && {
  message_.insert(0, std::string(context) + ": ");
  return std::move(*this);
}

Error&& Error::with_help(std::string_view help) && {
  help_ = help;
  return std::move(*this);
}

std::string Error::to_string() const { return help_.empty() ? message_ : message_ + " (" + help_ + ")"; }

}  // namespace stasis
