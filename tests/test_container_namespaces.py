"""All eight namespaces, each new, the host's, another task's or that of a file, with real processes on both sides."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from inside import LIMIT, ends, namespace_of, python, sh, wait_for

from pycontain import Container, InvalidArgument, NotSupported, SpecError, StartFailed, TaskError
from pycontain.linux.namespaces import ALL_NAMESPACES, Namespace, NamespaceType
from pycontain.linux.prctl import get_dumpable

pytestmark = pytest.mark.usefixtures("root_user")

RANGE = [(0, 100_000, 65_536)]
SLEEP = ["sleep", "60"]


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can reach and write to, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="pycontain-test-") as directory:
        os.chmod(directory, 0o777)
        yield Path(directory)


def with_new(box: Container, kind: NamespaceType) -> Container:
    return box.with_userns(RANGE, RANGE) if kind is NamespaceType.USER else box.with_namespace(name_of(kind), "new")


def name_of(kind: NamespaceType) -> Any:
    return kind.oci_name


# ---- new, host, a task's, a path


@pytest.mark.parametrize("kind", ALL_NAMESPACES, ids=name_of)
def test_a_new_namespace_is_neither_the_hosts_nor_that_of_another_task(box: Container, kind: NamespaceType) -> None:
    container = with_new(box, kind)
    with container.start(SLEEP) as first, container.start(SLEEP) as second:
        three = {namespace_of(pid, kind) for pid in ("self", first.pid, second.pid)}
        assert len(three) == 3


@pytest.mark.parametrize("kind", ALL_NAMESPACES, ids=name_of)
def test_the_hosts_namespace_is_the_callers(box: Container, kind: NamespaceType) -> None:
    with box.with_namespace(name_of(kind), "host").start(SLEEP) as task:
        assert namespace_of(task.pid, kind) == namespace_of("self", kind)


@pytest.mark.parametrize("kind", ALL_NAMESPACES, ids=name_of)
@pytest.mark.parametrize("way", ["task", "path", "descriptor"])
def test_a_namespace_of_a_running_task_is_joined(box: Container, kind: NamespaceType, way: str) -> None:
    with with_new(box, kind).start(SLEEP) as first, Namespace.of(first.pid, kind) as held:
        where: Any = {
            "task": first,
            "path": f"/proc/{first.pid}/ns/{kind.file_name}",
            "descriptor": f"/proc/{os.getpid()}/fd/{held.fileno()}",
        }[way]
        with box.with_namespace(name_of(kind), where).start(SLEEP) as second:
            assert namespace_of(second.pid, kind) == namespace_of(first.pid, kind)
            assert first.state == second.state == "running"


def test_all_namespaces_of_a_task_are_joined_at_once(box: Container) -> None:
    container = box.with_userns(RANGE, RANGE).with_time_offset(boottime=1000)
    with container.start(SLEEP) as first:
        joined = box
        for kind in ALL_NAMESPACES:
            joined = joined.with_namespace(name_of(kind), first)
        with joined.start(SLEEP) as second:
            for kind in ALL_NAMESPACES:
                assert namespace_of(second.pid, kind) == namespace_of(first.pid, kind)


def test_no_namespace_at_all_is_a_process_of_the_host(box: Container) -> None:
    for kind in ALL_NAMESPACES:
        box = box.with_namespace(name_of(kind), "host")
    with box.start(SLEEP) as task:
        for kind in ALL_NAMESPACES:
            assert namespace_of(task.pid, kind) == namespace_of("self", kind)


def test_the_caller_stays_in_its_namespaces(box: Container) -> None:
    before = [namespace_of("self", kind) for kind in ALL_NAMESPACES]
    with box.with_userns(RANGE, RANGE).start(SLEEP) as task:
        box.with_namespace("pid", task).with_namespace("user", task).run(["true"])
    assert [namespace_of("self", kind) for kind in ALL_NAMESPACES] == before


def test_a_namespace_outlives_its_task_when_its_file_is_held(box: Container) -> None:
    with box.with_hostname("kept").start(SLEEP) as task:
        held = Namespace.of(task.pid, NamespaceType.UTS)
    with held:
        later = box.with_namespace("uts", f"/proc/{os.getpid()}/fd/{held.fileno()}")
        assert sh(later, "hostname") == "kept"


def test_a_file_that_is_no_namespace_is_refused_by_its_name(box: Container, tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="/nowhere cannot be joined: ENOENT"):
        box.with_namespace("uts", "/nowhere").run(["true"])
    for path in (str(tmp_path), "/etc/passwd", "/proc/self/ns/ipc"):
        with pytest.raises(InvalidArgument, match=f"{path} is .*cannot be the container's uts namespace"):
            box.with_namespace("uts", path).run(["true"])
    with pytest.raises(InvalidArgument, match=r"'relative' is not a uts namespace.*the absolute path"):
        box.with_namespace("uts", "relative")
    with pytest.raises(InvalidArgument, match="'cloud' is not a type of namespace"):
        box.with_namespace("cloud", "new")  # type: ignore[arg-type]


# ---- mount


def test_tasks_that_share_a_mount_namespace_share_what_they_write(box: Container) -> None:
    script = "while ! test -e /from-second; do sleep 0.02; done; cat /from-second"
    with box.start(["sh", "-c", f"echo first > /from-first; {script}"]) as first:
        joined = box.with_namespace("mount", first)
        wait = "while ! test -s /from-first; do sleep 0.02; done"
        assert sh(joined, f"{wait}; cat /from-first; echo second > /.new; mv /.new /from-second") == "first"
        assert ends(first).text == "second\n"


def test_in_the_hosts_mount_namespace_the_command_is_the_hosts(box: Container, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("host\n")
    assert box.with_namespace("mount", "host").run(["cat", str(tmp_path / "file")]).text == "host\n"


def test_without_a_mount_namespace_of_its_own_nothing_can_be_mounted(box: Container) -> None:
    bare = box.with_namespace("mount", "host")
    with pytest.raises(SpecError, match="mounts: belongs to a new mount namespace"):
        bare.with_tmpfs("/scratch").run(["true"])
    with pytest.raises(InvalidArgument, match="has no root of its own"):
        bare.with_read_only()


# ---- uts


def test_host_name_and_domain_name_are_its_own(box: Container) -> None:
    before = os.uname().nodename
    named = box.with_hostname("inside", "example.org")
    assert sh(named, "hostname; cat /proc/sys/kernel/domainname") == "inside\nexample.org"
    assert sh(box.with_hostname("x" * 64), "hostname") == "x" * 64
    assert sh(box, "hostname") == before
    assert os.uname().nodename == before


def test_a_joined_uts_namespace_has_the_name_of_its_task(box: Container) -> None:
    with box.with_hostname("shared-name").start(SLEEP) as task:
        assert sh(box.with_namespace("uts", task), "hostname") == "shared-name"


def test_a_host_name_needs_a_uts_namespace_and_at_most_64_bytes(box: Container) -> None:
    with pytest.raises(SpecError, match="hostname: belongs to a new uts namespace"):
        box.with_namespace("uts", "host").with_hostname("changed").run(["true"])
    with pytest.raises((StartFailed, InvalidArgument), match=r"sethostname|64"):
        box.with_hostname("x" * 65).run(["true"])


# ---- pid


def test_tasks_that_share_a_pid_namespace_see_each_other(box: Container, tmp_path: Path) -> None:
    shared = box.with_bind(tmp_path, "/shared")
    first_script = "while ! test -e /shared/go; do sleep 0.02; done; ps -o pid,args"
    with shared.start(["sh", "-c", first_script]) as first:
        joined = box.with_namespace("pid", first)
        with joined.start(["sleep", "987"]) as second:
            assert sh(joined, "ps -o pid,args").splitlines()[1].startswith("    1 sh -c while")
            assert "sleep 987" in sh(joined, "ps -o args")
            (tmp_path / "go").touch()
            assert "sleep 987" in ends(first).text
            # the end of process 1 is the end of its namespace, also for those who joined
            assert ends(second).signal == signal.SIGKILL


def test_a_joined_pid_namespace_can_be_signaled_into_but_not_out_of(box: Container, tmp_path: Path) -> None:
    script = "trap 'echo got it; exit 5' USR1; touch /shared/ready; while :; do sleep 0.05; done"
    with box.with_bind(tmp_path, "/shared").start(["sh", "-c", script]) as first:
        wait_for(tmp_path / "ready")
        sh(box.with_namespace("pid", first), "kill -USR1 1")
        assert (ends(first).exit_code, ends(first).text) == (5, "got it\n")
    assert box.run(["sh", "-c", f"kill -0 {os.getpid()}"]).exit_code == 1


def test_the_command_in_a_joined_pid_namespace_gives_its_exit_code_and_streams(box: Container) -> None:
    with box.start(SLEEP) as task:
        result = box.with_namespace("pid", task).run(["sh", "-c", "cat; echo err >&2; exit 7"], input="in")
        assert (result.exit_code, result.stdout, result.stderr) == (7, b"in", b"err\n")
        result = box.with_namespace("pid", task).run(["sh", "-c", "kill -KILL $$"])
        assert (result.exit_code, result.signal, result.reason) == (None, signal.SIGKILL, "signaled")


def test_what_a_joined_command_leaves_running_ends_with_it(box: Container) -> None:
    with box.start(SLEEP) as task:
        joined = box.with_namespace("pid", task)
        joined.run(["sh", "-c", "sleep 654 & sleep 0.05"])
        assert "sleep 654" not in sh(joined, "ps -o args")


def test_a_command_that_is_not_there_is_named_when_it_joins(box: Container) -> None:
    from pycontain import CommandNotFound

    with box.with_userns(RANGE, RANGE).with_time_offset().start(SLEEP) as task:
        for kind in ("pid", "user", "time", "uts"):
            with pytest.raises(CommandNotFound, match="'nothing-like-it' was not found in"):
                box.with_namespace(kind, task).run(["nothing-like-it"])


# ---- network


def test_network_none_has_only_a_loopback_interface_and_it_is_up(box: Container) -> None:
    assert sh(box, "ls /sys/class/net") == "lo"
    link = sh(box, "ip -o link")
    assert len(link.splitlines()) == 1
    assert "<LOOPBACK,UP,LOWER_UP>" in link
    talk = "nc -l -p 8080 -e echo hello & until nc 127.0.0.1 8080 </dev/null; do sleep 0.05; done; wait"
    assert sh(box, talk) == "hello"


@pytest.fixture
def host_port() -> Iterator[int]:
    """A port of the host's loopback on which someone answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    with closing(server.accept()[0]) as connection:
                        connection.sendall(b"host\n")
                except OSError:
                    return

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_only_network_host_reaches_the_hosts_loopback(box: Container, host_port: int) -> None:
    ask = f"nc -w 2 127.0.0.1 {host_port} </dev/null"
    assert sh(box.with_network("host"), ask) == "host"
    assert box.run(["sh", "-c", ask]).exit_code == 1
    with box.with_network("host").start(SLEEP) as task:
        assert sh(box.with_network(task), ask) == "host"


