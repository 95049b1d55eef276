"""What one does with a running task beside stopping it: pause, change limits, look at what it uses."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from inside import Gate

from pycontain import Container, InvalidArgument, LimitNotSupported, NotSupported, TaskError
from pycontain.cgroups import detect

LOOP = ["sh", "-c", "while :; do :; done"]
EATER = "x=$(cat /dev/zero | tr '\\0' x)"


def needs(*controllers: str) -> None:
    """Skips where this machine or user has not got the controllers."""
    missing = set(controllers) - detect().controllers
    if missing:
        pytest.skip(f"no controller {', '.join(sorted(missing))} here")


def cpu_ticks(pid: int) -> int:
    """The processor time of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_a_paused_task_stands_still_and_goes_on_when_it_is_resumed(box: Container) -> None:
    with box.start(LOOP) as task:
        task.pause()
        assert task.state == "paused"
        before = cpu_ticks(task.pid)
        time.sleep(0.3)
        assert cpu_ticks(task.pid) == before
        task.resume()
        assert task.state == "running"
        limit = time.monotonic() + 10
        while cpu_ticks(task.pid) <= before:
            assert time.monotonic() < limit, "it does not go on"
            time.sleep(0.01)


def test_resuming_a_task_that_is_not_paused_changes_nothing(box: Container) -> None:
    with box.start(["sleep", "60"]) as task:
        task.resume()
        assert task.state == "running"


def test_a_paused_task_can_be_killed(box: Container) -> None:
    with box.start(["sleep", "60"]) as task:
        task.pause()
        result = task.kill()
        assert (result.signal, result.reason) == (9, "killed")


def test_a_paused_task_that_is_stopped_goes_on_to_its_own_end(box: Container) -> None:
    read_end, write_end = os.pipe()
    script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    with open(read_end, "rb") as output, box.start(["sh", "-c", script], stdout=write_end) as task:
        os.close(write_end)
        assert output.readline() == b"ready\n"
        task.pause()
        result = task.stop(timeout=60)
        assert (result.exit_code, result.reason) == (3, "exited")


def test_a_paused_task_ends_with_its_block(box: Container) -> None:
    with box.start(["sleep", "60"]) as task:
        task.pause()
    assert task.result is not None


def test_a_task_that_has_ended_can_neither_be_paused_nor_changed_nor_asked(box: Container) -> None:
    with box.start(["true"]) as task:
        task.wait()
        for action in (task.pause, task.resume, task.stats, task.watch_oom, lambda: task.update(pids=5)):
            with pytest.raises(TaskError):
                action()


def test_a_new_limit_of_processes_holds_for_the_running_task(box: Container) -> None:
    needs("pids")
    script = "read go; for i in 1 2 3 4 5 6; do sleep 60 & done; wait"
    with Gate() as gate, box.with_limits(pids=100).start(["sh", "-c", script], stdin=gate.fd) as task:
        task.update(pids=4)
        gate.open()
        result = task.wait(20)  # the shell cannot fork and gives up
    assert b"fork" in result.stderr
    assert result.usage.pids_peak is None or result.usage.pids_peak <= 4


def test_a_new_memory_limit_holds_for_the_running_task(box: Container) -> None:
    needs("memory")
    command = ["sh", "-c", f"read go; {EATER}"]
    with Gate() as gate, box.with_limits(memory="512M").start(command, stdin=gate.fd) as task:
        task.update(memory="24M")
        gate.open()
        result = task.wait(60)
    assert result.reason == "oom"
    assert result.usage.memory_peak is not None
    assert result.usage.memory_peak <= 24 << 20


def test_a_limit_that_cannot_be_enforced_is_refused_and_the_task_goes_on(box: Container) -> None:
    with box.start(["sleep", "60"]) as task:
        with pytest.raises(LimitNotSupported):
            task.update(hugetlb={"3MB": "6M"})
        assert task.state == "running"


def test_a_limit_that_does_not_exist_is_a_type_error(box: Container) -> None:
    with box.start(["sleep", "60"]) as task, pytest.raises(TypeError, match="speed"):
        task.update(speed=3)  # type: ignore[call-arg]


def test_the_figures_tell_what_a_busy_task_uses(box: Container) -> None:
    needs("memory", "pids")
    with box.with_limits(memory="64M", pids=20).start(LOOP) as task:
        task.stats()
        time.sleep(0.5)
        stats = task.stats()
    assert stats.memory is not None
    assert stats.pids is not None
    assert 0 < stats.memory.current <= stats.memory.limit == 64 << 20
    assert stats.memory.percent is not None
    assert 0 <= stats.memory.percent < 50
    assert (stats.pids.current, stats.pids.limit) == (1, 20)
    if stats.cpu.usage_time is not None:
        assert stats.cpu.percent is not None
        assert 0 < stats.cpu.percent < 130


