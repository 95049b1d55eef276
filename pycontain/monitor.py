"""One thread for all tasks that were started and not run: serves their streams and collects each when it has ended.

It exists only while there is such a task.
"""

from __future__ import annotations

import _thread
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
        self._by_fd: dict[int, _Watched] = {}
        self._count = 0

    def watch(self, task: Task) -> None:
        """Takes over a task that has just been started. After an error the caller has to `cancel` it."""
        task._waiters = threading.Event()
        watched = _Watched(task, task.pidfd)
        try:
            with self._lock:
                self._add(watched)
        except OSError as error:
            raise no_descriptors(error) from None
        except RuntimeError as error:
            raise NotSupported(f"there can be no thread to watch the task: {error}", remedy=PROCESSES) from None

    def cancel(self, task: Task) -> None:
        """Ends a task whose start was interrupted, before or after it was watched."""
        with self._lock:
            watched = task.pidfd in self._by_fd
        if watched:  # the thread collects it
            task._process.kill()
        else:
            task._abort()

    def _add(self, watched: _Watched) -> None:
        """All of it, or after an error nothing."""
        new = self._epoll is None
        epoll = self._epoll or select.epoll()
        self._epoll, self._count = epoll, self._count + 1
        try:
            for fd, events in ((watched.pidfd, select.EPOLLIN), *watched.task._plumbing.waiting()):
                watched.fds.add(fd)
                self._by_fd[fd] = watched
                epoll.register(fd, events)
            if new:
                # not threading.Thread, whose start waits for the thread: Ctrl-C would come there most of the time
                _thread.start_new_thread(self._run, (epoll,))
        except BaseException:  # Ctrl-C too
            self._count -= 1
            self._forget(epoll, watched)
            if not self._count:
                epoll.close()
                self._epoll = None
            raise

    def _forget(self, epoll: select.epoll, watched: _Watched) -> None:
        for fd in watched.fds:
            self._by_fd.pop(fd, None)
            try:
                epoll.unregister(fd)
            except OSError:  # an error came before it was registered, or the end of Python has closed it
                pass

    def _run(self, epoll: select.epoll) -> None:
        while not self._is_over(epoll):
            for fd, _ in epoll.poll(maxevents=64):
                with self._lock:
                    watched = self._by_fd.get(fd)
                if watched is None:  # of a task that this round has finished already
                    continue
                if fd == watched.pidfd:
                    self._finish(epoll, watched)
                else:
                    self._serve(epoll, watched, fd)

    def _is_over(self, epoll: select.epoll) -> bool:
        with self._lock:
            if self._epoll is not epoll:  # it was given up, by Ctrl-C while this thread was started
                return True
            if self._count == 0:
                epoll.close()
                self._epoll = None
            return self._count == 0

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


def cancel(task: Task) -> None:
    """Ends a task whose start was interrupted."""
    _monitor.cancel(task)


def _after_fork() -> None:
    global _monitor
    if _monitor._epoll is not None:
        _monitor._epoll.close()
    _monitor = Monitor()


os.register_at_fork(after_in_child=_after_fork)
