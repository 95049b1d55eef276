"""The raw start: what a child reports of a step that fails, when it is let go, and what a damaged plan does."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import struct
import threading
from pathlib import Path

import pytest
from confined import needs_root

from pycontain._native._core import ffi, lib
from pycontain.linux import plan as steps
from pycontain.linux.mounts import MountAttr
from pycontain.linux.namespaces import NamespaceType
from pycontain.linux.pidfd import wait
from pycontain.linux.plan import Plan, Step
from pycontain.runtimes.start import Command, StepFailed, start

TRUE = Command.of([b"true"], [], [b"/bin/true"])
NOTHING = Command.of([b"nothing"], [], [])


def ignore(pid: int, pidfd: int) -> None:
    pass


def started(*sequence: Step, command: Command = NOTHING, flags: int = 0, **descriptors: int) -> int | None:
    """Starts the steps and gives the exit code."""
    _, pidfd = start(Plan(sequence), command, descriptors, ignore, clone_flags=flags)
    try:
        ended = wait(pidfd)
        assert ended is not None
        return ended.exit_code
    finally:
        os.close(pidfd)


def failed(*sequence: Step, command: Command = NOTHING, flags: int = 0, **descriptors: int) -> StepFailed:
    with pytest.raises(StepFailed) as caught:
        started(*sequence, command=command, flags=flags, **descriptors)
    return caught.value


# ---- which step failed, in which system call, with which errno

FAILING: list[tuple[Step, str, int]] = [
    (steps.open_path("/no/such", "out"), "openat2", errno.ENOENT),
    (steps.open_path("/dev/null", "out", directory=True), "openat2", errno.ENOTDIR),
    (steps.open_path("etc", "out", root="empty"), "openat2", errno.EBADF),
    (steps.tree("/no/such", "out"), "openat2", errno.ENOENT),
    (steps.write_file("/no/such/file", "x"), "openat2", errno.ENOENT),
    (steps.mkdir("empty", "name"), "mkdirat", errno.EBADF),
    (steps.symlink("empty", "name", "target"), "symlinkat", errno.EBADF),
    (steps.mknod("empty", "name", stat.S_IFIFO, 0), "mknodat", errno.EBADF),
    (steps.mkdirs("empty", "a/b"), "openat", errno.EBADF),
    (steps.chdir("/no/such"), "openat2", errno.ENOENT),
    (steps.chdir("/dev/null"), "openat2", errno.ENOTDIR),
    (steps.join("empty", int(NamespaceType.UTS), "uts"), "setns", errno.EBADF),
    (steps.unshare(1 << 40, "nothing"), "unshare", errno.EINVAL),
    (steps.fork(), "", errno.ENOSYS),  # only in the helper
    (steps.setattr_mount("empty", MountAttr.RDONLY), "mount_setattr", errno.EBADF),
    (steps.rlimit(99, 1, 1, "RLIMIT_99"), "prlimit64", errno.EINVAL),
    (steps.rlimit(resource.RLIMIT_NOFILE, 10, 5, "RLIMIT_NOFILE"), "prlimit64", errno.EINVAL),
    (steps.pdeathsig(99), "prctl", errno.EINVAL),
    (steps.ambient(1 << 63), "prctl", errno.EINVAL),
    (steps.seccomp(bytes(8)), "seccomp", errno.EINVAL),
    (steps.stdio("empty", "empty", "empty"), "fcntl", errno.EBADF),
    (steps.keep("empty"), "fcntl", errno.EBADF),
    (steps.controlling_terminal("empty"), "ioctl", errno.EBADF),
    (steps.execute("empty"), "execveat", errno.EBADF),
]


@pytest.mark.parametrize(("step", "syscall", "code"), FAILING, ids=[f"{row[0].text} {row[2]}" for row in FAILING])
@pytest.mark.parametrize("before", [0, 1, 7])
def test_a_failing_step_is_reported_with_its_index_system_call_and_errno(
    step: Step, syscall: str, code: int, before: int
) -> None:
    failure = failed(*[steps.umask(0o22)] * before, step, steps.execute(), command=TRUE)
    assert (failure.index, failure.errno) == (before, code)
    assert failure.syscall == syscall or not syscall


@needs_root
@pytest.mark.parametrize(
    ("step", "syscall", "code"),
    [
        (steps.file_system("nosuchfs", "out"), "fsopen", errno.ENODEV),
        (steps.file_system("tmpfs", "out", [("size", "junk")]), "fsconfig", errno.EINVAL),
        (steps.hostname("x" * 65), "sethostname", errno.EINVAL),
        (steps.domainname("x" * 65), "setdomainname", errno.EINVAL),
        (steps.attach("empty", "/no/such", root=None), "openat2", errno.ENOENT),
        (steps.attach("empty", "/tmp", root=None), "move_mount", errno.EBADF),
        (steps.pivot("empty"), "fchdir", errno.EBADF),
        (steps.write_file("/proc/self/timens_offsets", "junk"), "write", errno.EINVAL),
    ],
    ids=lambda value: str(value),
)
def test_a_failing_step_in_new_namespaces_is_reported_as_well(step: Step, syscall: str, code: int) -> None:
    failure = failed(step, flags=NamespaceType.MOUNT | NamespaceType.UTS)
    assert (failure.index, failure.syscall, failure.errno) == (0, syscall, code)


def test_a_child_that_cannot_be_made_has_no_index() -> None:
    failure = failed(flags=1 << 63)
    assert (failure.index, failure.syscall, failure.errno) == (None, "clone3", errno.EINVAL)


def test_every_system_call_of_a_failure_has_a_name() -> None:
    assert ffi.string(lib.pc_syscall_name(-5)) == b""
    for _, syscall, _ in FAILING:
        assert syscall == "" or not syscall.startswith("sys_")


# ---- the command


def test_no_candidate_that_is_there_is_enoent_without_an_index() -> None:
    failure = failed(steps.execute(), command=Command.of([b"x"], [], [b"/no/such", b"/neither"]))
    assert (failure.syscall, failure.errno, failure.candidate) == ("execve", errno.ENOENT, -1)


def test_the_first_candidate_that_is_there_is_executed() -> None:
    assert started(steps.execute(), command=Command.of([b"true"], [], [b"/no/such", b"/bin/true", b"/bin/false"])) == 0


def test_one_that_may_not_be_executed_is_passed_over_for_one_that_may(tmp_path: Path) -> None:
    """As execvp(3) does."""
    (tmp_path / "true").write_text("data")
    here = os.fsencode(tmp_path / "true")
    assert started(steps.execute(), command=Command.of([b"true"], [], [here, b"/bin/true"])) == 0
    failure = failed(steps.execute(), command=Command.of([b"true"], [], [b"/no/such", here, b"/neither"]))
    assert (failure.errno, failure.candidate) == (errno.EACCES, 1)


def test_one_without_a_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"\x00\x01\x02 no program")
    path.chmod(0o755)
    failure = failed(steps.execute(), command=Command.of([b"data"], [], [os.fsencode(path)]))
    assert (failure.errno, failure.candidate) == (errno.ENOEXEC, 0)


def test_one_whose_interpreter_is_missing_is_named_although_the_errno_is_enoent(tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    failure = failed(steps.execute(), command=Command.of([b"script"], [], [os.fsencode(path)]))
    assert (failure.errno, failure.candidate) == (errno.ENOENT, 0)


def test_a_plan_that_ends_without_a_command_ends_with_0() -> None:
    assert started(steps.umask(0)) == 0


def test_the_environment_and_the_arguments_arrive_as_they_are() -> None:
    reader, writer = os.pipe()
    words = [b"sh", b"-c", b'printf "%s|" "$@"; env', b"sh", b"", b"a b", b"\xff\xfe", b"x" * 100_000]
    env = [b"A=1", b"B=", b"C=\xff"]
    command = Command.of(words, env, [b"/bin/sh"])
    with open(reader, "rb") as file:
        with open("/dev/null", "rb") as null:
            plan = Plan((steps.stdio("null", "out", "out"), steps.close_descriptors(), steps.execute()))
            _, pidfd = start(plan, command, {"null": null.fileno(), "out": writer}, ignore)
        os.close(writer)
        output = file.read()
    wait(pidfd)
    os.close(pidfd)
    arguments, _, variables = output.rpartition(b"|")
    assert arguments.split(b"|") == words[4:]
    assert set(variables.splitlines()) >= set(env)


# ---- the parent's part


def test_the_child_waits_until_it_has_been_recorded(tmp_path: Path) -> None:
    seen = []

    def record(pid: int, pidfd: int) -> None:
        seen.append((pid, pidfd, os.path.exists(tmp_path / "made")))

    plan = Plan((steps.await_release("owner"), steps.open_path(str(tmp_path), "dir"), steps.mkdir("dir", "made")))
    pid, pidfd = start(plan, NOTHING, {}, record)
    wait(pidfd)
    os.close(pidfd)
    assert seen == [(pid, pidfd, False)]
    assert (tmp_path / "made").is_dir()


def test_an_exception_while_it_is_recorded_ends_the_child_before_it_did_anything(tmp_path: Path) -> None:
    calls = []

    def record(pid: int, pidfd: int) -> None:
        calls.append(pid)
        if pid:
            raise KeyboardInterrupt

    plan = Plan((steps.await_release("owner"), steps.open_path(str(tmp_path), "dir"), steps.mkdir("dir", "made")))
    with pytest.raises(KeyboardInterrupt):
        start(plan, NOTHING, {}, record)
    assert calls[1:] == [0]  # told that it is gone again
    assert not os.path.exists(f"/proc/{calls[0]}")
    assert not (tmp_path / "made").exists()


def test_a_failed_step_is_recorded_as_a_child_that_is_gone() -> None:
    calls = []
    with pytest.raises(StepFailed):
        start(Plan((steps.chdir("/no/such"),)), NOTHING, {}, lambda pid, pidfd: calls.append((pid, pidfd)))
    assert len(calls) == 2
    assert calls[1] == (0, -1)
    assert not os.path.exists(f"/proc/{calls[0][0]}")


def test_a_child_whose_owner_is_gone_ends_while_it_waits() -> None:
    """The owner's pidfd is readable once it has ended; here another process stands for it."""
    gone = os.posix_spawn("/bin/true", ["true"], {})
    owner = os.pidfd_open(gone)
    os.waitid(os.P_PIDFD, owner, os.WEXITED)
    held = threading.Event()

    def record(pid: int, pidfd: int) -> None:
        if pid:  # nobody lets it go: it ends by itself
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
            held.set()

    try:
        with pytest.raises(StepFailed) as caught:
            start(Plan((steps.await_release("owner"),)), NOTHING, {"owner": owner}, record)
        assert caught.value.errno == errno.EOWNERDEAD
        assert held.is_set()
    finally:
        os.close(owner)


