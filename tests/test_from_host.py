"""`Container.from_host`: the caller's own file system, copied on write, whatever it is put together from."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import venv
from pathlib import Path

import pytest
from inside import PRIVATE_MOUNTS, mount_table, python, sh
from programs import SOURCE, run
from roots import own_names

from pycontain import Container

pytestmark = pytest.mark.usefixtures("root_user")

MARK = f"pycontain-test-{os.getpid()}"


@pytest.fixture
def host() -> Container:
    return Container.from_host()


def test_the_same_interpreter_finds_the_same_packages(host: Container) -> None:
    code = (
        "import sys, attrs, cffi, hypothesis, pycontain; print(sys.executable, sys.prefix, sys.version, attrs.__file__)"
    )
    import attrs

    assert python(host, code) == f"{sys.executable} {sys.prefix} {sys.version} {attrs.__file__}"


def test_the_search_path_is_the_callers_and_nothing_else_of_its_environment(
    host: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    environment = sh(Container.from_host(), "env")
    assert f"PATH={os.environ['PATH']}" in environment.splitlines()
    assert "SECRET" not in environment
    assert "HOME=/root" in environment.splitlines()


@pytest.mark.parametrize(
    "directory", ["/", "/etc", "/usr", "/usr/local/bin", "/root", "/var/lib", "/opt", "/home", "/srv"]
)
def test_what_is_written_is_not_seen_on_the_host(host: Container, directory: str) -> None:
    if not os.path.isdir(directory):
        pytest.skip(f"the host has no {directory}")
    before = sorted(os.listdir(directory))
    path = os.path.join(directory, MARK)
    assert sh(host, f"echo written > {path} && cat {path} && mkdir {path}.d && rm -f {directory}/nothing") == "written"
    assert sorted(os.listdir(directory)) == before
    assert not host.run(["test", "-e", path]).ok


def test_what_is_removed_and_changed_stays_on_the_host(host: Container) -> None:
    before = Path("/etc/passwd").read_bytes(), os.stat("/etc/passwd")
    sh(
        host,
        "echo x >> /etc/passwd; chmod 777 /etc /etc/passwd; chown 1000 /etc/passwd; rm -rf /etc/passwd /usr/share/doc",
    )
    after = os.stat("/etc/passwd")
    assert Path("/etc/passwd").read_bytes() == before[0]
    assert (after.st_mode, after.st_uid, after.st_ino) == (before[1].st_mode, before[1].st_uid, before[1].st_ino)


def test_a_write_and_a_rename_over_a_file_work_as_on_the_host(host: Container) -> None:
    script = "cp /etc/hostname /etc/hostname.new; echo new > /etc/hostname.new; mv /etc/hostname.new /etc/hostname"
    assert sh(host, f"{script}; cat /etc/hostname") == "new"
    assert sh(host, "ln /etc/passwd /etc/passwd.link && stat -c %h /etc/passwd") == "2"


@pytest.mark.parametrize("directory", ["/run", "/tmp", "/dev/shm"])
def test_run_and_tmp_are_its_own_and_empty(host: Container, directory: str) -> None:
    mark = Path(directory, MARK)
    mark.touch()
    try:
        assert sh(host, f"ls -A {directory}").split() == own_names(directory)
        sh(host, f"touch {directory}/inside")
        assert not Path(directory, "inside").exists()
    finally:
        mark.unlink()
    assert mount_table(host)[directory].fs_type == "tmpfs"


def test_no_file_system_of_the_hosts_kernel_is_there(host: Container) -> None:
    table = mount_table(host)
    own = ("/proc", "/sys", "/dev", "/run", "/tmp")
    for point, mount in table.items():
        if not point.startswith(own):
            assert mount.fs_type not in ("proc", "sysfs", "cgroup", "cgroup2", "devtmpfs", "securityfs"), point
    assert table["/proc"].root == "/"


@pytest.mark.parametrize("maps", [(), [(0, 100_000, 65_536)]], ids=["the caller", "a range"])
def test_in_a_user_namespace_too_nothing_is_written_through(host: Container, maps: list[tuple[int, int, int]]) -> None:
    container = host.with_userns(maps, maps)
    before = sorted(os.listdir("/etc"))
    assert sh(container, f"id -u; touch /etc/{MARK}; test -e /etc/{MARK} && echo there") == "0\nthere"
    assert sorted(os.listdir("/etc")) == before
    # an interpreter in a place that only the caller's root may reach is not there for another user
    if not maps:
        assert python(container, "import attrs; print('imported')") == "imported"


def test_a_user_namespace_gives_no_right_to_read_what_is_roots(host: Container) -> None:
    ranged = host.with_userns([(0, 100_000, 65_536)], [(0, 100_000, 65_536)])
    shadow = "/etc/shadow"
    if not os.path.exists(shadow) or os.stat(shadow).st_mode & 0o004:
        pytest.skip("the host has no shadow file that only root may read")
    assert not ranged.run(["cat", shadow]).ok


# ---- a host that is put together from several mounts


def test_other_mounts_are_copied_on_write_or_read_only(tmp_path: Path) -> None:
    program = r"""
