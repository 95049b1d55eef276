"""From the resources of the OCI specification to what is written: the value `Setting`, what translates each part of the
resources, and the checks that v1 and v2 share. A field that one of them lacks is refused by its name, never ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from pycontain.errors import InvalidArgument, LimitNotSupported

if TYPE_CHECKING:
    from pycontain.spec import CPU, BlockIO, HugepageLimit, Memory, NetworkResources, Pids, Rdma, Resources


class Setting(NamedTuple):
    """One write that makes up a limit."""

    controller: str
    file: str
    value: str
    limit: str  # the field of `Resources` that asks for it: "memory.limit"
    implied: bool = False  # not asked for by itself: left out where the kernel does not have it


class Translation(NamedTuple):
    """How the limits of each controller are written, by one version of cgroups or, on a hybrid machine, by both."""

    memory: Callable[[Memory], list[Setting]]
    cpu: Callable[[CPU], list[Setting]]
    cpuset: Callable[[CPU], list[Setting]]
    pids: Callable[[Pids], list[Setting]]
    block_io: Callable[[BlockIO], list[Setting]]
    hugepages: Callable[[HugepageLimit], list[Setting]]
    network: Callable[[NetworkResources], list[Setting]]


def translate(resources: Resources, version: Translation) -> list[Setting]:
    """The writes for `resources`, in order. `devices` are not among them (see devices.py).

    Raises `LimitNotSupported` for a field that has no translation, `InvalidArgument` for a value that can never work.
    """
    settings: list[Setting] = []
    if resources.memory is not None:
        settings += version.memory(resources.memory)
    if resources.cpu is not None:
        settings += version.cpu(resources.cpu) + version.cpuset(resources.cpu)
    if resources.pids is not None:
        settings += version.pids(resources.pids)
    if resources.block_io is not None:
        settings += version.block_io(resources.block_io)
    for hugepages in resources.hugepage_limits:
        settings += version.hugepages(hugepages)
    if resources.network is not None:
        settings += version.network(resources.network)
    for device, rdma in resources.rdma.items():
        settings.append(_rdma(device, rdma))
    for file, value in resources.unified.items():
        settings += _unified(file, value)
    return settings


def swap_of(memory: Memory) -> int | None:
    """How much swap a group may use, in bytes: -1 is no limit, None says that no swap limit is asked for or implied.

    The specification's `swap` is memory and swap together. A memory limit alone means no swap: a task over its limit
    shall be killed, and not grind the machine to a halt.
    """
    limit = number("memory.limit", memory.limit)
    swap = number("memory.swap", memory.swap)
    if swap is None:
        return None if limit is None else min(limit, 0)
    if swap == -1:
        return -1
    if limit is None or limit == -1:
        raise InvalidArgument("memory.swap limits memory and swap together and needs memory.limit")
    if swap < limit:
        raise InvalidArgument(f"memory.swap, memory and swap together, is {swap}: below memory.limit, which is {limit}")
    return swap - limit


def number(name: str, value: int | None) -> int | None:
    """A limit of the specification: positive, or -1 for none. 0 counts as not set, as in runc."""
    if value is None or value == 0:
        return None
    if value < -1:
        raise InvalidArgument(f"{name} is negative: {value}")
    return value


def refuse(limit: str, given: object, cause: str, remedy: str | None = None) -> None:
    """Raises `LimitNotSupported` when `given` is set."""
    if given is not None:
        message = f"the limit {limit} cannot be enforced: {cause}"
        raise LimitNotSupported(message, remedy=remedy or f"Leave out {limit}")


def check_hierarchy(memory: Memory) -> None:
    """`use_hierarchy` has been always true on v2, and on v1 since Linux 5.11."""
    if memory.use_hierarchy is False:
        refuse("memory.use_hierarchy", False, "the kernel always counts the groups below as well")


def refuse_leaf_weights(io: BlockIO) -> None:
    cause = "its only scheduler, CFQ, left the kernel in Linux 5.0"
    refuse("block_io.leaf_weight", io.leaf_weight, cause)
    for device in io.weight_device:
        refuse("block_io.weight_device.leaf_weight", device.leaf_weight, cause)


def _rdma(device: str, limits: Rdma) -> Setting:
    parts = [device]
    for key, value in (("hca_handle", limits.hca_handles), ("hca_object", limits.hca_objects)):
        if value is not None:
            parts.append(f"{key}={value}")
    return Setting("rdma", "rdma.max", " ".join(parts), f"rdma[{device}]")


def _unified(file: str, text: str) -> list[Setting]:
    """Files of controllers only: those of the group itself (`cgroup.procs`, `cgroup.freeze`) are the driver's. The
    kernel takes one line at a time."""
    controller, dot, rest = file.partition(".")
    if not (controller and dot and rest) or "/" in file or "\0" in file or controller == "cgroup":
        raise InvalidArgument(f"unified: {file!r} is not a file of a cgroup v2 controller, such as memory.high")
    return [Setting(controller, file, line, f"unified[{file}]") for line in text.splitlines() or [""]]
