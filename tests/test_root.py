"""The root: pivot_root, copy on write, what an image may have planted, /proc, /sys and /dev, what is hidden."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
from attrs import evolve
from inside import LIMIT, PRIVATE_MOUNTS, digest, mount_table, python, sh
from programs import run

from pycontain import Container, InvalidArgument, PycontainError, StartFailed
from pycontain.defaults import MASKED_PATHS, READONLY_PATHS
from pycontain.spec import FrozenMap, Mount, Spec
from pycontain.streams import STDOUT

pytestmark = pytest.mark.usefixtures("root_user")


@pytest.fixture
def own_root(busybox_root: Path, tmp_path: Path) -> Path:
    """A copy of the busybox root that the test may change."""
    return Path(shutil.copytree(busybox_root, tmp_path / "root", symlinks=True))


# ---- no way to the host


def test_nothing_of_the_hosts_tree_is_mounted(box: Container) -> None:
    table = mount_table(box)
    assert table["/"].fs_type == "overlay"
    assert {mount.fs_type for mount in table.values()} <= {"overlay", "proc", "tmpfs", "devpts", "mqueue", "sysfs"}
    inside = {mount.id for mount in table.values()}
    assert [mount.mount_point for mount in table.values() if mount.parent not in inside] == ["/"]


@pytest.mark.parametrize(
    "path", ["/..", "/../../..", "/proc/1/root", "/proc/1/root/..", "/proc/1/cwd", "/proc/self/root/.."]
)
def test_every_way_up_ends_at_the_containers_root(box: Container, path: str) -> None:
    assert sh(box, f"ls {path}/") == sh(box, "ls /")


def test_the_classic_way_out_of_a_chroot_ends_at_the_containers_root(tmp_path: Path) -> None:
    code = """
import os, sys
os.mkdir("/own")
fd = os.open("/", os.O_RDONLY)
os.chroot("/own")
os.fchdir(fd)
for _ in range(100):
    os.chdir("..")
os.chroot(".")
print(os.path.isdir("/own"), os.path.exists(sys.argv[1]))
"""
    assert python(Container.from_host(), code, tmp_path) == "True False"  # /tmp is another one


def test_the_mount_table_of_the_host_shows_nothing_of_a_running_task(box: Container) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    with box.with_tmpfs("/scratch").start(["sleep", "60"]):
        assert Path("/proc/self/mountinfo").read_text() == before


# ---- propagation


def test_neither_side_sees_what_the_other_mounts_later(busybox_root: Path, tmp_path: Path) -> None:
    """Although everything on the host's side is shared, as systemd has it."""
    program = """
mount(None, "/", None, MountFlag.SHARED | MountFlag.REC)
os.makedirs(base + "/late")
before = mountinfo.read()
box = Container.from_rootfs(root).with_bind(base, "/data").with_tmpfs("/mine")
script = "while ! test -e /data/go; do sleep 0.02; done; ls /data/late; cat /proc/self/mountinfo"
with box.start(["sh", "-c", script]) as task:
    assert mountinfo.read() == before
    mount("late", base + "/late", "tmpfs")
    open(base + "/late/file", "w").close()
    open(base + "/go", "w").close()
    print(ends(task).text)
umount(base + "/late")
"""
    printed = run(PRIVATE_MOUNTS + program, busybox_root, tmp_path).stdout
    assert "/data " in printed
    assert "late" not in printed
    assert "file" not in printed
    assert "shared:" not in printed
    assert "master:" not in printed


def test_a_root_that_is_a_slave_lets_the_hosts_later_mounts_in(busybox_root: Path, tmp_path: Path) -> None:
    program = """
mount(None, "/", None, MountFlag.SHARED | MountFlag.REC)
os.makedirs(base + "/late")
spec = Container.from_rootfs(root).with_mount(Mount("/data", "bind", base, ("rbind", "rslave"))).spec()
box = Container.from_spec(evolve(spec, linux=evolve(spec.linux, rootfs_propagation="rslave")))
with box.start(["sh", "-c", "while ! test -e /data/go; do sleep 0.02; done; ls /data/late"]) as task:
    mount("late", base + "/late", "tmpfs")
    open(base + "/late/file", "w").close()
    open(base + "/go", "w").close()
    print(ends(task).text)
umount(base + "/late")
"""
    assert run(PRIVATE_MOUNTS + program, busybox_root, tmp_path).stdout.split() == ["file"]


