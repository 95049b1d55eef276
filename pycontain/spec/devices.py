"""Device nodes and network devices that a container is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from pycontain.spec.frozen import Frozen
from pycontain.spec.layout import FieldError

if TYPE_CHECKING:
    from pycontain.spec.choices import DeviceType
    from pycontain.spec.kinds import ID, AbsolutePath, Int64, Name, UInt32


@frozen(eq=False, repr=False)
class Device(Frozen):
    """A device node: `c` and `u` character, `b` block, `p` a FIFO, which has no numbers."""

    type: DeviceType
    path: AbsolutePath
    major: Int64 | None = None
    minor: Int64 | None = None
    file_mode: UInt32 | None = None
    uid: ID | None = None
    gid: ID | None = None

    def _check_together(self) -> None:
        if self.type != "p":
            for name, number in (("major", self.major), ("minor", self.minor)):
                if number is None:
                    raise FieldError(f"is required for a device of type {self.type}", name)


@frozen(eq=False, repr=False)
class NetDevice(Frozen):
    """A network device that is moved into the container, where it is called `name` (its own name when None)."""

    name: Name | None = None
