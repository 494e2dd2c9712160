// SPDX-License-Identifier: Apache-2.0
// The descriptor table of a process (or of several, with CLONE_FILES): which number leads to which open file.
#pragma once

#include <cstdint>
#include <span>
#include <tuple>
#include <vector>

#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/locks/file_lock.h"
#include "resource/locks/file_signals.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "stasis/image_schema.h"
#include "tracee/batch_checks.h"
#include "tracee/gate.h"

namespace stasis {

struct DescriptorRecord {
  std::int32_t fd = 0;
  bool close_on_exec = false;
  ObjRef file;
  std::uint16_t kind = 0;  // of the file's object

  static constexpr auto fields() {
    using R = DescriptorRecord;
    return std::tuple{field<1>("fd", &R::fd), field<2>("close_on_exec", &R::close_on_exec), field<3>("file", &R::file),
                      field<4>("kind", &R::kind)};
  }
};

// A POSIX record lock of the process, by a descriptor through which it was taken.
struct PosixLockRecord {
  std::int32_t fd = 0;
  FileLockRecord lock;

  static constexpr auto fields() {
    return std::tuple{field<1>("fd", &PosixLockRecord::fd), field<2>("lock", &PosixLockRecord::lock)};
  }
};

struct FileTableRecord {
  static constexpr RecordType kType = RecordType::kFileTable;
  static constexpr std::string_view kName = "file_table";

  std::vector<DescriptorRecord> descriptors;  // ascending by number

  std::vector<PosixLockRecord> posix_locks;
  std::vector<FileSignalsRecord> signals;  // each open file in one table only

  static constexpr auto fields() {
    return std::tuple{field<1>("descriptors", &FileTableRecord::descriptors),
                      field<2>("posix_locks", &FileTableRecord::posix_locks),
                      field<3>("signals", &FileTableRecord::signals)};
  }
};

// Object = DescriptorTable* (of the checkpoint's OpenFileTable). Writes the files' objects, then the table.
Result<void> checkpoint_file_table(void* context, ObjRef ref, void* object);
Result<void*> restore_file_table(void* context, ObjRef ref);

inline constexpr ObjOps kFileTableOps = {kind::kFileTable,     "file_table",          nullptr,
                                         RestoredObject::drop, checkpoint_file_table, restore_file_table};

// The number at and above which the coordinator must park its descriptors at the restart of this image: one above the
// highest that any table in it uses.
Result<int> parking_base(const ImageReader& image);

// A table whose files exist again, parked in the coordinator.
//
// Every task inherits the parked descriptors when it is made, so installing comes after all its children were made from
// it (they need them too), and is the last thing that uses parked descriptors (fchdir, exe) in that task.
//   auto install = STASIS_TRY(RestoredFileTable::Install::plan(*table));
//   do { Batch batch = process.batch(); BatchChecks checks;
//        install.fill(batch, checks); run and verify } while (!install.done());
class RestoredFileTable : public RestoredObject {
 public:
  struct Entry {
    int fd;
    bool close_on_exec;
    RestoredFile* file;  // in the object hash
  };
  const std::vector<Entry>& entries() const { return entries_; }
  // Fails for the first number that has no file to lead to. May be called once all tables are restored.
  Result<void> check_bound() const;
  // After Install in a task: takes a duplicate of what the task opened by itself, for those who watch it (epoll).
  Result<void> adopt_own(HostPid task, const RestartContext& context) const;

  // When all sets are filled: adds as many calls as the batch has room for by which this task itself watches what
  // nobody can watch in its place. True: that was all.
  bool watch_own(Batch& batch, BatchChecks& checks) const;

  class Install {
   public:
    // REQUIRES: the object hash still has the table's files, and keeps them until done().
    static Result<Install> plan(const RestoredFileTable& table);
    // Adds as many calls as the batch has room for: dup3 of each parked descriptor, close_range of all numbers that are
    // not in the table, what the task must open itself, and at last what sends signals and the process's record locks,
    // which closing would release.
    void fill(Batch& batch, BatchChecks& checks);
    bool done() const { return done_; }

   private:
    explicit Install(const RestoredFileTable& table)
        : entries_(table.entries_), locks_(table.locks_), signals_(table.signals_) {}
    bool duplicate(Batch& batch, BatchChecks& checks);
    bool close_others(Batch& batch, BatchChecks& checks);
    bool open_own(Batch& batch, BatchChecks& checks);
    bool set_signals(Batch& batch, BatchChecks& checks);
    bool lock(Batch& batch, BatchChecks& checks);
    bool close_gap(Batch& batch, BatchChecks& checks, unsigned first, unsigned last) const;

    std::span<const Entry> entries_;
    std::span<const PosixLockRecord> locks_;
    std::span<const FileSignalsRecord> signals_;
    std::size_t duplicated_ = 0;
    std::size_t opened_ = 0;
    std::size_t signalled_ = 0;
    std::size_t gaps_ = 0;  // entries whose gap before them is closed; one more: the one behind all
    std::size_t locked_ = 0;
    bool done_ = false;
  };

 private:
  friend Result<void*> restore_file_table(void* context, ObjRef ref);
  std::vector<Entry> entries_;
  std::vector<PosixLockRecord> locks_;
  std::vector<FileSignalsRecord> signals_;
};

}  // namespace stasis