def test_tasks_that_share_a_network_namespace_talk_over_loopback(box: Container) -> None:
    with box.start(["nc", "-l", "-p", "7000", "-e", "echo", "from the first"]) as first:
        ask = "until nc 127.0.0.1 7000 </dev/null; do sleep 0.05; done"
        assert sh(box.with_network(first), ask) == "from the first"
        assert ends(first).ok


def test_a_sysctl_is_set_in_its_namespace_only(box: Container) -> None:
    path = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    before = Path(path).read_text()
    assert sh(box.with_sysctl("net.ipv4.ip_unprivileged_port_start", 99), f"cat {path}") == "99"
    assert sh(box.with_sysctl("kernel.shmmax", 4096), "cat /proc/sys/kernel/shmmax") == "4096"
    assert Path(path).read_text() == before
    with pytest.raises(NotSupported, match="would change the host's: the container has no new network namespace"):
        box.with_network("host").with_sysctl("net.ipv4.ip_forward", 1).run(["true"])
    with pytest.raises(NotSupported, match=r"kernel.panic is the host's"):
        box.with_sysctl("kernel.panic", 1).run(["true"])
    for name in ("net/ipv4/ip_forward", "net..ipv4", "net.../kernel/panic", ""):
        with pytest.raises((InvalidArgument, NotSupported)):
            box.with_sysctl(name, 1).run(["true"])


