"""Plans are encoded so that the C core finds what was said; every other buffer it refuses, and reads no further."""

from __future__ import annotations

import errno
import os
import random
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycontain._native._core import ffi, lib
from pycontain.linux import plan as steps
from pycontain.linux.mounts import MountAttr
from pycontain.linux.namespaces import NamespaceType
from pycontain.linux.pidfd import wait
from pycontain.linux.plan import COMMAND_HEADER, PLAN_HEADER, STEP, Plan, Step, encode_command
from pycontain.runtimes.start import Command, StepFailed, start

slots = st.sampled_from(["root", "scratch", "stdin", "stdout", "a", "b", "c"])
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
paths = words | st.binary(min_size=1, max_size=20).map(lambda data: data.replace(b"\0", b"x"))
numbers = st.integers(0, 2**64 - 1)
ids = st.integers(0, 2**32 - 2)
attributes = st.sampled_from([MountAttr(0), MountAttr.RDONLY, MountAttr.NODEV | MountAttr.NOSUID])


def any_step() -> st.SearchStrategy[Step]:
    """A step of each kind but those with ranges of slots, which have to be new names."""
    return st.one_of(
        st.builds(steps.await_release, slots),
        st.builds(steps.pdeathsig, st.integers(0, 64)),
        st.builds(steps.fork),
        st.builds(steps.keep, slots),
        st.builds(steps.execute, st.none() | slots),
        st.builds(steps.join, slots, numbers, words),
        st.builds(steps.unshare, numbers, words),
        st.builds(steps.write_file, words, words, root=st.none() | slots, resolve=numbers),
        st.builds(steps.propagation, numbers, words),
        st.builds(steps.open_path, paths, slots, root=st.none() | slots, directory=st.booleans()),
        st.builds(steps.tree, paths, slots, recursive=st.booleans(), directory=st.none() | slots),
        st.builds(
            steps.file_system, words, slots, st.lists(st.tuples(words, words | st.just("")), max_size=5), attributes
        ),
        st.builds(steps.setattr_mount, slots, attributes, attributes, propagation=numbers, recursive=st.booleans()),
        st.builds(steps.attach, slots, paths, root=st.none() | slots),
        st.builds(steps.mkdir, slots, words, st.integers(0, 0o7777)),
        st.builds(steps.mkdirs, slots, words, st.integers(0, 0o7777)),
        st.builds(steps.symlink, slots, words, words),
        st.builds(steps.mknod, slots, words, st.integers(0, 0o177777), numbers),
        st.builds(steps.mask, slots, words, null=slots, empty=slots),
        st.builds(steps.read_only, slots, words),
        st.builds(steps.pivot, slots),
        st.builds(steps.hostname, words),
        st.builds(steps.domainname, words),
        st.builds(steps.loopback),
        st.builds(steps.rlimit, st.integers(0, 15), numbers, numbers, words),
        st.builds(steps.io_priority, st.integers(0, 3), st.integers(0, 7), words),
        st.builds(steps.setsid),
        st.builds(steps.session_keyring),
        st.builds(steps.umask, st.integers(0, 0o777)),
        st.builds(steps.bounding, numbers),
        st.builds(
            steps.identity, ids, ids, st.lists(ids, max_size=5), keep_caps=st.booleans(), keep_groups=st.booleans()
        ),
        st.builds(steps.capset, numbers, numbers, numbers),
        st.builds(steps.ambient, numbers),
        st.builds(steps.no_new_privs),
        st.builds(steps.seccomp, st.integers(0, 40).map(lambda count: bytes(8 * count)), numbers),
        st.builds(steps.chdir, words),
        st.builds(steps.terminal, slots, slots, slots, st.integers(0, 500), st.integers(0, 500)),
        st.builds(steps.controlling_terminal, slots),
        st.builds(steps.default_signals),
        st.builds(steps.stdio, slots, slots, slots),
        st.builds(steps.close_descriptors),
    )


plans = st.lists(any_step(), max_size=12).map(lambda found: Plan(tuple(found)))


