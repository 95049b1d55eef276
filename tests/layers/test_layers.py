"""Layers are made of trees and applied to trees: what comes out is what went in, and nothing leaves the directory."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pycontain.errors import LayerError
from pycontain.layers.adopting import adopt
from pycontain.layers.apply import Applied, apply_layer
from pycontain.layers.create import write_layer
from pycontain.layers.diff import Change, changes_between, changes_of_upper
from pycontain.layers.tar import Archive
from pycontain.layers.whiteouts import Whiteouts

pytestmark = pytest.mark.usefixtures("root_user")
MODES = (Whiteouts.OVERLAY, Whiteouts.REMOVE)


def member(
    name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: object
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(data), 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def apply(data: bytes, root: Path, whiteouts: Whiteouts = Whiteouts.OVERLAY) -> Applied:
    root.mkdir(exist_ok=True)
    with opened(root) as fd:
        return apply_layer(io.BytesIO(data).read, fd, whiteouts, name="sha256:test")


def layer_between(lower: Path | None, upper: Path) -> bytes:
    out: list[bytes] = []
    with opened(upper) as new:
        if lower is None:
            changes = changes_between(None, new)
        else:
            with opened(lower) as old:
                changes = changes_between(old, new)
        write_layer(out.append, changes, new)
    return b"".join(out)


def describe(root: Path) -> dict[str, object]:
    """All that counts of a tree."""
    inodes: dict[int, str] = {}
    found: dict[str, object] = {}
    for path in (root, *sorted(root.rglob("*"))):
        info, name = path.lstat(), str(path.relative_to(root))
        content: object = None
        if stat.S_ISREG(info.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        same = None if path.is_dir() and not path.is_symlink() else inodes.setdefault(info.st_ino, name)
        xattrs = {key: os.getxattr(path, key, follow_symlinks=False)
                  for key in os.listxattr(path, follow_symlinks=False) if "overlay" not in key}
        found[name] = (
            info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_rdev, content, same,
            tuple(xattrs.items()),
        )
    return found


def fill(root: Path) -> None:
    """A tree with everything in it that a layer can have."""
    root.mkdir(exist_ok=True)
    (root / "dir").mkdir(0o750)
    (root / "dir/file").write_bytes(b"content")
    (root / "dir/large").write_bytes(os.urandom(700_000))
    os.link(root / "dir/file", root / "dir/link")
    (root / "suid").write_bytes(b"x")
    os.chown(root / "suid", 1000, 4_000_000_000)
    (root / "suid").chmod(0o6755)
    (root / "symlink").symlink_to("../" * 5 + "nowhere")
    os.lchown(root / "symlink", 5, 6)
    os.mkfifo(root / "fifo", 0o600)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (root / ("long" * 50)).mkdir()
    (root / ("long" * 50) / ("name" * 50)).write_bytes(b"long")
    (root / os.fsdecode(b"not-\xff-utf8")).write_bytes(b"bytes")
    (root / os.fsdecode(b"not-\xff" + b"x" * 120)).write_bytes(b"bytes")
    with (root / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    os.setxattr(root / "dir", "user.colour", b"\0binary\n=")
    os.setxattr(root / "suid", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(1, (number - 3) * 10**9 + number), follow_symlinks=False)
    os.utime(root, ns=(1, 1_600_000_000_123_456_789))


@pytest.mark.parametrize("whiteouts", MODES)
def test_a_tree_made_into_a_layer_and_applied_is_the_same_tree(tmp_path: Path, whiteouts: Whiteouts) -> None:
    fill(tmp_path / "tree")
    layer = layer_between(None, tmp_path / "tree")
    apply(layer, tmp_path / "applied", whiteouts)
    assert describe(tmp_path / "applied") == describe(tmp_path / "tree")
    assert layer_between(None, tmp_path / "applied") == layer


def test_the_changes_between_two_trees_make_one_into_the_other(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    fill(lower)
    apply(layer_between(None, lower), upper, Whiteouts.REMOVE)
    (upper / "dir/link").unlink()
    (upper / "suid").chmod(0o755)
    (upper / "fifo").unlink()
    (upper / "fifo").mkdir()
    (upper / "fifo/new").write_bytes(b"new")
    os.link(upper / "sparse", upper / "second")
    with opened(lower) as old, opened(upper) as new:
        changes = {change.path: change.kind for change in changes_between(old, new)}
    assert changes == {
        "/": "modified", "/dir": "modified", "/dir/link": "deleted", "/fifo": "modified", "/fifo/new": "added",
        "/second": "added", "/sparse": "modified", "/suid": "modified",
    }
    apply(layer_between(lower, upper), lower, Whiteouts.REMOVE)
    assert describe(lower) == describe(upper)


def test_an_upper_directory_tells_its_changes(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for path in (lower / "gone", lower / "opaque/hidden", lower / "opaque/kept", lower / "same"):
        path.mkdir(parents=True)
    upper.mkdir()
    os.mknod(upper / "gone", stat.S_IFCHR, 0)
    (upper / "opaque/kept").mkdir(parents=True)
    os.setxattr(upper / "opaque", "trusted.overlay.opaque", b"y")
    (upper / "new").write_bytes(b"new")
    for root in (lower, upper):
        for path in (*root.rglob("*"), root):
            os.utime(path, (1, 1))
    with opened(upper) as new, opened(lower) as old:
        changes = changes_of_upper(new, old)
        out: list[bytes] = []
        write_layer(out.append, changes, new)
    assert changes == [Change("deleted", "/gone"), Change("added", "/new"), Change("deleted", "/opaque/hidden")]
    with tarfile.open(fileobj=io.BytesIO(b"".join(out))) as written:
        names = written.getnames()
    assert names == [".wh.gone", "new", "opaque", "opaque/.wh.hidden"]


def test_the_same_changes_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        for file in ("b", "a") if name == "one" else ("a", "b"):
            (tmp_path / name / "sub" / file).write_bytes(b"same")
    written = []
    for name in ("one", "two"):
        out: list[bytes] = []
        with opened(tmp_path / name) as fd:
            write_layer(out.append, changes_between(None, fd), fd, epoch=1)
        written.append(b"".join(out))
    assert written[0] == written[1]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_other_programs_are_read(tmp_path: Path, form: int) -> None:
    name = "d/" + "n" * 90 if form == tarfile.USTAR_FORMAT else "directory/" * 20 + "n" * 120
    apply(archive(member(name, data=b"data"), member("small", data=b"1"), form=form), tmp_path / "root")
    assert (tmp_path / "root" / name).read_bytes() == b"data"
    assert (tmp_path / "root/small").read_bytes() == b"1"


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("deletion", [".wh.dir", "dir/.wh..wh..opq"])
def test_a_whiteout_concerns_the_layers_below_alone(tmp_path: Path, first: bool, deletion: str) -> None:
    root = tmp_path / "root"
    (root / "dir/sub").mkdir(parents=True)
    (root / "dir/old").write_bytes(b"old")
    members = [member(deletion), member("dir/sub/new", data=b"new"), member("dir/sub/other", data=b"new")]
    apply(archive(*(members if first else members[::-1])), root, Whiteouts.REMOVE)
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == [
        "dir", "dir/sub", "dir/sub/new", "dir/sub/other",
    ]
    overlay = tmp_path / "overlay"
    apply(archive(*(members if first else members[::-1])), overlay)
    assert os.getxattr(overlay / "dir", "trusted.overlay.opaque") == b"y"
    assert (overlay / "dir/sub/new").read_bytes() == b"new"


def test_a_whiteout_of_what_the_layer_lacks_is_a_device_for_overlayfs(tmp_path: Path) -> None:
    apply(archive(member("a/.wh.b")), tmp_path / "root")
    info = (tmp_path / "root/a/b").lstat()
    assert stat.S_ISCHR(info.st_mode)
    assert info.st_rdev == 0


def test_implied_directories_are_like_those_of_the_layers_below(tmp_path: Path) -> None:
    lower, root = tmp_path / "lower", tmp_path / "root"
    (lower / "usr/lib").mkdir(parents=True)
    (lower / "lib").symlink_to("usr/lib")
    (lower / "usr").chmod(0o711)
    os.chown(lower / "usr", 7, 8)
    applied = apply(archive(member("usr/bin/x"), member("lib/x")), root)
    assert applied.implied == ("usr", "usr/bin", "lib")
    with opened(root) as fd, opened(lower) as below:
        assert adopt(fd, applied.implied, below) == ["lib"]
    info = (root / "usr").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o711, 7, 8)


def test_a_link_within_the_root_is_followed_within_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    apply(archive(member("etc", tarfile.DIRTYPE, mode=0o755), member("l", tarfile.SYMTYPE, linkname="/etc"),
                  member("m", tarfile.SYMTYPE, linkname="../../../etc"), member("l/a"), member("m/b")),
          tmp_path / "root")
    assert sorted(os.listdir(tmp_path / "root/etc")) == ["a", "b"]
    assert os.listdir(tmp_path / "etc") == []


# ---- hostile layers: a table, and one helper

def link(target: str, name: str = "l", kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind, linkname=target)


def directory(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.DIRTYPE, mode=0o755)


def corrupt(data: bytes, at: int, value: bytes, *, sum_again: bool = True) -> bytes:
    """An archive with other bytes in the header of its first entry."""
    block = bytearray(data[:512])
    block[at : at + len(value)] = value
    if sum_again:
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data[512:]


def pax(**records: str) -> bytes:
    return archive(member("f", pax_headers=records))


PLAIN = archive(member("f", data=b"data" * 200), form=tarfile.USTAR_FORMAT)
OUT = "../canary/file"
REFUSED: dict[str, Callable[[], bytes]] = {
    **{f"name {name!r}": (lambda name=name: archive(member(name))) for name in (  # type: ignore[misc]
        "../x", "a/../../x", "..", "a/..", "/../x", "./..", "a/b/../../../x", ".", "a/../b",
        ".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..", "a/.wh...", ".wh.a/b", ".wh..wh.other", "a/.wh..wh.x",
        "a/.wh.b/c", "../.wh.x", "../.wh..wh..opq", "a/../../.wh.file", "n" * 256, "d/" * 3000 + "x",
    )},
    **{f"hard link to {target!r}": (lambda target=target: archive(link(target, kind=tarfile.LNKTYPE)))  # type: ignore[misc]
       for target in (OUT, "..", "/etc/passwd", "l", "missing", "a/../../x", ".", "", "/", "../../../../etc/passwd")},
    "hard link to a directory": lambda: archive(directory("d"), link("d", kind=tarfile.LNKTYPE)),
    "hard link through a link out": lambda: archive(link("..", "up"), link("up/canary/file", "h", tarfile.LNKTYPE)),
    "empty symbolic link": lambda: archive(link("")),
    "below a file": lambda: archive(member("f"), member("f/x")),
    "below a link to a file": lambda: archive(member("f"), link("f"), member("l/x")),
    "below a link to nowhere": lambda: archive(link("nowhere"), member("l/x")),
    "below a loop": lambda: archive(link("m"), link("l", "m"), member("l/x")),
    "whiteout below a file": lambda: archive(member("f"), member("f/.wh.x")),
    "overlay whiteout": lambda: archive(member("d", tarfile.CHRTYPE)),
    "device number": lambda: archive(member("d", tarfile.CHRTYPE, devmajor=4096)),
    **{f"attribute {name}": (lambda name=name: pax(**{"SCHILY.xattr." + name: "y"}))  # type: ignore[misc]
       for name in ("trusted.overlay.opaque", "user.overlay.redirect", "trusted.overlay.metacopy", "user.overlay.x")},
    **{f"owner {value}": (lambda value=value: pax(uid=value, gid=value)) for value in (  # type: ignore[misc]
        "4294967295", "4294967296", "-1", "1e3", "0x0", "99999999999999999999999")},
    "negative owner": lambda: corrupt(PLAIN, 108, b"\xff" * 8),
    "owner of 2^32-1": lambda: corrupt(PLAIN, 108, b"\x80\0\0\0\xff\xff\xff\xff"),
    "negative mode": lambda: corrupt(PLAIN, 100, b"\xff" * 8),
    "negative size": lambda: corrupt(PLAIN, 124, b"\xff" * 12),
    "size that wraps": lambda: corrupt(PLAIN, 124, b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7),
    "size beyond 64 bits": lambda: corrupt(PLAIN, 124, b"\x80" + b"\xff" * 11),
    "size that is no number": lambda: corrupt(PLAIN, 124, b"12x4567     "),
    "size with a sign": lambda: corrupt(PLAIN, 124, b"-0000000001\0"),
    "checksum": lambda: corrupt(PLAIN, 0, b"g", sum_again=False),
    "empty checksum": lambda: corrupt(PLAIN, 148, b"\0" * 8, sum_again=False),
    "time": lambda: corrupt(PLAIN, 136, b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7),
    **{f"type {kind!r}": (lambda kind=kind: corrupt(PLAIN, 156, kind)) for kind in (  # type: ignore[misc]
        b"D", b"M", b"V", b"N", b"X", b"s", b"Z", b"8", b"\xff", b" ")},
    **{f"pax {value!r}": (lambda value=value: pax(**value)) for value in (  # type: ignore[misc]
        {"mtime": "yesterday"}, {"mtime": "1.x"}, {"mtime": "9" * 30}, {"mtime": "1" * 19}, {"size": "-5"},
        {"size": "abc"}, {"size": "9" * 18}, {"path": "a\0b"}, {"path": "../x"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10"},
        {"GNU.sparse.major": "2", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10"},
        {"GNU.sparse.map": "0,5,3,5", "GNU.sparse.size": "10"}, {"GNU.sparse.map": "0", "GNU.sparse.size": "10"},
        {"GNU.sparse.map": "0,99999999999999999999", "GNU.sparse.size": "9" * 19},
        {"GNU.sparse.map": "5,-1", "GNU.sparse.size": "10"}, {"GNU.sparse.map": "0,1", "GNU.sparse.size": "10"},
        {"GNU.sparse.map": "", "GNU.sparse.size": "9" * 15},
    )},
    "pax without a length": lambda: archive(member("p", b"x", b"path=a\n"), member("f"), form=tarfile.USTAR_FORMAT),
    "pax with a wrong length": lambda: (
        archive(member("p", b"x", b"99 path=a\n"), member("f"), form=tarfile.USTAR_FORMAT)
    ),
    "pax of length zero": lambda: archive(member("p", b"x", b"0 path=a\n"), member("f"), form=tarfile.USTAR_FORMAT),
    "pax without a key": lambda: archive(member("p", b"x", b"5 =a\n"), member("f"), form=tarfile.USTAR_FORMAT),
    "pax of more than a MiB": lambda: (
        archive(member("p", b"x", bytes(2**20 + 1)), member("f"), form=tarfile.USTAR_FORMAT)
    ),
    "pax at the end": lambda: archive(member("p", b"x", b"9 path=a\n"), form=tarfile.USTAR_FORMAT),
    "long name of 2 MiB": lambda: archive(member("p", b"L", b"x" * 2**21), member("f"), form=tarfile.USTAR_FORMAT),
    "long name with NUL": lambda: archive(member("p", b"L", b"a\0b\0"), member("f"), form=tarfile.USTAR_FORMAT),
    "old sparse map": lambda: corrupt(corrupt(PLAIN, 156, b"S"), 386, b"00000000000\0" b"00000000001\0"),
    "cut in the header": lambda: PLAIN[:300],
    "cut in the data": lambda: PLAIN[:700],
    "cut in the second header": lambda: archive(member("a"), member("b"), form=tarfile.USTAR_FORMAT)[:700],
    "data after the end": lambda: PLAIN + b"more",
    "no tar at all": lambda: os.urandom(4096),
    "text": lambda: b"hello " * 500,
}


@pytest.mark.parametrize("whiteouts", MODES)
@pytest.mark.parametrize("name", REFUSED, ids=lambda name: ascii(name)[1:60])
def test_a_hostile_layer_is_refused_in_one_line_and_nothing_is_outside(
    tmp_path: Path, name: str, whiteouts: Whiteouts
) -> None:
    with canary(tmp_path), pytest.raises(LayerError) as raised:
        apply(REFUSED[name](), tmp_path / "root", whiteouts)
    assert "sha256:test" in str(raised.value)
    assert "\n" not in str(raised.value)


SAFE: dict[str, Callable[[], bytes]] = {
    "absolute name": lambda: archive(member("/canary/file", data=b"x")),
    "through an absolute link": lambda: archive(link("/canary"), directory("canary"), member("l/file", data=b"x")),
    "through a link up": lambda: archive(link("../../canary"), directory("canary"), member("l/file", data=b"x")),
    "link replaced by a file": lambda: archive(link(OUT), member("l", data=b"x")),
    "link replaced by a directory": lambda: archive(link("../canary"), directory("l"), member("l/file", data=b"x")),
    "link replaced by a fifo": lambda: archive(link(OUT), member("l", tarfile.FIFOTYPE)),
    "link replaced by a device": lambda: archive(link(OUT), member("l", tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "link replaced by a link": lambda: archive(link(OUT), link("../canary")),
    "directory, link, directory": lambda: archive(
        directory("l"), member("l/a"), link("../canary"), directory("l"), member("l/file", data=b"x")),
    "hard link to a symbolic link": lambda: archive(link(OUT), link("l", "h", tarfile.LNKTYPE), member("h", data=b"x")),
    "hard link over a directory": lambda: (
        archive(directory("d"), member("d/x"), member("f"), link("f", "d", tarfile.LNKTYPE))
    ),
    "the same file many times": lambda: archive(*[member("f", data=b"%d" % number) for number in range(50)]),
    "fifos and files": lambda: (
        archive(member("f", tarfile.FIFOTYPE), member("f", data=b"x"), member("f", tarfile.FIFOTYPE))
    ),
    "set-user-ID": lambda: archive(member("f", mode=0o6755, data=b"x")),
    "whiteout of a link out": lambda: archive(
        directory("canary"), link("../canary"), member("l/.wh.file"), member(".wh.l")),
    "AUFS's own": lambda: archive(member(".wh..wh.plnk/x"), member(".wh..wh.aufs"), directory(".wh..wh.orph")),
    "no end": lambda: archive(member("f", data=b"x"))[:1024],
    "nothing": lambda: b"",
    "only zeros": lambda: bytes(10240),
    "not UTF-8": lambda: archive(member(os.fsdecode(b"\xff\xfe"), data=b"x"), form=tarfile.GNU_FORMAT),
    "control characters": lambda: archive(member("\n\x1b[31m"), link("\n", "k")),
    "deep": lambda: archive(member("d/" * 200 + "f", data=b"x")),
    "huge but empty": lambda: pax(**{"GNU.sparse.map": "", "GNU.sparse.size": "1000000000"}),
    "attributes of the host": lambda: pax(**{"SCHILY.xattr.security.selinux": "x", "SCHILY.xattr.trusted.x": "y"}),
    "globals": lambda: archive(member("g", b"g", b"12 uid=1234\n"), member("f"), form=tarfile.USTAR_FORMAT),
    "a device of the host": lambda: archive(member("sda", tarfile.BLKTYPE, devmajor=8)),
    "old directory": lambda: archive(member("d/", tarfile.AREGTYPE), member("d/x")),
    "sizes where no data are": lambda: corrupt(archive(directory("d"), member("f")), 124, b"00000777777\0"),
}


@pytest.mark.parametrize("whiteouts", MODES)
@pytest.mark.parametrize("name", SAFE)
def test_an_odd_layer_is_applied_within_the_root(tmp_path: Path, name: str, whiteouts: Whiteouts) -> None:
    with canary(tmp_path):
        apply(SAFE[name](), tmp_path / "root", whiteouts)
        assert sorted(os.listdir(tmp_path)) == ["canary", "root"]


@contextmanager
def canary(tmp_path: Path) -> Iterator[None]:
    """A directory beside the root that has to stay as it is."""
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary/file").write_bytes(b"untouched")
    before = describe(tmp_path / "canary")
    yield
    assert describe(tmp_path / "canary") == before
    assert (tmp_path / "canary/file").stat().st_nlink == 1


def test_twenty_thousand_files_in_one_directory_are_applied(tmp_path: Path) -> None:
    data = archive(*[member(f"d/{number}", data=b"x") for number in range(20_000)], form=tarfile.GNU_FORMAT)
    assert apply(data, tmp_path / "root").entries == 20_000
    assert len(os.listdir(tmp_path / "root/d")) == 20_000


def test_the_entries_of_an_archive_can_be_read_without_applying_them() -> None:
    tar = Archive(io.BytesIO(archive(member("a", data=b"1"), member("b", data=b"2"))).read, "x")
    assert [(entry.name, b"".join(tar.data())) for entry in tar] == [(b"a", b"1"), (b"b", b"2")]
