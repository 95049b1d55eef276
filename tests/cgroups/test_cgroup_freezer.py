"""Freezing running groups."""

from __future__ import annotations

import time

import pytest

from pycontain.cgroups import files
from pycontain.cgroups.cgroupfs import CgroupfsDriver
from pycontain.cgroups.hierarchy import Layout, read_layout
from pycontain.errors import NotSupported
from pycontain.spec import Pids, Resources

COUNTER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
number = 0
while True:
    number += 1
    os.pwrite(fd, b"%d" % number, 0)
"""
FORK_BOMB = "while :; do (setsid sh \"$0\" &) 2>/dev/null; (setsid sh \"$0\" &) 2>/dev/null; done"


def counting(machine, group, path, eventually):
    """Starts a process that counts in the file `path`; returns what reads the number."""
    import sys

    machine.popen(group, sys.executable, "-S", "-c", COUNTER, str(path))
    number = lambda: int(path.read_text() or 0) if path.exists() else 0  # noqa: E731
    eventually(number, "counting")
    return number


@pytest.mark.parametrize("kill", [True, False])
def test_a_frozen_process_stands_still_and_goes_on_when_thawed(machine, tmp_path, eventually, kill):
    group = machine.create(kill=kill)
    number = counting(machine, group, tmp_path / "number", eventually)
    assert not group.frozen
    for _ in range(2):
        group.freeze()
        assert group.frozen
        before = number()
        time.sleep(0.1)
        assert number() == before
        group.thaw()
        assert not group.frozen
        eventually(lambda: number() > before, "going on")  # noqa: B023 (called at once)


@pytest.mark.parametrize("kill", [True, False])
def test_a_frozen_group_can_be_killed(machine, kill):
    group = machine.create(kill=kill)
    process = machine.popen(group, "sleep", "1000")
    group.freeze()
    group.kill()
    process.communicate(timeout=60)
    assert process.returncode == -9
    group.remove()


def test_a_fork_bomb_can_be_frozen(machine, tmp_path, eventually):
    bomb = tmp_path / "bomb.sh"
    bomb.write_text(FORK_BOMB)
    group = machine.create(Resources(pids=Pids(limit=40)), kill=True)
    machine.popen(group, "sh", str(bomb))
    eventually(lambda: int(machine.file(group, "pids.current")) > 20, "the explosion")
    group.freeze(timeout=60)
    before = files.processes(group.paths)
    time.sleep(0.1)
    assert files.processes(group.paths) == before
    group.kill()


def test_freezing_and_thawing_may_be_repeated_and_an_empty_group_be_frozen(machine):
    group = machine.create()
    group.thaw()
    group.freeze()
    group.freeze()
    assert group.frozen
    group.thaw()
    group.thaw()
    assert not group.frozen


def test_a_group_that_is_gone_is_not_frozen(machine):
    group = machine.create(kill=True)
    group.remove()
    assert not group.frozen
    group.thaw()


def test_a_frozen_group_is_removed_once_it_is_empty(machine):
    group = machine.create(kill=True)
    group.freeze()
    group.remove()


def test_without_a_freezer_the_cause_is_said():
    pids = [h for h in read_layout().hierarchies if h.version == 1 and "pids" in h.usable and "freezer" not in h.usable]
    if not pids:
        pytest.skip("no v1 hierarchy of pids without the freezer")
    driver = CgroupfsDriver(Layout(tuple(pids), {"freezer": True, "pids": True}))
    group = driver.create("test-without-freezer", None)
    try:
        with pytest.raises(NotSupported, match="freezing a task needs a cgroup: the freezer controller is in no "):
            group.freeze()
        assert not group.frozen
    finally:
        group.remove()
