// SPDX-License-Identifier: Apache-2.0
#include "engine/check.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <iterator>
#include <thread>

#include "base/printable.h"
#include "kernel/proc_dir.h"
#include "resource/fs/fs.h"
#include "resource/memory/memory_image.h"
#include "resource/open_file/gather.h"
#include "resource/open_file/other_name.h"
#include "resource/task_obstacles/task_obstacles.h"

namespace stasis {
namespace {

using kernel::FeatureState;
using kernel::Need;

// A restart needs one of these: the old pids here, or namespaces where they are free.
constexpr std::array<std::string_view, 3> kWaysToPids = {"clone3_set_tid", "privileged_namespaces", "user_namespace"};

bool all_there(const std::vector<FeatureState>& features, Need need) {
  return std::ranges::all_of(features, [&](const FeatureState& f) { return f.available || f.feature->need != need; });
}

bool some_way_to_pids(const std::vector<FeatureState>& features) {
  return std::ranges::any_of(features, [](const FeatureState& f) {
    return f.available && std::ranges::find(kWaysToPids, f.feature->name) != kWaysToPids.end();
  });
}

std::string_view need_name(Need need) {
  switch (need) {
    case Need::kCheckpoint:
      return "checkpoint";
    case Need::kRestart:
      return "restart";
    case Need::kSome:
      return "some";
    case Need::kFaster:
      return "faster";
  }
  return "some";
}

std::string kernel_release() {
  utsname names{};
  if (::uname(&names) != 0) return "unknown";
  return fmt::format("{} {}", names.release, names.machine);
}

void append(Obstacles& to, Obstacles from) { std::ranges::move(from, std::back_inserter(to)); }

// The tree below a process, itself first; what ends meanwhile is left out.
std::vector<kernel::ProcDir> list_tree(kernel::ProcDir root) {
  std::vector<kernel::ProcDir> tree;
  tree.push_back(std::move(root));
  for (std::size_t i = 0; i < tree.size(); ++i) {
    const auto children = tree[i].children();
    if (!children) continue;
    for (const HostPid child : *children) {
      auto proc = kernel::ProcDir::open(child);
      if (proc && !proc->has_ended()) tree.push_back(*std::move(proc));
    }
  }
  return tree;
}

// Memory and files, of processes that we may look into.
Result<void> add_contents(std::span<const kernel::ProcDir> tree, const CheckpointPolicy& policy, Obstacles& obstacles) {
  std::vector<std::vector<kernel::Vma>> vmas;
  for (const kernel::ProcDir& proc : tree) {
    vmas.push_back(STASIS_TRY(proc.smaps()));
    find_other_names(vmas.back());
    append(obstacles, find_memory_obstacles(proc.pid(), vmas.back()));
    const kernel::ProcStatus status = STASIS_TRY(proc.status());
    if (const FsState fs = STASIS_TRY(gather_fs(proc, status)); fs.obstacle) obstacles.push_back(*fs.obstacle);
  }
  std::vector<ProcessHandle> handles;
  for (std::size_t i = 0; i < tree.size(); ++i) {
    handles.push_back({.proc = &tree[i], .pidfd = nullptr, .vmas = &vmas[i]});
  }
  const OpenFileTable files = STASIS_TRY(gather_open_files(handles, Hold::kDont));
  append(obstacles, collect_obstacles(files, policy));
  return {};
}

Result<ProcessReport> look_at_tree(HostPid pid, const CheckpointPolicy& policy, std::vector<HostPid>& descendants) {
  const Observer observer = STASIS_TRY(Observer::here());
  const UsedSemaphores semaphores = STASIS_TRY(UsedSemaphores::look());
  std::vector<kernel::ProcDir> tree = list_tree(STASIS_TRY(kernel::ProcDir::open(pid)));
  for (std::size_t i = 1; i < tree.size(); ++i) descendants.push_back(tree[i].pid());
  ProcessReport report{
      .pid = pid, .name = STASIS_TRY(tree.front().thread_comm(pid)), .processes = tree.size(), .obstacles = {}};
  std::vector<kernel::ProcDir> open;
  for (std::size_t i = 0; i < tree.size(); ++i) {
    const auto facts = look_at_task(tree[i], observer, semaphores);
    if (!facts && i > 0 && tree[i].has_ended()) continue;
    if (!facts) return facts.error();
    append(report.obstacles, find_task_obstacles(*facts, observer));
    if (facts->has_contents()) open.push_back(std::move(tree[i]));
  }
  if (!open.empty()) STASIS_TRY(add_contents(open, policy, report.obstacles));
  return report;
}

// Is one of them on its way out, or gone? It may have been looked at when it had nothing any more.
bool some_end(std::span<const HostPid> descendants) {
  const auto ends = [](HostPid pid) {
    const auto proc = kernel::ProcDir::open(pid);
    return !proc || proc->has_ended();
  };
  constexpr int kTries = 20;
  for (int i = 0; i < kTries; ++i) {
    if (std::ranges::any_of(descendants, ends)) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

bool is_fine(const Result<ProcessReport>& report, HostPid root) {
  return report && std::ranges::all_of(report->obstacles, [&](const Obstacle& o) { return o.pid == root; });
}

}  // namespace

bool KernelReport::can_save() const { return all_there(features, Need::kCheckpoint); }
bool KernelReport::can_restart() const { return all_there(features, Need::kRestart) && some_way_to_pids(features); }

KernelReport check_kernel() { return {.release = kernel_release(), .features = kernel::probe_features()}; }

Result<ProcessReport> check_process(HostPid pid, const CheckpointPolicy& policy) {
  // What is wrong with one that has just ended is nobody's trouble.
  constexpr int kTries = 50;
  for (int i = 1;; ++i) {
    std::vector<HostPid> descendants;
    auto report = look_at_tree(pid, policy, descendants);
    if (i == kTries || is_fine(report, pid) || !some_end(descendants)) return report;
  }
}

std::string to_text(const KernelReport& report) {
  std::string text = fmt::format("Linux {}\n", report.release);
  for (const FeatureState& state : report.features) {
    text +=
        fmt::format("  {:3} {:22} {}\n", state.available ? "yes" : "no", state.feature->name, state.feature->purpose);
    if (!state.available) text += fmt::format("      {:22} {}; {}\n", "", state.why_not, state.feature->without);
  }
  text += fmt::format("Programs can {}be saved and {}be restarted here.\n", report.can_save() ? "" : "not ",
                      report.can_restart() ? "" : "not ");
  return text;
}

std::string to_text(const ProcessReport& report) {
  std::string who = fmt::format("process {} ({})", report.pid.value(), printable(report.name));
  if (report.processes > 1) who += fmt::format(" with its {} descendants", report.processes - 1);
  if (report.can_save()) return who + " can be saved\n";
  std::string text = who + " can't be saved:\n";
  for (const Obstacle& obstacle : report.obstacles) {
    text += "  " + printable(obstacle.to_string()) + "\n";
    if (!obstacle.help.empty()) text += "      " + printable(obstacle.help) + "\n";
  }
  return text;
}

nlohmann::ordered_json to_json(const KernelReport& report) {
  nlohmann::ordered_json features = nlohmann::ordered_json::array();
  for (const FeatureState& state : report.features) {
    features.push_back({{"name", state.feature->name},
                        {"available", state.available},
                        {"need", need_name(state.feature->need)},
                        {"purpose", state.feature->purpose},
                        {"without", state.feature->without},
                        {"why_not", state.why_not}});
  }
  return {{"kernel", report.release},
          {"can_save", report.can_save()},
          {"can_restart", report.can_restart()},
          {"features", std::move(features)}};
}

nlohmann::ordered_json to_json(const ProcessReport& report) {
  nlohmann::ordered_json obstacles = nlohmann::ordered_json::array();
  for (const Obstacle& obstacle : report.obstacles) {
    nlohmann::ordered_json row{{"error", errc_info(obstacle.code).name},
                               {"code", static_cast<int>(obstacle.code)},
                               {"pid", obstacle.pid.value()}};
    if (obstacle.fd >= 0) row["fd"] = obstacle.fd;
    row["object"] = obstacle.object;
    row["why"] = obstacle.why;
    row["help"] = obstacle.help;
    obstacles.push_back(std::move(row));
  }
  return {{"pid", report.pid.value()},
          {"name", report.name},
          {"processes", report.processes},
          {"can_save", report.can_save()},
          {"obstacles", std::move(obstacles)}};
}

}  // namespace stasis