def test_a_root_that_would_show_its_mounts_to_the_host_is_refused(box: Container) -> None:
    spec = box.spec(["true"])
    assert spec.linux is not None
    shared = evolve(spec, linux=evolve(spec.linux, rootfs_propagation="shared"))
    with pytest.raises(PycontainError, match="shared would show the container's mounts to the host"):
        Container.from_spec(shared).run(["true"])


# ---- copy on write


def test_a_root_is_never_written_to_whatever_is_done_in_it(own_root: Path) -> None:
    (own_root / "etc/dir").mkdir()
    (own_root / "etc/dir/file").write_text("kept")
    before = digest(own_root)
    script = """
        echo new > /etc/new; echo changed > /etc/passwd; rm -rf /etc/dir; mkdir /etc/dir; mv /bin /bin2
        /bin2/busybox chmod 700 /etc /; /bin2/busybox chown 1000 /etc/group; /bin2/busybox ln -s x /link
        /bin2/busybox touch -t 200001010000 /etc/group; /bin2/busybox rm -rf /var; /bin2/busybox ls /etc/dir
    """
    for container in (
        Container.from_rootfs(own_root),
        Container.from_rootfs(own_root)
        .with_hostname("x")
        .with_tmpfs("/etc/fresh/mount")
        .with_bind("/dev/null", "/new/file"),
        Container.from_rootfs(own_root).with_userns(),
    ):
        container.run(["sh", "-c", script], timeout=LIMIT)
        assert digest(own_root) == before
        assert sh(container, "cat /etc/dir/file; ls /") == sh(container, "cat /etc/dir/file; ls /")
    assert sh(Container.from_rootfs(own_root), "cat /etc/dir/file") == "kept"


def test_tasks_on_the_same_root_do_not_see_each_others_files(box: Container) -> None:
    with box.start(["sh", "-c", "touch /mark; sleep 60"]):
        assert box.run(["sh", "-c", "sleep 0.1; test -e /mark"]).exit_code == 1


def test_a_task_that_is_killed_leaves_nothing_of_its_upper_layer(box: Container) -> None:
    stages = {path: set(os.listdir(path)) for path in ("/run", "/mnt")}
    with box.start(["sh", "-c", "head -c 1000000 /dev/zero > /big; sleep 60"]) as task:
        task.kill()
    for path, before in stages.items():
        assert not [name for name in set(os.listdir(path)) - before if "pycontain" in name]


def test_mounts_below_a_root_are_copied_on_write_as_well(busybox_root: Path, tmp_path: Path) -> None:
    program = """
mount(root, base, None, MountFlag.BIND)
mount("sub", base + "/var", "tmpfs")
open(base + "/var/file", "w").write("host\\n")
os.symlink(base, base + "/var/link")
for path in (base, base + "/", base + "/var/../", base + "/var/link"):
    box = Container.from_rootfs(path)
    printed = sh(box, "cat /var/file; echo inside > /var/file; cat /var/file")
    print(printed.split(), open(base + "/var/file").read().strip())
"""
    base = tmp_path / "base"
    base.mkdir()
    printed = run(PRIVATE_MOUNTS + program, busybox_root, base).stdout
    assert printed.splitlines() == ["['host', 'inside'] host"] * 4


def test_a_root_of_a_specification_is_written_to(own_root: Path) -> None:
    sh(
        Container.from_spec(evolve(Container.from_rootfs(own_root).spec(), annotations=FrozenMap())),
        "echo written > /etc/new",
    )
    assert (own_root / "etc/new").read_text() == "written\n"


