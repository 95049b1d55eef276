"""The runtime that needs no other program: a compiled specification becomes a process, a child of this one."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import evolve

from pycontain.cgroups import Cgroup, CgroupDriver, CgroupUsage
from pycontain.cgroups.delegate import hand_over
from pycontain.errors import NotSupported, TaskError
from pycontain.linux.pidfd import Ended, wait
from pycontain.runtimes import owner as owners
from pycontain.runtimes.compile import Compiled
from pycontain.runtimes.drivers import cgroup_driver, remove_empty_parents
from pycontain.runtimes.idmap import outside, write_maps
from pycontain.runtimes.launch import INIT_REPORT, Launch, Streams

if TYPE_CHECKING:
    from pycontain.cgroups.oom import OomWatch
    from pycontain.cgroups.stats import Stats
    from pycontain.spec import Resources

SIGKILL = int(signal.SIGKILL)
NO_CGROUP = "Run as root, or where a cgroup is delegated to this user"

_live: set[NativeProcess] = set()


class NativeProcess:
    """A container's process: made without side effects, started once, collected once.

    Whatever interrupts a start, `abort` leaves nothing of it.

    Attributes:
        pid, pidfd: of the first process, as this process sees it; 0 and -1 before the start and after the end.
        cgroup: None where there is none.
        frozen: whether its processes are stopped, by `freeze`.
    """

    def __init__(self, compiled: Compiled, snapshot: str | None = None) -> None:
        """`snapshot` is the directory of the snapshot that a container of an image writes to."""
        if snapshot is not None:
            compiled = evolve(compiled, plan=compiled.plan.with_path(os.fsencode(snapshot)))
        self.pid = 0
        self.pidfd = -1
        self.cgroup: Cgroup | None = None
        self._driver: CgroupDriver | None = None
        self._compiled = compiled
        self._entry: owners.Entry | None = None
        self._init_report = -1
        self.frozen = False
        self._lock = threading.Lock()

    def start(self, argv: Sequence[str], streams: Streams) -> None:
        """Starts `argv` in the container. Returns when the command has been executed.

        Raises:
            CommandNotFound, CommandNotExecutable: the command is not there, or cannot be executed.
            LimitNotSupported: a limit cannot be enforced here.
            StartFailed: a step failed; nothing is left.
        """
        launch = Launch.of(self._compiled, argv, streams)
        try:
            self._start(launch)
        except BaseException:
            self.abort()
            raise

    def _start(self, launch: Launch) -> None:
        try:
            self._prepare()
            launch.open_descriptors(self.cgroup)
            launch.run(self._record, self.cgroup, self._pid_word())
            self._init_report = launch.take_init_report()
            launch.verify(self.pid)
        finally:  # before an abort, which may need descriptors where there are no more
            launch.close()
            if self.cgroup is not None:
                self.cgroup.close_fds()

    def _prepare(self) -> None:
        """The place in the table, and the cgroup: in this order, so that a later process finds the cgroup."""
        self._driver = cgroup_driver(self._compiled.cgroup)
        _live.add(self)
        self._entry = owners.current().reserve()
        cgroup = self._driver.create(
            self._group_name(), self._resources(), kill=self._compiled.kill_group, delegate=self._compiled.delegates
        )
        self.cgroup = cgroup if cgroup.paths else None
        if self._compiled.delegates:
            self._hand_over(cgroup)
        if self._compiled.kill_group:
            self._entry.record_group(_kill_file(cgroup))

    def _hand_over(self, cgroup: Cgroup) -> None:
        """Root of a user namespace makes groups with the rights of who it is outside."""
        uid, gid = outside(0, self._compiled.uid_map), outside(0, self._compiled.gid_map)
        if uid and gid and os.geteuid() == 0:
            hand_over(cgroup.paths, uid, gid)

    def _pid_word(self) -> int:
        """Where the kernel may write the pid itself; 0 when something has to be done for the process while it waits."""
        if self._entry is None or self._compiled.uid_map or (self.cgroup is not None and self.cgroup.adopts):
            return 0
        return self._entry.pid_address

    def _resources(self) -> Resources:
        """With the default device list only where devices can be limited: an unprivileged user can use no others."""
        without = self._compiled.without_devices
        if without is None or self._driver is None or self._driver.reason("devices") is None:
            return self._compiled.resources
        return without

    def _group_name(self) -> str:
        """Begins with the place in the table, by which a sweep finds it."""
        if self._entry is None:
            raise TaskError("the process has no place in the table")
        name = self._compiled.cgroup.name
        return self._entry.name if name is None else f"{self._entry.name}-{name}"

    def _record(self, pid: int, pidfd: int) -> None:
        if self._entry is None:
            raise TaskError("the process has no place in the table")
        if pid:
            self._entry.record(pid, pidfd)
        else:
            self._entry.clear_process()
        self.pid, self.pidfd = pid, pidfd
        if pid and self.cgroup is not None:
            self.cgroup.adopt(pid)
        if pid and self._compiled.uid_map:
            write_maps(pid, self._compiled.uid_map, self._compiled.gid_map)

    def kill(self) -> None:
        """Kills every process of the container with SIGKILL, at once. Without effect when it has ended."""
        with self._lock:
            self._kill_all()

    def freeze(self, frozen: bool) -> None:
        """Stops all its processes, or lets them go on. Raises as `Cgroup.freeze` does."""
        with self._lock:
            group = self._group()
            if frozen:
                group.freeze()
            else:
                group.thaw()
            self.frozen = frozen

    def update(self, resources: Resources) -> None:
        """Changes limits of the running container. Raises as `Cgroup.update` does."""
        with self._lock:
            self._group().update(resources)

    def stats(self) -> Stats:
        """The figures as they are now."""
        with self._lock:
            return self._group().stats()

    def watch_oom(self) -> OomWatch:
        """Notices kills for want of memory from now on."""
        with self._lock:
            return self._group().watch_oom()

    def _group(self) -> Cgroup:
        if self.pidfd < 0:
            raise TaskError("the task does not run")
        if self.cgroup is None:
            raise NotSupported("the task has no cgroup", remedy=NO_CGROUP)
        return self.cgroup

    def send_signal(self, number: int) -> None:
        """Sends a signal to the first process. Without effect when it has ended."""
        with self._lock:
            self._signal(number)

    def collect(self) -> tuple[Ended, CgroupUsage]:
        """Reaps the first process, which has ended, ends what it left, and removes all that the container has."""
        with self._lock:
            if self.pidfd < 0 or self._entry is None:
                raise TaskError("the process has not been started, or has been collected already")
            try:
                self._kill_group()
                self._entry.clear_process()
                ended = _wait(self.pidfd)
                if ended is None:
                    raise TaskError("the process has not ended")
                if self._init_report >= 0:
                    ended = _as_init_reported(ended, self._init_report)
                used = self._usage(ended)
            except BaseException:  # Ctrl-C too: it may not have been reaped
                self._end()
                raise
            self._remove()
            return ended, used

    def _usage(self, ended: Ended) -> CgroupUsage:
        if self.cgroup is None:
            return CgroupUsage()
        killed = SIGKILL in (ended.signal, (ended.exit_code or 0) - 128)  # a shell reports its child's death so
        return self.cgroup.usage(oom_kills=killed)

    def abort(self) -> None:
        """Ends and removes whatever there is, from any state. May be called again."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._entry is not None and self.cgroup is None and self._driver is not None:
            self.cgroup = self._driver.open(self._group_name())  # Ctrl-C may have come while it was made
        self._kill_all()
        if self._entry is not None:
            self._entry.clear_process()
        if self.pidfd >= 0:
            try:
                wait(self.pidfd)
            except ChildProcessError:
                pass
        self._remove()

    def _signal(self, number: int) -> None:
        if self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                pass

    def _kill_all(self) -> None:
        self._signal(signal.SIGKILL)
        self._kill_group()
        if self.frozen and self.cgroup is not None:  # on v1 a frozen process dies when it is thawed
            self.cgroup.thaw()

    def _kill_group(self) -> None:
        """Where no pid namespace ends all others with the first process."""
        if self._compiled.kill_group and self.cgroup is not None:
            self.cgroup.kill()

    def disown(self) -> None:
        """In a child of os.fork: the process is the parent's."""
        self.cgroup = self._entry = None
        self._lock = threading.Lock()
        self._close()

    def _close(self) -> None:
        descriptors = self.pidfd, self._init_report
        self.pid, self.pidfd, self._init_report = 0, -1, -1
        for fd in descriptors:
            if fd >= 0:
                os.close(fd)

    def _remove(self) -> None:
        self._close()
        if self.cgroup is not None:
            self.cgroup.remove()
            self.cgroup = None
        if self._entry is not None:
            self._entry.release()
            self._entry = None
        _live.discard(self)


