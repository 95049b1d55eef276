"""What this kernel can do, found out by doing it in a child that ends at once. Answers are kept."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

from attrs import frozen

from pycontain.errors import StartFailed
from pycontain.linux import plan as steps
from pycontain.linux.mounts import MountAttr, MountFlag
from pycontain.linux.namespaces import NamespaceType
from pycontain.linux.pidfd import wait
from pycontain.runtimes.idmap import write_maps
from pycontain.runtimes.obstacles import in_user_namespace
from pycontain.runtimes.start import Command, StepFailed, start
from pycontain.spec import IDMapping

_NOTHING = Command.of([b"-"], [], [])


@frozen
class Refused:
    """What the kernel did not do: the line of the step ("" when the child could not be made), system call and errno."""

    step: str
    syscall: str
    errno: int


def attempt(sequence: Sequence[steps.Step], clone_flags: int) -> Refused | None:
    """Lets a child in new namespaces go through some steps and end. What was refused, or None.

    In a new user namespace the child is root there, and outside it is the caller.
    """
    user_namespace = bool(clone_flags & NamespaceType.USER)
    plan = steps.Plan((*([steps.await_release("owner")] if user_namespace else []), *sequence))

    def record(pid: int, pidfd: int) -> None:
        if pid and user_namespace:
            write_maps(pid, (IDMapping(0, os.geteuid(), 1),), (IDMapping(0, os.getegid(), 1),))

    try:
        _, pidfd = start(plan, _NOTHING, {}, record, clone_flags=clone_flags)
    except StepFailed as failure:
        step = "" if failure.index is None else plan.steps[failure.index].text
        return Refused(step, failure.syscall, failure.errno)
    except StartFailed as failure:
        return Refused("write the id maps", failure.syscall or "", failure.errno)
    try:
        wait(pidfd)
    finally:
        os.close(pidfd)
    return None


def stacks_under_overlay(path: str, user_namespace: bool = False) -> bool:
    """Whether the directory's file system can be the lower layer of an overlay with its upper layer on a tmpfs.

    Not all can: an overlay on two others, file systems with case folding, or some network file systems; in a user
    namespace, no directory in which others are mounted.
    """
    return _stacks(path, os.stat(path).st_dev, user_namespace or os.geteuid() != 0, in_user_namespace())


@functools.lru_cache(maxsize=1024)
def _stacks(path: str, device: int, user_namespace: bool, nested: bool) -> bool:
    sequence = (
        steps.propagation(MountFlag.PRIVATE, "private"),
        steps.open_path(path, "lower", directory=True),
        *overlay_on_tmpfs(["lower"], userxattr=user_namespace or nested),
    )
    return attempt(sequence, NamespaceType.MOUNT | (NamespaceType.USER if user_namespace else 0)) is None


def overlay_on_tmpfs(lowers: Sequence[str], userxattr: bool) -> list[steps.Step]:
    """The steps of an overlay on these open directories, its upper and work directories on a tmpfs."""
    return [
        steps.file_system("tmpfs", "scratch"),
        steps.attach("scratch", "/tmp", root=None),
        steps.mkdir("scratch", "u"),
        steps.mkdir("scratch", "w"),
        steps.overlay("merged", lowers, "scratch", "u", "w", MountAttr(0), userxattr=userxattr),
    ]