def test_a_read_only_root_cannot_be_written_to_but_its_mounts_can(box: Container) -> None:
    read_only = box.with_read_only().with_tmpfs("/tmp")
    for command in ("touch /file", "rm /etc/passwd", "mkdir /home/x", "chmod 777 /etc", "mount -o remount,rw /"):
        assert not read_only.run(["sh", "-c", command]).ok, command
    assert "Read-only file system" in read_only.run(["touch", "/file"]).stderr.decode()
    sh(read_only, "touch /tmp/file /dev/shm/file /dev/mqueue/queue; echo > /dev/null")
    assert "ro" in mount_table(read_only)["/"].options
    sh(read_only.with_read_only(False), "touch /file")


@pytest.mark.parametrize("path", ["/nowhere", "/etc/passwd", "/dev/null"])
def test_a_root_that_is_no_directory_is_refused_by_its_name(path: str) -> None:
    with pytest.raises(InvalidArgument, match=f"the root '{path}'"):
        Container.from_rootfs(path).run(["true"])


# ---- what an image may have planted


def hostile(root: Path, name: str, target: str) -> None:
    """Makes `name` of the root a symbolic link."""
    path = root / name
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def container_on(root: Path, copy_on_write: bool) -> Container:
    container = Container.from_rootfs(root).with_tmpfs("/run").with_tmpfs("/tmp").with_user("0")
    if copy_on_write:
        return container
    return Container.from_spec(evolve(container.spec(), annotations=FrozenMap()))


@pytest.mark.parametrize("copy_on_write", [True, False], ids=["copy-on-write", "plain"])
@pytest.mark.parametrize("way", ["absolute", "dots", "file", "loop", "missing", "proc"])
@pytest.mark.parametrize("name", ["dev", "proc", "sys", "tmp", "etc", "run", "dev/pts", "dev/shm"])
def test_a_link_in_the_place_of_a_mount_leads_nowhere_outside(
    own_root: Path, tmp_path: Path, name: str, way: str, copy_on_write: bool
) -> None:
    host = tmp_path / "host"
    (host / "pts").mkdir(parents=True)
    (host / "file").write_text("host")
    target = {
        "absolute": str(host),
        "dots": "../" * 20 + str(host).lstrip("/"),
        "file": str(host / "file"),
        "loop": f"/{name}",
        "missing": str(host / "missing"),
        "proc": "/proc/self/root/proc/1/root" + str(host),
    }[way]
    hostile(own_root, name, target)
    before = digest(host)
    try:
        result = container_on(own_root, copy_on_write).run(
            ["sh", "-c", "mkdir -p /tmp /run; touch /dev/x /tmp/x /etc/x /run/x; true"], timeout=LIMIT
        )
        assert result.reason == "exited"
    except (StartFailed, InvalidArgument):  # nothing is there, and nothing of it is left
        pass
    assert digest(host) == before


@pytest.mark.parametrize("target", ["/link/mount", "/link/../link/mount", "/dots/mount", "/chain/mount", "/link"])
@pytest.mark.parametrize("kind", ["tmpfs", "bind", "file"])
def test_a_mount_target_through_links_stays_inside(own_root: Path, tmp_path: Path, target: str, kind: str) -> None:
    host = tmp_path / "host"
    host.mkdir()
    source = tmp_path / "source"
    source.write_text("source")
    hostile(own_root, "link", str(host))
    hostile(own_root, "dots", "../" * 20 + str(host).lstrip("/"))
    hostile(own_root, "chain", "/dots")
    # the same place inside is there, so that the mount can be made
    (own_root / str(host).lstrip("/")).mkdir(parents=True)
    before = digest(host)
    box = Container.from_rootfs(own_root)
    container = {
        "tmpfs": lambda: box.with_tmpfs(target),
        "bind": lambda: box.with_bind(tmp_path, target),
        "file": lambda: box.with_bind(source, target),
    }[kind]()
    try:
        points = mount_table(container)
        assert [point for point in points if point.startswith(str(tmp_path))]
    except StartFailed:
        assert kind == "file"  # a file cannot be mounted on the directory
        assert target == "/link"
    assert digest(host) == before


