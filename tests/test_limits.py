"""Limits are enforced, or refused; what was used is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from attrs import evolve
from inside import LIMIT, PRIVATE_MOUNTS, sh
from programs import run

from pycontain import Container, InvalidArgument, PycontainError
from pycontain.runtimes.drivers import cgroup_driver
from pycontain.spec import FrozenMap, Resources

pytestmark = pytest.mark.usefixtures("root_user")


def needs(*controllers: str) -> None:
    for controller in controllers:
        reason = cgroup_driver().reason(controller)
        if reason is not None:
            pytest.skip(f"no {controller} controller: {reason.cause}")


# ---- memory


@pytest.mark.parametrize("how", ["plain", "init", "user", "userns", "host-pid", "joined-pid", "pids-too"])
def test_a_command_above_its_memory_limit_is_out_of_memory(box: Container, how: str) -> None:
    needs("memory")
    limited = box.with_limits(memory="16M")
    with box.start(["sleep", "60"]) as other:
        container = {
            "plain": limited,
            "init": limited.with_init(),
            "user": limited.with_user("alice"),
            "userns": limited.with_userns([(0, 100_000, 65_536)], [(0, 100_000, 65_536)]),
            "host-pid": limited.with_namespace("pid", "host"),
            "joined-pid": limited.with_namespace("pid", other),
            "pids-too": limited.with_limits(pids=10, cpus=2),
        }[how]
        result = container.run(["tail", "/dev/zero"], timeout=LIMIT)
        assert (result.reason, result.exit_code, result.signal) == ("oom", None, 9)
        assert other.state == "running"
    assert result.usage.memory_peak is not None
    assert 8 << 20 < result.usage.memory_peak <= 16 << 20


def test_a_command_below_its_memory_limit_is_not_disturbed(box: Container) -> None:
    needs("memory")
    result = box.with_limits(memory="64M").run(["sh", "-c", "head -c 20000000 /dev/zero | tail -c 20000000 | wc -c"])
    assert (result.reason, result.text) == ("exited", "20000000\n")
    assert result.usage.memory_peak is not None
    assert 20_000_000 < result.usage.memory_peak < 64 << 20


@pytest.mark.parametrize("directory", ["/", "/dev/shm", "/scratch"])
def test_what_is_written_counts_as_memory(box: Container, directory: str) -> None:
    needs("memory")
    container = box.with_tmpfs("/scratch").with_limits(memory="24M")
    assert container.run(["sh", "-c", f"head -c 8000000 /dev/zero > {directory}/file"], timeout=LIMIT).ok
    result = container.run(["sh", "-c", f"exec head -c 60000000 /dev/zero > {directory}/file"], timeout=LIMIT)
    assert result.reason == "oom"


def test_the_limit_holds_before_the_command_is_executed(box: Container) -> None:
    needs("memory", "pids")
    container = box.with_namespace("cgroup", "host").with_limits(memory="32M", pids=20)
    lines = sh(container, "cat /proc/self/cgroup").splitlines()
    assert any("memory" in line and "/pycontain/" in line for line in lines) or lines[-1].startswith("0::/")
    assert sum("/pycontain/" in line for line in lines) >= 1


# ---- processes


def test_no_more_processes_than_allowed_can_be_made(box: Container) -> None:
    needs("pids")
    script = "i=0; while [ $i -lt 20 ]; do sleep 30 & i=$((i+1)); done"
    result = box.with_limits(pids=6).run(["sh", "-c", script], timeout=LIMIT)
    assert b"Resource temporarily unavailable" in result.stderr
    assert result.usage.pids_peak == 6


def test_a_fork_bomb_ends_with_its_time(box: Container) -> None:
    needs("pids")
    result = box.with_limits(pids=50).run(["sh", "-c", "f() { f | f & f; }; f; sleep 30"], timeout=1)
    assert result.reason in ("timeout", "exited")
    assert result.usage.pids_peak is not None
    assert result.usage.pids_peak <= 50


def test_one_process_is_enough_for_one_command(box: Container) -> None:
    needs("pids")
    assert box.with_limits(pids=1).run(["true"]).ok
    assert not box.with_limits(pids=1).run(["sh", "-c", "true | true"]).ok


# ---- processors


def test_a_share_of_a_processor_is_not_exceeded(box: Container) -> None:
    """Loosely: the kernel accounts in periods of 100 ms, and this machine has other work."""
    needs("cpu")
    result = box.with_limits(cpus=0.5).run(["sh", "-c", "while :; do :; done"], timeout=1)
    assert result.reason == "timeout"
    assert result.usage.cpu_time / result.usage.wall_time < 0.8
    assert result.usage.cpu_time > 0.05


def test_the_share_holds_for_all_processes_together(box: Container) -> None:
    needs("cpu")
    script = "for i in 1 2 3; do (while :; do :; done) & done; wait"
    result = box.with_limits(cpus=0.3).with_init().run(["sh", "-c", script], timeout=1)
    assert result.usage.cpu_time / result.usage.wall_time < 0.6


def test_shares_are_a_weight_and_no_limit(box: Container) -> None:
    needs("cpu")
    assert box.with_limits(cpu_shares=2).run(["true"]).ok
    assert box.with_limits(cpu_shares=262_144, cpus=100).run(["true"]).ok


# ---- usage


def test_usage_is_told_without_any_limit(box: Container) -> None:
    usage = box.run(["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.1"]).usage
    assert usage.wall_time >= 0.1
    assert 0 < usage.cpu_time == usage.user_time + usage.system_time <= usage.wall_time * (os.cpu_count() or 1) + 0.05
    for controller, figure in (("memory", usage.memory_peak), ("pids", usage.pids_peak)):
        assert (figure is None) == (cgroup_driver().reason(controller) is not None)
    if usage.pids_peak is not None:
        assert usage.pids_peak == 1 or usage.pids_peak == 2  # the shell, and sleep


def test_usage_counts_the_most_processes_at_a_time(box: Container) -> None:
    needs("pids")
    usage = box.run(["sh", "-c", "sleep 60 & sleep 60 & sleep 60 & true"]).usage
    assert usage.pids_peak == 4


def test_usage_of_a_started_task_is_told_as_well(box: Container) -> None:
    with box.with_limits(cpus=1, pids=5).start(
        ["sh", "-c", "sleep 0.1; head -c 10000000 /dev/zero | tail -c 1"]
    ) as task:
        usage = task.wait(LIMIT).usage
    assert usage.wall_time >= 0.1
    assert usage.cpu_time > 0


# ---- refusals


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"memory": "lots"}, "'lots' is not a memory limit"),
        ({"memory": 0}, "it must be 1 byte or more"),
        ({"memory": -1}, "it must be 1 byte or more"),
        ({"memory": "-5M"}, "'-5M' is not a memory limit"),
        ({"memory": 2**63}, "is not a memory limit"),
        ({"memory": 1.5}, "1.5 is not a memory limit"),
        ({"memory": True}, "True is not a memory limit"),
        ({"pids": 0}, "0 is not a limit of processes"),
        ({"pids": -1}, "-1 is not a limit of processes"),
        ({"pids": 1.5}, "1.5 is not a limit of processes"),
        ({"pids": "5"}, "'5' is not a limit of processes"),
        ({"cpus": 0}, "0 is not a number of processors"),
        ({"cpus": -1}, "-1 is not a number of processors"),
        ({"cpus": float("nan")}, "nan is not a number of processors"),
        ({"cpus": float("inf")}, "inf is not a number of processors"),
        ({"cpus": "1"}, "'1' is not a number of processors"),
        ({"cpu_shares": 1}, "they go from 2 to 262144"),
        ({"cpu_shares": 262_145}, "they go from 2 to 262144"),
    ],
)
def test_a_limit_that_can_never_hold_is_refused(box: Container, limits: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        box.with_limits(**limits)  # type: ignore[arg-type]


def test_a_limit_that_is_not_named_stays(box: Container) -> None:
    both = box.with_limits(memory="16M").with_limits(pids=5)
    assert both == box.with_limits(memory=16 << 20, pids=5)
    assert both.with_limits() == both


def test_limits_are_refused_where_there_are_no_cgroups_and_all_else_works(busybox_root: Path, tmp_path: Path) -> None:
    program = """