# ---- ipc


def test_tasks_that_share_an_ipc_namespace_see_the_same_queues_and_segments(tmp_path: Path) -> None:
    host = Container.from_host()
    script = "ipcmk -M 4096 >&2 && touch /dev/mqueue/queue /shared/ready && sleep 60"
    with host.with_bind(tmp_path, "/shared").start(["sh", "-c", script]) as first:
        wait_for(tmp_path / "ready")
        look = "ls /dev/mqueue; ipcs -m | grep -c 4096 || true"
        assert sh(host.with_namespace("ipc", first), look) == "queue\n1"
        assert sh(host, look) == "0"
        assert sh(host.with_namespace("ipc", "host"), look).endswith("0")


# ---- user


def test_ids_are_mapped_in_a_user_namespace(box: Container, open_directory: Path) -> None:
    container = box.with_userns(RANGE, RANGE).with_bind(open_directory, "/data")
    assert (
        sh(container, "id -u; cat /proc/self/uid_map /proc/self/gid_map").split()
        == ["0"] + ["0", "100000", "65536"] * 2
    )
    sh(container, "touch /data/by-root")
    sh(container.with_user("alice"), "touch /data/by-alice")
    for name, owner in (("by-root", 100_000), ("by-alice", 101_000)):
        info = (open_directory / name).stat()
        assert (info.st_uid, info.st_gid) == (owner, owner)
    assert sh(container, "stat -c %u:%g /data/by-root /data/by-alice") == "0:0\n1000:1000"
    assert sh(container, "stat -c %u:%g /etc/passwd") == "65534:65534"


