"""The cgroup drivers that this process uses, each looked for once, and the sweep that goes before the first task."""

from __future__ import annotations

import os
import threading

from attrs import frozen

from pycontain.cgroups import CgroupDriver, detect
from pycontain.errors import NotSupported
from pycontain.runtimes import owner as owners
from pycontain.runtimes.sweep import sweep


@frozen
class CgroupChoice:
    """Which driver makes a task's group, and where; None is for pycontain to choose. `name` ends the group's name."""

    driver: str | None = None
    parent: str | None = None
    name: str | None = None


_drivers: dict[tuple[str | None, str | None], CgroupDriver] = {}
_lock = threading.Lock()
_swept = False


def cgroup_driver(choice: CgroupChoice = CgroupChoice()) -> CgroupDriver:
    """The driver for a choice. The first call also sweeps what dead processes left behind.

    Raises `NotSupported` when the named driver cannot be used here, `InvalidArgument` when the parent does not fit it.
    """
    key = choice.driver, choice.parent
    driver = _drivers.get(key)
    if driver is not None:
        return driver
    with _lock:
        if key not in _drivers:
            _sweep_once()
            found = detect(*key)
            owners.current().note(" ".join((*(word or "-" for word in key), *sorted(found.places))))
            _drivers[key] = found
        return _drivers[key]


def _sweep_once() -> None:
    """Sweeps with the drivers that the dead processes had noted."""
    global _swept
    if not _swept:
        sweep(_noted_driver)
        _swept = True


def _noted_driver(note: str) -> CgroupDriver:
    """The driver of a note: its name and its parent, "-" for none, and the hierarchies in which it made groups.

    Raises `NotSupported` where this process does not see all of them."""
    driver, parent, *places = note.split(" ")
    found = detect(None if driver == "-" else driver, None if parent == "-" else parent)
    if not found.places.issuperset(places):
        raise NotSupported("cgroup hierarchies in which there are groups of another process are not mounted here")
    return found


def remove_empty_parents() -> None:
    """At the end of the process: the parent groups in which nothing is left."""
    for driver in tuple(_drivers.values()):
        driver.remove_parent_if_empty()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _drivers.clear()


os.register_at_fork(after_in_child=_after_fork)
