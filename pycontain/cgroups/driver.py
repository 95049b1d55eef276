"""What a cgroup driver is: the protocol that `cgroupfs` and `systemd` fulfil, and its values.

A driver makes one group for a task before its process exists, and the process is born into it: the caller passes
`into_fd` to clone3 (v2) and lets the child write "0" to each of `attach_fds` (v1), then calls `close_fds`. Nobody
writes `cgroup.procs` for a start: on v1 that waits for an RCU grace period of all processors, 11 ms on an idle machine.
Afterwards: `usage`, `kill` when the task must end, `remove`. A group whose owner died is found by `names` and `open`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from attrs import frozen

if TYPE_CHECKING:
    from pycontain.cgroups.oom import OomWatch
    from pycontain.cgroups.stats import Stats
    from pycontain.spec import Resources


class Reason(NamedTuple):
    """Why something cannot be used here: two texts without a full stop at the end, shared by errors and `doctor`."""

    cause: str
    remedy: str


@frozen
class CgroupUsage:
    """What a group has used since it was made, all its processes together, the ended ones included."""

    memory_peak: int | None = None
    """The most memory at any moment, in bytes, page cache included. None without a memory controller, and on v2
    before Linux 5.19."""
    pids_peak: int | None = None
    """The most processes and threads at any moment. None without a pids controller, and before Linux 6.1."""
    oom_kills: int = 0
    """Processes of this group that the kernel killed for want of memory, for its own limit or the machine's. 0 also
    where no memory controller can be used."""
    cpu_stall_time: float | None = None
    """Seconds in which some process waited for a processor (pressure stall information). None without a v2 group, and
    so are the next two."""
    memory_stall_time: float | None = None
    """The same for memory."""
    io_stall_time: float | None = None
    """The same for input and output."""


class Cgroup(Protocol):
    """One group: a directory in each hierarchy that is used. Not thread-safe; owned by who created or opened it."""

    @property
    def name(self) -> str:
        """As given to `create`; of a child, PARENT/NAME."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The absolute directories. Empty when neither limits nor figures nor a sure kill can be had here."""

    @property
    def into_fd(self) -> int | None:
        """An `O_PATH` descriptor of the v2 directory for `CLONE_INTO_CGROUP`; None without one or once closed."""

    @property
    def attach_fds(self) -> tuple[int, ...]:
        """Descriptors of the v1 `tasks` files, to each of which the child writes "0". Empty on v2 or once closed."""

    @property
    def adopts(self) -> bool:
        """Whether `adopt` does something, for which the process has to be held back."""

    def adopt(self, pid: int) -> None:
        """Puts a process that is held back into the group where its birth could not: an unprivileged user may not move
        out of a login session, but systemd does it. To be called for every first process before it goes on; most often
        there is nothing to do. Raises `CgroupError`.
        """

    def close_fds(self) -> None:
        """Closes `into_fd` and `attach_fds`. May be called again."""

    def usage(self, oom_kills: bool = True) -> CgroupUsage:
        """The figures so far. To be read before `remove`; of a group that is gone, all are None or 0.

        Without `oom_kills` that figure is not read and 0: a task that was not killed needs it not.
        """

    def stats(self) -> Stats:
        """All figures of the running group as they are now, those of groups below included."""

    def watch_oom(self) -> OomWatch:
        """Notices processes of the group that are killed for want of memory from now on. The caller closes it.

        Raises `NotSupported` without the memory controller.
        """

    def kill(self, timeout: float = 10.0) -> None:
        """Kills every process inside and below with SIGKILL and returns when the group is empty.

        Complete also against processes that fork faster than they are killed, and of frozen ones; nothing should be
        started in the group afterwards, since it may not be able to fork. Raises `CgroupError` naming the pids that are
        still there after `timeout` seconds (a process in uninterruptible sleep).
        """

    def update(self, resources: Resources) -> None:
        """Changes limits of the running group; what `resources` leaves open stays as it is.

        Raises `LimitNotSupported` for a limit that cannot be enforced, also for one below what is in use on v1;
        the limits before it in order may then have been changed.
        """

    @property
    def frozen(self) -> bool:
        """Whether every process inside and below is stopped by the freezer, this group's or one above it."""

    def freeze(self, timeout: float = 10.0) -> None:
        """Stops every process inside and below, unseen by them, and returns when they stand still.

        A group made with `kill=True`, and every group on v2, can be frozen as it is; others join the freezer now, which
        moves their processes (some 10 ms, once). A frozen process dies of SIGKILL on v2 at once, on v1 at `thaw`
        (`kill` sees to that). Raises `CgroupError` when some run still after `timeout` seconds, and has thawed the
        group again; `NotSupported` where there is no freezer.
        """

    def thaw(self) -> None:
        """Lets a frozen group go on. Without effect on one that is not frozen."""

    def child(self, name: str, resources: Resources | None = None) -> Cgroup:
        """Makes the group `name` below this one: for one more process of a task, so that its `kill` ends exactly what
        that process started, and its `usage` is its own. The limits of this group hold for both together.

        Call `remove` on it before its parent's figures are final; the parent's `kill` and `remove` take it along.
        Raises as `CgroupDriver.create` does. On v2, where a group with controllers below cannot hold processes itself,
        the first child moves this group's processes into a group below (some 10 ms, once). May be called from any
        thread.
        """

    def remove(self, timeout: float = 2.0) -> None:
        """Removes the group and the groups below it, and closes the descriptors. May be called again.

        Waits up to `timeout` seconds for processes that are just ending, then raises `CgroupError` naming the group and
        its pids. Kills nothing.
        """


class CgroupDriver(Protocol):
    """Makes groups below a parent of its own, and touches nothing else. May be shared by threads."""

    @property
    def name(self) -> str:
        """`cgroupfs` or `systemd`."""

    @property
    def hierarchy(self) -> str:
        """`v1`, `v2`, `hybrid` (controllers on v1, and a v2 hierarchy beside them) or `none`."""

    @property
    def controllers(self) -> frozenset[str]:
        """The kernel's names of the controllers in which this user can make groups here."""

    @property
    def places(self) -> frozenset[str]:
        """The hierarchies in which groups are made, as words that no other hierarchy of the machine has: a process for
        which one of them is not there cannot find all groups of another that has it."""

    def reason(self, controller: str) -> Reason | None:
        """Why `controller` is not among `controllers`; None when it is."""

    def create(
        self, name: str, resources: Resources | None, kill: bool = False, delegate: bool = False
    ) -> Cgroup:
        """Makes the group `name` with these limits, empty and ready for a process.

        `kill=True` adds what a complete `kill()` needs when the task has no pid namespace whose first process ends it:
        on hybrid a v2 group, on v1 the freezer: with it the group can also be frozen from its first moment.
        `delegate=True` makes it in every hierarchy and with every controller, for a task that makes groups in it.

        Raises `LimitNotSupported` for a limit that cannot be enforced here (also for a field that this driver does not
        know), `InvalidArgument` for a value that can never work, `CgroupError` when the name is taken. Nothing is left
        after an error.
        """

    def names(self) -> set[str]:
        """The names of all groups below our parent, of every process on the machine that uses it."""

    def open(self, name: str) -> Cgroup:
        """An existing group, to kill and remove what a dead owner left. Without paths when it is gone."""

    def remove_parent_if_empty(self) -> None:
        """Removes our parent directories that hold no group; meant for the end of the process."""
