"""What the systemd driver has over the protocol: units, slices, properties, the bus. Needs systemd as process 1."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pycontain.cgroups import detect, files
from pycontain.cgroups.hierarchy import read_layout
from pycontain.cgroups.systemd import SystemdDriver
from pycontain.cgroups.systemd_bus import CallRefused, bus_at
from pycontain.errors import CgroupError, InvalidArgument, NotSupported
from pycontain.linux.helper import executable
from pycontain.spec import CPU, Memory, Pids, Resources

MIB = 1 << 20
USER = ["--user"] if os.geteuid() != 0 else []


def _driver():
    try:
        executable()
        return SystemdDriver(), None
    except NotSupported as error:
        return None, error


DRIVER, OBSTACLE = _driver()
needs_systemd = pytest.mark.skipif(DRIVER is None, reason=str(OBSTACLE))


def with_systemd(test):
    """A test whose `machine` has the systemd driver."""
    return needs_systemd(pytest.mark.parametrize("machine", ["systemd"], indirect=True)(test))


def systemctl(*arguments, check=True):
    process = subprocess.run(["systemctl", *USER, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0 or not check, process.stderr
    return process.stdout


def show(unit, *properties):
    lines = systemctl("show", unit, f"--property={','.join(properties)}").splitlines()
    return dict(line.split("=", 1) for line in lines)


def is_loaded(unit):
    return show(unit, "LoadState")["LoadState"] == "loaded"


# ---- the choice of the driver


def test_a_driver_that_does_not_exist_is_refused():
    with pytest.raises(InvalidArgument, match="no cgroup driver 'docker'"):
        detect("docker")


@pytest.mark.parametrize("parent", ["", "..", "a/b", "machine.slice"])
def test_a_parent_that_cgroupfs_cannot_have_is_refused(parent):
    with pytest.raises(InvalidArgument, match="not a parent for groups of the driver cgroupfs"):
        detect("cgroupfs", parent)


def test_a_parent_of_ones_own_is_made_and_removed_by_cgroupfs():
    driver = detect(parent=f"test-{os.getpid()}-parent")
    if driver.reason("pids"):
        pytest.skip(f"no groups here: {driver.reason('pids').cause}")
    group = driver.create("task", None)
    assert {path.split("/")[-2] for path in group.paths} == {f"test-{os.getpid()}-parent"}
    group.remove()
    driver.remove_parent_if_empty()
    assert not any(os.path.exists(os.path.dirname(path)) for path in group.paths)


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="this machine runs systemd")
@pytest.mark.parametrize("arguments", [("systemd",), (None, "machine.slice")])
def test_without_systemd_its_driver_is_refused(arguments):
    with pytest.raises(NotSupported, match=r"does not run systemd\. Use the driver cgroupfs"):
        detect(*arguments)


@pytest.mark.skipif(os.geteuid() != 0, reason="this user is not root")
def test_root_gets_cgroupfs_by_default():
    assert detect().name == "cgroupfs"


@needs_systemd
@pytest.mark.skipif(os.geteuid() == 0, reason="this user is root")
def test_a_user_without_a_delegated_group_gets_systemd_by_default():
    delegated = any(hierarchy.usable for hierarchy in read_layout().hierarchies)
    assert detect().name == ("cgroupfs" if delegated else "systemd")


# ---- units


@with_systemd
def test_the_limits_are_properties_of_the_unit(machine):
    group = machine.create(Resources(
        memory=Memory(limit=64 * MIB), pids=Pids(limit=10), cpu=CPU(quota=25_000, period=50_000),
    ))
    assert show(group.unit, "MemoryMax", "TasksMax", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec", "Slice") == {
        "MemoryMax": str(65 * MIB), "TasksMax": "11", "CPUQuotaPerSecUSec": "500ms", "CPUQuotaPeriodUSec": "50ms",
        "Slice": machine.driver.slice,
    }


@with_systemd
def test_an_update_changes_the_properties_and_both_survive_a_reload(machine):
    group = machine.create(Resources(memory=Memory(limit=64 * MIB), cpu=CPU(quota=50_000)))
    machine.popen(group, "sleep", "1000")
    for quota, seconds in ((150_000, "1.500000s"), (20_000, "200ms")):
        group.update(Resources(memory=Memory(limit=32 * MIB), pids=Pids(limit=7), cpu=CPU(quota=quota)))
        systemctl("daemon-reload")
        assert show(group.unit, "MemoryMax", "TasksMax", "CPUQuotaPerSecUSec") == {
            "MemoryMax": str(33 * MIB), "TasksMax": "8", "CPUQuotaPerSecUSec": seconds,
        }
        assert machine.file(group, "pids.max") == "7"
        if machine.version == 2:
            assert machine.file(group, "memory.max") == str(32 * MIB)
            assert machine.file(group, "cpu.max") == f"{quota} 100000"
        else:
            assert machine.file(group, "memory.limit_in_bytes") == str(32 * MIB)
            assert machine.file(group, "cpu.cfs_quota_us") == str(quota)


@with_systemd
def test_the_unit_is_gone_after_the_task(machine):
    group = machine.create()
    assert is_loaded(group.unit)
    machine.popen(group, "true").communicate(timeout=60)
    group.remove()
    assert not is_loaded(group.unit)
    assert not any(map(os.path.exists, group.scope.paths))


@with_systemd
def test_the_figures_stay_until_the_group_is_removed(machine):
    group = machine.create()
    machine.python(group, f"b = bytearray({40 * MIB})").communicate(timeout=60)
    time.sleep(0.3)  # systemd would have removed a scope without the pause process by then
    assert is_loaded(group.unit)
    usage = group.usage()
    assert usage.memory_peak is None or usage.memory_peak > 40 * MIB
    assert usage.pids_peak in (1, 2, None)  # 2: the shell that was moved, and what it forked


@with_systemd
def test_the_pause_process_is_not_in_the_group_of_the_task(machine):
    group = machine.create()
    assert files.processes(group.paths) == set()
    assert len(files.processes(group.scope.paths)) == 1


@with_systemd
def test_a_unit_that_was_stopped_by_others_is_removed_all_the_same(machine):
    group = machine.create(Resources(memory=Memory(limit=64 * MIB)))
    process = machine.popen(group, "sleep", "1000")
    systemctl("stop", group.unit)
    process.communicate(timeout=60)
    assert process.returncode == -15
    group.kill()
    assert group.usage().memory_peak is None
    group.remove()


@with_systemd
def test_the_unit_goes_when_its_owner_is_killed(machine, eventually):
    program = """
