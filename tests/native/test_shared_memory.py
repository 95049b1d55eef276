"""What the child of a start must not do to the process whose memory it shares until it executes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from attrs import evolve

from pycontain import Container, LimitNotSupported
from pycontain.linux import plan as steps
from pycontain.linux.pidfd import wait
from pycontain.linux.plan import Plan, Step
from pycontain.linux.prctl import get_dumpable
from pycontain.runtimes.start import Command, StepFailed, start

NOTHING = Command.of([b"nothing"], [], [])

WITH_A_TINY_LIMIT = """
import sys
from pycontain import Container, StartFailed
for limit in (4096, 32768, 65536, 131072, 262144):
    for box in (Container.from_rootfs(sys.argv[1]), Container.from_host()):
        try:
            print(box.with_limits(memory=limit).run(["true"]).reason)
        except StartFailed as failure:
            print(failure)
"""


def run(*sequence: Step, **descriptors: int) -> None:
    _, pidfd = start(Plan(sequence), NOTHING, descriptors, lambda pid, pidfd: None)
    wait(pidfd)
    os.close(pidfd)


def test_a_limit_that_is_too_low_for_the_start_itself_does_not_kill_python(busybox_root: Path) -> None:
    """The kernel kills all that share the memory of the victim, unless that is in the middle of vfork."""
    try:
        Container.from_host().with_limits(memory="64M").run(["true"])
    except LimitNotSupported:
        pytest.skip("this machine cannot enforce a memory limit")
    program = [sys.executable, "-c", WITH_A_TINY_LIMIT, str(busybox_root)]
    result = subprocess.run(program, stdout=subprocess.PIPE, text=True)
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == 10


def test_the_oom_score_of_a_container_is_its_own(box: Container) -> None:
    before = Path("/proc/self/oom_score_adj").read_text()
    spec = box.spec()
    assert spec.process is not None
    spec = evolve(spec, process=evolve(spec.process, oom_score_adj=321))
    assert Container.from_spec(spec).run(["cat", "/proc/self/oom_score_adj"]).text == "321\n"
    assert Path("/proc/self/oom_score_adj").read_text() == before


def test_memory_that_a_child_without_capabilities_shares_cannot_be_traced() -> None:
    """A process with the same capabilities could trace such a child (ptrace(2)), and with it write to our memory."""
    seen = []

    def record(pid: int, pidfd: int) -> None:
        deadline = time.monotonic() + 10
        while pid and get_dumpable() and time.monotonic() < deadline:
            time.sleep(0.001)
        seen.append(get_dumpable())

    assert get_dumpable()
    plan = Plan((steps.capset(0, 0, 0), steps.await_release("owner")))
    _, pidfd = start(plan, NOTHING, {}, record)
    wait(pidfd)
    os.close(pidfd)
    assert seen == [False]
    assert get_dumpable()


def test_a_process_forked_during_a_start_is_dumpable() -> None:
    answers = []

    def record(pid: int, pidfd: int) -> None:
        deadline = time.monotonic() + 10
        while pid and get_dumpable() and time.monotonic() < deadline:
            time.sleep(0.001)
        forked = os.fork()
        if forked == 0:
            os._exit(get_dumpable())
        answers.append(os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]))

    _, pidfd = start(Plan((steps.capset(0, 0, 0), steps.await_release("owner"))), NOTHING, {}, record)
    wait(pidfd)
    os.close(pidfd)
    assert answers == [1]


def test_a_handler_of_python_does_not_run_in_the_child() -> None:
    """The plan unblocks no signal before it has reset them all: SIGUSR1 waits until then and is then fatal."""
    handled = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: handled.append(os.getpid()))

    def record(pid: int, pidfd: int) -> None:
        os.kill(pid, signal.SIGUSR1)

    try:
        _, pidfd = start(Plan((steps.await_release("owner"), steps.default_signals())), NOTHING, {}, record)
        ended = wait(pidfd)
        os.close(pidfd)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ended is not None
    assert ended.signal == signal.SIGUSR1
    assert handled == []


def test_no_thread_stays_after_a_start() -> None:
    threads = os.listdir("/proc/self/task")
    for _ in range(20):
        run(steps.umask(0o22))
    deadline = time.monotonic() + 10
    while os.listdir("/proc/self/task") != threads and time.monotonic() < deadline:
        time.sleep(0.001)
    assert os.listdir("/proc/self/task") == threads


def test_a_child_that_is_killed_at_any_moment_is_reaped_and_the_next_one_starts() -> None:
    def kill_soon(pid: int, pidfd: int) -> None:
        if pid:
            threading.Timer(pid % 7 * 0.0002, kill, [pidfd]).start()

    def kill(pidfd: int) -> None:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except (ProcessLookupError, OSError):
            pass

    forever = Command.of([b"sleep", b"100"], [], [b"/bin/sleep"])
    plan = Plan((*(steps.umask(0o22) for _ in range(400)), steps.default_signals(), steps.execute()))
    for _ in range(50):
        _, pidfd = start(plan, forever, {}, kill_soon)
        ended = wait(pidfd)
        os.close(pidfd)
        assert ended is not None
        assert ended.signal == signal.SIGKILL


# ---- paths

LONG = [
    "/" * 5000 + "a",
    "a/" * 2047 + "aa",
    "a/" * 2047 + "//a",
    "/".join(["a" * 200] * 30),
    "a" * 4094 + "/a",
]


@pytest.mark.parametrize("path", LONG, ids=[f"{path[:4]}..{path[-4:]}" for path in LONG])
def test_a_path_of_more_than_4095_bytes_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(StepFailed) as caught:
        run(steps.open_path(str(tmp_path), "root"), steps.mkdirs("root", path))
    assert caught.value.errno == errno.ENAMETOOLONG
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["a", "/a", "a/", "//a//b///", "/a/./b/../c/", "a/" * 500])
def test_a_path_is_created_with_all_its_parents(tmp_path: Path, path: str) -> None:
    run(steps.open_path(str(tmp_path), "root"), steps.umask(0), steps.mkdirs("root", path, 0o711))
    made = tmp_path / path.lstrip("/")
    assert made.stat().st_mode & 0o777 == 0o711
    if made != tmp_path / "a":
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755


def test_a_path_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    run(steps.open_path(str(tmp_path), "root"), steps.mkdirs("root", "/a"), steps.mkdirs("root", "/"))
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("uid", "gid"), [(2**32 - 1, 0), (0, 2**32 - 1), (2**32, 0), (0, 2**64 - 1)])
def test_an_id_that_the_kernel_would_not_take_as_one_is_refused(uid: int, gid: int) -> None:
    with pytest.raises(StepFailed) as caught:
        run(steps.identity(uid, gid, []))
    assert (caught.value.index, caught.value.errno) == (None, errno.EINVAL)


@pytest.mark.parametrize("other", ["/proc/sys/kernel/core_pattern", "/etc/passwd", "/dev/zero", "/proc"])
def test_what_an_image_has_in_place_of_the_null_device_is_not_mounted_over_what_is_masked(
    busybox_root: Path, tmp_path: Path, other: str
) -> None:
    spec = Container.from_rootfs(tmp_path).spec()
    for name in ("proc", "sys", "dev", "etc", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin/cat").write_bytes((busybox_root / "bin/busybox").read_bytes())
    (tmp_path / "bin/cat").chmod(0o755)
    (tmp_path / "etc/passwd").touch()
    if other == "/dev/zero":
        os.mknod(tmp_path / "dev/zero", 0o20666, os.makedev(1, 5))
    (tmp_path / "dev/null").symlink_to(other)
    mounts = tuple(mount for mount in spec.mounts if not mount.destination.startswith("/dev"))
    assert spec.linux is not None
    assert spec.linux.masked_paths
    table = Container.from_spec(evolve(spec, mounts=mounts)).run(["cat", "/proc/self/mountinfo"]).check().text
    [masked] = [line.split() for line in table.splitlines() if line.split()[4] == "/proc/keys"]
    assert masked[3] == "/null"  # of the scratch mount
