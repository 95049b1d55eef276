"""A container that is started again, after what lies below its root has changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from inside import PRIVATE_MOUNTS
from programs import run

from pycontain import Container, InvalidArgument

pytestmark = pytest.mark.usefixtures("root_user")

BEGIN = PRIVATE_MOUNTS + """
box = Container.from_rootfs(root)
def names():
    return box.run(["ls", "/sub"]).check().text.split()
"""


@pytest.fixture
def root(busybox_root: Path, tmp_path: Path) -> Path:
    """A root of its own, with an empty directory `sub`."""
    shutil.copytree(busybox_root, tmp_path / "root", symlinks=True)
    (tmp_path / "root/sub").mkdir()
    return tmp_path / "root"


def test_what_has_been_mounted_since_its_last_start_is_there(root: Path, tmp_path: Path) -> None:
    program = BEGIN + """
assert names() == []
mount("late", root + "/sub", "tmpfs")
open(root + "/sub/file", "w").close()
print(names())
umount(root + "/sub")
"""
    assert run(program, root, tmp_path).stdout == "['file']\n"


def test_what_has_been_unmounted_and_removed_since_its_last_start_is_not_missed(
    root: Path, tmp_path: Path
) -> None:
    program = BEGIN + """
os.mkdir(root + "/sub/early")
mount("early", root + "/sub/early", "tmpfs")
assert names() == ["early"]
umount(root + "/sub/early")
os.rmdir(root + "/sub/early")
print(names())
"""
    assert run(program, root, tmp_path).stdout == "[]\n"


def test_the_plan_is_kept_when_something_is_mounted_elsewhere(root: Path, tmp_path: Path) -> None:
    program = BEGIN + """
os.mkdir(base + "/elsewhere")
plan = box.plan()
mount("elsewhere", base + "/elsewhere", "tmpfs")
print(box.plan() is plan)
umount(base + "/elsewhere")
os.rmdir(base + "/elsewhere")
"""
    assert run(program, root, tmp_path).stdout == "True\n"


def test_a_root_that_is_a_link_leads_where_the_link_leads_at_each_start(busybox_root: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(busybox_root, tmp_path / name, symlinks=True)
        (tmp_path / name / "name").write_text(name)
    link = tmp_path / "link"
    link.symlink_to("one")
    box = Container.from_rootfs(link)
    assert box.run(["cat", "/name"]).text == "one"
    link.unlink()
    link.symlink_to("two")
    assert box.run(["cat", "/name"]).text == "two"


def test_a_root_that_is_gone_is_named_and_used_when_it_is_back(root: Path, tmp_path: Path) -> None:
    box = Container.from_rootfs(root)
    box.run(["true"]).check()
    os.rename(root, tmp_path / "away")
    with pytest.raises(InvalidArgument, match=f"the root '{root}' cannot be used: No such file or directory"):
        box.run(["true"])
    os.rename(tmp_path / "away", root)
    box.run(["true"]).check()
