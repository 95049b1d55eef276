"""The table of an owner, what its guard does with it, and what a later process finds and sweeps."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confined import PRELUDE, needs_root, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from leftovers import cgroups_of

from pycontain import NotSupported
from pycontain.cgroups import detect
from pycontain.linux.pidfd import pidfd_open
from pycontain.runtimes import owner as owners
from pycontain.runtimes import sweep as sweeper
from pycontain.runtimes.owner import CAPACITY, ENTRY, NOTE, TASK, Owner, Recorded, stale_owners
from pycontain.runtimes.sweep import sweep

PATIENCE = 60.0  # seconds; no test waits for that unless it fails

# A process of its own whose run directory is argv[1]: no other process of the machine sweeps it.
OWNER = PRELUDE + """
import signal, subprocess, time
from pycontain.runtimes import owner, sweep
owner.run_directory = sweep.run_directory = lambda: sys.argv[1]

def say(*words):
    print(*words, flush=True)

def child(*argv):
    return subprocess.Popen(argv or ["sleep", "3600"], start_new_session=True)
"""


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A run directory that only this test uses."""
    path = tempfile.mkdtemp(prefix="pycontain-run-")
    monkeypatch.setattr(owners, "run_directory", lambda: path)
    monkeypatch.setattr(sweeper, "run_directory", lambda: path)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def new_owner(directory: str) -> Iterator[Callable[[], Owner]]:
    """Makes owners in this process, ends their guards, and lets go of what they hold."""
    made: list[Owner] = []

    def make() -> Owner:
        made.append(Owner())
        return made[-1]

    yield make
    for owner in made:
        die(owner)


def die(owner: Owner) -> None:
    """Lets go of what the end of its process would close, and ends its guard, which holds the lock while it lives."""
    if owner._fd >= 0:
        for pid in guards_of(owner.token):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: guards_of(owner.token) == [], "the end of the guard")
        owner.forget()
        owner._fd = owner.pidfd = owner._guard_alive = -1


def guards_of(token: str) -> list[int]:
    """The guards that hold the table `token`."""
    found = []
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                guard = name.isdigit() and file.read().startswith(b"pycontain-guard\0")
            if guard and any(token in os.readlink(f"/proc/{name}/fd/{fd}") for fd in os.listdir(f"/proc/{name}/fd")):
                found.append(int(name))
        except OSError:
            continue
    return found


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.005)


