"""Removes what processes that are gone have left in a store: their containers' layers, leases and files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pycontain.images.store import Store

_swept: set[str] = set()


def sweep_once(store: Store) -> None:
    """Sweeps the store if this process has not looked yet, and somebody is gone."""
    if store.path not in _swept:
        _swept.add(store.path)
        if _somebody_is_gone(store):
            sweep(store)


def sweep(store: Store) -> None:
    """Removes what the dead have left. Safe at any time, also while others are at work."""
    from pycontain.snapshots.choose import NAMES

    snapshots = os.path.join(store.path, "snapshots")
    names = os.listdir(snapshots) if os.path.isdir(snapshots) else []
    for name in NAMES:
        if name in names:
            store.snapshotter(name).cleanup()
    store.containers.sweep()
    store.leases.sweep()
    store.database.owners.sweep()


def _somebody_is_gone(store: Store) -> bool:
    owners = store.database.owners
    try:
        names = os.listdir(owners.directory)
    except FileNotFoundError:
        return False
    return any(not owners.is_living(name) for name in names if not name.startswith("."))
