"""The helper executable (`_native/helper.c`) as a sealed memory file.

Sealed, because a container's process that runs it can reach it as /proc/self/exe: it must not be able to overwrite
what the next container executes (CVE-2019-5736).
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading

from pycontain._native._core import ffi, lib

MFD_EXEC = 0x10  # linux/memfd.h, since Linux 6.3

_lock = threading.Lock()
_fd = -1


def executable() -> int:
    """The descriptor of the helper, made at the first call and kept (close-on-exec) for the life of the process."""
    global _fd
    with _lock:
        if _fd < 0:
            _fd = _sealed_copy()
        return _fd


def _executable_memory_file() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:  # without the flag, the sysctl vm.memfd_noexec may deny to execute it
        return os.memfd_create("pycontain-helper", flags | MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create("pycontain-helper", flags)


def _sealed_copy() -> int:
    size = ffi.new("size_t *")
    start = lib.pc_helper(size)
    fd = _executable_memory_file()
    try:
        os.write(fd, ffi.buffer(start, size[0]))
        os.fchmod(fd, 0o555)
        fcntl.fcntl(
            fd,
            fcntl.F_ADD_SEALS,
            fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE,
        )
    except BaseException:
        os.close(fd)
        raise
    return fd