def ends(fd: int) -> bool:
    """Whether the process of a pidfd ends, or something can be read; which is waited for."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(PATIENCE * 1000))


def lives(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)


class Program:
    """An owner in a process of its own, to be killed."""

    def __init__(self, directory: str, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER + code + "\ntime.sleep(3600)", directory], stdout=subprocess.PIPE, text=True
        )
        self._pidfds: list[int] = []

    def words(self) -> list[str]:
        assert self.process.stdout is not None
        assert ends(self.process.stdout.fileno()), "the program says nothing"
        return self.process.stdout.readline().split()

    def watch(self, pid: str) -> int:
        self._pidfds.append(pidfd_open(int(pid)))
        return self._pidfds[-1]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        for fd in self._pidfds:
            try:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            os.close(fd)


@pytest.fixture
def program(directory: str) -> Iterator[Callable[[str], Program]]:
    started: list[Program] = []

    def start(code: str) -> Program:
        started.append(Program(directory, code))
        return started[-1]

    yield start
    for one in started:
        one.close()


def stale(directory: str) -> dict[str, tuple[Recorded, ...]]:
    """What a sweep would find, left as it is."""
    found = {}
    for one in stale_owners(directory):
        found[one.token] = one.tasks
        os.close(one.fd)
    return found


# ---- the table


def test_a_living_owner_is_not_stale(new_owner: Callable[[], Owner], directory: str) -> None:
    owner = new_owner()
    owner.reserve()
    assert os.listdir(directory) == [owner.token]
    assert stale(directory) == {}


def test_an_owner_whose_lock_is_free_is_stale_with_what_it_recorded(
    new_owner: Callable[[], Owner], directory: str
) -> None:
    owner = new_owner()
    entry = owner.reserve()
    entry.record(os.getpid(), owner.pidfd)
    entry.record_group("/sys/fs/cgroup/pycontain/x/cgroup.kill")
    owner.reserve()
    die(owner)
    first, second = stale(directory)[owner.token][-2:]
    assert (first.pid, first.kill_file) == (os.getpid(), "/sys/fs/cgroup/pycontain/x/cgroup.kill")
    assert (second.pid, second.pidfd_inode, second.kill_file) == (0, 0, "")  # the intent, before there is a process


def test_what_is_cleared_or_released_is_not_found(new_owner: Callable[[], Owner], directory: str) -> None:
    owner = new_owner()
    cleared, released = owner.reserve(), owner.reserve()
    for entry in (cleared, released):
        entry.record(4242, owner.pidfd)
    cleared.clear_process()
    released.release()
    die(owner)
    assert 4242 not in {task.pid for task in stale(directory)[owner.token]}


def test_a_place_is_used_again(new_owner: Callable[[], Owner]) -> None:
    owner = new_owner()
    first = owner.reserve()
    first.record(4242, owner.pidfd)
    first.release()
    again = owner.reserve()
    assert again.index == first.index
    assert owner._table[again.index * ENTRY.size :][: ENTRY.size] == ENTRY.pack(1, 0, 0, b"")


def test_the_name_of_a_task_begins_with_its_owner_and_is_unique_among_those_alive(
    new_owner: Callable[[], Owner]
) -> None:
    owner, other = new_owner(), new_owner()
    names = {entry.name for entry in [*(owner.reserve() for _ in range(50)), *(other.reserve() for _ in range(50))]}
    assert len(names) == 100
    assert all(name.startswith((owner.token + "-", other.token + "-")) for name in names)


def test_a_full_table_is_refused_and_nothing_is_lost(new_owner: Callable[[], Owner]) -> None:
    owner = new_owner()
    entries = [owner.reserve() for _ in range(CAPACITY - 1)]
    with pytest.raises(NotSupported, match="65535 tasks"):
        owner.reserve()
    entries[1000].release()
    assert owner.reserve().index == entries[1000].index


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.integers(1, CAPACITY - 1),
        st.tuples(st.integers(2, 2**31 - 1), st.integers(0, 2**64 - 1), st.text("abc/.-", max_size=239)),
        max_size=20,
    )
)
def test_any_entries_anywhere_read_back_as_they_were_written(
    tmp_path: Path, entries: dict[int, tuple[int, int, str]]
) -> None:
    """The file is sparse, and read around its holes."""
    path = tmp_path / "table"
    with open(path, "wb") as file:
        file.truncate(CAPACITY * ENTRY.size)
        for index, (pid, inode, kill_file) in entries.items():
            file.seek(index * ENTRY.size)
            file.write(ENTRY.pack(1, pid, inode, kill_file.encode()))
    [found] = stale_owners(str(tmp_path))
    assert list(found.tasks) == [Recorded(TASK, *entries[index]) for index in sorted(entries)]
    found.discard()
    assert not path.exists()


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.binary(max_size=2000))
def test_a_damaged_table_is_read_without_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table").write_bytes(content)
    for found in stale_owners(str(tmp_path)):
        assert len(found.tasks) <= len(content) // ENTRY.size
        found.discard()


# ---- other files in the run directory


def test_a_table_that_another_process_sweeps_is_passed_over(directory: str) -> None:
    (Path(directory) / "table").touch()
    with open(Path(directory) / "table") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert stale(directory) == {}
    assert stale(directory) == {"table": ()}


def test_a_table_that_is_just_being_made_is_passed_over(directory: str) -> None:
    path = Path(directory) / ".table"
    path.touch()
    assert stale(directory) == {}
    long_ago = time.time() - 3600  # its maker was killed at that moment
    os.utime(path, (long_ago, long_ago))
    assert stale(directory) == {".table": ()}


def test_what_is_no_table_is_left_alone(directory: str) -> None:
    path = Path(directory)
    (path / "directory").mkdir()
    (path / "link").symlink_to("/etc/passwd")
    (path / "dangling").symlink_to("nowhere")
    os.mkfifo(path / "fifo")
    sweep(lambda note: detect())
    assert sorted(os.listdir(path)) == ["dangling", "directory", "fifo", "link"]


@needs_root
@pytest.mark.parametrize("kind", ["mode", "owner", "link", "file"])
def test_a_run_directory_that_others_could_write_to_is_refused(public_path: Path, kind: str) -> None:
    target = public_path / "pycontain"
    if kind in ("mode", "owner"):
        target.mkdir(mode=0o700)
    if kind == "mode":
        os.chown(target, 65534, 65534)
        target.chmod(0o770)
    elif kind == "link":
        (public_path / "elsewhere").mkdir(mode=0o700)
        os.chown(public_path / "elsewhere", 65534, 65534)
        target.symlink_to("elsewhere")
    elif kind == "file":
        target.touch(mode=0o600)
        os.chown(target, 65534, 65534)
    code = "become_nobody(); os.environ['XDG_RUNTIME_DIR'] = sys.argv[1]; print(failure_of(Container.from_host()))"
    text = run(code, str(public_path))
    assert text == (
        f"the run directory {target} must be a directory of user 65534 with mode 0700\n"
        "Remove it, or set XDG_RUNTIME_DIR to another"
    )


# ---- the life of an owner


def test_the_file_is_gone_with_a_process_that_ends_by_itself(directory: str) -> None:
    code = OWNER.replace(PRELUDE, "") + """
