"""Namespaces are made, joined and asked about by real processes."""

from __future__ import annotations

import os
import socket

import pytest
from isolated import needs_root, open_descriptors, run_python

from pycontain.errors import InvalidArgument
from pycontain.linux.namespaces import (
    ALL_NAMESPACES,
    Namespace,
    NamespaceRequest,
    NamespaceType,
    clone,
    in_thread,
    ioctl_ns,
    setns,
)

IMPORTS = """
import os, signal, sys
from pycontain.linux.namespaces import *
from pycontain.linux import uts
from pycontain.linux.prctl import set_pdeathsig

def sleep():
    # in a child: until it is killed, at the latest with its parent
    set_pdeathsig(signal.SIGKILL)
    signal.pause()

def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("kind", ALL_NAMESPACES)
def test_the_kernel_confirms_the_value_and_file_of_each_type(kind: NamespaceType) -> None:
    with Namespace.of(None, kind) as namespace:
        assert namespace.type is kind
        assert os.readlink(namespace.path) == f"{kind.file_name}:[{namespace.id[1]}]"


@pytest.mark.parametrize("kind", ALL_NAMESPACES)
def test_a_type_is_found_by_its_oci_name_and_by_its_file(kind: NamespaceType) -> None:
    assert NamespaceType.from_name(kind.oci_name) is kind
    assert NamespaceType.from_name(kind.file_name) is kind


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidArgument, match=r"'network2' is not a type of namespace.*mount"):
        NamespaceType.from_name("network2")


@needs_root
@pytest.mark.parametrize("kind", ALL_NAMESPACES)
def test_unshare_moves_the_process_or_its_children_into_a_new_namespace(kind: NamespaceType) -> None:
    code = """
kind = NamespaceType.from_name(sys.argv[1])
before = Namespace.of(None, kind)
unshare(kind)
if kind in (NamespaceType.PID, NamespaceType.TIME):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if Namespace.of(None, kind) != before else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
else:
    print(int(Namespace.of(None, kind) == before))
"""
    assert run_python(IMPORTS + code, kind.oci_name) == "0"


@needs_root
def test_unshare_takes_several_types_at_once_and_the_names_of_the_host_stay() -> None:
    code = """
unshare(NamespaceType.UTS, NamespaceType.IPC | NamespaceType.MOUNT)
uts.sethostname("inside")
uts.setdomainname("inside.example")
names = os.uname()
print(names.nodename, open("/proc/sys/kernel/domainname").read().strip())
"""
    before = os.uname().nodename
    assert run_python(IMPORTS + code) == "inside inside.example"
    assert os.uname().nodename == before


@needs_root
@pytest.mark.parametrize("way", ["path", "descriptor", "object", "pidfd"])
def test_a_namespace_is_joined_by_path_descriptor_object_and_pidfd(way: str) -> None:
    code = """
from pycontain.linux.pidfd import pidfd_open
reader, writer = os.pipe()
pid = os.fork()
if pid == 0:
    unshare(NamespaceType.UTS, NamespaceType.NETWORK)
    uts.sethostname("other")
    os.write(writer, b"x")
    sleep()
os.read(reader, 1)
namespace = Namespace.of(pid, NamespaceType.UTS)
path = f"/proc/{pid}/ns/uts"
way = sys.argv[1]
if way == "path":
    setns(path, NamespaceType.UTS)
elif way == "descriptor":
    setns(namespace.fileno())
elif way == "object":
    namespace.enter()
else:
    setns(pidfd_open(pid), NamespaceType.UTS | NamespaceType.NETWORK)
    assert Namespace.of(None, NamespaceType.NETWORK) == Namespace.of(pid, NamespaceType.NETWORK)
assert Namespace.of(None, NamespaceType.UTS) == namespace
print(os.uname().nodename)
end(pid)
"""
    assert run_python(IMPORTS + code, way) == "other"


def test_joining_a_namespace_of_another_type_than_expected_is_an_error_that_names_both() -> None:
    with pytest.raises(OSError, match=r"setns\('/proc/self/ns/net', UTS\): Invalid argument"):
        setns("/proc/self/ns/net", NamespaceType.UTS)


@needs_root
def test_clone_returns_twice_and_the_child_is_pid_1_of_its_namespace() -> None:
    code = """
before = Namespace.of(None, NamespaceType.NETWORK)
hooks = []
os.register_at_fork(
    before=lambda: hooks.append("before"),
    after_in_parent=lambda: hooks.append("parent"),
    after_in_child=lambda: hooks.append("child"),
)
pid = clone(*(kind for kind in ALL_NAMESPACES if kind is not NamespaceType.USER))
if pid == 0:
    inside = os.getpid() == 1 and Namespace.of(None, NamespaceType.NETWORK) != before and hooks == ["before", "child"]
    grandchild = os.fork()
    if grandchild == 0:
        os._exit(7)
    os._exit(40 + os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) if inside else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), hooks)
