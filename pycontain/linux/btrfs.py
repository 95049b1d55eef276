"""Subvolumes of btrfs, by ioctl (linux/btrfs.h): trees with inodes of their own, of which a snapshot is made at once.

Most take a descriptor of the directory that holds the subvolume, and its name in it. ENOTTY: that is no btrfs.
"""

from __future__ import annotations

import errno
import fcntl
import struct

from pycontain.linux.syscalls import encode, error

_SUBVOL_CREATE = 0x5000940E
_SNAP_DESTROY = 0x5000940F
_SNAP_CREATE_V2 = 0x50009417
_SUBVOL_GETFLAGS = 0x80089419
_SUBVOL_SETFLAGS = 0x4008941A
_READ_ONLY = 1 << 1  # BTRFS_SUBVOL_RDONLY

_ARGUMENTS = struct.Struct("q4088s")  # btrfs_ioctl_vol_args: descriptor, name
_ARGUMENTS_V2 = struct.Struct("q8xQ32x4040s")  # btrfs_ioctl_vol_args_v2: descriptor, flags, name
_FLAGS = struct.Struct("Q")

ROOT_INODE = 256  # the inode number of the top directory of every subvolume


def create_subvolume(directory: int, name: str) -> None:
    """An empty subvolume."""
    _call(directory, _SUBVOL_CREATE, _ARGUMENTS.pack(0, _checked(name)), "BTRFS_IOC_SUBVOL_CREATE", name)


def create_snapshot(directory: int, name: str, source: int) -> None:
    """A writable snapshot of the subvolume whose top directory is `source`."""
    arguments = _ARGUMENTS_V2.pack(source, 0, _checked(name))
    _call(directory, _SNAP_CREATE_V2, arguments, "BTRFS_IOC_SNAP_CREATE_V2", name)


def destroy_subvolume(directory: int, name: str) -> None:
    """Removes a subvolume with what is in it, at once. ENOTEMPTY while there are others in it; EPERM for most users."""
    _call(directory, _SNAP_DESTROY, _ARGUMENTS.pack(0, _checked(name)), "BTRFS_IOC_SNAP_DESTROY", name)


def set_read_only(subvolume: int, read_only: bool) -> None:
    """Of the subvolume whose top directory it is. EPERM unless it is the caller's."""
    (flags,) = _FLAGS.unpack(_call(subvolume, _SUBVOL_GETFLAGS, bytes(_FLAGS.size), "BTRFS_IOC_SUBVOL_GETFLAGS"))
    flags = flags | _READ_ONLY if read_only else flags & ~_READ_ONLY
    _call(subvolume, _SUBVOL_SETFLAGS, _FLAGS.pack(flags), "BTRFS_IOC_SUBVOL_SETFLAGS")


def _call(fd: int, request: int, arguments: bytes, name: str, *shown: str) -> bytes:
    buffer = bytearray(arguments)
    try:
        fcntl.ioctl(fd, request, buffer)
    except OSError as problem:
        raise error(problem.errno or errno.EIO, "ioctl", fd, name, *shown) from None
    return bytes(buffer)


def _checked(name: str) -> bytes:
    encoded = encode(name)
    if len(encoded) > 255:
        raise error(errno.ENAMETOOLONG, "ioctl", name)
    return encoded
