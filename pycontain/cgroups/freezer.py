"""Stopping all processes of a group where they stand: `cgroup.freeze` on v2 (Linux 5.2), `freezer.state` on v1."""

from __future__ import annotations

import time
from typing import NamedTuple

from pycontain.cgroups import files, parse
from pycontain.cgroups.kill import pauses
from pycontain.errors import CgroupError


class Freezer(NamedTuple):
    """The freezer of one directory."""

    path: str
    version: int

    @property
    def frozen(self) -> bool:
        """Whether all processes in it and below stand still, also when it was a group above that was frozen."""
        if self.version == 2:
            events = files.read_short(f"{self.path}/cgroup.events")
            return events is not None and parse.flat_keyed(events).get("frozen") == 1
        return files.read_short(f"{self.path}/freezer.state") == "FROZEN\n"

    def freeze(self, name: str, timeout: float) -> None:
        """Freezes the group `name`, and waits for it. Thaws it again when `timeout` seconds are not enough."""
        try:
            self._set("1", "FROZEN")
            for _ in pauses(time.monotonic() + timeout):
                if self.frozen:
                    return
        except BaseException:
            self.thaw()
            raise
        self.thaw()
        raise CgroupError(
            f"the cgroup {name} is not frozen after {timeout:g} s",
            remedy="A process in uninterruptible sleep does not stop: see /proc/PID/stack for what it waits for",
        )

    def thaw(self) -> None:
        try:
            self._set("0", "THAWED")
        except OSError as error:
            if error.errno not in files.GONE:
                raise

    def _set(self, unified: str, legacy: str) -> None:
        if self.version == 2:
            files.write(f"{self.path}/cgroup.freeze", unified)
        else:
            files.write(f"{self.path}/freezer.state", legacy)
