"""Notices that processes of a group were killed for want of memory, without polling.

v1: an eventfd registered in cgroup.event_control (cgroup-v1/memory.rst, "OOM Control"). v2: memory.events, which wakes
up with POLLPRI when it changes (cgroup-v2.rst).
"""

from __future__ import annotations

import os
import select
import time
from types import TracebackType

from pycontain.cgroups import files, parse
from pycontain.errors import CgroupError


class OomWatch:
    """Counts the kills from its making on. A context manager; `fileno` and `events` are for poll and epoll."""

    def __init__(self, path: str, version: int) -> None:
        self._file = f"{path}/memory.oom_control" if version == 1 else f"{path}/memory.events"
        self._source = self._fd = -1
        try:
            self._source = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
            self._fd = self._source if version == 2 else _eventfd(path, self._source)
        except OSError as error:
            self.close()
            raise CgroupError(f"the memory events of {path} cannot be watched", errno=error.errno) from error
        self.events = select.POLLPRI if version == 2 else select.POLLIN
        self._version = version
        self._seen = self._kills()

    def fileno(self) -> int:
        """Ready, for `events`, when something happened; `kills` says what and makes it ready for the next time."""
        return self._fd

    def wait(self, timeout: float | None = None) -> int:
        """Waits up to `timeout` seconds for processes to be killed; how many were, 0 when the time is over."""
        poll = select.poll()
        poll.register(self._fd, self.events)
        new = self.kills()
        deadline = None if timeout is None else time.monotonic() + timeout
        while not new and poll.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000):
            new = self._settled()
            if not new and not os.path.exists(self._file):  # the group was removed
                break
        return new

    def _settled(self) -> int:
        """v1 announces that memory has run out: the kill that follows is counted a moment later."""
        for _ in range(50):
            new = self.kills()
            if new or self._version == 2:
                return new
            time.sleep(0.002)
        return 0

    def kills(self) -> int:
        """How many processes were killed since the last call, without waiting."""
        if self._version == 1:
            try:
                os.read(self._fd, 8)
            except BlockingIOError:
                pass
        before, self._seen = self._seen, self._kills()
        return max(0, self._seen - before)

    def _kills(self) -> int:
        if self._version == 2:  # also makes the next POLLPRI come with the next change
            os.lseek(self._source, 0, os.SEEK_SET)
            try:
                return parse.flat_keyed(os.read(self._source, 4096).decode()).get("oom_kill", 0)
            except OSError:  # ENODEV: the group was removed
                return self._seen
        text = files.read_short(self._file)
        return self._seen if text is None else parse.flat_keyed(text).get("oom_kill", 0)

    def close(self) -> None:
        fds = {self._fd, self._source} - {-1}
        self._fd = self._source = -1
        for fd in fds:
            os.close(fd)

    def __enter__(self) -> OomWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _eventfd(path: str, source: int) -> int:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        files.write(f"{path}/cgroup.event_control", f"{fd} {source}")
    except OSError:
        os.close(fd)
        raise
    return fd
