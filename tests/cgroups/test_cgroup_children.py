"""Groups below the group of a running task."""

from __future__ import annotations

import os
import threading

import pytest

from pycontain.cgroups import files
from pycontain.errors import CgroupError, InvalidArgument, LimitNotSupported
from pycontain.spec import CPU, Memory, Pids, Resources

MIB = 1 << 20

ESCAPES = "for i in 1 2 3; do (setsid sh -c '(sleep 1000 &) & sleep 1000' &); done; sleep 1000"


@pytest.mark.parametrize("kill", [True, False])
def test_killing_a_child_ends_exactly_its_own_tree(machine, eventually, kill):
    group = machine.create(kill=kill)
    main = machine.popen(group, "sleep", "1000")
    first, second = machine.child(group), machine.child(group)
    process = machine.popen(first, "sh", "-c", ESCAPES)
    other = machine.popen(second, "sleep", "1000")
    eventually(lambda: len(files.processes(first.paths)) >= 7, "the escapes")
    first.kill()
    assert files.processes(first.paths) == set()
    process.communicate(timeout=60)
    assert (main.poll(), other.poll()) == (None, None)
    first.remove()
    assert files.processes(group.paths) == {main.pid, other.pid}


def test_killing_a_group_ends_its_children_and_removing_it_removes_them(machine):
    group = machine.create(kill=True)
    processes = [machine.popen(group, "sleep", "1000"), machine.popen(machine.child(group), "sleep", "1000")]
    group.kill()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == -9
    machine.groups[0].close_fds()
    group.remove()
    assert not any(map(os.path.exists, group.paths))


def test_a_child_has_figures_of_its_own(machine):
    group = machine.create()
    machine.popen(group, "sleep", "1000")
    child, idle = machine.child(group), machine.child(group)
    machine.python(child, f"b = bytearray({40 * MIB})").communicate(timeout=60)
    assert child.usage().memory_peak is None or 40 * MIB < child.usage().memory_peak < 80 * MIB
    assert child.usage().pids_peak in (1, None)
    assert (idle.usage().memory_peak or 0) < 10 * MIB
    assert group.usage().pids_peak in (2, None)


def test_a_child_over_its_own_limit_is_killed_alone(machine):
    group = machine.create(Resources(memory=Memory(limit=256 * MIB)))
    main = machine.popen(group, "sleep", "1000")
    child = machine.child(group, Resources(memory=Memory(limit=32 * MIB), pids=Pids(limit=3)))
    process = machine.python(child, f"b = bytearray({128 * MIB})")
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert main.poll() is None
    assert child.usage().oom_kills == 1
    assert group.usage().oom_kills == 0


def test_the_limits_of_the_group_hold_for_its_children(machine):
    group = machine.create(Resources(memory=Memory(limit=32 * MIB)))
    child = machine.child(group)
    process = machine.python(child, f"b = bytearray({128 * MIB})")
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert child.usage().oom_kills == 1


def test_a_process_that_was_there_before_the_first_child_is_still_counted(machine):
    group = machine.create(Resources(memory=Memory(limit=32 * MIB)))
    process = machine.python(group, f"import time; time.sleep(0.5); b = bytearray({128 * MIB})")
    machine.child(group)
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert group.usage().oom_kills == 1


def test_a_child_may_be_limited_by_a_controller_that_the_group_did_not_use(machine):
    group = machine.create()
    main = machine.popen(group, "sleep", "1000")
    child = machine.child(group, Resources(cpu=CPU(quota=30_000, period=60_000)))
    name, value = ("cpu.max", "30000 60000") if machine.version == 2 else ("cpu.cfs_quota_us", "30000")
    assert machine.file(child, name) == value
    process = machine.popen(child, "sleep", "1000")
    with open(f"/proc/{process.pid}/cgroup") as file:
        assert f"/{child.name}" in file.read()
    assert main.poll() is None


def test_the_limits_of_a_child_can_be_changed(machine):
    group = machine.create()
    child = machine.child(group)
    machine.popen(child, "sleep", "1000")
    child.update(Resources(pids=Pids(limit=7), cpu=CPU(shares=100)))
    assert machine.file(child, "pids.max") == "7"
    assert machine.file(child, "cpu.weight" if machine.version == 2 else "cpu.shares") in ("100", "4")


def test_a_child_can_be_frozen_alone(machine):
    group = machine.create(kill=True)
    child = machine.child(group)
    machine.popen(child, "sleep", "1000")
    child.freeze()
    assert child.frozen
    assert not group.frozen
    child.thaw()
    group.freeze()
    assert child.frozen
    group.thaw()
    assert not child.frozen


def test_a_child_of_a_frozen_group_is_killed_at_once_or_when_that_is_thawed(machine):
    group = machine.create(kill=True)
    child = machine.child(group)
    process = machine.popen(child, "sleep", "1000")
    group.freeze()
    if machine.driver.hierarchy == "v1":
        with pytest.raises(CgroupError, match="The group above is frozen"):
            child.kill(timeout=0.2)
        group.thaw()
    else:
        child.kill(timeout=60)
    process.communicate(timeout=60)
    assert process.returncode == -9


def test_children_are_made_from_many_threads(machine):
    group = machine.create()
    machine.popen(group, "sleep", "1000")
    failures = []

    def make(number):
        try:
            for turn in range(5):
                group.child(f"thread-{number}-{turn}").remove()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "pycontain.task"])
def test_a_child_needs_a_file_name(machine, name):
    with pytest.raises(InvalidArgument, match="not a name for a cgroup"):
        machine.create().child(name)


def test_a_child_that_cannot_be_made_leaves_nothing(machine):
    group = machine.create()
    child = group.child("taken")
    with pytest.raises(CgroupError, match="taken cannot be made: File exists"):
        group.child("taken")
    assert all(map(os.path.isdir, child.paths))
    child.remove()
    with pytest.raises(LimitNotSupported):
        group.child("refused", Resources(pids=Pids(limit=2**40)))
    assert not any(os.path.exists(f"{path}/refused") for path in group.paths)
    group.remove()
    with pytest.raises(CgroupError, match="late cannot be made"):
        group.child("late")
