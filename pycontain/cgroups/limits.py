"""From the resources of the OCI specification to what is written: the checks that v1 and v2 share, and the value
`Setting`. A field that has no translation is refused by its name, never ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from attrs import fields

from pycontain.errors import InvalidArgument, LimitNotSupported

if TYPE_CHECKING:
    from pycontain.spec import CPU, Memory, Pids, Resources

_TRANSLATED = {
    "memory": frozenset({"limit", "reservation", "swap"}),
    "cpu": frozenset({"shares", "quota", "period"}),
    "pids": frozenset({"limit"}),
}


class Setting(NamedTuple):
    """One write that makes up a limit."""

    controller: str
    file: str
    value: str
    limit: str  # the field of `Resources` that asks for it: "memory.limit"
    implied: bool = False  # not asked for by itself: left out where the kernel has no such file


class Translation(NamedTuple):
    """How one version of cgroups writes the limits of each controller."""

    memory: Callable[[Memory], list[Setting]]
    cpu: Callable[[CPU], list[Setting]]
    pids: Callable[[Pids], list[Setting]]


def translate(resources: Resources, version: Translation) -> list[Setting]:
    """The writes for `resources`, in order.

    Raises `LimitNotSupported` for a field that has no translation, `InvalidArgument` for a value that can never work.
    """
    refuse_untranslated(resources)
    settings: list[Setting] = []
    if resources.memory is not None:
        settings += version.memory(resources.memory)
    if resources.cpu is not None:
        settings += version.cpu(resources.cpu)
    if resources.pids is not None:
        settings += version.pids(resources.pids)
    return settings


def refuse_untranslated(resources: Resources) -> None:
    """Raises `LimitNotSupported` naming the first field that is set and has no translation."""
    for group in _names_of(type(resources)):
        value = getattr(resources, group)
        if _is_unset(value):
            continue
        if group not in _TRANSLATED:
            raise _untranslated(group)
        for name in _names_of(type(value)):
            if name not in _TRANSLATED[group] and not _is_unset(getattr(value, name)):
                raise _untranslated(f"{group}.{name}")


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


_names: dict[type, tuple[str, ...]] = {}


def _names_of(cls: type) -> tuple[str, ...]:
    names = _names.get(cls)
    if names is None:
        names = _names[cls] = tuple(field.name for field in fields(cls))
    return names


def _is_unset(value: Any) -> bool:
    return value is None or value is False or (hasattr(value, "__len__") and len(value) == 0)


def _untranslated(name: str) -> LimitNotSupported:
    return LimitNotSupported(
        f"the limit {name} cannot be enforced: the cgroupfs driver sets "
        + ", ".join(f"{group}.{field}" for group, names in _TRANSLATED.items() for field in sorted(names)) + " only",
        remedy=f"Leave out {name}",
    )
