"""The parsers of the kernel's cgroup texts."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycontain.cgroups import parse

PARSERS = [parse.mountinfo, parse.own_groups, parse.kernel_controllers, parse.flat_keyed, parse.processes]
paths = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=30).map("/".__add__)
words = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)


def mangled(path: str) -> str:
    """As the kernel's mangle_path() writes it."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in path)


@pytest.mark.parametrize("parser", PARSERS)
@given(text=st.text(max_size=200))
def test_no_text_is_an_error(parser, text):
    parser(text)


@given(major=st.integers(0, 4095), minor=st.integers(0, 2**20 - 1), root=paths, mount_point=paths,
       options=st.frozensets(words, min_size=1), optional=st.lists(words), controllers=st.frozensets(words, min_size=1))
def test_a_mount_is_read_back_as_it_was_written(major, minor, root, mount_point, options, optional, controllers):
    line = " ".join([
        "31 23", f"{major}:{minor}", mangled(root), mangled(mount_point), ",".join(options), *optional, "-", "cgroup",
        "none", ",".join(controllers),
    ])
    mounts = parse.mountinfo(f"{line}\n{line}\n")
    assert mounts == [parse.Mount(major, minor, root, mount_point, options, "cgroup", controllers)] * 2


@given(st.dictionaries(words, st.tuples(st.integers(0, 100), st.integers(0, 10**6), st.booleans())))
def test_controllers_of_the_kernel_are_enabled_or_not(table):
    text = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n" + "".join(
        f"{name}\t{hierarchy}\t{number}\t{enabled:d}\n" for name, (hierarchy, number, enabled) in table.items())
    assert parse.kernel_controllers(text) == {name: enabled for name, (_, _, enabled) in table.items()}


@given(st.dictionaries(words, st.integers(0, 2**64 - 1)))
def test_keyed_numbers_are_read_back(values):
    assert parse.flat_keyed("".join(f"{key} {value}\n" for key, value in values.items())) == values


def test_the_own_group_is_found_for_joint_named_and_unified_hierarchies():
    text = "5:cpu,cpuacct:/a:b\n1:name=systemd:/s\n0::/user.slice/x (deleted)\n"
    assert parse.own_groups(text) == {"cpu": "/a:b", "cpuacct": "/a:b", "name=systemd": "/s",
                                      "": "/user.slice/x (deleted)"}


def test_a_process_that_cannot_be_seen_is_never_pid_0():
    assert parse.processes("0\n17\n0\n4194304\n") == [17, 4194304]


def test_the_own_mounts_are_all_read():
    with open("/proc/self/mountinfo") as file:
        text = file.read()
    mounts = parse.mountinfo(text)
    assert len(mounts) == text.count("\n")
    proc = [mount for mount in mounts if mount.mount_point == "/proc"]
    assert os.makedev(proc[-1].major, proc[-1].minor) == os.stat("/proc").st_dev
