"""Mounts are made in a mount namespace of a process of its own; the constants are those of the kernel's headers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from isolated import needs_root, run_python

from pycontain.errors import InvalidArgument
from pycontain.linux import mountinfo
from pycontain.linux.mounts import (
    AT_FDCWD,
    TreeFlag,
    UmountFlag,
    fsconfig_set,
    fsopen,
    mount,
    open_tree,
    umount,
)

IMPORTS = """
import os, sys
from pycontain.linux import mountinfo
from pycontain.linux.mounts import *
from pycontain.linux.namespaces import NamespaceType, unshare
unshare(NamespaceType.MOUNT)
mount(None, "/", None, MountFlag.PRIVATE | MountFlag.REC)
base = sys.argv[1]
def table(path):
    return [entry for entry in mountinfo.read() if entry.mount_point == path]
def inside(*names):
    path = os.path.join(base, *names)
    os.makedirs(path, exist_ok=True)
    return path
"""


def run(code: str, directory: Path) -> str:
    """Runs a program that mounts below `directory`, and verifies that the caller's mount table is what it was."""
    before = mountinfo.read()
    printed = run_python(IMPORTS + code, str(directory))
    assert mountinfo.read() == before
    return printed


@needs_root
def test_a_file_system_is_mounted_bound_moved_and_unmounted(tmp_path: Path) -> None:
    code = """
first, second = inside("first"), inside("second")
mount("scratch", first, "tmpfs", MountFlag.NOSUID | MountFlag.NODEV, "size=64k,mode=700")
(entry,) = table(first)
print(entry.fs_type, entry.source, entry.options, entry.super_options[0])
open(first + "/file", "w").close()
mount(first, second, None, MountFlag.BIND)
mount(None, second, None, MountFlag.REMOUNT | MountFlag.BIND | MountFlag.RDONLY)
try:
    open(second + "/other", "w")
except OSError as error:
    print(error.strerror)
umount(second)
mount(first, second, None, MountFlag.MOVE)
print(os.listdir(first), os.listdir(second))
umount(second, UmountFlag.DETACH | UmountFlag.NOFOLLOW)
print(table(first), table(second))
"""
    assert run(code, tmp_path).splitlines() == [
        "tmpfs scratch ('rw', 'nosuid', 'nodev', 'relatime') rw",
        "Read-only file system",
        "[] ['file']",
        "[] []",
    ]


@needs_root
def test_a_file_system_is_made_by_descriptors_and_attached(tmp_path: Path) -> None:
    code = """
target, copy = inside("target"), inside("copy")
context = fsopen("tmpfs")
fsconfig_set(context, "source", "scratch")
fsconfig_set(context, "size", "1m")
fsconfig_set(context, "ro")
fsconfig_create(context)
tree = fsmount(context, MountAttr.NOEXEC | MountAttr.NOATIME)
move_mount(tree, "", AT_FDCWD, target, MoveFlag.F_EMPTY_PATH)
(entry,) = table(target)
print(entry.source, entry.options, entry.super_options)
clone = open_tree(AT_FDCWD, target, TreeFlag.CLONE | TreeFlag.RECURSIVE)
changed = MountAttr.RDONLY | MountAttr.STRICTATIME
mount_setattr(clone, "", TreeFlag.EMPTY_PATH, changed, MountAttr.ATIME | MountAttr.NOEXEC)
move_mount(clone, "", AT_FDCWD, copy, MoveFlag.F_EMPTY_PATH)
print(table(copy)[0].options)
again = fspick(AT_FDCWD, target)
fsconfig_set(again, "rw")
fsconfig_reconfigure(again)
print(table(target)[0].super_options[0])
print([os.get_inheritable(fd) for fd in (context, tree, clone, again)])
"""
    assert run(code, tmp_path).splitlines() == [
        "scratch ('rw', 'noexec', 'noatime') ('ro', 'size=1024k')",
        "('ro',)",
        "rw",
        "[False, False, False, False]",
    ]