from pathlib import Path
base = Path("/srv", sys.argv[3])
base.mkdir()
try:
    mount("base", base, "tmpfs")
    for name in ("writable", "readonly", "nested", "kernel"):
        (base / name).mkdir()
    for name in ("file", "bound"):
        (base / name).write_text(name + "\n")
    mount("writable", base / "writable", "tmpfs")
    (base / "writable/file").write_text("host\n")
    mount("readonly", base / "readonly", "tmpfs")
    (base / "readonly/file").write_text("host\n")
    mount(None, base / "readonly", None, MountFlag.REMOUNT | MountFlag.BIND | MountFlag.RDONLY)
    mount(base / "file", base / "bound", None, MountFlag.BIND)
    mount("nested", base / "nested", "tmpfs")
    (base / "nested/deep").mkdir()
    mount("deep", base / "nested/deep", "tmpfs")
    (base / "nested/deep/file").write_text("deep\n")
    mount("kernel", base / "kernel", "proc")
    script = f"cd {base}" + '''
        cat file bound writable/file readonly/file nested/deep/file
        for name in new writable/new writable/file nested/new nested/deep/new nested/deep/file; do
            echo inside > $name && cat $name || echo refused $name
        done
        for name in readonly/new readonly/file bound; do
            echo inside > $name 2>/dev/null && echo written $name || echo refused $name
        done
        ls -A kernel 2>/dev/null; true
    '''
    for host in (Container.from_host(), Container.from_host().with_userns()):
        print(sh(host, script).split("\n"))
        print(*((base / name).read_text().strip() for name in ("file", "writable/file", "readonly/file")))
        print(*(sorted(os.listdir(base / name)) for name in ("writable", "nested", "nested/deep")))
finally:
    umount(base, UmountFlag.DETACH)
    base.rmdir()
"""
    read = ["file", "file", "host", "host", "deep"]
    refused = ["refused readonly/new", "refused readonly/file", "refused bound"]
    assert (
        run(PRIVATE_MOUNTS + program, "/", tmp_path, MARK).stdout.splitlines()
        == [
            str([*read, *["inside"] * 6, *refused]),
            "file host host",
            "['file'] ['deep'] ['file']",
        ]
        * 2
    )


ON_AN_OVERLAY = """
# the root becomes an overlay, as in a container of docker's, on sys.argv[3] others
depth = int(sys.argv[3])
mount("stage", base, "tmpfs")
for level in range(depth):
    for name in ("upper", "work", "merged"):
        os.makedirs(f"{base}/{level}/{name}")
    lower = "/" if level == 0 else f"{base}/{level - 1}/merged"
    options = f"lowerdir={lower},upperdir={base}/{level}/upper,workdir={base}/{level}/work"
    mount("overlay", f"{base}/{level}/merged", "overlay", data=options)
