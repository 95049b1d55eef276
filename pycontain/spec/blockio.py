"""Settings of the blkio (v1) and io (v2) controllers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from pycontain.spec.frozen import Frozen
from pycontain.spec.layout import FieldError

if TYPE_CHECKING:
    from pycontain.spec.kinds import Int64, UInt16, UInt64


@frozen(eq=False, repr=False)
class WeightDevice(Frozen):
    """The weight for one device; at least one of the weights is set."""

    major: Int64
    minor: Int64
    weight: UInt16 | None = None
    leaf_weight: UInt16 | None = None

    def _check_together(self) -> None:
        if self.weight is None and self.leaf_weight is None:
            raise FieldError("needs weight or leafWeight")


@frozen(eq=False, repr=False)
class ThrottleDevice(Frozen):
    """The limit for one device, in bytes or operations a second."""

    major: Int64
    minor: Int64
    rate: UInt64


@frozen(eq=False, repr=False)
class BlockIO(Frozen):
    """Weights and limits for block devices."""

    weight: UInt16 | None = None
    leaf_weight: UInt16 | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = ()