def test_the_signal_mask_of_the_caller_is_as_before_and_the_command_has_none_blocked() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        script = b"grep -q '^SigBlk:.*0000000000000000$' /proc/self/status"
        command = Command.of([b"sh", b"-c", script], [], [b"/bin/sh"])
        assert started(steps.default_signals(), steps.execute(), command=command) == 0
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGUSR1}
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])


def test_many_threads_start_at_once() -> None:
    failures = []

    def work() -> None:
        for index in range(20):
            try:
                if index % 2:
                    assert started(steps.execute(), command=TRUE) == 0
                else:
                    assert failed(steps.umask(0), steps.chdir("/no/such")).index == 1
            except BaseException as failure:
                failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# ---- what the C core refuses: it reads the buffers of a start in the memory of this process


def raw_start(plan: bytes, command: bytes, pointers: int = 16) -> int:
    arena = lib.pc_arena_new(pointers)
    try:
        number: int = lib.pc_start(arena, plan, len(plan), command, len(command), 0, -1, 0)
        assert number < 0, "a damaged plan was started"
        return -number
    finally:
        lib.pc_arena_free(arena)


GOOD = Plan((
    steps.open_path("/etc", "etc"), steps.file_system("tmpfs", "t", [("mode", "0755")]), steps.execute(),
)).encoded


