"""Writes the id maps of a new user namespace, from outside: the process in it cannot map more than itself."""

from __future__ import annotations

import os

from pycontain.errors import StartFailed, name_of
from pycontain.spec import IDMapping


def write_maps(pid: int, uid_map: tuple[IDMapping, ...], gid_map: tuple[IDMapping, ...]) -> None:
    """Writes /proc/PID/uid_map and gid_map, see user_namespaces(7). Raises `StartFailed` when the kernel refuses."""
    if os.geteuid() != 0:  # without privileges a group can only be mapped once setgroups is given up
        _write(pid, "setgroups", "deny")
    _write(pid, "uid_map", _lines(uid_map))
    _write(pid, "gid_map", _lines(gid_map))


def outside(container_id: int, mappings: tuple[IDMapping, ...]) -> int | None:
    """Who an id of the user namespace is outside of it; None when it is nobody."""
    for m in mappings:
        if m.container_id <= container_id < m.container_id + m.size:
            return m.host_id + container_id - m.container_id
    return None


def _lines(mappings: tuple[IDMapping, ...]) -> str:
    return "".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings)


def _write(pid: int, name: str, text: str) -> None:
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise StartFailed(
            f"the {name} of the user namespace cannot be set to {text.strip()!r}: {name_of(error.errno or 0)}",
            syscall="write", errno=error.errno or 0,
            remedy="An unprivileged user can map its own id only; root can map any, in ranges that do not overlap",
        ) from None
