"""Handing a group over to another user, who may then make groups below it and move its own processes there.

What its limits are stays with who made it (cgroup-v2.rst, "Delegation").
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from pycontain.errors import CgroupError

# /sys/kernel/cgroup/delegate of v2, without what concerns memory; v1 has the first and the last
FILES = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks")


def hand_over(paths: Iterable[str], uid: int, gid: int) -> None:
    """Gives the directories of a group, and the files by which processes are moved, to a user. Raises `CgroupError`."""
    for path in paths:
        try:
            os.chown(path, uid, gid)
            for name in FILES:
                file = os.path.join(path, name)
                if os.path.exists(file):
                    os.chown(file, uid, gid)
        except OSError as error:
            raise CgroupError(
                f"the cgroup {path} cannot be given to user {uid}, who is root in the container", errno=error.errno
            ) from error
