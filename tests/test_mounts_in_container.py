"""Bind mounts, tmpfs, and every mount option of the OCI, as the mount table inside shows them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from inside import PRIVATE_MOUNTS, mount_table, sh
from programs import run

from pycontain import Container, InvalidArgument, NotSupported, PycontainError, SpecError, StartFailed
from pycontain.spec import IDMapping, Mount

pytestmark = pytest.mark.usefixtures("root_user")


# ---- bind mounts


def test_a_directory_is_bound_and_written_through(box: Container, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("host")
    assert sh(box.with_bind(tmp_path, "/data"), "cat /data/file; echo inside > /data/new") == "host"
    assert (tmp_path / "new").read_text() == "inside\n"


def test_a_file_is_bound_where_one_is_and_where_none_is(box: Container, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("host\n")
    container = box.with_bind(tmp_path / "file", "/etc/passwd").with_bind(tmp_path / "file", "/a/new/place")
    assert sh(container, "cat /etc/passwd /a/new/place; echo more >> /a/new/place") == "host\nhost"
    assert (tmp_path / "file").read_text() == "host\nmore\n"


def test_a_device_and_a_socket_are_bound(box: Container, tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        container = box.with_bind("/dev/full", "/data/full").with_bind(tmp_path / "socket", "/data/socket")
        assert sh(container, "stat -c %F /data/full /data/socket") == "character special file\nsocket"


def test_a_relative_source_is_the_callers(box: Container, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("here")
    monkeypatch.chdir(tmp_path)
    container = box.with_bind(".", "/data")
    monkeypatch.chdir("/")
    assert sh(container, "cat /data/file") == "here"


def test_a_read_only_bind_cannot_be_written_to_nor_made_writable(box: Container, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("host")
    container = box.with_bind(tmp_path, "/data", read_only=True)
    for command in (
        "echo x > /data/new",
        "echo x > /data/file",
        "rm /data/file",
        "chmod 777 /data",
        "mount -o remount,rw /data",
        "umount /data",
    ):
        assert not container.run(["sh", "-c", command]).ok, command
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "host"


def test_read_only_holds_for_what_is_mounted_below(busybox_root: Path, tmp_path: Path) -> None:
    program = """
