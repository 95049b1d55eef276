"""Who owns which tasks: a locked table file for each Python process, and the guard that acts when the process is gone.

Each process that starts tasks has one file in the run directory. Its `flock` is held as long as the process lives, and
it is a table with an entry for every task, written before the task exists. Two readers rely on it:

- the guard, a tiny process of our own (`_native/helper.c`), sleeps until this process ends, however it ends, and then
  kills every task in the table;
- any later pycontain process finds the file unlocked, kills what the guard could not, removes the cgroups, which carry
  the file's name, and then the file (`stale_owners`).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import stat
import struct
import threading
import time
from collections.abc import Iterator

from attrs import define, frozen

from pycontain._native._core import ffi
from pycontain.errors import NotSupported, name_of
from pycontain.linux import plan as steps
from pycontain.linux.helper import executable
from pycontain.linux.pidfd import pidfd_open, wait
from pycontain.runtimes.start import Command, StepFailed, start

GROUP_SIZE = 240
ENTRY = struct.Struct(f"=IiQ{GROUP_SIZE}s")  # struct entry in _native/helper.c
CAPACITY = 65536
TASK, NOTE = 1, 2  # the states of an entry in use
CREATION_LIMIT = 60.0  # seconds after which a file that is still hidden has no maker any more


@frozen
class Recorded:
    """One entry of a table as a later process reads it. Of a note, `kill_file` is the text."""

    state: int
    pid: int
    pidfd_inode: int
    kill_file: str


@define
class Entry:
    """The place of one task in this process's table."""

    owner: Owner
    index: int

    @property
    def name(self) -> str:
        """Unique among all tasks of the machine: the cgroup's name begins with it."""
        return f"{self.owner.token}-{self.index}"

    @property
    def pid_address(self) -> int:
        """The address of its pid in the table."""
        return self.owner.address + self.index * ENTRY.size + 4

    def record(self, pid: int, pidfd: int) -> None:
        """Notes the process, so that it is killed when this process is gone."""
        self.owner.write(self.index, struct.pack("=iQ", pid, self.owner.inode_of(pidfd)), offset=4)

    def record_group(self, kill_file: str) -> None:
        """Notes the file of a cgroup through which the whole task can be killed."""
        path = os.fsencode(kill_file)
        if len(path) > GROUP_SIZE - 1:
            raise NotSupported(
                f"the path of the cgroup is too long for the table of tasks: {kill_file}",
                remedy="Use a parent that is nearer to the root of the hierarchy",
            )
        self.owner.write(self.index, path + b"\0", offset=16)

    def clear_process(self) -> None:
        """To be called before the process is reaped: its number may be another's from then on."""
        self.owner.write(self.index, bytes(12), offset=4)

    def release(self) -> None:
        self.owner.free(self.index)