import sys, time
from pycontain.cgroups import detect
group = detect("systemd").create(sys.argv[1], None)
print(group.unit, flush=True)
time.sleep(1000)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    owner = subprocess.Popen(
        [sys.executable, "-c", program, machine.new_name()], env=environment, stdout=subprocess.PIPE, text=True,
    )
    with owner:
        unit = owner.stdout.readline().strip()
        assert is_loaded(unit)
        owner.send_signal(signal.SIGKILL)
    eventually(lambda: not is_loaded(unit), "the end of the unit")


@with_systemd
def test_a_name_is_taken_as_long_as_its_unit_is_there(machine):
    group = machine.create()
    with pytest.raises(CgroupError, match=f"{group.name} cannot be made: File exists. Take another name") as caught:
        machine.driver.create(group.name, None)
    assert caught.value.errno == 17
    assert is_loaded(group.unit)
    group.remove()
    machine.driver.create(group.name, None).remove()


@with_systemd
def test_a_name_may_hold_what_units_cannot(machine):
    name = f"test-{os.getpid()}-ä b@c"
    group = machine.driver.create(name, None)
    machine.groups.append(group)
    assert name in machine.driver.names()
    assert machine.driver.open(name).paths == group.paths


@with_systemd
def test_a_slice_may_be_the_parent(machine):
    driver = detect(parent=f"pycontain-test{os.getpid()}.slice")
    assert isinstance(driver, SystemdDriver)
    group = driver.create(machine.new_name(), Resources(pids=Pids(limit=5)))
    try:
        assert f"/pycontain.slice/{driver.slice}/{group.unit}/" in group.paths[0]
        assert show(group.unit, "Slice") == {"Slice": driver.slice}
        assert group.name in machine.driver.names()
    finally:
        group.remove()
        systemctl("stop", "pycontain.slice")
    assert not any(map(os.path.exists, group.scope.paths))


@with_systemd
def test_a_failed_start_leaves_no_unit(machine, monkeypatch):
    def fail(*_):
        raise OSError(5, "failed in the middle")

    monkeypatch.setattr(machine.driver._groups, "create_child", fail)
    name = machine.new_name()
    with pytest.raises(OSError, match="failed in the middle"):
        machine.driver.create(name, None)
    assert name not in machine.driver.names()


# ---- the bus


@with_systemd
def test_many_threads_share_one_connection(machine):
    failures = []

    def make():
        try:
            for _ in range(5):
                group = machine.driver.create(machine.new_name(), Resources(pids=Pids(limit=9)))
                assert machine.file(group, "pids.max") == "9"
                group.remove()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@with_systemd
def test_a_forked_child_has_a_connection_of_its_own(machine):
    group = machine.create()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            other = machine.driver.create(f"{group.name}-forked", None)
            other.remove()
            status = 0 if group.name in machine.driver.names() else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert is_loaded(group.unit)
    group.remove()


@needs_systemd
@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_a_user_is_refused_by_the_systemd_of_the_system():
    bus = bus_at("/run/dbus/system_bus_socket")
    try:
        with pytest.raises(CallRefused, match=r"systemd does not do StopUnit: .*Run as root, or as a user") as caught:
            bus.call("StopUnit", "ss", ("dbus.service", "fail"))
        assert caught.value.name.startswith("org.freedesktop.DBus.Error.")
    finally:
        bus.close()


@with_systemd
def test_a_property_that_this_systemd_does_not_know_is_a_clear_error(machine):
    group = machine.create()
    with pytest.raises(NotSupported, match=r"systemd \d+\S* does not take a limit: .*NoSuchLimit.*252 or newer"):
        machine.driver.set_properties(group.unit, [("NoSuchLimit", ("t", 1))])
