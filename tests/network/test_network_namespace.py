"""Network namespaces with a name: what `ip netns` sees, what tasks do in them, what outlives what."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from inside import PRIVATE_MOUNTS, ends, namespace_of, sh
from programs import run

from pycontain import Container, InvalidArgument, NetworkNamespace, PycontainError
from pycontain.linux.namespaces import Namespace, NamespaceType

pytestmark = pytest.mark.usefixtures("root_user")


@pytest.fixture
def name() -> Iterator[str]:
    """A name for this test; what is left under it is removed."""
    name = f"pycontain-test-{os.getpid()}"
    yield name
    with suppress(PycontainError):
        NetworkNamespace(name).delete()


@pytest.fixture
def network(name: str) -> NetworkNamespace:
    return NetworkNamespace.create(name)


def ip(*arguments: str) -> str:
    if shutil.which("ip") is None:
        pytest.skip("there is no ip (iproute2)")
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=30).stdout


def test_it_is_seen_and_entered_by_ip_netns(network: NetworkNamespace) -> None:
    assert network.name in ip("netns", "list").split()
    link = ip("netns", "exec", network.name, "ip", "-o", "link")
    assert len(link.splitlines()) == 1
    assert "<LOOPBACK,UP,LOWER_UP>" in link


def test_one_that_ip_netns_made_is_used_and_deleted(busybox_root: Path, tmp_path: Path) -> None:
    """In a mount namespace of its own: `ip netns add` also mounts the directory on itself, for good."""
    ip("netns", "list")
    program = """
import subprocess
from pycontain import NetworkNamespace
mount("run", "/run", "tmpfs")
def ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout.split()
ip("netns", "add", "theirs")
ip("-n", "theirs", "link", "add", "veth-a", "type", "veth", "peer", "name", "veth-b")
network = NetworkNamespace("theirs")
print(sh(Container.from_rootfs(root).with_network(network), "ls /sys/class/net").split())
ours = NetworkNamespace.create("ours")
print(sorted(ip("netns", "list")), ip("netns", "exec", "ours", "cat", "/sys/class/net/lo/operstate"))
network.delete()
print(ip("netns", "list"))
ip("netns", "delete", "ours")
print(os.listdir("/run/netns"))
"""
    assert run(PRIVATE_MOUNTS + program, busybox_root, tmp_path).stdout.splitlines() == [
        "['lo', 'veth-a', 'veth-b']",
        "['ours', 'theirs'] ['unknown']",
        "['ours']",
        "[]",
    ]


def test_two_tasks_in_it_talk_over_loopback(box: Container, network: NetworkNamespace) -> None:
    joined = box.with_network(network)
    with joined.start(["nc", "-l", "-p", "7000", "-e", "echo", "from the first"]) as first:
        assert sh(joined, "until nc 127.0.0.1 7000 </dev/null; do sleep 0.05; done") == "from the first"
        assert ends(first).ok
    assert box.run(["sh", "-c", "nc -w 1 127.0.0.1 7000 </dev/null"]).exit_code == 1


def test_it_is_the_same_after_its_tasks_have_ended(box: Container, network: NetworkNamespace) -> None:
    joined = box.with_network(network)
    with Namespace.open(network.path) as held:
        identity = f"net:[{held.id[1]}]"
    for _ in range(2):
        with joined.start(["sleep", "60"]) as task:
            assert namespace_of(task.pid, NamespaceType.NETWORK) == identity
    assert sh(joined, "ls /sys/class/net") == "lo"
    assert network.name in ip("netns", "list").split()


def test_what_is_configured_in_it_is_seen_by_a_later_task(box: Container, network: NetworkNamespace) -> None:
    ip("-n", network.name, "link", "add", "veth-a", "type", "veth", "peer", "name", "veth-b")
    assert sh(box.with_network(network), "ls /sys/class/net").split() == ["lo", "veth-a", "veth-b"]
    assert sh(box, "ls /sys/class/net") == "lo"


def test_it_outlives_the_process_that_made_it(name: str) -> None:
    run(f"from pycontain import NetworkNamespace; NetworkNamespace.create({name!r})")
    assert os.path.exists(NetworkNamespace(name).path)
    NetworkNamespace(name).delete()


def test_deleting_removes_the_name_and_leaves_a_running_task_alone(box: Container, network: NetworkNamespace) -> None:
    with box.with_network(network).start(["sleep", "60"]) as task:
        network.delete()
        assert network.name not in ip("netns", "list").split()
        assert not os.path.exists(network.path)
        assert sh(box.with_network(task), "ls /sys/class/net") == "lo"
        assert task.state == "running"


def test_what_is_not_there_cannot_be_deleted(name: str) -> None:
    with pytest.raises(PycontainError, match=f"there is no network namespace '{name}'"):
        NetworkNamespace(name).delete()


def test_a_name_that_is_taken_is_refused_and_stays_as_it_is(network: NetworkNamespace) -> None:
    with Namespace.open(network.path) as before:
        with pytest.raises(PycontainError, match=f"there is a network namespace '{network.name}' already"):
            NetworkNamespace.create(network.name)
        with Namespace.open(network.path) as after:
            assert before == after


def test_without_privileges_none_is_made_nor_removed_and_the_error_says_what_helps(network: NetworkNamespace) -> None:
    program = """
import sys
from pycontain import NetworkNamespace, NotSupported
for action in (lambda: NetworkNamespace.create(sys.argv[1] + "-2"), NetworkNamespace(sys.argv[1]).delete):
    try:
        action()
    except NotSupported as error:
        print(error.remedy)
"""
    assert run(program, network.name, as_nobody=True).stdout == "Run as root\nRun as root\n"


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "../x", "/x", "x" * 65, "a b", "a\0b", "ä", "a\n"])
def test_a_name_that_could_be_another_path_is_refused(bad: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a name"):
        NetworkNamespace(bad)


def test_the_calling_thread_stays_in_its_network(network: NetworkNamespace, name: str) -> None:
    before = namespace_of("thread-self", NamespaceType.NETWORK)
    network.delete()
    created: list[NetworkNamespace] = []
    thread = threading.Thread(target=lambda: created.append(NetworkNamespace.create(name)))
    thread.start()
    thread.join()
    assert created == [network]
    assert namespace_of("thread-self", NamespaceType.NETWORK) == before


def test_it_is_no_other_kind_of_namespace(box: Container, network: NetworkNamespace) -> None:
    with pytest.raises(InvalidArgument, match="a network namespace cannot be the container's uts namespace"):
        box.with_namespace("uts", network)


def test_a_task_needs_the_namespace_that_it_names(box: Container, name: str) -> None:
    with pytest.raises(PycontainError, match=f"/run/netns/{name}"):
        box.with_network(NetworkNamespace(name)).run(["true"])


def test_a_leftover_file_without_a_namespace_is_no_namespace_and_can_be_deleted(box: Container, name: str) -> None:
    """As a kill between the two steps of making one leaves it."""
    network = NetworkNamespace(name)
    Path(network.path).parent.mkdir(exist_ok=True)
    Path(network.path).touch()
    with pytest.raises(PycontainError, match=r"network namespace"):
        box.with_network(network).run(["true"])
    network.delete()
    assert not os.path.exists(network.path)