class Owner:
    """This process as the owner of tasks. Use `current()`."""

    def __init__(self) -> None:
        self.directory = run_directory()
        self.pid = os.getpid()
        self.pidfd = pidfd_open(self.pid)
        try:
            self._own_inode = os.fstat(self.pidfd).st_ino
            self.token, self._fd, self._table = _create_table(self.directory)
            self._memory = ffi.from_buffer(self._table)
            self.address = int(ffi.cast("uintptr_t", self._memory))
        except BaseException:
            os.close(self.pidfd)
            raise
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._used = 0  # entry 0 holds this number, for the guard
        self._guard_alive = -1
        self._guard_poll = select.poll()

    def reserve(self) -> Entry:
        """A place for a task that is about to be made; from now on a later process would look for its leftovers."""
        with self._lock:
            self._ensure_guard()
            if self._free:
                index = self._free.pop()
            elif self._used < CAPACITY - 1:
                index = self._used + 1
                self._allocate(index)
                self._used = index
                self.write(0, struct.pack("=I", index), offset=4)
            else:
                raise NotSupported(f"a process can have {CAPACITY - 1} tasks at once")
        self.write(index, struct.pack("=IiQ", TASK, 0, 0) + b"\0", offset=0)
        return Entry(self, index)

    def _allocate(self, index: int) -> None:
        """Makes the page of an entry exist: to write to a hole of a full file system would end us with SIGBUS."""
        if index % (mmap.PAGESIZE // ENTRY.size) and index > 1:
            return
        try:
            os.posix_fallocate(self._fd, index * ENTRY.size, ENTRY.size)
        except OSError as error:
            raise NotSupported(
                f"the table of this process's tasks in {self.directory} cannot grow: {name_of(error.errno or 0)}",
                remedy="Free space there",
            ) from None

    def note(self, text: str) -> None:
        """Keeps a word for the process that sweeps after this one, in an entry that is no task."""
        entry = self.reserve()
        self.write(entry.index, struct.pack("=I", NOTE), offset=0)
        entry.record_group(text)

    def free(self, index: int) -> None:
        self.write(index, bytes(17), offset=0)
        with self._lock:
            self._free.append(index)

    def write(self, index: int, data: bytes, *, offset: int) -> None:
        at = index * ENTRY.size + offset
        self._table[at : at + len(data)] = data

    def inode_of(self, pidfd: int) -> int:
        """The number that pidfs (Linux 6.9) gives a process and never again; 0 before, where all pidfds share one."""
        inode = os.fstat(pidfd).st_ino
        return inode if inode != self._own_inode else 0

    def close(self) -> None:
        """Removes the file. The guard finds an empty table and ends with the process."""
        try:
            os.unlink(os.path.join(self.directory, self.token))
        except FileNotFoundError:
            pass

    def forget(self) -> None:
        """In a child of os.fork: the tasks, the lock and the guard are the parent's."""
        ffi.release(self._memory)
        self._table.close()  # it holds a descriptor of its own, and with it the lock
        for fd in (self._fd, self.pidfd, self._guard_alive):
            if fd >= 0:
                os.close(fd)

    def _ensure_guard(self) -> None:
        """Starts the guard, and once more should it have been killed: its end of a pipe is closed then."""
        if self._guard_alive >= 0:
            if not self._guard_poll.poll(0):
                return
            self._guard_poll.unregister(self._guard_alive)
            os.close(self._guard_alive)
            self._guard_alive = -1
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            self._start_guarded_by(null)
        finally:
            os.close(null)

    def _start_guarded_by(self, null: int) -> None:
        self._guard_alive, write_end = os.pipe()
        self._guard_poll.register(self._guard_alive, 0)
        try:
            self._start_guard(null, write_end)
        except BaseException:
            self._guard_poll.unregister(self._guard_alive)
            os.close(self._guard_alive)
            self._guard_alive = -1
            raise
        finally:
            os.close(write_end)

    def _start_guard(self, null: int, alive: int) -> None:
        plan = steps.Plan((
            steps.chdir("/"),
            steps.default_signals(),
            steps.stdio("null", "null", "null"),
            steps.close_descriptors(),
            *(steps.keep(name) for name in ("owner", "table", "alive")),
            steps.execute("helper"),
        ))
        argv = ["pycontain-guard", str(self.pidfd), str(self._fd), str(CAPACITY)]
        descriptors = {
            "null": null, "owner": self.pidfd, "table": self._fd, "alive": alive, "helper": executable(),
        }
        command = Command.of([word.encode() for word in argv], [], [])
        try:
            _, pidfd = start(plan, command, descriptors, lambda pid, pidfd: None)
        except StepFailed as failure:
            from pycontain.runtimes.failure import start_failed

            raise start_failed(failure, plan, argv, []) from None
        try:
            wait(pidfd)  # it has forked, so that it is no child of ours
        except ChildProcessError:  # somebody waits for any child, or SIGCHLD is ignored
            pass
        finally:
            os.close(pidfd)


def run_directory() -> str:
    """Where the tables are: /run/pycontain for root, $XDG_RUNTIME_DIR/pycontain, or a private directory in /tmp."""
    uid = os.geteuid()
    if uid == 0:
        path = "/run/pycontain"
    elif os.environ.get("XDG_RUNTIME_DIR"):
        path = os.path.join(os.environ["XDG_RUNTIME_DIR"], "pycontain")
    else:
        path = f"/tmp/pycontain-{uid}"
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise NotSupported(
            f"the run directory {path} cannot be created: {name_of(error.errno or 0)}",
            remedy="Set XDG_RUNTIME_DIR to a directory that this user can write to",
        ) from None
    info = os.stat(path, follow_symlinks=False)
    if info.st_uid != uid or info.st_mode & 0o077 or not os.path.isdir(path) or os.path.islink(path):
        raise NotSupported(
            f"the run directory {path} must be a directory of user {uid} with mode 0700",
            remedy="Remove it, or set XDG_RUNTIME_DIR to another",
        )
    return path


def _create_table(directory: str) -> tuple[str, int, mmap.mmap]:
    """Creates the file under another name, locks it, and only then gives it the name by which others find it."""
    token = os.urandom(6).hex()
    hidden = os.path.join(directory, f".{token}")
    fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, CAPACITY * ENTRY.size)
        table = mmap.mmap(fd, CAPACITY * ENTRY.size)  # keeps a duplicate of the descriptor
        os.rename(hidden, os.path.join(directory, token))
    except BaseException:
        os.close(fd)
        os.unlink(hidden)
        raise
    return token, fd, table


