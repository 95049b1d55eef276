"""A container runs pycontain inside: limits hold at every level, and nothing stays behind at any."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confined import needs_root
from inside import LIMIT
from roots import with_this_python

import pycontain
from pycontain import Container, Result
from pycontain.cgroups import detect, files
from pycontain.preflight import doctor
from pycontain.spec import Mount

pytestmark = needs_root
LONG = 4 * LIMIT  # several interpreters, one in the other, on a machine that may be emulated

PRELUDE = f"""
import json, os, subprocess, sys
sys.path[:0] = {[str(Path(pycontain.__file__).parents[1]), str(Path(__file__).parent)]!r}
sys.dont_write_bytecode = True
from pycontain import *
from pycontain.cgroups import detect
from roots import with_this_python
program = sys.argv[1]
def inside(container, *arguments):
    return with_this_python(container).run([sys.executable, "-c", program, program, *arguments], timeout={LONG})
"""

CGROUPS = Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid", "noexec", "nodev"))
ENOUGH = ("SYS_ADMIN", "NET_ADMIN", "MKNOD")

KINDS: dict[str, Callable[[Container], Container]] = {
    "privileged": Container.with_privileged,
    "capabilities": lambda container: container.with_capabilities(add=ENOUGH).with_mount(CGROUPS),
    "user namespace": lambda container: container.with_privileged().with_userns(),
}
MAP = ((0, 100000, 65536),)


def mapped(container: Container) -> Container:
    """Root inside is a user without privileges outside, who has to reach this interpreter."""
    for place in (sys.executable, pycontain.__file__):
        if any(not parent.stat().st_mode & 0o001 for parent in Path(place).resolve().parents):
            pytest.skip(f"other users than root cannot reach {place}")
    return container.with_privileged().with_userns(MAP, MAP)


KINDS["mapped user namespace"] = mapped
KIND = pytest.mark.parametrize("kind", KINDS)


def nested(container: Container, code: str, *arguments: str) -> Result:
    """Runs a program in a clone of the host that can use pycontain, and `inside` to run itself in another."""
    program = PRELUDE + code
    argv = [sys.executable, "-c", program, program, *arguments]
    return with_this_python(container).run(argv, timeout=LONG)


def answer(result: Result) -> Any:
    assert result.ok, f"{result.describe()}\n{result.stdout.decode()}\n{result.stderr.decode()}"
    return json.loads(result.stdout)


def limited() -> None:
    if not {"memory", "pids"} <= detect().controllers:
        pytest.skip("no memory and pids controllers here")


@KIND
def test_a_container_runs_another_which_gets_its_limits(kind: str) -> None:
    limited()
    code = """
hungry = "x = bytearray(400 << 20)"
forks = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait"
container = with_this_python(Container.from_host().with_limits(memory="64M", pids=6))
memory = container.run([sys.executable, "-c", hungry], timeout=60)
pids = container.run(["sh", "-c", forks], timeout=60)
print(json.dumps([memory.reason, pids.stderr.decode(), pids.usage.pids_peak]))
"""
    reason, message, peak = answer(nested(KINDS[kind](Container.from_host()), code))
    assert reason == "oom"
    assert "fork" in message
    assert peak in (6, None)


@KIND
def test_containers_are_three_levels_deep(kind: str) -> None:
    code = """
left = int(sys.argv[2])
if left == 0:
    print(json.dumps([os.getpid()]))
    sys.exit()
outer = Container.from_host().with_privileged() if left > 1 else Container.from_host()
result = inside(outer, str(left - 1))
assert result.ok, (left, result, result.stderr.decode())
print(json.dumps([os.getpid(), *json.loads(result.stdout)]))
"""
    assert answer(nested(KINDS[kind](Container.from_host()), code, "2")) == [1, 1, 1]


def test_the_outer_limit_holds_for_the_inner_container() -> None:
    limited()
    code = """
hungry = with_this_python(Container.from_host()).run([sys.executable, "-c", "x = bytearray(400 << 20)"], timeout=60)
print(json.dumps([hungry.ok, hungry.signal]))
"""
    result = nested(Container.from_host().with_privileged().with_limits(memory="128M"), code)
    assert answer(result) == [False, signal.SIGKILL]


@KIND
def test_nothing_of_the_inner_container_stays_in_the_outer(kind: str) -> None:
    code = """
if len(sys.argv) == 2:
    child = [sys.executable, "-c", program, program, "x"]
    assert subprocess.run(child, check=True, capture_output=True).stdout == b"ran\\n"
    groups = [path for path, _, _ in os.walk("/sys/fs/cgroup") if path.endswith("/pycontain")]
    mounts = open("/proc/self/mountinfo").read().count("pycontain")
    print(json.dumps([groups, mounts, sorted(os.listdir("/run/pycontain"))]))
else:
    print(Container.from_host().with_limits(pids=9).run(["echo", "ran"], check=True).text, end="")
