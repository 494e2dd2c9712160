// SPDX-License-Identifier: Apache-2.0
// What `stasis check` tells: what this kernel offers to this user, and whether a given process can be saved as it is
// now. Looks only: stops and changes nothing. A process may change between the check and a checkpoint.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/ids.h"
#include "kernel/probe.h"
#include "resource/checkpoint_context.h"
#include "resource/obstacle.h"
#include "stasis/result.h"

namespace stasis {

struct KernelReport {
  std::string release;  // "6.18.44 x86_64"
  std::vector<kernel::FeatureState> features;

  bool can_save() const;
  bool can_restart() const;
};

struct ProcessReport {
  HostPid pid;
  std::string name;           // comm
  std::size_t processes = 1;  // itself and its descendants
  Obstacles obstacles;

  bool can_save() const { return obstacles.empty(); }
};

// Tries every feature in short-lived children; takes some 10 ms. REQUIRES: the caller has one thread.
KernelReport check_kernel();
// Everything that keeps the process and its descendants from being saved, of their state, memory and files. Errors:
// kNoSuchProcess, kVanished, kSystem.
Result<ProcessReport> check_process(HostPid pid, const CheckpointPolicy& policy);

// Several lines each, the last one with a newline. What a process names itself or its files shows no control
// characters.
std::string to_text(const KernelReport& report);
std::string to_text(const ProcessReport& report);
nlohmann::ordered_json to_json(const KernelReport& report);
nlohmann::ordered_json to_json(const ProcessReport& report);

}  // namespace stasis