try:
    Container.from_host().run(["true"])
except PycontainError:
    pass  # the table is there all the same
say(len(os.listdir(sys.argv[1])))
"""
    assert run(code, directory) == "1"
    assert os.listdir(directory) == []


def test_a_child_of_fork_is_an_owner_of_its_own(directory: str) -> None:
    code = OWNER.replace(PRELUDE, "") + """
first = owner.current()
first.reserve()
pid = os.fork()
if pid == 0:
    second = owner.current()
    say(second.token != first.token, second.pid == os.getpid())
    second.close()
    os._exit(0)
os.waitpid(pid, 0)
say(os.listdir(sys.argv[1]) == [first.token], owner.current() is first)
first.close()
"""
    assert run(code, directory).split() == ["True"] * 4


def test_the_guard_is_started_with_the_first_task_and_only_once(new_owner: Callable[[], Owner]) -> None:
    owner = new_owner()
    assert guards_of(owner.token) == []
    for _ in range(5):
        owner.reserve()
    assert len(guards_of(owner.token)) == 1


def test_a_guard_that_was_killed_is_started_again_with_the_next_task(new_owner: Callable[[], Owner]) -> None:
    owner = new_owner()
    owner.reserve()
    [guard] = guards_of(owner.token)
    os.kill(guard, signal.SIGKILL)
    eventually(lambda: guards_of(owner.token) == [], "the end of the guard")
    owner.reserve()
    [another] = guards_of(owner.token)
    assert another != guard


def test_the_guard_is_no_child_of_its_owner(new_owner: Callable[[], Owner]) -> None:
    owner = new_owner()
    owner.reserve()
    [guard] = guards_of(owner.token)
    with open(f"/proc/{guard}/stat") as file:
        assert int(file.read().rpartition(")")[2].split()[1]) != os.getpid()
    with pytest.raises(ChildProcessError):
        os.waitpid(guard, os.WNOHANG)


# ---- the death of an owner


def test_the_guard_kills_what_is_recorded_and_nothing_else(program: Callable[[str], Program]) -> None:
    owner = program("""
from pycontain.linux.pidfd import pidfd_open
children = [child() for _ in range(4)]
recorded, cleared, released, other = children
entries = [owner.current().reserve() for _ in range(3)]
for entry, process in zip(entries, children):
    entry.record(process.pid, pidfd_open(process.pid))
entries[1].clear_process()
entries[2].release()
say(*(process.pid for process in children))
""")
    recorded, *others = [owner.watch(pid) for pid in owner.words()]
    assert lives(recorded)
    token = os.listdir(owners.run_directory())[0]
    owner.kill()
    assert ends(recorded)
    eventually(lambda: guards_of(token) == [], "the end of the guard")
    assert all(map(lives, others))


def test_the_guard_does_not_kill_a_later_process_of_the_same_number(program: Callable[[str], Program]) -> None:
    owner = program("""