def test_root_in_a_user_namespace_has_no_power_over_what_is_the_hosts(box: Container, open_directory: Path) -> None:
    secret = open_directory / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    container = box.with_userns(RANGE, RANGE).with_bind(open_directory, "/data")
    for command in (
        "cat /data/secret",
        "chown 0:0 /data/secret",
        "chmod 666 /data/secret",
        "rm -f /data/../etc/passwd",
    ):
        assert not container.run(["sh", "-c", command]).ok
    assert secret.read_text() == "secret"
    assert sh(container, "hostname inside-userns 2>&1 || echo refused").endswith("refused")


def test_without_maps_root_inside_is_the_caller(box: Container, tmp_path: Path) -> None:
    container = box.with_userns().with_bind(tmp_path, "/data")
    assert sh(container, "id -u; cat /proc/self/uid_map; touch /data/file").split() == [
        "0",
        "0",
        str(os.geteuid()),
        "1",
    ]
    assert (tmp_path / "file").stat().st_uid == os.geteuid()


def test_several_ranges_are_mapped(box: Container) -> None:
    maps = [(0, 200_000, 1), (1000, 300_000, 10)]
    assert sh(box.with_userns(maps, maps), "cat /proc/self/uid_map").split() == [
        "0",
        "200000",
        "1",
        "1000",
        "300000",
        "10",
    ]
    assert sh(box.with_userns(maps, maps).with_user("1000:1000"), "id -u") == "1000"


def test_a_joined_user_namespace_has_the_same_ids(box: Container, open_directory: Path) -> None:
    with box.with_userns(RANGE, RANGE).start(SLEEP) as first:
        joined = box.with_namespace("user", first).with_bind(open_directory, "/data")
        assert sh(joined, "id -u; cat /proc/self/uid_map; touch /data/file").split() == ["0", "0", "100000", "65536"]
        assert (open_directory / "file").stat().st_uid == 100_000
        assert sh(joined.with_user("alice"), "id -u; touch /data/alice") == "1000"
        assert (open_directory / "alice").stat().st_uid == 101_000


def test_the_callers_own_user_namespace_cannot_be_joined_and_need_not(box: Container) -> None:
    with box.start(SLEEP) as task, pytest.raises(StartFailed, match=r"is in that user namespace already.*Leave it out"):
        box.with_namespace("user", task).run(["true"])


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([(0, 100_000, 10), (5, 200_000, 10)], "uid_map of the user namespace cannot be set.*EINVAL"),
        ([(0, 100_000, 10), (20, 100_005, 10)], "uid_map of the user namespace cannot be set.*EINVAL"),
    ],
)
def test_maps_that_overlap_are_refused(box: Container, maps: list[tuple[int, int, int]], message: str) -> None:
    with pytest.raises(StartFailed, match=message):
        box.with_userns(maps, maps).run(["true"])


def test_a_user_that_is_not_mapped_cannot_be_become(box: Container) -> None:
    one = [(0, 100_000, 1)]
    with pytest.raises(StartFailed, match="become uid 1000"):
        box.with_userns(one, one).with_user("alice").run(["true"])


def test_a_new_user_namespace_needs_maps(box: Container) -> None:
    with pytest.raises(SpecError, match=r"linux.uidMappings, linux.gidMappings: a new user namespace needs both"):
        box.with_namespace("user", "new").run(["true"])


@pytest.mark.parametrize("user", ["alice", "0:29", "1000:0", "alice:audio"])
def test_the_caller_is_as_dumpable_as_before_when_another_user_was_started(box: Container, user: str) -> None:
    assert get_dumpable()
    assert box.with_user(user).run(["true"]).ok
    assert get_dumpable()
    assert box.with_userns(RANGE, RANGE).with_user(user).run(["true"]).ok
    assert get_dumpable()
    with pytest.raises(StartFailed):
        box.with_user(user).run(["nothing-like-it"])
    assert get_dumpable()


# ---- cgroup


def test_the_cgroup_namespace_hides_where_the_container_is(box: Container) -> None:
    for line in sh(box, "cat /proc/self/cgroup").splitlines():
        assert line.endswith(":/"), line
    outside = sh(box.with_namespace("cgroup", "host"), "cat /proc/self/cgroup")
    assert "/pycontain" in outside