def check(buffer: bytes) -> int:
    """What the C core says of a plan, in memory of exactly its size."""
    memory = ffi.new("uint64_t[]", len(buffer) // 8 + 1)
    ffi.memmove(memory, buffer, len(buffer))
    return int(lib.pc_check_plan(memory, len(buffer)))


def check_command(buffer: bytes) -> int:
    memory = ffi.new("uint64_t[]", len(buffer) // 8 + 1)
    ffi.memmove(memory, buffer, len(buffer))
    return int(lib.pc_check_command(memory, len(buffer)))


def string_at(buffer: bytes, offset: int) -> bytes:
    return buffer[offset : buffer.index(b"\0", offset)] if offset else b""


# ---- what is encoded


@given(plans)
def test_what_was_said_is_in_the_buffer(plan: Plan) -> None:
    buffer = plan.encoded
    magic, size, count, _ = PLAN_HEADER.unpack_from(buffer)
    assert (magic, size, count) == (lib.PC_PLAN_MAGIC, len(buffer), len(plan.steps))
    assert buffer[-1] == 0

    def slot(name: str | None) -> int:
        return -1 if name is None else plan.slots[name]

    for index, step in enumerate(plan.steps):
        op, flags, fd, fd2, out, s1, data, length, n1, n2, n3 = STEP.unpack_from(
            buffer, PLAN_HEADER.size + index * STEP.size
        )
        assert (op, flags, fd, fd2, out) == (step.op, step.flags, slot(step.fd), slot(step.fd2), slot(step.out))
        assert string_at(buffer, s1) == step.s1
        assert buffer[data : data + length] == step.data if length else step.data == b""
        if step.op == lib.PC_STDIO:
            assert (n1, n2, n3) == tuple(slot(name) for name in step.slots)
        else:
            assert (n1, n2, n3) == (step.n1, step.n2, step.n3)
    assert sorted(plan.slots.values()) == list(range(len(plan.slots)))


@given(plans)
def test_what_is_encoded_is_taken(plan: Plan) -> None:
    assert check(plan.encoded) == 0


@given(st.lists(slots, min_size=1, max_size=5, unique=True), slots, attributes)
def test_a_range_of_descriptors_is_encoded_by_its_first_and_their_number(
    lowers: list[str], scratch: str, attr: MountAttr
) -> None:
    step = steps.overlay("merged", [f"lower-{name}" for name in lowers], scratch, "upper", "work", attr)
    plan = Plan((steps.keep("first"), step, steps.enter_cgroups(["cgroup-1", "cgroup-2"])))
    assert check(plan.encoded) == 0
    record = STEP.unpack_from(plan.encoded, PLAN_HEADER.size + STEP.size)
    assert (record[3], record[9]) == (plan.slots[f"lower-{lowers[0]}"], len(lowers))
    assert string_at(plan.encoded, record[5]) == b"upper"


def test_descriptors_of_a_range_that_are_not_one_after_the_other_are_a_mistake() -> None:
    with pytest.raises(AssertionError, match="must be named one after the other"):
        Plan((steps.keep("b"), steps.enter_cgroups(["a", "b"])))


def test_no_more_descriptors_than_the_table_holds() -> None:
    fits = Plan(tuple(steps.keep(str(number)) for number in range(lib.PC_SLOTS)))
    assert check(fits.encoded) == 0
    with pytest.raises(ValueError, match=f"mounts and descriptors are too many: at most {lib.PC_SLOTS}"):
        Plan(tuple(steps.keep(str(number)) for number in range(lib.PC_SLOTS + 1)))


def test_a_plan_is_shown_one_numbered_line_a_step() -> None:
    plan = Plan((steps.hostname("box"), steps.chdir("/tmp"), steps.execute()))
    assert str(plan) == "  0  sethostname box\n  1  chdir /tmp\n  2  execute the command"
    assert str(Plan(())) == ""
    assert check(Plan(()).encoded) == 0


@given(st.lists(paths.map(os.fsencode), min_size=1), st.lists(paths.map(os.fsencode)), st.lists(paths.map(os.fsencode)))
def test_a_command_is_encoded_and_taken(argv: list[bytes], env: list[bytes], candidates: list[bytes]) -> None:
    buffer = encode_command(argv, env, candidates)
    header = COMMAND_HEADER.unpack_from(buffer)
    assert header == (lib.PC_COMMAND_MAGIC, len(buffer), len(argv), len(env), len(candidates), 0)
    assert buffer[COMMAND_HEADER.size :].split(b"\0")[:-2] == [*argv, *env, *candidates]
    assert check_command(buffer) == 0


# ---- what is refused


@given(plans, st.data())
def test_a_plan_that_is_cut_off_is_refused(plan: Plan, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(plan.encoded) - 1))
    assert check(plan.encoded[:length]) == -errno.EINVAL


@given(plans, st.binary(min_size=1, max_size=64))
def test_a_plan_with_something_behind_it_is_refused(plan: Plan, more: bytes) -> None:
    assert check(plan.encoded + more) == -errno.EINVAL


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    assert check(data) == -errno.EINVAL
    assert check_command(data) == -errno.EINVAL


@given(st.integers(0, 2**32 - 1), st.binary(max_size=400))
def test_a_good_header_does_not_make_a_plan(count: int, rest: bytes) -> None:
    buffer = PLAN_HEADER.pack(lib.PC_PLAN_MAGIC, PLAN_HEADER.size + len(rest), count, 0) + rest
    assert check(buffer) in (0, -errno.EINVAL)
    if count > len(rest) // STEP.size or not rest.endswith(b"\0"):
        assert check(buffer) == -errno.EINVAL


def record(**changes: Any) -> bytes:
    """A plan of one step with some fields that no Python function would write. The data area holds `text`."""
    text = b"text\0"
    start = PLAN_HEADER.size + STEP.size
    fields = {"op": lib.PC_SETSID, "flags": 0, "fd": -1, "fd2": -1, "out": -1, "s1": 0, "s2": 0, "len": 0}
    fields |= {"n1": 0, "n2": 0, "n3": 0}
    fields |= changes
    packed = STEP.pack(*fields.values())
    return PLAN_HEADER.pack(lib.PC_PLAN_MAGIC, start + len(text), 1, 0) + packed + text


START = PLAN_HEADER.size + STEP.size
END = START + 5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"s1": START},
        {"s1": END - 1},
        {"s2": START, "len": 5},
        {"fd": 1023, "fd2": 1023, "out": 1023},
        {"op": "PC_FSMOUNT", "out": 0, "s1": START, "s2": START, "n3": 0},
        {"op": "PC_STDIO", "n1": 1023},
        {"op": "PC_ENTER", "fd2": 1, "n2": 1023},
        {"op": "PC_IDENTITY", "n1": 2**32 - 2},
    ],
)
def test_the_widest_values_are_taken(changes: dict[str, Any]) -> None:
    if "op" in changes:
        changes = {**changes, "op": getattr(lib, changes["op"])}
    assert check(record(**changes)) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"op": 0},
        {"op": "PC_OPS"},
        {"op": 2**32 - 1},
        {"fd": -2},
        {"fd": 1024},
        {"fd2": -(2**31)},
        {"out": 2**31 - 1},
        {"s1": 1},
        {"s1": START - 1},
        {"s1": END},
        {"s1": 2**32 - 1},
        {"s2": END},
        {"s2": START, "len": 6},
        {"s2": START, "len": 2**32 - 1},
        {"s2": 0, "len": 1},
        {"op": "PC_OPEN", "s1": START},
        {"op": "PC_TREE", "s1": START},
        {"op": "PC_FSMOUNT", "s1": START},
        {"op": "PC_FSMOUNT", "out": 0, "s1": START, "n3": 1},
        {"op": "PC_FSMOUNT", "out": 0, "s1": START, "s2": START, "n3": 1},
        {"op": "PC_FSMOUNT", "out": 0, "s1": START, "s2": START, "n3": 2**63},
        {"op": "PC_OVERLAY", "out": 0, "fd": 0, "fd2": 0, "n2": 1},
        {"op": "PC_OVERLAY", "out": 0, "fd": 0, "fd2": 0, "n2": 0, "s1": START, "s2": START},
        {"op": "PC_ENTER", "fd2": -1, "n2": 1},
        {"op": "PC_ENTER", "fd2": 0, "n2": 0},
        {"op": "PC_ENTER", "fd2": 2, "n2": 1023},
        {"op": "PC_ENTER", "fd2": 0, "n2": 2**64 - 1},
        {"op": "PC_STDIO", "n2": 1024},
        {"op": "PC_STDIO", "n3": 2**64 - 1},
        {"op": "PC_SECCOMP", "s2": START, "len": 5},
        {"op": "PC_IDENTITY", "s2": START, "len": 5},
        {"op": "PC_IDENTITY", "n1": 2**32 - 1},
        {"op": "PC_IDENTITY", "n2": 2**32},
    ],
)
def test_a_value_that_would_reach_outside_is_refused(changes: dict[str, Any]) -> None:
    if isinstance(changes.get("op"), str):
        changes = {**changes, "op": getattr(lib, changes["op"])}
    assert check(record(**changes)) == -errno.EINVAL


