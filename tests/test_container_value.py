"""A `Container` is a value: immutable, comparable, hashable, short to show. Each `with_*` says what it promises."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs.exceptions import FrozenInstanceError
from hypothesis import given
from hypothesis import strategies as st
from inside import sh

from pycontain import Container, InvalidArgument, NetworkNamespace, SpecError
from pycontain.spec import Mount, Spec

ROOT = "/srv/busybox"
BOX = Container.from_rootfs(ROOT)
RANGE = [(0, 100_000, 65_536)]

Change = Callable[[Container], Container]

CHANGES: dict[str, Change] = {
    "hostname": lambda box: box.with_hostname("inside"),
    "domainname": lambda box: box.with_hostname("inside", "example.org"),
    "env": lambda box: box.with_env(A="1"),
    "env mapping": lambda box: box.with_env({"B-C": "2"}, D=""),
    "workdir": lambda box: box.with_workdir("/tmp"),
    "user": lambda box: box.with_user("alice"),
    "user number": lambda box: box.with_user(1000),
    "bind": lambda box: box.with_bind("/etc", "/data"),
    "read-only bind": lambda box: box.with_bind("/etc", "/data", read_only=True),
    "tmpfs": lambda box: box.with_tmpfs("/scratch"),
    "tmpfs size": lambda box: box.with_tmpfs("/scratch", size="16M", mode=0o700),
    "mount": lambda box: box.with_mount(Mount("/cg", "cgroup2", "cgroup", ("ro",))),
    "read-only": lambda box: box.with_read_only(),
    "init": lambda box: box.with_init(),
    "sysctl": lambda box: box.with_sysctl("net.ipv4.ip_forward", 1),
    "rlimit": lambda box: box.with_rlimit("RLIMIT_NOFILE", 100, 200),
    "memory": lambda box: box.with_limits(memory="256M"),
    "cpus": lambda box: box.with_limits(cpus=1.5),
    "shares": lambda box: box.with_limits(cpu_shares=512),
    "pids": lambda box: box.with_limits(pids=64),
    "network host": lambda box: box.with_network("host"),
    "network name": lambda box: box.with_network(NetworkNamespace("named")),
    "network path": lambda box: box.with_network("/run/netns/other"),
    "userns": lambda box: box.with_userns(),
    "userns range": lambda box: box.with_userns(RANGE, RANGE),
    "time": lambda box: box.with_time_offset(monotonic=1.5, boottime=-2),
    "pid host": lambda box: box.with_namespace("pid", "host"),
    "mount host": lambda box: box.with_namespace("mount", "host"),
}
changes = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())


# ---- a value


@changes
def test_a_change_is_a_copy_and_leaves_the_original(change: Change) -> None:
    before = repr(BOX), hash(BOX)
    changed = change(BOX)
    assert changed is not BOX
    assert changed != BOX
    assert (repr(BOX), hash(BOX)) == before
    assert Container.from_rootfs(ROOT) == BOX


@changes
def test_the_same_change_gives_an_equal_container_with_the_same_hash(change: Change) -> None:
    first, second = change(Container.from_rootfs(ROOT)), change(Container.from_rootfs(ROOT))
    assert first == second
    assert hash(first) == hash(second)
    assert {first: 1}[second] == 1


@changes
def test_the_same_change_twice_is_the_change_once(change: Change) -> None:
    assert change(change(BOX)) == change(BOX)


def test_all_changes_differ_from_each_other() -> None:
    assert len({change(BOX) for change in CHANGES.values()}) == len(CHANGES)


@given(st.permutations(["hostname", "env", "workdir", "read-only", "sysctl", "memory", "pids", "cpus", "rlimit"]))
def test_the_order_of_unrelated_changes_does_not_count(names: list[str]) -> None:
    container = BOX
    for name in names:
        container = CHANGES[name](container)
    expected = BOX
    for name in sorted(names):
        expected = CHANGES[name](expected)
    assert container == expected
    assert hash(container) == hash(expected)


def test_a_container_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        BOX._spec = Spec()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del BOX._user
    with pytest.raises((AttributeError, FrozenInstanceError)):
        BOX.hostname = "x"  # type: ignore[attr-defined]


def test_a_container_is_equal_to_nothing_else() -> None:
    assert object() != BOX
    assert BOX.spec() != BOX
    assert Container.from_rootfs("/srv/other") != BOX
    assert Container.from_host() != Container.from_rootfs("/")


def test_having_been_started_does_not_make_a_difference(box: Container, busybox_root: Path) -> None:
    box.plan()
    if os.geteuid() == 0:
        box.run(["true"])
    assert box == Container.from_rootfs(busybox_root)
    assert hash(box) == hash(Container.from_rootfs(busybox_root))


@changes
def test_a_container_is_copied_and_pickled(change: Change) -> None:
    container = change(BOX)
    assert copy.copy(container) == copy.deepcopy(container) == container
    assert pickle.loads(pickle.dumps(container)) == container


def test_a_pickled_container_comes_without_the_plans_of_its_process(box: Container) -> None:
    before = pickle.dumps(box)
    box.run(["true"]).check()
    assert pickle.dumps(box) == before
    assert pickle.loads(before).run(["echo", "word"]).text == "word\n"


def test_a_subclass_stays_one() -> None:
    class Special(Container):
        pass

    assert type(Special.from_rootfs(ROOT).with_env(A="1").with_userns().with_limits(pids=3)) is Special


# ---- how it is shown


@pytest.mark.parametrize(
    ("container", "shown"),
    [
        (Container.from_host(), "<Container host>"),
        (BOX, "<Container '/srv/busybox'>"),
        (Container.from_host().with_limits(memory="256M", pids=64), "<Container host memory=256M pids=64>"),
        (BOX.with_limits(memory=1000, cpus=0.5), "<Container '/srv/busybox' memory=1000 cpus=0.5>"),
        (BOX.with_limits(cpus=2), "<Container '/srv/busybox' cpus=2>"),
        (BOX.with_hostname("box").with_user("nobody"), "<Container '/srv/busybox' hostname=box user=nobody>"),
        (BOX.with_read_only(), "<Container '/srv/busybox' read-only>"),
        (BOX.with_network("host"), "<Container '/srv/busybox' network=host>"),
        (BOX.with_network("none"), "<Container '/srv/busybox'>"),
        (BOX.with_network(NetworkNamespace("blue")), "<Container '/srv/busybox' network=/run/netns/blue>"),
        (BOX.with_userns(), "<Container '/srv/busybox' user=new>"),
        (BOX.with_time_offset(boottime=5), "<Container '/srv/busybox' time=new>"),
        (
            BOX.with_namespace("pid", "host").with_namespace("ipc", "host"),
            "<Container '/srv/busybox' pid=host ipc=host>",
        ),
        (BOX.with_namespace("mount", "host"), "<Container no root mount=host>"),
        (Container.from_rootfs("/srv/a b"), "<Container '/srv/a b'>"),
    ],
)  # fmt: skip
def test_it_is_shown_short_and_true(container: Container, shown: str) -> None:
    assert repr(container) == shown


def test_its_plan_is_one_line_a_step(box: Container) -> None:
    container = box.with_hostname("shown").with_tmpfs("/scratch", size="1M")
    lines = str(container.plan()).splitlines()
    assert len(lines) == len(container.plan().steps)
    assert any("sethostname shown" in line for line in lines)
    assert any("size=1048576" in line for line in lines)
    assert any("mount mount6 on /scratch" in line for line in lines)
    assert lines[-1].endswith("execute the command")


# ---- what each method promises


def test_a_relative_root_is_made_absolute_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Container.from_rootfs("root") == Container.from_rootfs(tmp_path / "root")
    assert Container.from_rootfs(b"/srv/x".decode()) == Container.from_rootfs(Path("/srv/x"))


def test_environment_variables_are_added_and_replaced() -> None:
    container = BOX.with_env(A="1", B="2").with_env({"A": "3"}, C="=")
    process = container.spec().process
    assert process is not None
    assert process.env[1:4] == ("A=3", "B=2", "C==")
    assert BOX.with_env({"A": "1"}, A="2") == BOX.with_env(A="2")


@pytest.mark.parametrize("name", ["", "A=B", "="])
def test_a_name_that_no_variable_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="is not the name of an environment variable"):
        BOX.with_env({name: "x"})


@pytest.mark.parametrize(
    "make",
    [
        lambda box: box.with_hostname("a\0b"),
        lambda box: box.with_env(A="a\0b"),
        lambda box: box.with_env({"A\0": "b"}),
        lambda box: box.with_workdir("/a\0b"),
        lambda box: box.with_user("a\0b"),
        lambda box: box.with_bind("/a\0b", "/data"),
        lambda box: box.with_bind("/etc", "/a\0b"),
        lambda box: box.with_tmpfs("/a\0b"),
        lambda box: box.with_sysctl("net.a\0b", 1),
        lambda box: box.with_sysctl("net.a", "1\0"),
        lambda _: Container.from_rootfs("/a\0b"),
        lambda box: box.with_network("/a\0b"),
        lambda box: box.with_mount(Mount("/data", "tmpfs", "tmpfs", ("size=1\0",))),
    ],
)
def test_a_nul_byte_is_refused_at_the_latest_when_it_is_compiled(make: Change, box: Container) -> None:
    with pytest.raises(InvalidArgument, match=r"(?i)nul|is not a user"):
        make(box).run(["true"])


def test_the_home_directory_is_that_of_the_user(busybox_root: Path) -> None:
    box = Container.from_rootfs(busybox_root)

    def home(container: Container) -> list[str]:
        process = container.spec().process
        assert process is not None
        return [variable for variable in process.env if variable.startswith("HOME=")]

    assert home(box) == ["HOME=/root"]
    assert home(box.with_user("alice")) == ["HOME=/home/alice"]
    assert home(box.with_user(4242)) == ["HOME=/"]
    assert home(box.with_user("alice").with_env(HOME="/own")) == ["HOME=/own"]


@pytest.mark.parametrize("user", ["", True, None, 1.5, b"alice"])
def test_what_is_no_user_is_refused(user: object) -> None:
    with pytest.raises(InvalidArgument, match="is not a user"):
        BOX.with_user(user)  # type: ignore[arg-type]


def test_read_only_and_init_are_taken_back() -> None:
    assert BOX.with_read_only().with_read_only(False) == BOX
    assert BOX.with_init().with_init(False) == BOX


def test_namespaces_are_given_and_taken_back() -> None:
    assert BOX.with_network("host").with_network("none") == BOX.with_network("none")
    assert repr(BOX.with_namespace("time", "new").with_namespace("time", "host")) == repr(BOX)


def test_host_as_an_absolute_path_is_one() -> None:
    assert Container.from_rootfs(os.sep).spec().root == Container.from_host().spec().root


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_one_base_serves_many(box: Container) -> None:
    many = [box.with_env(N=str(number)) for number in range(5)]
    assert [sh(container, "echo $N") for container in many] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("seconds", "parts"),
    [
        (0, (0, 0)),
        (1.5, (1, 500_000_000)),
        (-1.5, (-2, 500_000_000)),
        (-1e-17, (0, 0)),
        (0.9999999999, (1, 0)),
        (-0.000000001, (-1, 999_999_999)),
        (10**12, (10**12, 0)),
    ],
)
def test_an_offset_is_split_into_whole_seconds_and_the_rest(seconds: float, parts: tuple[int, int]) -> None:
    linux = BOX.with_time_offset(boottime=seconds).spec().linux
    assert linux is not None
    offset = linux.time_offsets["boottime"]
    assert (offset.secs, offset.nanosecs) == parts


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), float("-inf"), 1e300, 2**63])
def test_an_offset_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidArgument, match="is not an offset"):
        BOX.with_time_offset(monotonic=seconds)


def test_a_document_that_is_none_is_refused() -> None:
    for text in ("", "{", "[]", "null", '{"ociVersion": 1}', b"\xff"):
        with pytest.raises(SpecError):
            Container.from_spec(text)