from pycontain import LimitNotSupported
mount("nothing", "/sys/fs/cgroup", "tmpfs")
box = Container.from_rootfs(root)
for limits in ({"memory": "16M"}, {"pids": 5}, {"cpus": 0.5}, {"cpu_shares": 2}):
    try:
        box.with_limits(**limits).run(["true"])
    except LimitNotSupported as error:
        print(bool(error.remedy), error.message)
result = box.run(["echo", "works"])
print(result.text.strip(), result.usage.memory_peak, result.usage.pids_peak, result.usage.wall_time > 0)
"""
    lines = run(PRIVATE_MOUNTS + program, busybox_root, tmp_path).stdout.splitlines()
    assert len(lines) == 5
    for line, name in zip(lines[:4], ("memory.limit", "pids.limit", "cpu.", "cpu.shares"), strict=True):
        assert line.startswith("True ")
        assert f"the limit {name}" in line
        assert "cannot be enforced" in line
    assert lines[4] == "works None None True"


def test_nothing_is_started_when_a_limit_is_refused(box: Container, tmp_path: Path) -> None:
    spec = box.with_bind(tmp_path, "/data").spec()
    assert spec.linux is not None
    resources = Resources(unified=FrozenMap({"no.such_file": "1"}))
    refused = Container.from_spec(evolve(spec, linux=evolve(spec.linux, resources=resources)))
    with pytest.raises(PycontainError, match=r"no\.such_file|unified"):
        refused.run(["touch", "/data/file"])
    assert not (tmp_path / "file").exists()