merged = f"{base}/{depth - 1}/merged"
for name in ("/proc", "/sys", "/dev", "/tmp", "/run"):
    mount(name, merged + name, None, MountFlag.BIND | MountFlag.REC)
os.makedirs(merged + "/mnt/old", exist_ok=True)
open(merged + "/etc/overlay-mark", "w").write("lower")
pivot_root(merged, merged + "/mnt/old")
os.chdir("/")
umount("/mnt/old", UmountFlag.DETACH)
"""


def test_the_root_may_be_an_overlay_itself(tmp_path: Path) -> None:
    program = (
        ON_AN_OVERLAY
        + """
from pycontain.linux import mountinfo
assert [mount.fs_type for mount in mountinfo.read() if mount.mount_point == "/"][-1] == "overlay"
host = Container.from_host()
print(sh(host, "cat /etc/overlay-mark; echo; echo inside > /etc/overlay-mark; cat /etc/overlay-mark").split())
print(python(host, "import attrs; print('imported')"), open("/etc/overlay-mark").read())
"""
    )
    assert run(PRIVATE_MOUNTS + program, "/", tmp_path, 1).stdout.splitlines() == [
        "['lower', 'inside']",
        "imported lower",
    ]


def test_a_root_that_overlayfs_cannot_stack_on_is_there_read_only(tmp_path: Path) -> None:
    program = (
        ON_AN_OVERLAY
        + """
host = Container.from_host()
script = "cat /etc/overlay-mark; echo; touch /etc/new 2>/dev/null || echo refused; touch /tmp/new && ls /tmp"
print(sh(host, script).split())
print(python(host, "import attrs; print('imported')"))
"""
    )
    assert run(PRIVATE_MOUNTS + program, "/", tmp_path, 2).stdout.splitlines() == [
        str(["lower", "refused", *sorted(["new", *own_names("/tmp")])]),
        "imported",
    ]


def test_pycontain_works_inside_a_container_with_the_rights_for_it() -> None:
    """Root of its own user namespace has all rights over what is made in it; the default filter has to be left out."""
    from attrs import evolve

    from pycontain.linux.capabilities import from_mask, of_process
    from pycontain.spec import Capabilities

    spec = Container.from_host().spec()
    assert spec.process is not None
    assert spec.linux is not None
    every = from_mask(of_process().permitted)
    privileged = Container.from_spec(
        evolve(
            spec,
            process=evolve(spec.process, capabilities=Capabilities(bounding=every, effective=every, permitted=every)),
            linux=evolve(spec.linux, seccomp=None, masked_paths=(), readonly_paths=()),
        )
    )
    source = SOURCE
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from pycontain import Container
result = Container.from_host().run(["sh", "-c", "echo $$; touch /etc/new /tmp/new; ls /tmp"], timeout=20)
print(result.text.split(), result.stderr.decode())
"""
    expected = ["1", *sorted(["new", *own_names("/tmp")])]
    assert python(privileged.with_tmpfs("/run"), code, source).strip() == str(expected)


def test_a_virtual_environment_in_tmp_is_there_read_only() -> None:
    with tempfile.TemporaryDirectory(prefix="pycontain-venv-", dir="/tmp") as directory:
        venv.create(directory, with_pip=False, symlinks=True)
        program = f"""
            import sys
            sys.path[:0] = {[path for path in sys.path if path]!r}
            from pycontain import Container
            host = Container.from_host()
            print(host.run([sys.executable, "-c", "import sys; print(sys.prefix)"]).check().text)
            print(host.run(["touch", sys.prefix + "/new"]).exit_code)
        """
        command = [f"{directory}/bin/python", "-c", textwrap.dedent(program)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ended.stdout.split() == [directory, "1"]
