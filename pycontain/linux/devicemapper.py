"""Device-mapper: block devices made of others by a table. The ioctls of linux/dm-ioctl.h; see dmsetup(8) for the terms.

Raises `OSError` everywhere; ENXIO is said of a name that is not there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from attrs import frozen

from pycontain.linux.syscalls import encode, error

CONTROL = "/dev/mapper/control"
SECTOR = 512

_CREATE, _REMOVE, _SUSPEND, _STATUS, _LOAD, _MESSAGE, _TARGET_VERSION = 3, 4, 6, 7, 9, 14, 17
_READ_ONLY, _ACTIVE_PRESENT, _DEFERRED_REMOVE = 1 << 0, 1 << 5, 1 << 17
_VERSION = (4, 0, 0)
_NO_RULES = 0xF << 16  # DM_UDEV_DISABLE_*: udev shall not look into devices that live for a moment

# dm_ioctl: version, size of all, offset of the data, count of targets, open count, flags, event, device, name, uuid
_HEADER = struct.Struct("3IIIIiII4xQ128s129s7x")
_TARGET = struct.Struct("QQiI16s")  # dm_target_spec: first sector, count, status, offset of the next, type
_SIZE = 4096  # of the header with what is given and returned


@frozen
class Device:
    """A device that is there.

    Attributes:
        path: its node, which the kernel makes.
        open_count: of descriptors, mounts and other devices that use it.
        live: whether it has a table, and so can be used.
    """

    path: str
    open_count: int
    live: bool


def has_target(kind: str) -> bool:
    """Whether the kernel knows a type of target, or has a module for it (Linux 5.5)."""
    try:
        _call(_TARGET_VERSION, kind)
    except OSError as problem:
        if problem.errno != errno.EINVAL:
            raise
        return False
    return True


def status(name: str) -> Device | None:
    """The device with that name, or None."""
    try:
        return _device(_call(_STATUS, name))
    except OSError as problem:
        if problem.errno != errno.ENXIO:
            raise
        return None


def create(name: str, kind: str, sectors: int, parameters: str, *, read_only: bool = False) -> Device:
    """Makes a device of one target. EBUSY: there is one with this name."""
    _call(_CREATE, name)
    try:
        flags = _READ_ONLY if read_only else 0
        target = _TARGET.pack(0, sectors, 0, 0, kind.encode()) + encode(parameters) + b"\0"
        _call(_LOAD, name, flags=flags, targets=1, data=target)
        return _device(_call(_SUSPEND, name, flags=flags, event=_NO_RULES))  # without the flag it means resume
    except BaseException:
        remove(name)
        raise


def remove(name: str, *, deferred: bool = False) -> None:
    """Removes a device; when it is `deferred` and in use, the kernel does it at the last close."""
    _call(_REMOVE, name, flags=_DEFERRED_REMOVE if deferred else 0, event=_NO_RULES)


def message(name: str, text: str) -> None:
    """Sends a message to the target of a device."""
    _call(_MESSAGE, name, data=struct.pack("Q", 0) + encode(text) + b"\0", shown=text)


def _call(
    command: int, name: str, *, flags: int = 0, targets: int = 0, event: int = 0, data: bytes = b"", shown: str = ""
) -> tuple[int, int, int]:
    """Device number, open count and flags that are returned."""
    header = _HEADER.pack(*_VERSION, _SIZE, _HEADER.size, targets, 0, flags, event, 0, encode(name), b"")
    buffer = bytearray((header + data).ljust(_SIZE, b"\0"))
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(control, 0xC138FD00 | command, buffer)
    except OSError as problem:
        raise error(problem.errno or errno.EIO, "ioctl", CONTROL, command, name, *([shown] if shown else [])) from None
    finally:
        os.close(control)
    _, _, _, _, _, _, open_count, flags, _, number, _, _ = _HEADER.unpack_from(buffer)
    return number, open_count, flags


def _device(returned: tuple[int, int, int]) -> Device:
    number, open_count, flags = returned
    minor = number & 0xFF | number >> 12 & 0xFFF00  # as huge_encode_dev() packs it
    return Device(f"/dev/dm-{minor}", open_count, bool(flags & _ACTIVE_PRESENT))