def test_a_truncated_plan_is_refused_at_every_length() -> None:
    for length in range(len(GOOD)):
        assert raw_start(GOOD[:length], TRUE.encoded) == errno.EINVAL


def test_a_truncated_command_is_refused_at_every_length() -> None:
    for length in range(len(TRUE.encoded)):
        assert raw_start(GOOD, TRUE.encoded[:length]) == errno.EINVAL


@pytest.mark.parametrize("offset", [0, 4, 8], ids=["magic", "size", "steps"])
def test_a_damaged_header_is_refused(offset: int) -> None:
    damaged = bytearray(GOOD)
    struct.pack_into("=I", damaged, offset, 0xFFFFFFF0)
    assert raw_start(bytes(damaged), TRUE.encoded) == errno.EINVAL


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, 0), (0, 9999), (2, lib.PC_SLOTS), (2, -2), (3, lib.PC_SLOTS), (4, -7), (5, 3), (5, 1 << 31), (6, 1 << 30),
        (7, 1 << 30),
    ],
)
def test_a_step_that_leads_out_of_the_plan_is_refused(field: int, value: int) -> None:
    """Fields: op, flags, fd, fd2, out, s1, s2, len, n1, n2, n3."""
    damaged = bytearray(GOOD)
    at = steps.PLAN_HEADER.size
    fields = list(steps.STEP.unpack_from(damaged, at))
    fields[field] = value
    if field == 7:
        fields[6] = fields[5]
    steps.STEP.pack_into(damaged, at, *fields)
    assert raw_start(bytes(damaged), TRUE.encoded) == errno.EINVAL