"""
    assert run_python(IMPORTS + code) == "47 ['before', 'parent']"


@needs_root
def test_a_child_of_clone_runs_threads() -> None:
    code = """
import threading
pid = clone(NamespaceType.UTS)
if pid == 0:
    found = []
    threads = [threading.Thread(target=lambda: found.append(os.getpid())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os._exit(0 if found == [os.getpid()] * 4 and threading.active_count() == 1 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert run_python(IMPORTS + code) == "0"


def test_a_refused_clone_raises_and_the_interpreter_goes_on() -> None:
    with pytest.raises(OSError, match=r"clone3\("):
        clone(NamespaceType(0x1))  # part of the signal's number in clone(2), refused by clone3
    assert os.getpid() > 1


@needs_root
def test_the_owner_parent_and_user_namespace_are_answered() -> None:
    code = """
outer = Namespace.of(None, NamespaceType.USER)
pid = clone(NamespaceType.USER, NamespaceType.PID)
if pid == 0:
    sleep()
inner = Namespace.of(pid, NamespaceType.USER)
processes = Namespace.of(pid, NamespaceType.PID)
print(
    inner.owner_uid == os.geteuid(), inner.parent() == outer, inner.user_namespace() == outer,
    processes.user_namespace() == inner, processes.parent() == Namespace.of(None, NamespaceType.PID),
    {inner: 1}[Namespace.of(pid, NamespaceType.USER)], inner != processes,
)
end(pid)
"""
    assert run_python(IMPORTS + code) == "True True True True True 1 True"


def test_questions_without_an_answer_raise() -> None:
    with Namespace.of(None, NamespaceType.NETWORK) as namespace:
        with pytest.raises(OSError, match=r"ioctl_ns\(\d+, 'GET_PARENT'\): Invalid argument"):
            namespace.parent()
        with pytest.raises(OSError, match="GET_OWNER_UID"):
            _ = namespace.owner_uid
        assert ioctl_ns(namespace.fileno(), NamespaceRequest.GET_NSTYPE) == NamespaceType.NETWORK


@pytest.mark.parametrize("path", ["/proc/self/status", "/dev/null", "/"])
def test_a_file_that_is_no_namespace_is_refused_by_name(path: str) -> None:
    before = open_descriptors()
    with pytest.raises(InvalidArgument, match=f"{path!r} is not the file of a namespace"):
        Namespace.open(path)
    assert open_descriptors() == before


def test_a_fifo_does_not_block(tmp_path: os.PathLike[str]) -> None:
    fifo = os.path.join(tmp_path, "fifo")
    os.mkfifo(fifo)
    with pytest.raises(InvalidArgument):
        Namespace.open(fifo)


def test_a_nul_byte_does_not_cut_a_path() -> None:
    with pytest.raises(InvalidArgument, match="NUL"):
        Namespace.open("/proc/self/ns/net\0/x")


def test_the_descriptor_is_closed_with_the_object() -> None:
    before = open_descriptors()
    namespace = Namespace.of(os.getpid(), NamespaceType.UTS)
    assert len(open_descriptors()) == len(before) + 1
    del namespace
    assert open_descriptors() == before


@needs_root
def test_a_function_runs_in_another_network_namespace_and_its_socket_stays_there() -> None:
    code = """
import socket, threading
home = Namespace.of(None, NamespaceType.NETWORK)
pid = clone(NamespaceType.NETWORK)
if pid == 0:
    sleep()
other = Namespace.of(pid, NamespaceType.NETWORK)
def interfaces():
    return [name for _, name in socket.if_nameindex()]
assert in_thread(other, interfaces) == ["lo"]
assert Namespace.of(None, NamespaceType.NETWORK) == home
try:
    in_thread(other, lambda: 1 / 0)
except ZeroDivisionError:
    print("raised here")
assert threading.active_count() == 1
end(pid)
"""
    assert run_python(IMPORTS + code) == "raised here"


@needs_root
def test_a_function_runs_in_another_mount_namespace_of_a_process_with_threads() -> None:
    code = """
from pycontain.linux.mounts import mount, MountFlag
reader, writer = os.pipe()
pid = clone(NamespaceType.MOUNT)
if pid == 0:
    mount(None, "/", None, MountFlag.PRIVATE | MountFlag.REC)
    mount("tmpfs", "/mnt", "tmpfs")
    open("/mnt/only-here", "w").close()
    os.write(writer, b"x")
    sleep()
os.read(reader, 1)
print(in_thread(Namespace.of(pid, NamespaceType.MOUNT), lambda: os.listdir("/mnt")), os.path.exists("/mnt/only-here"))
end(pid)
"""
    assert run_python(IMPORTS + code) == "['only-here'] False"


def test_a_user_namespace_cannot_be_entered_by_a_thread() -> None:
    with Namespace.of(None, NamespaceType.USER) as namespace, pytest.raises(OSError, match="setns"):
        in_thread(namespace, socket.gethostname)