os.makedirs(base + "/sub")
mount("sub", base + "/sub", "tmpfs")
os.makedirs(base + "/sub/deep")
mount("deep", base + "/sub/deep", "tmpfs")
box = Container.from_rootfs(root)
script = "for d in /data /data/sub /data/sub/deep; do touch $d/file && echo written || echo refused; done"
print(sh(box.with_bind(base, "/data", read_only=True), script).split())
only_top = Mount("/data", "bind", base, ("rbind", "ro"))
print(sh(box.with_mount(only_top), script).split())
not_recursive = Mount("/data", "bind", base, ("bind",))
print(sh(box.with_mount(not_recursive), "ls /data/sub").split())
print(sh(box.with_bind(base, "/data"), script).split(), os.listdir(base + "/sub/deep"))
umount(base + "/sub/deep")
umount(base + "/sub")
"""
    assert run(PRIVATE_MOUNTS + program, busybox_root, tmp_path).stdout.splitlines() == [
        "['refused', 'refused', 'refused']",
        "['refused', 'written', 'written']",
        "[]",
        "['written', 'written', 'written'] ['file']",
    ]


def test_a_later_mount_at_the_same_place_replaces_the_earlier_one(box: Container, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    container = box.with_tmpfs("/data").with_bind(tmp_path, "/data/")
    assert sh(container, "ls /data; grep -c ' /data ' /proc/self/mountinfo") == "file\n1"
    assert container == box.with_bind(tmp_path, "/data/")


def test_mounts_are_made_in_their_order(box: Container, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert sh(box.with_tmpfs("/a").with_bind(tmp_path, "/a/b"), "ls /a /a/b").split() == ["/a:", "b", "/a/b:", "file"]
    assert sh(box.with_bind(tmp_path, "/a/b").with_tmpfs("/a"), "ls /a") == ""


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("/no/such/source", "/data", "/no/such/source.*ENOENT"),
        ("/", "data", "'data' is not an absolute path"),
        ("/dev/null", "/etc", "mount mount6 on /etc: move_mount: ENOTDIR|EINVAL"),
        ("/etc", "/etc/passwd", "mount mount6 on /etc/passwd"),
        ("/etc", "/etc/passwd/below", "/etc/passwd/below.*ENOTDIR"),
    ],
)
def test_a_bind_that_cannot_be_is_refused_by_its_names(box: Container, source: str, target: str, message: str) -> None:
    with pytest.raises((StartFailed, InvalidArgument), match=message):
        box.with_bind(source, target).run(["true"])


@pytest.mark.parametrize(
    ("mount", "error", "message"),
    [
        (Mount("/data", "bind"), SpecError, "the bind mount on /data has no source"),
        (Mount("/data"), SpecError, "the mount on /data has no type"),
        (Mount("/data", "bind", "/etc", ("rbind", "size=1")), InvalidArgument, "cannot have the options"),
        (Mount("/data", "tmpfs", "tmpfs", ("remount",)), NotSupported, "remount"),
        (Mount("/data", "tmpfs", "tmpfs", ("idmap",)), NotSupported, "idmap"),
        (Mount("/data", "bind", "/etc", ("bind",), (IDMapping(0, 1, 1),)), NotSupported, "id-mapped mounts"),
        (
            Mount("/data", "nosuchfs", "x"),
            StartFailed,
            "fsopen nosuchfs.*ENODEV.*does not have the file system nosuchfs",
        ),
        (Mount("/data", "tmpfs", "tmpfs", ("nosuch=1",)), StartFailed, "nosuch=1.*EINVAL"),
        (Mount("/data", "tmpfs", "tmpfs", ("size=lots",)), StartFailed, "size=lots.*EINVAL"),
    ],
    ids=lambda value: value.options[0] if isinstance(value, Mount) and value.options else None,
)
def test_a_mount_that_cannot_be_is_refused(
    box: Container, mount: Mount, error: type[PycontainError], message: str
) -> None:
    with pytest.raises(error, match=message):
        box.with_mount(mount).run(["true"])


# ---- tmpfs


def test_a_tmpfs_holds_no_more_than_its_size(box: Container) -> None:
    container = box.with_tmpfs("/scratch", size="1M")
    result = container.run(["sh", "-c", "head -c 2000000 /dev/zero > /scratch/file; stat -c %s /scratch/file"])
    assert int(result.text) == 1 << 20
    assert os.strerror(errno.ENOSPC) in result.stderr.decode() or "I/O error" in result.stderr.decode()


def test_a_tmpfs_has_its_mode_and_is_empty_in_every_start(box: Container) -> None:
    container = box.with_tmpfs("/scratch", mode=0o711)
    for _ in range(2):
        assert sh(container, "stat -c %a /scratch; ls -A /scratch; touch /scratch/file") == "711"
    assert sh(box.with_tmpfs("/scratch").with_user("nobody"), "touch /scratch/file; stat -c %a /scratch") == "1777"


@pytest.mark.parametrize("size", ["", "lots", "-1", "0", 0, -5, "1Q", 1.5, True, "9" * 30])
def test_a_size_that_is_none_is_refused(box: Container, size: object) -> None:
    with pytest.raises(InvalidArgument, match="is not the size of a tmpfs"):
        box.with_tmpfs("/scratch", size=size)  # type: ignore[arg-type]


# ---- every option of the OCI ("Linux mount options" in config.md)

# the option, what the mount shows, what it does not show
ATTRIBUTES = [
    ("ro", {"ro"}, {"rw"}),
    ("rw", {"rw"}, {"ro"}),
    ("nosuid", {"nosuid"}, set()),
    ("suid", set(), {"nosuid"}),
    ("nodev", {"nodev"}, set()),
    ("dev", set(), {"nodev"}),
    ("noexec", {"noexec"}, set()),
    ("exec", set(), {"noexec"}),
    ("noatime", {"noatime"}, {"relatime"}),
    ("atime", {"relatime"}, {"noatime"}),
    ("nodiratime", {"nodiratime"}, set()),
    ("diratime", set(), {"nodiratime"}),
    ("relatime", {"relatime"}, {"noatime"}),
    ("norelatime", {"relatime"}, {"noatime"}),  # the kernel's default is what is left
    ("strictatime", set(), {"noatime", "relatime"}),
    ("nostrictatime", {"relatime"}, set()),
    ("nosymfollow", {"nosymfollow"}, set()),
    ("symfollow", set(), {"nosymfollow"}),
    ("defaults", {"rw", "relatime"}, set()),
    ("silent", {"rw"}, set()),
    ("loud", {"rw"}, set()),
    ("iversion", {"rw"}, set()),
    ("noiversion", {"rw"}, set()),
]
RECURSIVE = [("r" + option, shown, hidden) for option, shown, hidden in ATTRIBUTES[:18] if option not in ("dev",)]


@pytest.mark.parametrize(("option", "shown", "hidden"), ATTRIBUTES)
def test_an_option_of_a_new_file_system_is_seen_inside(
    box: Container, option: str, shown: set[str], hidden: set[str]
) -> None:
    options = set(mount_table(box.with_mount(Mount("/m", "tmpfs", "tmpfs", (option,))))["/m"].options)
    assert shown <= options
    assert not hidden & options


@pytest.mark.parametrize(("option", "shown", "hidden"), ATTRIBUTES + RECURSIVE)
def test_an_option_of_a_bind_mount_is_seen_inside_and_not_outside(
    box: Container, tmp_path: Path, option: str, shown: set[str], hidden: set[str]
) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    options = set(mount_table(box.with_mount(Mount("/m", "bind", str(tmp_path), ("bind", option))))["/m"].options)
    assert shown <= options
    assert not hidden & options
    assert Path("/proc/self/mountinfo").read_text() == before


def test_options_take_back_what_the_source_has(busybox_root: Path, tmp_path: Path) -> None:
    """A bind mount has the flags of its source unless the options say otherwise; the recursive ones reach below it."""
    program = """
