"""Paths below a directory that somebody else filled: resolved by the kernel, never outside of it. See openat2(2)."""

from __future__ import annotations

import enum
import errno
import os
import stat

from pycontain._native._core import lib
from pycontain.linux.syscalls import PathArgument, check, encode, error

_ATTEMPTS = 128  # renames elsewhere on the machine make the kernel give up on ".." with EAGAIN


class Resolve(enum.IntFlag):
    """`RESOLVE_*` of openat2(2)."""

    NO_XDEV = 0x01
    NO_MAGICLINKS = 0x02
    NO_SYMLINKS = 0x04
    BENEATH = 0x08
    IN_ROOT = 0x10
    CACHED = 0x20


_NO_RESOLVE = Resolve(0)


def openat2(
    dirfd: int,
    path: PathArgument,
    flags: int,
    mode: int = 0,
    resolve: Resolve = _NO_RESOLVE,
) -> int:
    """openat2(2): opens `path`, relative to `dirfd`, always close-on-exec, and returns the descriptor.

    Tried again when the kernel could not rule out that a rename moved the path out of the directory (EAGAIN), at most
    128 times.
    """
    encoded = encode(path)
    result = -errno.EAGAIN
    for _ in range(_ATTEMPTS):
        result = lib.pc_openat2(dirfd, encoded, flags | os.O_CLOEXEC, mode, resolve)
        if result not in (-errno.EAGAIN, -errno.EINTR) or resolve & Resolve.CACHED:
            break
    return check(result, "openat2", dirfd, path, flags, resolve)


def open_in_root(root_fd: int, path: PathArgument, flags: int, mode: int = 0) -> int:
    """Opens `path` as a process with the root directory `root_fd` would: "/" and ".." stop there, also those of links.

    The links of /proc that lead to any place ("magic links") are refused with ELOOP.
    """
    return openat2(root_fd, path, flags, mode, Resolve.IN_ROOT | Resolve.NO_MAGICLINKS)


def open_beneath(dirfd: int, path: PathArgument, flags: int, mode: int = 0) -> int:
    """Opens `path` below `dirfd`; EXDEV for an absolute path, or when ".." or a link would leave the directory."""
    return openat2(dirfd, path, flags, mode, Resolve.BENEATH | Resolve.NO_MAGICLINKS)


def read_file_in_root(root_fd: int, path: PathArgument, limit: int) -> bytes:
    """The content of a regular file inside a root, at most `limit` bytes of it.

    Safe with files made by an adversary: the file is not opened for reading before it is known to be a regular one, as
    opening a fifo waits and opening a device may act. Raises `OSError`: EFBIG above the limit, EINVAL when it is not a
    regular file, and those of `open_in_root`.
    """
    handle = open_in_root(root_fd, path, os.O_PATH)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise error(errno.EINVAL, "read", path, detail="not a regular file")
        fd = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(handle)
    with open(fd, "rb", buffering=0) as file:
        content = bytearray()
        while len(content) <= limit and (chunk := file.read(min(limit + 1 - len(content), 1 << 16))):
            content += chunk
    if len(content) > limit:
        raise error(errno.EFBIG, "read", path, detail=f"more than {limit} bytes")
    return bytes(content)
