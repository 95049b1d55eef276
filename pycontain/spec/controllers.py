"""Settings of the cgroup controllers that few containers use: hugetlb, net_cls and net_prio, rdma."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from pycontain.spec.frozen import Frozen
from pycontain.spec.layout import FieldError

if TYPE_CHECKING:
    from pycontain.spec.kinds import HugepageSize, Name, UInt32, UInt64


@frozen(eq=False, repr=False)
class HugepageLimit(Frozen):
    """The limit in bytes for huge pages of one size, such as `2MB`."""

    page_size: HugepageSize
    limit: UInt64


@frozen(eq=False, repr=False)
class InterfacePriority(Frozen):
    """The priority of traffic that leaves by one interface of the host."""

    name: Name
    priority: UInt32


@frozen(eq=False, repr=False)
class NetworkResources(Frozen):
    """Settings of net_cls and net_prio."""

    class_id: UInt32 | None = None
    priorities: tuple[InterfacePriority, ...] = ()


@frozen(eq=False, repr=False)
class Rdma(Frozen):
    """The limits for one RDMA device; at least one is set."""

    hca_handles: UInt32 | None = None
    hca_objects: UInt32 | None = None

    def _check_together(self) -> None:
        if self.hca_handles is None and self.hca_objects is None:
            raise FieldError("needs hcaHandles or hcaObjects")