def test_more_words_than_there_is_memory_for_are_refused() -> None:
    command = Command.of([b"x"] * 20, [], [])
    assert raw_start(GOOD, command.encoded, pointers=21) == errno.EINVAL


def test_a_plan_with_too_many_descriptors_is_refused_in_python() -> None:
    with pytest.raises(ValueError, match="mounts and descriptors are too many: at most 1024"):
        Plan(tuple(steps.open_path("/", f"fd{index}") for index in range(1025)))


def test_with_a_place_for_the_pid_the_kernel_writes_it_before_the_child_runs() -> None:
    """The child finds its own number there, in the memory that it shares, and nobody had to hold it back."""
    word = ffi.new("int32_t *", 7)
    seen = []
    plan = Plan((steps.await_release("owner"), steps.default_signals(), steps.execute()))
    pid, pidfd = start(
        plan, Command.of([b"true"], [], [b"/bin/true"]), {}, lambda pid, pidfd: seen.append((pid, word[0])),
        pid_word=int(ffi.cast("uintptr_t", word)),
    )
    try:
        assert seen == [(pid, pid)]
    finally:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)


def test_with_a_place_for_the_pid_a_failing_step_is_told_as_without() -> None:
    word = ffi.new("int32_t *")
    plan = Plan((steps.chdir("/no/such/directory"), steps.execute()))
    with pytest.raises(StepFailed) as caught:
        start(
            plan, Command.of([b"true"], [], [b"/bin/true"]), {}, lambda pid, pidfd: None,
            pid_word=int(ffi.cast("uintptr_t", word)),
        )
    assert (caught.value.index, caught.value.syscall, caught.value.errno) == (0, "openat2", errno.ENOENT)