import struct
process = child()
entry = owner.current().reserve()
inode = owner.current().inode_of(os.pidfd_open(process.pid))
entry.owner.write(entry.index, struct.pack("=iQ", process.pid, inode + 1), offset=4)
say(process.pid, inode, owner.current().token)
""")
    pid, inode, token = owner.words()
    pidfd = owner.watch(pid)
    if inode == "0":
        pytest.skip("this kernel has no pidfs (Linux 6.9): a process has no identity but its number")
    owner.kill()
    eventually(lambda: guards_of(token) == [], "the end of the guard")
    assert lives(pidfd)


@needs_root
def test_a_killed_owner_takes_its_containers_along_and_the_next_process_sweeps_the_rest(
    program: Callable[[str], Program], directory: str
) -> None:
    owner = program("""
task = Container.from_host().with_limits(pids=20).start(["sh", "-c", "sleep 3600 & sleep 3600"])
say(task.pid, owner.current().token)
""")
    pid, token = owner.words()
    pidfd = owner.watch(pid)
    assert cgroups_of(token)
    owner.kill()
    assert ends(pidfd)
    assert os.listdir(directory) == [token]
    sweep(lambda note: detect())
    assert os.listdir(directory) == []
    assert cgroups_of(token) == []


@needs_root
def test_what_no_guard_could_kill_the_next_process_kills(program: Callable[[str], Program], directory: str) -> None:
    owner = program("""
container = Container.from_host().with_limits(pids=20)
own = container.start(["sleep", "3600"])
shared = container.with_namespace("pid", "host").start(["sh", "-c", "sleep 3600 & exec sleep 3600"])
say(own.pid, shared.pid, owner.current().token)
""")
    own, shared, token = owner.words()
    pidfds = [owner.watch(own), owner.watch(shared)]
    for guard in guards_of(token):
        os.kill(guard, signal.SIGKILL)
    eventually(lambda: guards_of(token) == [], "the end of the guard")
    owner.kill()
    assert all(map(lives, pidfds))
    sweep(lambda note: detect())
    assert all(map(ends, pidfds))
    assert os.listdir(directory) == []
    assert cgroups_of(token) == []


@needs_root
def test_groups_of_others_are_left_alone(program: Callable[[str], Program]) -> None:
    owner = program("""
task = Container.from_host().with_limits(pids=20).start(["sleep", "3600"])
say(task.pid, owner.current().token)
""")
    pid, token = owner.words()
    pidfd = owner.watch(pid)
    before = cgroups_of(token)
    sweep(lambda note: detect())
    assert lives(pidfd)
    assert cgroups_of(token) == before
    owner.kill()
    eventually(lambda: guards_of(token) == [], "the end of the guard")
    sweep(lambda note: detect())
    assert cgroups_of(token) == []


def test_a_number_that_is_in_use_again_is_not_killed_by_a_sweep(directory: str) -> None:
    process = subprocess.Popen(["sleep", "3600"])
    try:
        with open(os.path.join(directory, "table"), "wb") as file:
            file.write(ENTRY.pack(1, 0, 0, b"") + ENTRY.pack(1, process.pid, 1, b"") + ENTRY.pack(1, 1, 0, b""))
        sweep(lambda note: detect())
        assert process.poll() is None
        assert os.listdir(directory) == []
    finally:
        process.kill()
        process.wait()


def test_the_error_of_a_run_directory_that_cannot_be_made_names_it() -> None:
    who = "become_nobody()" if os.geteuid() == 0 else ""
    text = run(f"{who}\nos.environ['XDG_RUNTIME_DIR'] = '/no/such'; print(failure_of(Container.from_host()))")
    assert text == (
        f"the run directory /no/such/pycontain cannot be created: ENOENT ({os.strerror(errno.ENOENT)})\n"
        "Set XDG_RUNTIME_DIR to a directory that this user can write to"
    )


def test_a_note_is_told_to_the_process_that_sweeps_and_is_no_task(tmp_path: Path) -> None:
    with open(tmp_path / "table", "wb") as file:
        file.truncate(CAPACITY * ENTRY.size)
        file.seek(ENTRY.size)
        file.write(ENTRY.pack(TASK, 12, 34, b"") + ENTRY.pack(NOTE, 0, 0, b"systemd machine.slice"))
    [found] = stale_owners(str(tmp_path))
    found.discard()
    assert (found.tasks, found.notes) == ((Recorded(TASK, 12, 34, ""),), ("systemd machine.slice",))