@settings(max_examples=50)
@given(plans, st.integers(0, 2**32))
def test_no_change_of_some_bytes_breaks_the_check(plan: Plan, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        buffer = bytearray(plan.encoded)
        for _ in range(chance.randint(1, 4)):
            buffer[chance.randrange(len(buffer))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        assert check(bytes(buffer)) in (0, -errno.EINVAL)


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=8).map(lambda data: data.replace(b"\0", b"")), min_size=1), st.integers(0, 2**32))
def test_no_change_of_some_bytes_breaks_the_check_of_a_command(argv: list[bytes], seed: int) -> None:
    good = encode_command(argv, [], [])
    chance = random.Random(seed)
    for _ in range(200):
        buffer = bytearray(good)
        buffer[chance.randrange(len(buffer))] = chance.randrange(256)
        assert check_command(bytes(buffer)) in (0, -errno.EINVAL)
    assert check_command(good[:-1]) == -errno.EINVAL


@pytest.mark.parametrize("counts", [(0, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (2**32 - 1, 2**32 - 1, 2**32 - 1)])
def test_a_command_that_says_it_has_more_words_is_refused(counts: tuple[int, int, int]) -> None:
    buffer = bytearray(encode_command([b"one"], [], []))
    struct.pack_into("=III", buffer, 8, *counts)
    # a second, empty word is there: the byte that ends the buffer
    expected = 0 if sum(counts) == 2 and counts[0] else -errno.EINVAL
    assert check_command(bytes(buffer)) == expected


# ---- what a failing step tells


def attempt(*sequence: Step) -> StepFailed | None:
    """Runs steps in new mount, uts and network namespaces. The failure, or None."""
    flags = NamespaceType.MOUNT | NamespaceType.UTS | NamespaceType.NETWORK
    try:
        _, pidfd = start(
            Plan(sequence),
            Command.of([b"-"], [], [b"/no/such/command"]),
            {},
            lambda pid, pidfd: None,
            clone_flags=flags,
        )
    except StepFailed as failure:
        return failure
    try:
        ended = wait(pidfd)
        assert ended is not None
        assert ended.exit_code == 0
    finally:
        os.close(pidfd)
    return None


@pytest.mark.usefixtures("root_user")
@pytest.mark.parametrize(
    ("step", "syscall", "code"),
    [
        (steps.chdir("/nowhere"), "openat2", errno.ENOENT),
        (steps.chdir("/etc/passwd"), "openat2", errno.ENOTDIR),
        (steps.chdir("/proc/self/cwd"), "openat2", errno.ELOOP),
        (steps.open_path("/nowhere", "x"), "openat2", errno.ENOENT),
        (steps.open_path("/etc/passwd", "x", directory=True), "openat2", errno.ENOTDIR),
        (steps.tree("/nowhere", "x"), "openat2", errno.ENOENT),
        (steps.file_system("nosuchfs", "x"), "fsopen", errno.ENODEV),
        (steps.file_system("tmpfs", "x", [("nosuch", "1")]), "fsconfig", errno.EINVAL),
        (steps.mkdir("empty", "x"), "mkdirat", errno.EBADF),
        (steps.mkdirs("empty", "/a/b"), "openat", errno.EBADF),
        (steps.symlink("empty", "x", "y"), "symlinkat", errno.EBADF),
        (steps.attach("empty", "/tmp", root=None), "move_mount", errno.EBADF),
        (steps.setattr_mount("empty", MountAttr.RDONLY), "mount_setattr", errno.EBADF),
        (steps.pivot("empty"), "fchdir", errno.EBADF),
        (steps.join("empty", NamespaceType.UTS, "uts"), "setns", errno.EBADF),
        (steps.hostname("x" * 65), "sethostname", errno.EINVAL),
        (steps.domainname("x" * 65), "setdomainname", errno.EINVAL),
        (steps.rlimit(7, 9, 8, "RLIMIT_NOFILE"), "prlimit64", errno.EINVAL),
        (steps.io_priority(7, 0, "no class"), "ioprio_set", errno.EINVAL),
        (steps.write_file("/proc/self/nowhere", "x"), "openat2", errno.ENOENT),
        (
            steps.write_file("/proc/sys/kernel/hostname", "x", root="empty", resolve=steps.INSIDE),
            "openat2",
            errno.EBADF,
        ),
        (steps.seccomp(bytes(8)), "seccomp", errno.EINVAL),
        (steps.capset(2**64 - 1, 0, 0), "capset", errno.EPERM),
        (steps.stdio("empty", "empty", "empty"), "fcntl", errno.EBADF),
        (steps.execute(), "execve", errno.ENOENT),
        (steps.execute("empty"), "execveat", errno.EBADF),
        (steps.unshare(1 << 33, "nothing"), "unshare", errno.EINVAL),
    ],
    ids=str,
)
def test_a_step_that_fails_is_named_with_its_call_and_its_error(step: Step, syscall: str, code: int) -> None:
    failure = attempt(steps.setsid(), steps.umask(0o022), step, steps.hostname("never"))
    assert failure is not None
    assert (failure.index, failure.syscall, errno.errorcode[failure.errno]) == (2, syscall, errno.errorcode[code])


@pytest.mark.usefixtures("root_user")
def test_a_plan_without_a_command_ends_by_itself() -> None:
    assert attempt() is None
    assert (
        attempt(steps.setsid(), steps.loopback(), steps.hostname("box"), steps.umask(0), steps.default_signals())
        is None
    )


def test_a_buffer_that_is_no_plan_is_not_started() -> None:
    broken = SimpleNamespace(encoded=bytes(100), slots={}, steps=())
    with pytest.raises(StepFailed) as caught:
        start(broken, Command.of([b"-"], [], []), {}, lambda pid, pidfd: None)  # type: ignore[arg-type]
    assert (caught.value.index, caught.value.errno) == (None, errno.EINVAL)