def test_a_joined_cgroup_namespace_shows_the_group_from_where_the_task_is(box: Container) -> None:
    with box.start(SLEEP) as task:
        lines = sh(box.with_namespace("cgroup", task), "cat /proc/self/cgroup")
        assert ":/../" in lines


# ---- time


def clocks(container: Container) -> tuple[float, float]:
    code = "import time; print(time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME))"
    monotonic, boottime = python(container, code).split()
    return float(monotonic), float(boottime)


@pytest.mark.parametrize(("monotonic", "boottime"), [(1e6, 0), (0, 86_400.0 * 365), (5000.25, -1.5), (0, 0)])
def test_clocks_are_offset_in_a_time_namespace(monotonic: float, boottime: float) -> None:
    container = Container.from_host().with_time_offset(monotonic=monotonic, boottime=boottime)
    before = time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME)
    inside = clocks(container)
    after = time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME)
    for first, middle, last, offset in zip(before, inside, after, (monotonic, boottime), strict=True):
        assert first + offset <= middle <= last + offset


def test_the_uptime_and_the_clock_of_a_joined_time_namespace_are_those_of_its_task() -> None:
    host = Container.from_host()
    with host.with_time_offset(monotonic=3e6, boottime=2e6).start(SLEEP) as task:
        joined = host.with_namespace("time", task)
        monotonic, boottime = clocks(joined)
        assert 3e6 <= monotonic <= 3e6 + time.clock_gettime(time.CLOCK_MONOTONIC)
        assert 2e6 <= boottime <= 2e6 + time.clock_gettime(time.CLOCK_BOOTTIME)
        assert float(sh(joined, "cut -d' ' -f1 /proc/uptime")) >= 2e6


def test_an_offset_that_makes_a_clock_negative_is_refused_with_its_step(box: Container) -> None:
    with pytest.raises(StartFailed, match="timens_offsets") as caught:
        box.with_time_offset(monotonic=-1e9).run(["true"])
    assert caught.value.syscall == "write"


# ---- process 1


def test_init_reaps_orphans_while_the_command_runs(box: Container) -> None:
    script = """
        for i in 1 2 3 4 5; do (sh -c 'sleep 0.05 &' &); done
        while ps -o pid,stat,args >/tmp/ps; [ $(wc -l </tmp/ps) -gt 4 ]; do sleep 0.05; done
        cat /tmp/ps
    """
    lines = sh(box.with_init(), script).splitlines()[1:]
    assert len(lines) == 3, lines  # init, the shell, ps: no orphan and no zombie
    assert "pycontain-init" in lines[0]


def test_the_command_line_of_init_names_the_command_alone(box: Container) -> None:
    script = "tr '\\0' '|' < /proc/1/cmdline"
    assert sh(box.with_init(), script) == f"pycontain-init sh -c {script}|"


@pytest.mark.parametrize("number", [1, 2, 3, 10, 12, 15, 28, signal.SIGRTMIN + 2])
def test_init_forwards_signals(box: Container, tmp_path: Path, number: int) -> None:
    number = int(number)
    script = f"trap 'echo got {number}; exit 3' {number}; touch /shared/ready; while :; do sleep 0.02; done"
    with box.with_init().with_bind(tmp_path, "/shared").start(["sh", "-c", script]) as task:
        wait_for(tmp_path / "ready")
        task.signal(number)
        assert (ends(task).exit_code, ends(task).text) == (3, f"got {number}\n")


@pytest.mark.parametrize("number", [1, 9, 11, 15])
def test_init_reports_the_signal_that_ended_the_command(box: Container, number: int) -> None:
    result = box.with_init().run(["sh", "-c", f"kill -{number} $$"], timeout=LIMIT)
    assert (result.exit_code, result.signal, result.reason) == (None, number, "signaled")


def test_init_needs_a_pid_namespace(box: Container) -> None:
    with pytest.raises(SpecError, match="init: belongs to a new pid namespace"):
        box.with_namespace("pid", "host").with_init().run(["true"])


def test_the_namespace_of_a_task_that_has_ended_is_not_joined(box: Container) -> None:
    """Its pid may be that of another process by then."""
    with box.start(["sleep", "60"]) as task:
        joining = box.with_network(task)
        assert joining.run(["true"]).ok
    with pytest.raises(TaskError, match="has ended"):
        joining.run(["true"])
    with pytest.raises(TaskError):
        box.with_network(task)


def test_a_new_user_namespace_is_not_combined_with_the_pid_namespace_of_another(box: Container) -> None:
    with box.start(["sleep", "60"]) as task, pytest.raises(NotSupported, match="user namespace"):
        box.with_userns().with_namespace("pid", task).run(["true"])
