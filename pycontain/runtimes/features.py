"""What this kernel can do, found out by doing it in a child that ends at once. Answers are kept."""

from __future__ import annotations

import functools
import os

from pycontain.linux import plan as steps
from pycontain.linux.mounts import MountAttr, MountFlag
from pycontain.linux.namespaces import NamespaceType
from pycontain.linux.pidfd import wait
from pycontain.runtimes.start import Command, StepFailed, start

_NOTHING = Command.of([b"-"], [], [])


def attempt(plan: steps.Plan, clone_flags: int) -> StepFailed | None:
    """Runs a plan that executes nothing; the step that failed, or None."""
    try:
        _, pidfd = start(plan, _NOTHING, {}, lambda pid, pidfd: None, clone_flags=clone_flags)
    except StepFailed as failure:
        return failure
    try:
        wait(pidfd)
    finally:
        os.close(pidfd)
    return None


def stacks_under_overlay(path: str) -> bool:
    """Whether the directory's file system can be the lower layer of an overlay with its upper layer on a tmpfs.

    Not all can: an overlay on two others, file systems with case folding, or some network file systems.
    """
    return _stacks(path, os.stat(path).st_dev, os.geteuid() != 0)


@functools.lru_cache(maxsize=1024)
def _stacks(path: str, device: int, user_namespace: bool) -> bool:
    plan = steps.Plan((
        steps.propagation(MountFlag.PRIVATE, "private"),
        steps.open_path(path, "lower", directory=True),
        steps.file_system("tmpfs", "scratch"),
        steps.attach("scratch", "/tmp", root=None),
        steps.mkdir("scratch", "u"),
        steps.mkdir("scratch", "w"),
        steps.overlay("merged", ["lower"], "scratch", "u", "w", MountAttr(0), userxattr=user_namespace),
    ))
    flags = NamespaceType.MOUNT | (NamespaceType.USER if user_namespace else 0)
    return attempt(plan, flags) is None
