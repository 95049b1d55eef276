"""What a container sees of its own cgroup."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pycontain import Container, NotSupported
from pycontain.cgroups import detect
from pycontain.runtimes.cgroupmount import usable_hierarchies
from pycontain.spec import Mount

CGROUP = Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid", "noexec", "nodev", "ro"))
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers")


def test_on_cgroup_v2_a_program_finds_its_limits_and_cannot_change_them(box: Container) -> None:
    if not UNIFIED.exists():
        pytest.skip("cgroup v2 is not at /sys/fs/cgroup")
    if "memory" not in detect().controllers:
        pytest.skip("no memory controller here")
    script = "cat /sys/fs/cgroup/memory.max; echo max > /sys/fs/cgroup/memory.max"
    result = box.with_limits(memory="64M").run(["sh", "-c", script])
    assert result.text == f"{64 << 20}\n"
    assert b"Read-only" in result.stderr


def test_on_cgroup_v2_only_the_containers_own_processes_are_seen(box: Container) -> None:
    if not UNIFIED.exists():
        pytest.skip("cgroup v2 is not at /sys/fs/cgroup")
    result = box.run(["sh", "-c", "cat /sys/fs/cgroup/cgroup.procs; ls -d /sys/fs/cgroup/*/; true"])
    assert result.text.split()[0] == "1"
    assert "pycontain" not in result.text


def test_elsewhere_each_hierarchy_is_mounted_with_the_containers_own_group(box: Container) -> None:
    if UNIFIED.exists():
        pytest.skip("cgroup v2 is at /sys/fs/cgroup")
    if not usable_hierarchies():
        with pytest.raises(NotSupported, match="no cgroup to show"):
            box.with_mount(CGROUP).run(["true"])
        return
    script = "cat /sys/fs/cgroup/*/cgroup.procs; ls -d /sys/fs/cgroup/*/pycontain; mkdir /sys/fs/cgroup/x"
    result = box.with_mount(CGROUP).run(["sh", "-c", script])
    first, *others = result.text.split()
    assert (first, set(others)) == ("1", {"1", *others[-1:]})  # the shell in each, and cat in the last
    assert b"Read-only" in result.stderr


def test_the_hosts_groups_are_not_shown(box: Container) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    hierarchy = Mount("/sys/fs/cgroup", "cgroup2", "cgroup", ("ro",))
    with pytest.raises(NotSupported, match="host's cgroups"):
        box.with_namespace("cgroup", "host").with_mount(hierarchy).run(["true"])


def test_waiting_is_told_where_cgroup_v2_is(box: Container) -> None:
    usage = box.run(["true"]).usage
    figures = (usage.cpu_stall_time, usage.memory_stall_time, usage.io_stall_time)
    if detect().hierarchy in ("v1", "none"):
        assert figures == (None, None, None)
    else:
        assert all(figure is None or 0 <= figure <= usage.wall_time + 1 for figure in figures)