@frozen
class StaleOwner:
    """What a process left that has gone. `directory/token` stays locked by us until `discard`."""

    directory: str
    token: str
    fd: int
    tasks: tuple[Recorded, ...]
    notes: tuple[str, ...]

    def discard(self) -> None:
        try:
            os.unlink(os.path.join(self.directory, self.token))
        except FileNotFoundError:
            pass
        os.close(self.fd)


def stale_owners(directory: str) -> Iterator[StaleOwner]:
    """The tables whose process is gone, each locked so that only one process sweeps it. Other files are left alone."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.ENXIO):
                continue
            raise
        try:
            if not _may_be_stale(name, os.fstat(fd)):
                os.close(fd)
                continue
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            continue
        entries = tuple(_read_table(fd))
        tasks = tuple(entry for entry in entries if entry.state == TASK)
        notes = tuple(entry.kill_file for entry in entries if entry.state == NOTE)
        yield StaleOwner(directory, name, fd, tasks, notes)


def _may_be_stale(name: str, info: os.stat_result) -> bool:
    """A hidden file is one that is just being made and not yet locked, unless its maker died then."""
    being_made = name.startswith(".") and time.time() - info.st_mtime < CREATION_LIMIT
    return stat.S_ISREG(info.st_mode) and not being_made


def _read_table(fd: int) -> Iterator[Recorded]:
    """The used entries. The file is sparse: what was never written is skipped as a hole."""
    position, size = 0, os.fstat(fd).st_size
    while position < size:
        try:
            position = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return
        position -= position % ENTRY.size
        for state, pid, inode, kill_file in ENTRY.iter_unpack(_whole_entries(os.pread(fd, ENTRY.size * 256, position))):
            if state:
                yield Recorded(state, pid, inode, os.fsdecode(kill_file.split(b"\0")[0]))
        position += ENTRY.size * 256


def _whole_entries(data: bytes) -> bytes:
    return data[: len(data) - len(data) % ENTRY.size]


_current: Owner | None = None
_current_lock = threading.Lock()


def current() -> Owner:
    """This process as an owner, made at the first call."""
    global _current
    if _current is not None:
        return _current
    with _current_lock:
        if _current is None:
            _current = Owner()
        return _current


def close() -> None:
    """At the end of this process: what is started after this has another owner."""
    global _current
    with _current_lock:
        if _current is not None:
            _current.close()
            _current = None


def _after_fork() -> None:
    global _current, _current_lock
    _current_lock = threading.Lock()
    if _current is not None:
        _current.forget()
        _current = None


os.register_at_fork(after_in_child=_after_fork)