def _wait(pidfd: int) -> Ended | None:
    try:
        return wait(pidfd)
    except ChildProcessError:
        raise TaskError(
            "the end of the task is not known: somebody else has taken the exit status of this process's child",
            remedy="Do not ignore SIGCHLD, and wait for the children of other code one by one, not for any (wait(2))",
        ) from None


def _as_init_reported(ended: Ended, report: int) -> Ended:
    """The end of the command itself: init, being process 1, cannot die of the signal that its child died of."""
    data = os.read(report, INIT_REPORT.size)
    if len(data) < INIT_REPORT.size:
        return ended
    _, _, status, _ = INIT_REPORT.unpack(data)
    if os.WIFSIGNALED(status):
        return evolve(ended, exit_code=None, signal=os.WTERMSIG(status), core_dumped=os.WCOREDUMP(status))
    return evolve(ended, exit_code=os.WEXITSTATUS(status), signal=None)


def _at_exit() -> None:
    """Ends what still runs, and removes this process's table, without which nobody would sweep what is left."""
    for process in tuple(_live):
        process.abort()
    owners.close()
    remove_empty_parents()


atexit.register(_at_exit)


def _after_fork() -> None:
    for process in _live:
        process.disown()
    _live.clear()


os.register_at_fork(after_in_child=_after_fork)


def _kill_file(cgroup: Cgroup) -> str:
    """The file through which all processes of a group can be found or killed."""
    for name in ("cgroup.kill", "tasks"):
        for path in cgroup.paths:
            file = os.path.join(path, name)
            if os.path.exists(file):
                return file
    raise NotSupported(
        "a container without a pid namespace of its own needs a cgroup, to find its processes",
        remedy="Give it a new pid namespace, or run as root",
    )
