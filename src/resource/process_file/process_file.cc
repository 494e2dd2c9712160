// SPDX-License-Identifier: Apache-2.0
#include "resource/process_file/process_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>

#include "kernel/proc_dir.h"
#include "kernel/proc_text.h"
#include "resource/checkpoint_context.h"

namespace stasis {
namespace {

constexpr std::uint32_t kFlags = O_ACCMODE | O_NONBLOCK | O_DIRECTORY | O_NOFOLLOW | O_PATH;

bool is_plain(std::string_view name) {
  return std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

// Up to the next slash, which goes, too.
std::string_view take_component(std::string_view& rest) {
  const auto slash = rest.find('/');
  const std::string_view component = rest.substr(0, slash);
  rest.remove_prefix(slash == std::string_view::npos ? rest.size() : slash + 1);
  return component;
}

// The tree's own numbers of its processes.
std::optional<HostPid> process_with(ImagePid pid, const OpenFileTable& tree) {
  for (const DescriptorTable& table : tree.descriptors) {
    const auto proc = kernel::ProcDir::open(table.pid);
    if (!proc) continue;
    const auto status = proc->status();
    if (!status) continue;
    if ((status->ns_tgid.empty() ? table.pid.value() : status->ns_tgid.back()) == pid.value()) return table.pid;
  }
  return std::nullopt;
}

// Does the path still lead to it, where its holder looks? (The number may be another process's by now.)
bool leads_to_it(const OpenFile& file) {
  struct ::stat found{};
  const std::string path = fmt::format("/proc/{}/root{}", file.holders.front().task().value(), file.link);
  return ::lstat(path.c_str(), &found) == 0 && found.st_dev == file.stat.st_dev && found.st_ino == file.stat.st_ino;
}

// Opened by the task itself.
class RestoredProcessFile : public RestoredFile {
 public:
  explicit RestoredProcessFile(ProcessFileRecord record) : record_(std::move(record)) {}
  std::optional<OwnCall> own_call() const override {
    if (fd) return std::nullopt;
    return OwnCall{.number = SYS_openat,
                   .arguments = {record_.flags & kFlags, static_cast<std::uint64_t>(record_.offset)},
                   .path = record_.path};
  }

 private:
  ProcessFileRecord record_;
};

}  // namespace

std::optional<ProcessFileName> parse_process_file(std::string_view path) {
  constexpr std::string_view kProc = "/proc/";
  if (!path.starts_with(kProc)) return std::nullopt;
  path.remove_prefix(kProc.size());
  std::int32_t pid = 0, tid = 0;
  if (!kernel::text::number(take_component(path), pid) || pid <= 0) return std::nullopt;
  if (path.starts_with("task/")) {
    take_component(path);
    if (!kernel::text::number(take_component(path), tid) || tid <= 0) return std::nullopt;
  }
  ProcessFileName name{.pid = ImagePid(pid), .thread = ImagePid(tid), .name = path};
  const std::string_view first = take_component(path);
  const bool deeper = first == "net" || first == "attr";
  if (!is_plain(first) || (deeper ? !is_plain(path) : !path.empty())) return std::nullopt;
  return name;
}

bool claims_process_file(const OpenFile& file, const OpenFileTable&) {
  constexpr std::string_view kProc = "/proc/";
  return file.link.starts_with(kProc) && file.link.size() > kProc.size() && file.link[kProc.size()] >= '0' &&
         file.link[kProc.size()] <= '9';
}

std::optional<Obstacle> process_file_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                              const CheckpointPolicy&) {
  const auto name = parse_process_file(file.link);
  const auto process = name ? process_with(name->pid, tree) : std::nullopt;
  if (name && (!process || !leads_to_it(file))) {
    return file.obstacle(Errc::kExternalPeer,
                         fmt::format("it belongs to process {}, which is not in the process tree", name->pid.value()),
                         "checkpoint a process that is the parent of both");
  }
  // Other processes' threads are not all there when it is opened again.
  if (!name || (name->thread.value() != 0 && *process != file.pid())) {
    return file.obstacle(Errc::kUnsupportedObject, "this file of a process can't be saved");
  }
  const bool shared =
      std::ranges::any_of(file.holders, [&](const FileHolder& holder) { return holder.pid != file.pid(); });
  if (!shared && file.carrier == nullptr) return std::nullopt;
  return file.obstacle(Errc::kUnsupportedObject, "a process's own file in /proc that several processes share");
}

Result<void> checkpoint_process_file(void* context, ObjRef ref, void* object) {
  const OpenFile& file = *static_cast<OpenFile*>(object);
  const ProcessFileRecord record{.path = file.link, .flags = file.info.flags & kFlags, .offset = file.info.pos};
  return CheckpointContext::of(context).write_object(ref, kind::kProcessFile, record);
}

Result<void*> restore_process_file(void* context, ObjRef) {
  const RestartContext& ctx = RestartContext::of(context);
  ProcessFileRecord record = STASIS_TRY(RestartContext::of(context).image.read<ProcessFileRecord>());
  if (!parse_process_file(record.path)) return Error(Errc::kBadImage, "a path that no process's file has");
  // Tasks open it before their rights are reduced.
  if (ctx.owner.trust != ImageTrust::kCaller && ctx.owner.uid != 0) {
    return Error(Errc::kRefused, fmt::format("the image opens {}, which is done with the rights of root", record.path))
        .with_help("restart as the owner, or give the image to root");
  }
  return to_object<RestoredFile>(std::make_unique<RestoredProcessFile>(std::move(record)));
}

}  // namespace stasis
