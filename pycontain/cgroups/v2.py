"""cgroup v2: the unified hierarchy (Documentation/admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

import errno
import os

from pycontain.cgroups import files, parse
from pycontain.cgroups.hierarchy import Hierarchy
from pycontain.cgroups.move import empty_into
from pycontain.errors import LimitNotSupported

LEAF = "pycontain.task"  # where the processes of a group are once there are groups below it
CALLER = "pycontain.caller"  # where those of the base are, this one among them, when it has to be left


class UnifiedSubtree:
    """Our part of the v2 hierarchy: the parent directory and the groups in it."""

    version = 2

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.base = hierarchy.base
        self.parent = f"{hierarchy.base}/{hierarchy.parent}"
        self.controllers = hierarchy.usable
        self.ready: frozenset[str] | None = None
        self._moves = hierarchy.moves

    def prepare(self, controllers: frozenset[str]) -> None:
        """Makes the parent directory and enables `controllers` for the groups in it.

        Raises OSError, and `LimitNotSupported` when processes keep the kernel from enabling a controller.
        """
        try:
            os.mkdir(self.parent, 0o755)
        except FileExistsError:
            pass
        if self._moves:
            give(self.base, controllers, CALLER)
        else:
            _enable(self.base, controllers)
        _enable(self.parent, controllers)
        self.ready = controllers | (self.ready or frozenset())

    def forget(self) -> None:
        """The parent may be gone: the next group prepares it again."""
        self.ready = None

    def memory_peak(self, path: str) -> int | None:
        text = files.read_short(f"{path}/memory.peak")
        return None if text is None else int(text)

    def oom_kills(self, path: str) -> int:
        # Local: what happens in a group below, such as a container's own container, is not this group's end.
        own = (path, f"{path}/{LEAF}", f"{path}/{CALLER}")
        texts = (files.read_short(f"{part}/memory.events.local") for part in own)
        return sum(parse.flat_keyed(text).get("oom_kill", 0) for text in texts if text is not None)


def give(group: str, controllers: frozenset[str] | set[str], leaf: str = LEAF) -> None:
    """Enables `controllers` for the groups below a running group, whose processes move to the group `leaf` below it.

    Not from the beginning, since that would cost every start a group more. Raises OSError, and `CgroupError`.
    """
    if controllers.issubset(files.read(f"{group}/cgroup.subtree_control").split()):
        return
    path = f"{group}/{leaf}"
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass
    empty_into(path, group)
    _enable(group, frozenset(controllers))


def _enable(group: str, controllers: frozenset[str]) -> None:
    control = f"{group}/cgroup.subtree_control"
    missing = controllers.difference(files.read(control).split()) if controllers else None
    if not missing:
        return
    try:
        files.write(control, " ".join(f"+{controller}" for controller in sorted(missing)))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise LimitNotSupported(
            f"the controllers {', '.join(sorted(missing))} cannot be enabled: {group} holds processes",
            remedy=f"Move these processes to a group of their own below {group}",
        ) from error
