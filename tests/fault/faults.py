#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Whatever goes wrong, the target goes on right, nothing of ours is left behind, and one line says what happened.

The target is counter.c, which watches itself. After every failure it must have counted on without noticing anything; no image,
temporary file or process may be there that was not before. Each family of cases has a file of its own."""
import circumstances
import damage
import ends
import fault_points
import refusals
import rights
import surroundings
from harness import run_cases

CASES = {f.__name__: f for f in (
    fault_points.any_syscall_checkpoint, fault_points.any_syscall_restart, fault_points.fault_points_checkpoint,
    fault_points.fault_points_kill, fault_points.fault_points_restart, fault_points.failing_syscalls_checkpoint,
    fault_points.failing_syscalls_restart,
    ends.killed_checkpoint, ends.interrupted_checkpoint, ends.interrupted_restart, ends.stopped_checkpoint,
    ends.vanishing_target,
    circumstances.gives_up, circumstances.aborted_stream, circumstances.stopped_target, circumstances.no_space,
    circumstances.closed_output, circumstances.unwritable, circumstances.read_only_directory,
    refusals.no_such_process, refusals.not_ours, refusals.already_traced, refusals.seccomp, refusals.refused_object,
    refusals.check_never_stops, refusals.usage,
    surroundings.closed_streams, surroundings.little_memory, surroundings.ignored_hangup, surroundings.busy_tree,
    surroundings.progress_on_a_terminal,
    damage.damaged_image, rights.users_image_as_root, rights.deleted_device, rights.packet_socket)}

if __name__ == "__main__":
    run_cases(CASES, description=__doc__)
