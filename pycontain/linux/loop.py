"""Loop devices: a file as a block device. See loop(4)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

_CTL_GET_FREE = 0x4C82
_GET_STATUS64 = 0x4C05
_CONFIGURE = 0x4C0A  # since Linux 5.8
_READ_ONLY, _AUTOCLEAR = 1, 4  # LO_FLAGS_*
_ATTEMPTS = 100

# loop_config: descriptor, block size, loop_info64 (of which only the flags, at 52 bytes, are set), 64 bytes for later
_INFO = struct.Struct("QQ216x")  # loop_info64: device and inode number of the file
_CONFIG = struct.Struct("II52xI176x64x")


def backs(file: int) -> bool:
    """Whether there is a loop device with the content of the open file."""
    info = os.fstat(file)
    return any(_backing(name) == (info.st_dev, info.st_ino) for name in os.listdir("/sys/block") if name[:4] == "loop")


def attach(file: int, *, block_size: int = 0, read_only: bool = False) -> int:
    """A descriptor of a loop device with the content of the open file. `block_size` in bytes; 0: 512.

    The kernel takes the device apart when nobody uses it any more: the descriptor, what is mounted of it, and what else
    is built upon it. Raises `OSError`, EBUSY if other processes took each free device first.
    """
    flags = os.O_RDONLY if read_only else os.O_RDWR
    config = _CONFIG.pack(file, block_size, _AUTOCLEAR | (_READ_ONLY if read_only else 0))
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            device = os.open(f"/dev/loop{fcntl.ioctl(control, _CTL_GET_FREE)}", flags | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _CONFIGURE, config)
                return device
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "every free loop device was taken by other processes")


def _backing(name: str) -> tuple[int, int] | None:
    """Device and inode number of the file of a loop device."""
    try:
        fd = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _INFO.unpack(fcntl.ioctl(fd, _GET_STATUS64, bytes(_INFO.size)))
    except OSError as error:
        if error.errno != errno.ENXIO:  # there is no file
            raise
        return None
    finally:
        os.close(fd)
