"""One thread for all tasks that were started and not run: serves their streams and collects each when it has ended.

It exists only while there is such a task.
"""

from __future__ import annotations

import os
import select
import threading

from attrs import define, field

from pycontain.task import Task


@define
class _Watched:
    task: Task
    pidfd: int
    fds: set[int] = field(factory=set)


class Monitor:
    """Watches tasks in a thread of its own, by epoll. Use `watch`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoll: select.epoll | None = None
        self._by_fd: dict[int, _Watched] = {}
        self._count = 0

    def watch(self, task: Task) -> None:
        """Takes over a task that has just been started."""
        task._waiters = threading.Event()
        watched = _Watched(task, task.pidfd)
        with self._lock:
            start = self._epoll is None
            epoll = self._epoll = self._epoll or select.epoll()
            self._count += 1
            for fd, events in ((task.pidfd, select.EPOLLIN), *task._plumbing.waiting()):
                watched.fds.add(fd)
                self._by_fd[fd] = watched
                epoll.register(fd, events)
            if start:
                threading.Thread(target=self._run, args=(epoll,), name="pycontain-monitor", daemon=True).start()

    def _run(self, epoll: select.epoll) -> None:
        while True:
            for fd, _ in epoll.poll(maxevents=64):
                with self._lock:
                    watched = self._by_fd.get(fd)
                if watched is None:  # of a task that this round has finished already
                    continue
                if fd == watched.pidfd:
                    self._finish(epoll, watched)
                else:
                    self._serve(epoll, watched, fd)
            with self._lock:
                if self._count == 0:
                    epoll.close()
                    self._epoll = None
                    return

    def _serve(self, epoll: select.epoll, watched: _Watched, fd: int) -> None:
        with self._lock:  # a descriptor that is closed may be another's at once
            if not watched.task._plumbing.serve(fd):
                watched.fds.discard(fd)
                del self._by_fd[fd]

    def _finish(self, epoll: select.epoll, watched: _Watched) -> None:
        with self._lock:
            for fd in watched.fds:
                epoll.unregister(fd)
                del self._by_fd[fd]
        watched.task._finish()
        with self._lock:
            self._count -= 1


_monitor = Monitor()


def watch(task: Task) -> None:
    """Lets this process's monitor serve and collect a task."""
    _monitor.watch(task)


def _after_fork() -> None:
    global _monitor
    if _monitor._epoll is not None:
        _monitor._epoll.close()
    _monitor = Monitor()


os.register_at_fork(after_in_child=_after_fork)
