"""One thread for all tasks that were started and not run: serves their streams and collects each when it has ended.

It exists only while there is such a task.
"""

from __future__ import annotations

import os
import select
import threading

from attrs import define, field

from pycontain.errors import NotSupported
from pycontain.runtimes.failure import no_descriptors
from pycontain.runtimes.remedies import PROCESSES
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
        self._thread: threading.Thread | None = None
        self._by_fd: dict[int, _Watched] = {}
        self._count = 0

    def watch(self, task: Task) -> None:
        """Takes over a task that has just been started. When it cannot, the task is ended."""
        task._waiters = threading.Event()
        watched = _Watched(task, task.pidfd)
        try:
            with self._lock:
                self._add(watched)
        except OSError as error:
            task._abort()
            raise no_descriptors(error) from None
        except RuntimeError as error:
            task._abort()
            raise NotSupported(f"there can be no thread to watch the task: {error}", remedy=PROCESSES) from None
        except BaseException:  # Ctrl-C: the thread may run by now, and collects the task
            task._process.kill()
            raise

    def _add(self, watched: _Watched) -> None:
        """All of it, or after an error nothing."""
        epoll = self._epoll or select.epoll()
        self._epoll, self._count = epoll, self._count + 1
        try:
            for fd, events in ((watched.pidfd, select.EPOLLIN), *watched.task._plumbing.waiting()):
                epoll.register(fd, events)
                watched.fds.add(fd)
                self._by_fd[fd] = watched
            if not self._runs():
                self._thread = threading.Thread(target=self._run, args=(epoll,), name="pycontain-monitor", daemon=True)
                self._thread.start()
        except Exception:
            self._count -= 1
            self._forget(epoll, watched)
            if not self._count and not self._runs():
                epoll.close()
                self._epoll = self._thread = None
            raise

    def _runs(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _forget(self, epoll: select.epoll, watched: _Watched) -> None:
        for fd in watched.fds:
            epoll.unregister(fd)
            del self._by_fd[fd]

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
                    self._epoll = self._thread = None
                    return

    def _serve(self, epoll: select.epoll, watched: _Watched, fd: int) -> None:
        with self._lock:  # a descriptor that is closed may be another's at once
            if not watched.task._plumbing.serve(fd):
                watched.fds.discard(fd)
                del self._by_fd[fd]

    def _finish(self, epoll: select.epoll, watched: _Watched) -> None:
        with self._lock:
            self._forget(epoll, watched)
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