"""
    groups, _, files_left = answer(nested(KINDS[kind](Container.from_host()), code))
    assert (groups, files_left) == ([], [])


SLEEPER = """
if sys.argv[2:] == ["inner"]:
    task = Container.from_host().with_limits(pids=9).start(["sleep", "1000"])
    print(json.dumps(task.pid), flush=True)
    task.wait()
else:
    task = with_this_python(Container.from_host().with_privileged()).start(
        [sys.executable, "-c", program, program, "inner"], stdout=None)
    print(json.dumps(task.pid), flush=True)
    task.wait()
"""


@pytest.mark.parametrize("killed", ["owner", "outer container"])
def test_the_inner_container_ends_with_what_it_is_in(killed: str) -> None:
    program = PRELUDE + SLEEPER
    argv = [sys.executable, "-W", "error", "-c", program, program]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        outer = int(owner.stdout.readline())
        assert int(owner.stdout.readline()) > 0  # the inner one runs
        made = groups_of(outer)
        processes = files.processes(made)
        assert processes >= {outer}
        os.kill(owner.pid if killed == "owner" else outer, signal.SIGKILL)
        owner.wait(LONG)
    ended(processes)
    # whoever starts next sweeps what a dead process left
    command = "from pycontain import Container; Container.from_host().run(['true']).check()"
    subprocess.run([sys.executable, "-c", command], check=True, timeout=LONG)
    deadline = time.monotonic() + LIMIT
    while any(map(os.path.exists, made)):
        assert time.monotonic() < deadline, made
        time.sleep(0.05)


def groups_of(pid: int) -> set[str]:
    """The directories of the task in whose group a process is."""
    driver = detect()
    paths = (path for name in driver.names() for path in driver.open(name).paths)
    return {path for path in paths if pid in files.processes([path])}


def ended(pids: set[int]) -> None:
    deadline = time.monotonic() + LIMIT
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, pids
        time.sleep(0.05)


# ---- what cannot work


@pytest.mark.parametrize(
    ("capabilities", "cause", "remedy"),
    [
        ((), "a seccomp filter of the process forbids unshare", "--cap-add SYS_ADMIN, NET_ADMIN and MKNOD"),
        (("SYS_ADMIN", "NET_ADMIN"), "does not have CAP_MKNOD", "--cap-add MKNOD"),
        (("SYS_ADMIN", "MKNOD"), "does not have CAP_NET_ADMIN", "--cap-add NET_ADMIN"),
    ],
)
def test_a_container_without_the_privileges_is_told_which(
    capabilities: tuple[str, ...], cause: str, remedy: str
) -> None:
    code = """
from pycontain import doctor
try:
    Container.from_host().run(["true"])
except PycontainError as error:
    print(json.dumps([str(error), str(doctor())]))
"""
    message, report = answer(nested(Container.from_host().with_capabilities(add=capabilities), code))
    assert cause in message
    assert remedy in message
    assert cause in report


def test_a_limit_without_a_writable_cgroup_is_refused_with_the_remedy() -> None:
    code = """
try:
    Container.from_host().with_limits(memory="64M").run(["true"])
except LimitNotSupported as error:
    print(json.dumps(str(error)))
"""
    message = answer(nested(Container.from_host().with_capabilities(add=ENOUGH), code))
    assert "writable" in message or "read-write" in message


def test_the_doctor_finds_nothing_missing_where_it_is_all_there() -> None:
    if not doctor().ok:
        pytest.skip("containers cannot be run here")
    code = """
from pycontain import doctor
print(json.dumps([str(finding) for finding in doctor().findings if finding.required and finding.state == "no"]))
"""
    assert answer(nested(Container.from_host().with_privileged(), code)) == []


def test_the_group_that_systemd_makes_is_delegated_too() -> None:
    """In a process of its own, which the connection to systemd ends with."""
    limited()
    if not Path("/run/systemd/system").is_dir():
        pytest.skip("systemd does not run here")
    program = PRELUDE + """
if len(sys.argv) == 2:
    print(inside(Container.from_host().with_cgroup(driver="systemd").with_privileged(), "x").text, end="")
else:
    forks = "for i in 1 2 3 4 5 6 7; do sleep 1 & done; wait"
    print(json.dumps(Container.from_host().with_limits(pids=6).run(["sh", "-c", forks]).stderr.decode()))
"""
    argv = [sys.executable, "-W", "error", "-c", program, program]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LONG, check=False)
    assert "fork" in json.loads(done.stdout), done.stderr


def test_where_no_third_overlay_can_be_the_clone_is_read_only_and_the_doctor_says_so() -> None:
    code = """
from pycontain import doctor
if len(sys.argv) == 2:
    print(inside(Container.from_host().with_privileged(), "deeper").text, end="")
else:
    wrote = Container.from_host().run(["touch", "/file"])
    state = doctor()["mount: overlay"]
    print(json.dumps([wrote.ok, wrote.stderr.decode(), state.state, state.detail]))
"""
    wrote, message, state, detail = answer(nested(Container.from_host().with_privileged(), code))
    if wrote:
        assert state == "yes"
        pytest.skip("here the clone is not made of overlays")
    assert "Read-only" in message
    assert state == "partly"
    assert "not on the file system of /" in detail
