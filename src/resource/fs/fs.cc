// SPDX-License-Identifier: Apache-2.0
#include "resource/fs/fs.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cerrno>
#include <memory>

#include "resource/checkpoint_context.h"

namespace stasis {
namespace {

bool leads_to(const std::string& path, const struct ::stat& wanted) {
  struct ::stat found{};
  return ::stat(path.c_str(), &found) == 0 && found.st_dev == wanted.st_dev && found.st_ino == wanted.st_ino;
}

Result<std::optional<Obstacle>> find_obstacle(const kernel::ProcDir& proc, const FsRecord& record) {
  const auto obstacle = [&](const std::string& object, std::string why, std::string help = {}) {
    return std::optional(Obstacle{.code = Errc::kUnsupportedTask,
                                  .pid = proc.pid(),
                                  .object = object,
                                  .why = std::move(why),
                                  .help = std::move(help)});
  };
  const struct ::stat root = STASIS_TRY(proc.link_stat("root"));
  if (!leads_to(record.root, root)) {
    return obstacle("root directory " + record.root, "its path does not lead to it (any more)",
                    "a program whose root directory exists can be saved");
  }
  const struct ::stat cwd = STASIS_TRY(proc.link_stat("cwd"));
  if (leads_to(record.working_directory, cwd)) return std::optional<Obstacle>();
  return obstacle("working directory " + record.working_directory, "its path does not lead to it (any more)",
                  "a program in a directory that exists can be saved");
}

}  // namespace

namespace {

Result<UniqueFd> open_root(const RestartContext& ctx, const std::string& path) {
  // What is set-user-id would find there what its owner put there.
  if (ctx.owner.trust == ImageTrust::kOwner) {
    return Error(Errc::kNotPermitted,
                 fmt::format("the image belongs to user {}, who may not change the root directory (to {})",
                             ctx.owner.uid, path))
        .with_help("if you trust it, make it your own (chown)");
  }
  auto root = ctx.open_path(path, O_PATH | O_DIRECTORY);
  if (!root) return std::move(root).error().note("root directory");
  return root;
}

}  // namespace

Result<FsState> gather_fs(const kernel::ProcDir& proc, const kernel::ProcStatus& status) {
  FsState state{.pid = proc.pid(), .record = {}, .obstacle = {}};
  state.record.root = STASIS_TRY(proc.root_link());
  state.record.working_directory = STASIS_TRY(proc.cwd_link());
  state.record.umask = status.umask.value_or(0);  // only a zombie has none
  state.obstacle = STASIS_TRY(find_obstacle(proc, state.record));
  return state;
}

Result<void> checkpoint_fs(void* context, ObjRef ref, void* object) {
  const auto& state = *static_cast<FsState*>(object);
  if (state.obstacle) return state.obstacle->to_error();
  return CheckpointContext::of(context).write_object(ref, kind::kFs, state.record);
}

Result<void*> restore_fs(void* context, ObjRef) {
  RestartContext& ctx = RestartContext::of(context);
  auto fs = std::make_unique<RestoredFs>();
  fs->record = STASIS_TRY(ctx.image.read<FsRecord>());
  if (fs->record.root != "/") {
    auto root = STASIS_TRY(open_root(ctx, fs->record.root));
    fs->root = STASIS_TRY(ctx.park(std::move(root)));
  }
  auto directory = ctx.open_path(fs->record.working_directory, O_PATH | O_DIRECTORY);
  if (!directory) return std::move(directory).error().note("working directory");
  fs->working_directory = STASIS_TRY(ctx.park(*std::move(directory)));
  return to_object(std::move(fs));
}

void RestoredFs::install(Batch& batch, BatchChecks& checks) const {
  if (root) {
    checks.add(batch.call(SYS_fchdir, root.get()), fmt::format("go to root directory {}", record.root));
    checks.add(batch.call(SYS_chroot, batch.text(".")), fmt::format("chroot to {}", record.root));
  }
  checks.add(batch.call(SYS_fchdir, working_directory.get()),
             fmt::format("go to working directory {}", record.working_directory));
  checks.add(batch.call(SYS_umask, record.umask & 0777), "set umask");
}

}  // namespace stasis
