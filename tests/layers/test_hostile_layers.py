"""Layers that are broken or hostile: refused in one line, or applied without a byte outside of the directory."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pycontain.errors import LayerError
from pycontain.layers.apply import apply_layer
from pycontain.layers.compression import Decompressed
from pycontain.layers.whiteouts import Whiteouts
from pycontain.linux.trees import remove_tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")

BOTH = (Whiteouts.OVERLAY, Whiteouts.REMOVE)


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    made.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def tar(*entries: tarfile.TarInfo, data: bytes = b"data") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for one in entries:
            if one.type == tarfile.REGTYPE:
                one.size = len(data)
                archive.addfile(one, io.BytesIO(data))
            else:
                archive.addfile(one)
    return made.getvalue()


def changed(data: bytes, at: int, new: bytes) -> bytes:
    """An archive with other bytes in its first header, and the checksum that fits."""
    header = bytearray(data[:512])
    header[at : at + len(new)] = new
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


def outside(directory: Path) -> list[str]:
    return sorted(os.listdir(directory)) + sorted(os.listdir(directory / "outer")) + os.listdir(directory / "canary")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """The directory to apply to, with a canary beside it that nothing may touch."""
    root = tmp_path / "outer/root"
    root.mkdir(parents=True)
    canary = tmp_path / "outer/canary"
    canary.write_text("untouched")
    os.utime(canary, (1, 1))
    (tmp_path / "canary").mkdir()
    before = outside(tmp_path)
    yield root
    assert canary.read_text() == "untouched"
    assert canary.stat().st_mtime == 1
    assert outside(tmp_path) == before
    remove_tree(str(root))  # pytest's own removal does not go so deep


def apply(root: Path, data: bytes, whiteouts: Whiteouts = Whiteouts.OVERLAY) -> None:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        apply_layer(Decompressed(io.BytesIO(data), "test").read, fd, whiteouts, name="test")
    finally:
        os.close(fd)


D, L, H, C, B, F = (
    tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
)

REFUSED = {
    "parent in the name": tar(entry("../canary")),
    "parent within the name": tar(entry("a/../../canary")),
    "parent at the end": tar(entry("a/..", D)),
    "parent alone": tar(entry("..", D)),
    "whiteout of a parent": tar(entry("../.wh.canary")),
    "whiteout of dot-dot": tar(entry(".wh...")),
    "whiteout of dot": tar(entry(".wh..")),
    "whiteout of nothing": tar(entry(".wh.")),
    "whiteout of a whiteout": tar(entry(".wh..wh.a")),
    "below a whiteout": tar(entry(".wh.a/b")),
    "deep below a whiteout": tar(entry("x/.wh.a/b/c")),
    "hard link outside": tar(entry("x", H, "../canary")),
    "hard link to an absolute path": tar(entry("x", H, "/etc/passwd")),
    "hard link to what is not there": tar(entry("x", H, "missing")),
    "hard link to a directory": tar(entry("d", D), entry("x", H, "d")),
    "hard link to itself": tar(entry("x"), entry("x", H, "x")),
    "a file that is the root": tar(entry(".")),
    "a link that is the root": tar(entry("./", L, "/")),
    "a whiteout as a device": tar(entry("x", C, devmajor=0, devminor=0)),
    "a parent that is a file": tar(entry("x"), entry("x/y")),
    "a parent that is a link to a file": tar(entry("f"), entry("x", L, "f"), entry("x/y")),
    "a parent that is a link to nowhere": tar(entry("x", L, "/nowhere"), entry("x/y")),
    "a parent that is a loop": tar(entry("a", L, "b"), entry("b", L, "a"), entry("a/x")),
    "the owner 2^32-1": tar(entry("x", uid=2**32 - 1)),
    "the group 2^32-1": tar(entry("x", gid=2**32 - 1)),
    "the owner 2^32": tar(entry("x", uid=2**32)),
    "the owner 2^63": tar(entry("x", uid=2**63)),
    "an owner of a directory": tar(entry("x", D, gid=2**32 - 1)),
    "an owner of a link": tar(entry("x", L, "y", uid=2**32 - 1)),
    "overlayfs's mark": tar(entry("x", D, pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"})),
    "overlayfs's redirect": tar(entry("x", D, pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/etc"})),
    "overlayfs's mark of users": tar(entry("x", pax_headers={"SCHILY.xattr.user.overlay.whiteout": "y"})),
    "a time beyond all": tar(entry("x", mtime=2**60)),
    "a name too long for the kernel": tar(entry("/".join(["n" * 200] * 30))),
    "a component too long for the kernel": tar(entry("n" * 300)),
    "a NUL in the name": tar(entry("x", pax_headers={"path": "a\0b"})),
    "an unknown type": changed(tar(entry("x")), 156, b"Z"),
    "a wrong checksum": bytes([tar(entry("x"))[0] ^ 1]) + tar(entry("x"))[1:],
    "a number that is none": changed(tar(entry("x")), 100, b"zzzzzzz\0"),
    "a negative size": changed(tar(entry("x")), 124, b"\xff" * 12),
    "a size of 2^62": changed(tar(entry("x")), 124, b"\x80\0\0\0" + (2**62).to_bytes(8, "big")),
    "cut within the header": tar(entry("x"))[:300],
    "cut within the data": tar(entry("x"), data=b"d" * 5000)[:1500],
    "data after the end": tar(entry("x")) + b"x" * 512,
    "no tar at all": b"#!/bin/sh\n" * 200,
    "gzip that is cut": gzip.compress(tar(entry("x"), data=os.urandom(5000)))[:-3000],
    "gzip with another checksum": gzip.compress(tar(entry("x")))[:-8] + b"\0" * 8,
    "gzip and then garbage": gzip.compress(tar(entry("x"))) + b"garbage" * 100,
    "pax without its length": changed(tar(entry("x")), 156, b"x"),
}

HARMLESS = {
    "an absolute name": tar(entry("/x")),
    "many slashes": tar(entry("//a///b//", D)),
    "dots": tar(entry("./a/./b/.", D)),
    "a link that leads outside": tar(entry("x", L, "../../canary"), entry("x")),
    "a link to the root, and below it": tar(entry("x", L, "/"), entry("x/canary")),
    "a link far outside, and below it": tar(entry("x", L, "../../../.."), entry("x/canary")),
    "a directory, a link, a directory": tar(entry("x", D), entry("x", L, "../.."), entry("x", D), entry("x/canary")),
    "a directory instead of a link": tar(entry("x", L, ".."), entry("x", D), entry("x/canary")),
    "a file instead of a full directory": tar(entry("x", D), entry("x/y"), entry("x")),
    "a fifo and then a file": tar(entry("x", F), entry("x")),
    "a device and then a file": tar(entry("x", C, devmajor=1, devminor=3), entry("x")),
    "a disk": tar(entry("x", B, devmajor=8, devminor=0)),
    "the same name twice": tar(entry("x"), entry("x")),
    "a hard link, then another file": tar(entry("a"), entry("b", H, "a"), entry("a")),
    "a hard link to a link": tar(entry("a", L, "../../canary"), entry("b", H, "a")),
    "a hard link through a link": tar(entry("d", D), entry("d/f"), entry("l", L, "d"), entry("h", H, "l/f")),
    "set-user-ID": tar(entry("x", mode=0o4755)),
    "a mode with more bits": tar(entry("x", mode=0o177777)),
    "a time before 1970": tar(entry("x", mtime=-1)),
    "a name that is no UTF-8": tar(entry("x\udcff")),
    "a newline and an escape": tar(entry("a\n\x1b[31m")),
    "AUFS's own": tar(entry(".wh..wh.plnk", D), entry(".wh..wh.plnk/1.2"), entry(".wh..wh.aufs")),
    "opaque root": tar(entry(".wh..wh..opq")),
    "whiteout of what this layer has": tar(entry("x"), entry(".wh.x")),
    "whiteout before it comes": tar(entry(".wh.x"), entry("x", D), entry("x/y")),
    "no entries": tar(),
    "no end": tar(entry("x"))[:1024],
    "several members of gzip": gzip.compress(tar(entry("x"))[:700]) + gzip.compress(tar(entry("x"))[700:]),
    "deep": tar(entry("/".join(["d"] * 600), D)),
    "links to links": tar(*[entry(f"l{n}", L, f"l{n + 1}") for n in range(30)], entry("l30", D), entry("l0/x")),
}


@pytest.mark.parametrize("whiteouts", BOTH)
@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_it_is_refused_in_one_line(place: Path, data: bytes, whiteouts: Whiteouts) -> None:
    with pytest.raises(LayerError) as caught:
        apply(place, data, whiteouts)
    assert "\n" not in str(caught.value)
    assert "the layer test" in str(caught.value)


@pytest.mark.parametrize("whiteouts", BOTH)
@pytest.mark.parametrize("data", HARMLESS.values(), ids=HARMLESS)
def test_it_does_nothing_outside(place: Path, data: bytes, whiteouts: Whiteouts) -> None:
    apply(place, data, whiteouts)


def test_a_bomb_is_stopped(place: Path) -> None:
    bomb = gzip.compress(changed(tar(entry("x")), 124, b"77777777777\0")[:512], 1)
    zeros = gzip.compress(bytes(1 << 24), 9) * 70
    with pytest.raises(LayerError, match="times as much"):
        apply(place, bomb + zeros)


def test_a_directory_with_many_entries_is_applied(place: Path) -> None:
    apply(place, tar(*[entry(f"d/{number}") for number in range(20_000)], data=b""))
    assert len(os.listdir(place / "d")) == 20_000


# ---- what honest layers say

@pytest.mark.parametrize("check", [
    lambda root: (root / "f").read_bytes() == b"data",
    lambda root: os.stat(root / "f").st_mode & 0o7777 == 0o6751,
    lambda root: (os.stat(root / "f").st_uid, os.stat(root / "f").st_gid) == (1234, 2**32 - 2),
    lambda root: os.stat(root / "f").st_mtime_ns == 1_500_000_000_250_000_000,
    lambda root: os.stat(root / "d").st_mtime == 1_400_000_000,
    lambda root: os.path.samestat(os.stat(root / "f"), os.stat(root / "d/h")),
    lambda root: os.readlink(root / "l") == "/d",
    lambda root: os.lstat(root / "l").st_uid == 77,
    lambda root: os.getxattr(root / "x", "user.note") == b"kept",
    lambda root: os.major(os.stat(root / "n").st_rdev) == 1,
])
def test_every_attribute_is_kept(place: Path, check: Callable[[Path], bool]) -> None:
    apply(place, tar(
        entry("d", D, mtime=1_400_000_000),
        entry("f", mode=0o6751, uid=1234, gid=2**32 - 2, mtime=1_500_000_000.25),
        entry("d/h", H, "f"), entry("l", L, "/d", uid=77), entry("n", C, devmajor=1, devminor=3),
        entry("x", pax_headers={"SCHILY.xattr.user.note": "kept"}),
    ))
    assert check(place)


def test_whiteouts_remove_what_lower_layers_have(place: Path) -> None:
    apply(place, tar(entry("a"), entry("d", D), entry("d/old"), entry("o", D), entry("o/old")), Whiteouts.REMOVE)
    apply(place, tar(
        entry(".wh.a"), entry("d/.wh.old"), entry("d/new"), entry("o", D), entry("o/new"), entry("o/.wh..wh..opq"),
    ), Whiteouts.REMOVE)
    assert sorted(str(path.relative_to(place)) for path in place.rglob("*")) == ["d", "d/new", "o", "o/new"]


def test_whiteouts_become_overlayfs_s(place: Path) -> None:
    apply(place, tar(entry(".wh.a"), entry("o", D), entry("o/.wh..wh..opq"), entry(".wh.r"), entry("r", D)))
    assert os.stat(place / "a").st_rdev == 0
    assert os.getxattr(place / "o", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(place / "r", "trusted.overlay.opaque") == b"y"