@needs_root
def test_a_descriptor_is_a_parameter_of_a_file_system(tmp_path: Path) -> None:
    """Where the kernel takes layers as descriptors (6.13), they are passed so."""
    code = """
from pycontain.linux.paths import openat2
lower, merged = inside("lower"), inside("merged")
open(lower + "/file", "w").close()
context = fsopen("overlay")
try:
    fsconfig_set(context, "lowerdir+", os.open(lower, os.O_PATH | os.O_DIRECTORY))
    fsconfig_set(context, "lowerdir+", os.open(inside("lower2"), os.O_PATH | os.O_DIRECTORY))
except OSError as error:
    print("refused:", error.strerror)
else:
    fsconfig_create(context)
    move_mount(fsmount(context), "", AT_FDCWD, merged, MoveFlag.F_EMPTY_PATH)
    print(os.listdir(merged))
"""
    printed = run(code, tmp_path)
    if printed.startswith("refused:"):
        pytest.skip(f"this kernel's overlay takes no descriptors ({printed})")
    assert printed == "['file']"


@needs_root
def test_the_reason_that_the_file_system_gives_is_in_the_message(tmp_path: Path) -> None:
    code = """
for key, value in (("size", "much"), ("nonsense", None)):
    try:
        fsconfig_set(fsopen("tmpfs"), key, value)
    except OSError as error:
        print(error.strerror)
"""
    first, second = run(code, tmp_path).splitlines()
    assert first.startswith("fsconfig('size', 'much'): Invalid argument (")
    assert "Bad value for 'size'" in first
    assert "Unknown parameter 'nonsense'" in second


@needs_root
def test_attributes_are_set_recursively(tmp_path: Path) -> None:
    code = """
outer = inside("outer")
mount("a", outer, "tmpfs")
inner = inside("outer", "inner")
mount("b", inner, "tmpfs")
mount_setattr(AT_FDCWD, outer, TreeFlag.RECURSIVE, MountAttr.RDONLY, propagation=MountFlag.SHARED)
print(table(outer)[0].options[0], table(inner)[0].options[0], table(inner)[0].shared is not None)
"""
    assert run(code, tmp_path) == "ro ro True"


@needs_root
def test_pivot_root_changes_the_root(tmp_path: Path) -> None:
    code = """
root = inside("root")
mount("root", root, "tmpfs")
os.mkdir(root + "/old")
pivot_root(root, root + "/old")
os.chdir("/")
umount("/old", UmountFlag.DETACH)
print(os.listdir("/"))
"""
    assert run(code, tmp_path) == "['old']"


@needs_root
@pytest.mark.parametrize("code", ["pivot_root(base, base)", "mount(base, base, None, MountFlag.MOVE)"])
def test_a_refused_call_is_named_with_its_arguments(code: str, tmp_path: Path) -> None:
    program = f"try:\n    {code}\nexcept OSError as error:\n    print(error)"
    printed = run(program, tmp_path)
    assert f"'{tmp_path}', '{tmp_path}'" in printed
    assert printed.startswith("[Errno ")


def test_a_missing_directory_is_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"open_tree\(-100, '/nowhere', CLONE\|RECURSIVE\): No such file"):
        open_tree(AT_FDCWD, "/nowhere", TreeFlag.CLONE | TreeFlag.RECURSIVE)
    with pytest.raises(FileNotFoundError, match=r"umount2\('.*', DETACH\)"):
        umount(tmp_path / "nowhere", UmountFlag.DETACH)


def test_an_unknown_file_system_is_named() -> None:
    with pytest.raises(OSError, match=r"fsopen\('nonsense'\)"):
        fsopen("nonsense")


def test_a_nul_byte_in_an_argument_is_refused_before_the_kernel_sees_it() -> None:
    with pytest.raises(InvalidArgument, match="NUL"):
        mount("tmpfs", "/mnt\0/x", "tmpfs")


def test_an_error_on_something_else_than_a_context_keeps_its_own_reason() -> None:
    with open("/dev/null", "rb") as file, pytest.raises(OSError, match=r"fsconfig\('ro', NULL\): Invalid argument$"):
        fsconfig_set(file.fileno(), "ro")
    with pytest.raises(OSError, match=r"Bad file descriptor$"):
        fsconfig_set(1 << 20, "ro")


def test_the_working_directory_has_its_descriptor() -> None:
    fd = open_tree(AT_FDCWD, ".")
    assert os.path.samestat(os.fstat(fd), os.stat("."))
    os.close(fd)