flags = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC | MountFlag.NOATIME
mount("top", base, "tmpfs", flags)
os.mkdir(base + "/sub")
mount("sub", base + "/sub", "tmpfs", flags)
def show(*options):
    table = mount_table(Container.from_rootfs(root).with_mount(Mount("/m", "bind", base, options)))
    print(*(",".join(table[point].options) for point in ("/m", "/m/sub")))
show("rbind")
show("rbind", "suid", "dev", "exec", "relatime")
show("rbind", "rsuid", "rdev", "rexec", "rrelatime")
show("rbind", "rro", "rw")
"""
    assert run(PRIVATE_MOUNTS + program, busybox_root, tmp_path).stdout.splitlines() == [
        "rw,nosuid,nodev,noexec,noatime rw,nosuid,nodev,noexec,noatime",
        "rw,relatime rw,nosuid,nodev,noexec,noatime",
        "rw,relatime rw,relatime",
        "ro,nosuid,nodev,noexec,noatime ro,nosuid,nodev,noexec,noatime",
    ]


@pytest.mark.parametrize("option", ["sync", "dirsync", "lazytime"])
def test_an_option_of_the_file_system_itself_is_seen_inside(box: Container, option: str) -> None:
    assert option in mount_table(box.with_mount(Mount("/m", "tmpfs", "tmpfs", (option,))))["/m"].super_options
    opposite = {"sync": "async", "dirsync": "", "lazytime": "nolazytime"}[option]
    if opposite:
        table = mount_table(box.with_mount(Mount("/m", "tmpfs", "tmpfs", (option, opposite))))
        assert option not in table["/m"].super_options


@pytest.mark.parametrize("option", ["size=4096k", "nr_inodes=100", "mode=700", "uid=5", "gid=6"])
def test_a_parameter_reaches_the_file_system(box: Container, option: str) -> None:
    assert option in mount_table(box.with_mount(Mount("/m", "tmpfs", "tmpfs", (option,))))["/m"].super_options


@pytest.mark.parametrize("prefix", ["", "r"])
@pytest.mark.parametrize("kind", ["private", "slave", "shared", "unbindable"])
def test_propagation_is_seen_inside(box: Container, tmp_path: Path, kind: str, prefix: str) -> None:
    for mount in (
        Mount("/m", "tmpfs", "tmpfs", (prefix + kind,)),
        Mount("/m", "bind", str(tmp_path), ("rbind", prefix + kind)),
    ):
        seen = mount_table(box.with_mount(mount))["/m"]
        assert (seen.shared is not None) == (kind == "shared")
        assert seen.unbindable == (kind == "unbindable")
        assert seen.master is None


def test_no_exec_is_enforced(box: Container) -> None:
    container = box.with_mount(Mount("/m", "tmpfs", "tmpfs", ("noexec",)))
    result = container.run(["sh", "-c", "cp /bin/busybox /m/true && /m/true"])
    assert (result.exit_code, b"Permission denied" in result.stderr) == (126, True)


def test_a_cgroup2_file_system_shows_the_containers_own_group(box: Container) -> None:
    if "cgroup2" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no cgroup2")
    container = box.with_mount(Mount("/sys/fs/cgroup", "cgroup2", "cgroup", ("ro", "nosuid", "nodev", "noexec")))
    assert "cgroup.procs" in sh(container, "ls /sys/fs/cgroup").split()
    assert not container.run(["mkdir", "/sys/fs/cgroup/x"]).ok
