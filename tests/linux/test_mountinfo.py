"""The mount table is parsed exactly, and the cached one is never behind the kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolated import needs_root, open_descriptors, run_python

from pycontain.errors import InvalidArgument
from pycontain.linux import mountinfo
from pycontain.linux.mountinfo import MountInfo, MountTable, parse, parse_line

SAMPLE = (
    "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 propagate_from:3 unbindable new:9 - "
    "ext3 /dev/ro\\134ot rw,errors=continue"
)


def test_a_line_has_all_fields() -> None:
    assert parse_line(SAMPLE) == MountInfo(
        id=36,
        parent=35,
        major_minor=(98, 0),
        root="/mnt1",
        mount_point="/mnt 2",
        options=("rw", "noatime"),
        shared=7,
        master=1,
        propagate_from=3,
        unbindable=True,
        fs_type="ext3",
        source="/dev/ro\\ot",
        super_options=("rw", "errors=continue"),
    )


def test_without_optional_fields_there_is_no_propagation() -> None:
    entry = parse_line("1 0 0:1 / / ro - tmpfs  rw")
    assert (entry.shared, entry.master, entry.propagate_from, entry.unbindable) == (None, None, None, False)
    assert entry.source == ""


@pytest.mark.parametrize(
    "line",
    [
        "",
        "1 0 0:1 / / rw",
        "1 0 0:1 / / rw - tmpfs x",
        "1 0 0:1 / / rw - tmpfs x rw y",
        "x 0 0:1 / / rw - a b c",
        "1 0 0 / / rw - a b c",
    ],
)
def test_what_is_no_line_is_refused_with_its_text(line: str) -> None:
    with pytest.raises(InvalidArgument, match="Not a line of a mountinfo file"):
        parse_line(line)


names = st.binary(max_size=20).map(lambda raw: raw.replace(b"\0", b""))


def escaped(name: bytes) -> bytes:
    """As the kernel's mangle() does it: blank, tab, newline, backslash and number sign."""
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in name)


@given(names, names, names)
def test_any_name_survives(root: bytes, mount_point: bytes, source: bytes) -> None:
    fields = (b"1 0 0:1", escaped(b"/" + root), escaped(b"/" + mount_point), b"rw - tmpfs", escaped(source), b"rw")
    (entry,) = parse(b" ".join(fields) + b"\n")
    assert os.fsencode(entry.root) == b"/" + root
    assert os.fsencode(entry.mount_point) == b"/" + mount_point
    assert os.fsencode(entry.source) == source


@given(st.text() | st.lists(st.sampled_from((*SAMPLE.split(" "), "\\777", "\\08", "-", ""))).map(" ".join))
def test_any_line_is_parsed_or_refused(line: str) -> None:
    try:
        parse_line(line)
    except InvalidArgument:
        pass


def test_the_table_of_this_machine_agrees_with_the_file_system() -> None:
    entries = mountinfo.read()
    assert {entry.mount_point for entry in entries} >= {"/", "/proc"}
    proc = [entry for entry in entries if entry.mount_point == "/proc"][-1]
    assert os.makedev(*proc.major_minor) == os.stat("/proc").st_dev
    assert entries == mountinfo.read(os.getpid())


def test_a_process_that_has_gone_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        mountinfo.read(4194305)


def test_the_table_is_parsed_once_while_nothing_changes() -> None:
    before = open_descriptors()
    table = MountTable()
    first = table.mounts()
    assert table.mounts() is first
    assert first == mountinfo.read()
    table.close()
    assert open_descriptors() == before
    assert table.mounts() == first
    del table
    assert open_descriptors() == before


CODE = """
import os, sys, threading
from pycontain.linux import mountinfo
from pycontain.linux.mounts import *
from pycontain.linux.namespaces import NamespaceType, unshare
unshare(NamespaceType.MOUNT)
mount(None, "/", None, MountFlag.PRIVATE | MountFlag.REC)
base = sys.argv[1]
table = mountinfo.MountTable()
def points():
    return [entry.mount_point for entry in table.mounts() if entry.mount_point.startswith(base)]
"""


@needs_root
def test_every_change_is_noticed(tmp_path: Path) -> None:
    code = """
for step in (
    lambda: mount("x", base, "tmpfs"),
    lambda: mount(None, base, None, MountFlag.REMOUNT | MountFlag.BIND | MountFlag.RDONLY),
    lambda: mount_setattr(AT_FDCWD, base, 0, MountAttr.NOSUID, MountAttr.RDONLY),
    lambda: mount_setattr(AT_FDCWD, base, propagation=MountFlag.SHARED),
    lambda: os.mkdir(base + "/sub"),
    lambda: mount(base, base + "/sub", None, MountFlag.BIND),
    lambda: umount(base + "/sub"),
    lambda: umount(base, UmountFlag.DETACH),
    lambda: unshare(NamespaceType.MOUNT),
    lambda: mount("y", base, "tmpfs"),
):
    before = table.mounts()
    step()
    assert table.mounts() == mountinfo.read()
print(points())
"""
    assert run_python(CODE + code, str(tmp_path)) == f"['{tmp_path}']"


@needs_root
def test_parent_and_child_of_a_fork_each_notice_changes(tmp_path: Path) -> None:
    code = """
table.mounts()
there, here = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    os.read(there[0], 1)
    assert points() == [base]
    os.write(here[1], b"x")
    os.read(there[0], 1)
    assert points() == []
    os._exit(0)
mount("x", base, "tmpfs")
os.write(there[1], b"x")
os.read(here[0], 1)
assert points() == [base]
umount(base)
assert points() == []
os.write(there[1], b"x")
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert run_python(CODE + code, str(tmp_path)) == "0"


@needs_root
def test_threads_share_a_table_and_see_their_own_mounts_at_once(tmp_path: Path) -> None:
    code = """
failures = []
def work(number):
    path = f"{base}/{number}"
    os.mkdir(path)
    try:
        for _ in range(50):
            mount("x", path, "tmpfs")
            assert path in points()
            umount(path)
            assert path not in points()
    except BaseException as error:
        failures.append(error)
threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(failures)
"""
    assert run_python(CODE + code, str(tmp_path)) == "[]"


@needs_root
def test_a_table_that_keeps_changing_is_read_to_the_end(tmp_path: Path) -> None:
    """A file of many pages, read while another thread mounts: no entry is missing or twice."""
    code = """
for number in range(150):
    os.mkdir(f"{base}/{number}-{'x' * 100}")
    mount("x", f"{base}/{number}-{'x' * 100}", "tmpfs")
os.mkdir(f"{base}/moving")
stop = threading.Event()
def disturb():
    while not stop.wait(0.002):
        mount("x", f"{base}/moving", "tmpfs")
        umount(f"{base}/moving")
thread = threading.Thread(target=disturb)
thread.start()
try:
    for _ in range(100):
        found = [point for point in points() if "xxx" in point]
        assert len(found) == len(set(found)) == 150
finally:
    stop.set()
    thread.join()
print("ok")
"""
    assert run_python(CODE + code, str(tmp_path)) == "ok"