@pytest.mark.parametrize("name", ["etc", "etc/passwd"])
@pytest.mark.parametrize("dots", [True, False])
def test_users_are_not_looked_up_outside(own_root: Path, tmp_path: Path, name: str, dots: bool) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "passwd").write_text("planted:x:0:0::/:/bin/sh\n")
    target = str(host / "passwd" if name == "etc/passwd" else host)
    hostile(own_root, name, "../" * 20 + target.lstrip("/") if dots else target)
    with pytest.raises(InvalidArgument, match="There is no user 'planted'"):
        Container.from_rootfs(own_root).with_user("planted").run(["true"])


@pytest.mark.parametrize("kind", ["fifo", "huge", "loop", "directory"])
def test_a_hostile_passwd_is_an_error_at_once(own_root: Path, kind: str) -> None:
    passwd = own_root / "etc/passwd"
    passwd.unlink()
    if kind == "fifo":
        os.mkfifo(passwd)
    elif kind == "huge":
        with passwd.open("wb") as file:
            file.truncate(1 << 40)
    elif kind == "loop":
        passwd.symlink_to("passwd")
    else:
        passwd.mkdir()
    with pytest.raises(InvalidArgument, match="/etc/passwd of the container's root is not usable"):
        Container.from_rootfs(own_root).with_user("alice").run(["true"])
    assert sh(Container.from_rootfs(own_root), "echo fine") == "fine"  # without a user it is not looked at


@pytest.mark.parametrize("target", ["/dev/null", "/proc/1/mem", "/etc/passwd"])
def test_a_null_device_of_the_image_does_not_unmask(own_root: Path, target: str) -> None:
    (own_root / "dev/null").symlink_to(target) if target != "/dev/null" else (own_root / "dev/null").write_text(
        "planted"
    )
    spec = Container.from_rootfs(own_root).spec()
    without_dev = Spec(
        root=spec.root,
        process=spec.process,
        annotations=spec.annotations,
        linux=spec.linux,
        mounts=tuple(mount for mount in spec.mounts if not mount.destination.startswith("/dev")),
    )
    assert Container.from_spec(without_dev).run(["cat", "/proc/keys"]).check().stdout == b""


# ---- /proc, /sys, /dev


def test_proc_is_that_of_the_container(box: Container) -> None:
    assert [name for name in sh(box, "ls /proc; true").split() if name.isdigit()] == ["1", "2"]
    assert sh(box, "cat /proc/self/comm; readlink /proc/1/exe").split() == ["cat", "/bin/busybox"]


@pytest.mark.parametrize(
    ("name", "device"),
    [("null", (1, 3)), ("zero", (1, 5)), ("full", (1, 7)), ("random", (1, 8)), ("urandom", (1, 9)), ("tty", (5, 0))],
)
@pytest.mark.parametrize("userns", [False, True], ids=["", "userns"])
def test_devices(box: Container, name: str, device: tuple[int, int], userns: bool) -> None:
    container = box.with_userns() if userns else box
    assert (
        sh(container, f"stat -c '%F %a %t %T' /dev/{name}") == f"character special file 666 {device[0]:x} {device[1]:x}"
    )


@pytest.mark.parametrize("userns", [False, True], ids=["", "userns"])
def test_devices_work(box: Container, userns: bool) -> None:
    container = box.with_userns() if userns else box
    script = """
        echo x > /dev/null; head -c 5 /dev/zero | wc -c; head -c 5 /dev/random | wc -c; head -c 5 /dev/urandom | wc -c
        cat /dev/null; echo x > /dev/full; echo x > /dev/tty
        echo to-stderr > /dev/stderr; echo to-stdout > /dev/stdout; cat /dev/stdin; cat /dev/fd/0
    """
    result = container.run(["sh", "-c", script], stderr=STDOUT)
    assert result.text.split("\n")[:3] == ["5"] * 3
    assert "No space left on device" in result.text
    assert "No such device or address" in result.text  # there is no terminal
    assert "to-stderr\nto-stdout\n" in result.text


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ],
)
def test_links_in_dev(box: Container, link: str, target: str) -> None:
    assert sh(box, f"readlink /dev/{link}") == target