def test_held_back_time_is_told_for_a_task_with_a_processor_limit(box: Container) -> None:
    needs("cpu")
    with box.with_limits(cpus=0.1).start(LOOP) as task:
        limit = time.monotonic() + 60
        while not (stats := task.stats()).cpu.throttled_time:
            assert time.monotonic() < limit, "it is not held back"
            time.sleep(0.05)
    assert stats.cpu.throttled_periods is not None
    assert stats.cpu.throttled_time is not None
    assert stats.cpu.throttled_periods > 0
    assert stats.cpu.throttled_time > 0


def test_a_kill_for_want_of_memory_is_noticed_while_the_task_lives_on(box: Container) -> None:
    needs("memory")
    script = f"read go; ({EATER}); ({EATER}); sleep 60"  # in processes of their own: the task's first lives on
    with (
        Gate() as gate,
        box.with_limits(memory="16M").start(["sh", "-c", script], stdin=gate.fd) as task,
        task.watch_oom() as watch,
    ):
        gate.open()
        assert watch.wait(20) >= 1
        stats = task.stats()
        assert stats.memory is not None
        assert stats.memory.oom_kills >= 1
        assert task.state == "running"


def test_nothing_is_noticed_while_there_is_memory(box: Container) -> None:
    needs("memory")
    with box.with_limits(memory="16M").start(["sleep", "60"]) as task, task.watch_oom() as watch:
        assert watch.wait(0.1) == 0


def test_a_task_without_a_cgroup_says_what_would_help(box: Container) -> None:
    if detect().controllers:
        pytest.skip("every task has a cgroup here")
    with box.start(["sleep", "60"]) as task, pytest.raises(NotSupported, match=r"root|delegated"):
        task.stats()


def test_the_group_can_be_put_under_another_parent_and_given_a_name(box: Container) -> None:
    needs("memory")
    with box.with_cgroup(parent="pycontain-test", name="web").start(["sleep", "60"]) as task:
        groups = Path(f"/proc/{task.pid}/cgroup").read_text()
        assert "/pycontain-test/" in groups
        assert "-web\n" in groups


def test_what_was_put_under_another_parent_is_swept_by_the_next_use(busybox_root: Path) -> None:
    needs("memory")
    script = f"""
        import os, signal
        from pycontain import Container
        task = Container.from_rootfs({str(busybox_root)!r}).with_cgroup(parent="pycontain-test").start(["sleep", "60"])
        print(open(f"/proc/{{task.pid}}/cgroup").read(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    groups = {line.split("/pycontain-test/")[1] for line in ended.stdout.splitlines() if "/pycontain-test/" in line}
    assert groups
    use = f"from pycontain import Container; Container.from_rootfs({str(busybox_root)!r}).run(['true'])"
    limit = time.monotonic() + 20
    while left := [path for path in Path("/sys/fs/cgroup").glob("*/pycontain-test/*") if path.name in groups]:
        assert time.monotonic() < limit, left
        subprocess.run([sys.executable, "-c", use], check=True)


@pytest.mark.parametrize("name", ["", "a/b", "a-b", "x" * 65, "\n"])
def test_a_name_that_no_group_can_have_is_refused(box: Container, name: str) -> None:
    with pytest.raises(InvalidArgument):
        box.with_cgroup(name=name)


def test_a_driver_that_is_not_here_is_refused_with_what_helps(box: Container) -> None:
    if Path("/run/systemd/system").is_dir():
        pytest.skip("systemd runs here")
    with pytest.raises(NotSupported, match="cgroupfs"):
        box.with_cgroup("systemd").run(["true"])
    with pytest.raises(InvalidArgument, match="docker"):
        box.with_cgroup("docker").run(["true"])


def test_a_paused_task_does_not_keep_python_from_ending(busybox_root: Path) -> None:
    """Where only v1 has a freezer: there a frozen process does not die of SIGKILL before it is thawed."""
    if detect().hierarchy not in ("v1", "hybrid") or os.geteuid() != 0:
        pytest.skip("root on a machine with cgroup v1 can hide the v2 hierarchy, which is needed here")
    program = f"""
        import sys
        from pycontain import Container
        from pycontain.linux import mountinfo
        from pycontain.linux.mounts import MountFlag, UmountFlag, mount, umount
        from pycontain.linux.namespaces import NamespaceType, unshare
        unshare(NamespaceType.MOUNT)
        mount(None, "/", None, MountFlag.PRIVATE | MountFlag.REC)
        for found in mountinfo.read():
            if found.fs_type == "cgroup2":
                umount(found.mount_point, UmountFlag.DETACH)
        task = Container.from_rootfs({str(busybox_root)!r}).start(["sleep", "60"])
        task.pause()
        print(task.state)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("paused\n", "", 0)
