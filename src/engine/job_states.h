// SPDX-License-Identifier: Apache-2.0
// What job control knows of a process beside that it stands or runs: whether its parent has asked for the last change
// (wait(2) with WUNTRACED or WCONTINUED). A shell believes what it was told: one that never hears that its job runs
// again takes it for stopped for ever. Source: kernel/exit.c (wait_task_stopped, wait_task_continued).
#pragma once

#include <map>
#include <span>

#include "engine/process_image.h"
#include "tracee/new_process.h"

namespace stasis {

// Fills in `unasked` of the records of these children of `parent`. REQUIRES: all have been inspected.
Result<void> ask_job_states(ProcessImage& parent, std::span<ProcessImage* const> children, const Patience& patience);

// Stops the child where its record says so, and leaves its parent as much, or as little, to ask for. The parent gets no
// SIGCHLD. REQUIRES: the child has all its threads, both still have their gates.
Result<void> restore_job_state(NewProcess& parent, NewProcess& child, const ProcessRecord& record,
                               const Patience& patience);

}  // namespace stasis