def test_only_those_are_in_dev(box: Container) -> None:
    expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert sh(box, "ls /dev").split() == expected.split()


def test_terminals_can_be_made_inside() -> None:
    code = """
import os, pty
ours, theirs = pty.openpty()
os.write(theirs, b"hello")
print(os.ttyname(theirs), os.read(ours, 5).decode(), oct(os.stat(os.ttyname(theirs)).st_mode), os.listdir("/dev/pts"))
"""
    assert python(Container.from_host(), code) == "/dev/pts/0 hello 0o20620 ['0', 'ptmx']"
    # a file system of its own: the host's terminals are not there
    assert python(Container.from_host(), "import os; print(os.listdir('/dev/pts'))") == "['ptmx']"


def test_shared_memory_and_message_queues_work(box: Container) -> None:
    assert sh(box, "stat -c %a /dev/shm /dev/mqueue").split() == ["1777", "1777"]
    assert sh(
        box.with_user("nobody"), "echo x > /dev/shm/file; touch /dev/mqueue/q; ls /dev/shm /dev/mqueue"
    ).split() == [
        "/dev/mqueue:",
        "q",
        "/dev/shm:",
        "file",
    ]
    assert (
        "No space left"
        in box.run(["sh", "-c", "head -c 70000000 /dev/zero > /dev/shm/big; echo x > /dev/shm/y"]).stderr.decode()
    )


def test_sys_is_there_and_read_only(box: Container) -> None:
    assert sh(box, "ls /sys/class/net") == "lo"
    assert "ro" in mount_table(box)["/sys"].options
    assert "Read-only" in box.run(["sh", "-c", "echo 1 > /sys/kernel/profiling"]).stderr.decode()


@pytest.mark.parametrize("path", MASKED_PATHS)
@pytest.mark.parametrize("userns", [False, True], ids=["", "userns"])
def test_masked_paths_are_empty_and_stay_so(box: Container, path: str, userns: bool) -> None:
    if not os.path.exists(path):
        pytest.skip(f"this kernel has no {path}")
    container = box.with_userns() if userns else box
    if stat.S_ISDIR(os.stat(path).st_mode):
        assert sh(container, f"ls -A {path}") == ""
        assert not container.run(["touch", f"{path}/file"]).ok
    else:
        assert sh(container, f"cat {path}; stat -c '%t %T' {path}") == "1 3"  # it is the null device
    assert not container.run(["umount", path]).ok


@pytest.mark.parametrize("path", READONLY_PATHS)
def test_read_only_paths_cannot_be_written_to(box: Container, path: str) -> None:
    if not os.path.exists(path):
        pytest.skip(f"this kernel has no {path}")
    assert "ro" in mount_table(box)[path].options
    files = sh(box, f"find {path} -type f -perm -200 | head -3").split()
    for file in files:
        assert "Read-only" in box.run(["sh", "-c", f"echo 1 > {file}"]).stderr.decode()
    assert not box.run(["mount", "-o", "remount,rw", path]).ok


def test_more_can_be_masked_and_made_read_only(box: Container) -> None:
    spec = box.spec()
    assert spec.linux is not None
    linux = evolve(
        spec.linux, masked_paths=("/etc/passwd", "/home", "/not/there"), readonly_paths=("/var", "/not/there")
    )
    container = Container.from_spec(evolve(spec, linux=linux))
    assert sh(container, "cat /etc/passwd; ls /home; cat /proc/keys | wc -c").isdigit()
    assert "Read-only" in container.run(["touch", "/var/file"]).stderr.decode()


def test_a_mount_on_the_root_is_refused(box: Container) -> None:
    for target in ("/", "//", "/.", "/etc/..", "/../"):
        with pytest.raises(PycontainError, match="a mount on / would hide the root"):
            box.with_mount(Mount(target, "tmpfs", "tmpfs")).run(["true"])
