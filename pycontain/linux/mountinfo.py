"""The mount table: `read` parses /proc/PID/mountinfo, `MountTable` keeps it until the kernel reports a change."""

from __future__ import annotations

import os
import re
import select
import threading
import weakref

from attrs import frozen

from pycontain.errors import InvalidArgument

_ATTEMPTS = 8  # reads of a table that changes while it is read


@frozen
class MountInfo:
    """One mount: a line of /proc/PID/mountinfo, see proc_pid_mountinfo(5). Names that are not UTF-8 have surrogates.

    Attributes:
        id, parent: of the mount and of the mount it is on; a parent outside of the process's root is not in the table.
        major_minor: the `st_dev` of its files.
        root: the directory or file of the file system that is mounted.
        mount_point: relative to the root of the process.
        options: of the mount ("rw", "nosuid", ...).
        shared, master, propagate_from: peer groups, None when there is none.
        unbindable: whether it cannot be bind-mounted.
        fs_type, source: as given to mount(2); the source may be anything.
        super_options: of the file system ("rw", "size=64k", ...).
    """

    id: int
    parent: int
    major_minor: tuple[int, int]
    root: str
    mount_point: str
    options: tuple[str, ...]
    shared: int | None
    master: int | None
    propagate_from: int | None
    unbindable: bool
    fs_type: str
    source: str
    super_options: tuple[str, ...]


def read(pid: int | str = "self") -> tuple[MountInfo, ...]:
    """The mount table that a process sees, in the kernel's order: a mount follows the one that it is on.

    Raises `OSError` when the process has gone or may not be looked at.
    """
    fd = _open(pid)
    try:
        return parse(_read_whole(fd, _poller(fd)))
    finally:
        os.close(fd)


def parse(table: bytes) -> tuple[MountInfo, ...]:
    """The text of a mountinfo file. Raises `InvalidArgument` with the first line that is none."""
    # split, not splitlines: of the characters that end a line for splitlines, only the newline is escaped in names
    return tuple(parse_line(line) for line in os.fsdecode(table).split("\n") if line)


def parse_line(line: str) -> MountInfo:
    """One line, without its newline. Raises `InvalidArgument` when it is not one."""
    fields = line.split(" ")
    try:
        end = fields.index("-", 6)
        fs_type, source, super_options = fields[end + 1 :]
        major, minor = fields[2].split(":")
        groups = dict(_optional_field(field) for field in fields[6:end])
        return MountInfo(
            id=int(fields[0]),
            parent=int(fields[1]),
            major_minor=(int(major), int(minor)),
            root=_unescape(fields[3]),
            mount_point=_unescape(fields[4]),
            options=tuple(fields[5].split(",")),
            shared=groups.get("shared"),
            master=groups.get("master"),
            propagate_from=groups.get("propagate_from"),
            unbindable="unbindable" in groups,
            fs_type=_unescape(fs_type),
            source=_unescape(source),
            super_options=tuple(_unescape(option) for option in super_options.split(",")),
        )
    except ValueError:
        raise InvalidArgument(f"Not a line of a mountinfo file: {line!r}") from None


class MountTable:
    """The mount table of this process, parsed again only when the kernel says that it has changed.

    Asking costs two system calls while nothing changes. Threads may share one; a child of fork opens its own file. The
    kernel announces every mount, unmount, move and change of attributes. It does not announce a change of propagation
    made through mount(2): use `read` where that matters.
    """

    _mounts: tuple[MountInfo, ...]

    def __init__(self) -> None:
        self._reset()
        _tables.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._fd = -1
        self._namespace = 0
        self._poll = select.poll()
        self._mounts = ()

    def mounts(self) -> tuple[MountInfo, ...]:
        """The table as it is now, as `read` returns it. The same object as before when nothing has changed."""
        with self._lock:
            namespace = os.stat("/proc/self/ns/mnt").st_ino  # an open file stays with the namespace it was opened in
            if self._fd >= 0 and self._namespace != namespace:
                self._close()
            if self._fd < 0:
                self._fd, self._namespace = _open("self"), namespace
                self._poll = _poller(self._fd)
                self._mounts = ()
            if not self._mounts or self._poll.poll(0):
                self._mounts = parse(_read_whole(self._fd, self._poll))
            return self._mounts

    def is_unchanged(self) -> bool:
        """Whether `mounts` would return the same object again, by one system call.

        Says nothing of a change of this process's own mount namespace, which `mounts` looks for.
        """
        with self._lock:
            if not self._mounts or self._fd < 0:
                return False
            if self._poll.poll(0):  # which the kernel says once
                self._mounts = ()
            return bool(self._mounts)

    def close(self) -> None:
        """Closes the file. The next use opens it again."""
        with self._lock:
            self._close()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _after_fork(self) -> None:
        """In the child. The file is shared with the parent: whoever polls first would take the news from the other."""
        self._close()
        self._reset()


_tables: weakref.WeakSet[MountTable] = weakref.WeakSet()


def _tables_after_fork() -> None:
    for table in tuple(_tables):
        table._after_fork()


os.register_at_fork(after_in_child=_tables_after_fork)


def _open(pid: int | str) -> int:
    return os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)


def _poller(fd: int) -> select.poll:
    """Its `poll(0)` is not empty when the table has changed since the last call, or since the file was opened."""
    poller = select.poll()
    poller.register(fd, select.POLLPRI)  # with POLLERR, which is always asked for; see proc_pid_mounts(5)
    return poller


def _read_whole(fd: int, poller: select.poll) -> bytes:
    """The whole file. Each read(2) gives a page, so a table that changes in between is read again."""
    for _ in range(_ATTEMPTS):
        offset, chunks = 0, []
        while chunk := os.pread(fd, 1 << 16, offset):
            chunks.append(chunk)
            offset += len(chunk)
        if not poller.poll(0):
            return b"".join(chunks)
    raise OSError(f"The mount table changed during each of {_ATTEMPTS} attempts to read it")


def _optional_field(field: str) -> tuple[str, int]:
    """`shared:1`, or `unbindable`; unknown ones are passed over, as the man page asks."""
    name, _, value = field.partition(":")
    return name, int(value) if value.isdecimal() else 0


_OCTAL = re.compile(rb"\\([0-7]{3})")


def _unescape(field: str) -> str:
    """`\\040` and its like: the kernel writes blanks, tabs, newlines, backslashes and number signs so."""
    if "\\" not in field:
        return field
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), os.fsencode(field)))
