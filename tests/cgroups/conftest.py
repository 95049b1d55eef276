"""What the tests of real cgroups share: a maker of groups that checks that nothing of them stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from pycontain.cgroups import Cgroup, CgroupDriver
from pycontain.cgroups.cgroupfs import CgroupfsDriver
from pycontain.cgroups.files import processes
from pycontain.cgroups.hierarchy import Layout, read_layout
from pycontain.cgroups.systemd import SystemdDriver
from pycontain.errors import NotSupported
from pycontain.linux.helper import executable
from pycontain.spec import Resources

_numbers = count()


class Machine:
    """The driver, and the groups and processes that one test makes with it."""

    def __init__(self, driver: CgroupDriver) -> None:
        self.driver = driver
        self.groups: list[Cgroup] = []
        self.started: list[subprocess.Popen[bytes]] = []

    @property
    def version(self) -> int:
        """The cgroup version that has the memory controller."""
        return 2 if self.driver.hierarchy == "v2" else 1

    def needs(self, *controllers: str) -> None:
        """Skips the test when one of these cannot be used here."""
        for controller in controllers:
            reason = self.driver.reason(controller)
            if reason:
                pytest.skip(f"no {controller} here: {reason.cause}")

    def new_name(self) -> str:
        return f"test-{os.getpid()}-{next(_numbers)}"

    def create(self, resources: Resources | None = None, kill: bool = False) -> Cgroup:
        group = self.driver.create(self.new_name(), resources, kill)
        self.groups.append(group)
        return group

    def child(self, group: Cgroup, resources: Resources | None = None) -> Cgroup:
        """A group below; it goes with its parent."""
        child = group.child(f"child-{next(_numbers)}", resources)
        self.groups.insert(0, child)
        return child

    def popen(self, group: Cgroup, *argv: str) -> subprocess.Popen[bytes]:
        """A process that is in the group before it executes `argv`: held back until the driver has adopted it, then put
        there through the group's descriptors."""
        go, release = os.pipe()
        fds = [go, *group.attach_fds, *([] if group.into_fd is None else [group.into_fd])]
        attach = [f"read go < /proc/self/fd/{go}", *(f"echo 0 > /proc/self/fd/{fd}" for fd in group.attach_fds)]
        if group.into_fd is not None:
            attach.append(f"echo 0 > /proc/self/fd/{group.into_fd}/cgroup.procs")
        script = " && ".join([*attach, 'exec "$@"'])
        process = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", *argv], pass_fds=fds, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        self.started.append(process)
        os.close(go)
        with os.fdopen(release, "wb") as file:
            group.adopt(process.pid)
            file.write(b"\n")
        if group.paths:
            last = group.paths[-1]
            eventually(lambda: process.pid in processes([last]) or process.poll() is not None, "attaching")
        return process

    def python(self, group: Cgroup, program: str) -> subprocess.Popen[bytes]:
        return self.popen(group, sys.executable, "-S", "-c", program)

    def file(self, group: Cgroup, name: str) -> str:
        """The content of an interface file, from whichever directory of the group has it."""
        for path in group.paths:
            if os.path.exists(f"{path}/{name}"):
                with open(f"{path}/{name}") as file:
                    return file.read().strip()
        raise FileNotFoundError(name)

    def close(self) -> None:
        for group in self.groups:
            group.thaw()
            group.kill()
        for process in self.started:
            process.communicate(timeout=30)
        for group in self.groups:
            group.remove()


def eventually(condition: Callable[[], object], what: str) -> None:
    """Waits for what another process does; no bound that a slow machine could reach."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.005)


@pytest.fixture(name="eventually")
def _eventually() -> Callable[[Callable[[], object], str], None]:
    return eventually


def _drivers() -> dict[str, CgroupDriver]:
    """cgroupfs, on a hybrid machine also one that knows its v1 hierarchies only; and systemd where it runs."""
    layout = read_layout()
    drivers: dict[str, CgroupDriver] = {layout.kind: CgroupfsDriver(layout)}
    if layout.kind == "hybrid":
        legacy = Layout(tuple(h for h in layout.hierarchies if h.version == 1), layout.kernel)
        drivers[legacy.kind] = CgroupfsDriver(legacy)
    try:
        drivers["systemd"] = SystemdDriver()
        executable()  # opened once for the process: no test shall find it new
    except NotSupported:
        pass
    return drivers


DRIVERS = _drivers()


def _run(driver: CgroupDriver) -> Iterator[Machine]:
    """Checks that no group, process or descriptor is left."""
    descriptors = os.listdir("/proc/self/fd")
    machine = Machine(driver)
    try:
        yield machine
    finally:
        machine.close()
        driver.remove_parent_if_empty()
    assert not {name for name in driver.names() if name.startswith(f"test-{os.getpid()}-")}
    assert os.listdir("/proc/self/fd") == descriptors


@pytest.fixture(params=list(DRIVERS))
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine on which memory, cpu and pids can be limited."""
    driver = DRIVERS[request.param]
    for controller in ("memory", "cpu", "pids"):
        reason = driver.reason(controller)
        if reason:
            pytest.skip(f"no limits here: {reason.cause}")
    yield from _run(driver)


@pytest.fixture(params=list(DRIVERS))
def device_machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine on which devices can be limited."""
    driver = DRIVERS[request.param]
    reason = driver.reason("devices")
    if reason:
        pytest.skip(f"no devices here: {reason.cause}")
    yield from _run(driver)


@pytest.fixture(scope="session", autouse=True)
def _remove_parents() -> Iterator[None]:
    yield
    for driver in DRIVERS.values():
        driver.remove_parent_if_empty()


@pytest.fixture
def as_nobody() -> Callable[[Callable[[], str]], str]:
    """Calls a function in a forked process without privileges, and gives what it returns."""

    def call(function: Callable[[], str]) -> str:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setresgid(65534, 65534, 65534)
                    os.setresuid(65534, 65534, 65534)
                os.write(writer, function().encode())
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        with os.fdopen(reader) as file:
            answer = file.read()
        assert os.waitpid(pid, 0)[1] == 0
        return answer

    return call


@pytest.fixture
def fresh_python() -> Callable[..., str]:
    """Runs a shell script as root in a mount namespace of its own, with `$PYTHON` to call; gives its output."""

    def run(script: str, *arguments: str) -> str:
        environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", *arguments],
            env=environment, capture_output=True, text=True, timeout=120,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    return run


