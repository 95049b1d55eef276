"""What a start that fails says: the step, the system call, the cause that was found, and what helps."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
from confined import PRELUDE, in_user_namespace, needs_root, run

import pycontain
from pycontain import CommandNotExecutable, CommandNotFound, Container, StartFailed
from pycontain.linux import plan as steps
from pycontain.runtimes.failure import command_failed, start_failed
from pycontain.runtimes.remedies import NO_ROOT_MOUNT, PROC_COVERED, reason_for
from pycontain.runtimes.start import StepFailed

CLONE3, UNSHARE = 435, {"x86_64": 272, "aarch64": 97}[os.uname().machine]

PLAN = steps.Plan((steps.hostname("box"), steps.open_path("/srv/data", "data"), steps.execute()))


def test_the_message_names_the_step_the_system_call_and_the_errno() -> None:
    error = start_failed(StepFailed(1, "openat2", errno.ENOENT, -1), PLAN, ["true"], [])
    assert error.message.startswith("the container could not be started: open /srv/data: openat2: ENOENT")
    assert (error.step, error.syscall, error.errno) == ("open /srv/data", "openat2", errno.ENOENT)
    assert error.remedy == "The path does not exist"


def test_a_process_that_could_not_be_created_has_no_step() -> None:
    error = start_failed(StepFailed(None, "clone3", errno.EAGAIN, -1), PLAN, ["true"], [])
    assert (error.step, error.syscall) == (None, "clone3")
    assert "a limit of processes is reached" in error.message
    assert error.remedy is not None
    assert "ulimit -u" in error.remedy


def test_a_command_that_is_in_no_directory_is_not_found_and_the_directories_are_named() -> None:
    error = command_failed(errno.ENOENT, -1, ["nothing"], ["/bin/nothing", "/usr/bin/nothing"], "execute the command")
    assert type(error) is CommandNotFound
    assert error.message == "'nothing' was not found in /bin:/usr/bin"


def test_a_command_with_a_slash_is_looked_for_in_no_directories() -> None:
    error = command_failed(errno.ENOENT, -1, ["./nothing"], ["./nothing"], "execute the command")
    assert error.message == "'./nothing' was not found"


def test_a_command_without_its_loader_is_not_found_but_is_said_to_be_there() -> None:
    error = command_failed(errno.ENOENT, 0, ["tool"], ["/bin/tool"], "execute the command")
    assert type(error) is CommandNotFound
    assert "'/bin/tool' is there, but its interpreter or loader is not" in error.message


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (errno.EACCES, "is not executable for this user"),
        (errno.ENOEXEC, "has no format that this kernel executes"),
        (errno.E2BIG, "the arguments and environment of 'tool' are too long"),
        (errno.ETXTBSY, "could not be executed: ETXTBSY"),
    ],
)
def test_a_command_that_is_there_and_cannot_be_executed_says_why(code: int, cause: str) -> None:
    error = command_failed(code, 0, ["tool"], ["/bin/tool"], "execute the command")
    assert type(error) is CommandNotExecutable
    assert cause in error.message
    assert error.errno == code


@pytest.mark.parametrize(
    ("syscall", "code", "step", "word"),
    [
        ("openat2", errno.EMFILE, "open /etc", "RLIMIT_NOFILE"),
        ("openat2", errno.ENFILE, "open /etc", "RLIMIT_NOFILE"),
        ("clone3", errno.EAGAIN, "", "ulimit -u"),
        ("clone3", errno.ENOSPC, "", "user.max_*_namespaces"),
        ("unshare", errno.EINVAL, "unshare time", "CONFIG_NAMESPACES"),
        ("clone3", errno.EBUSY, "", "cgroup.subtree_control"),
        ("fsopen", errno.ENODEV, "fsopen overlay lowerdir=lower0", "modprobe overlay"),
        ("mount_setattr", errno.ENOSYS, "mount_setattr /srv", "Linux 5.12"),
        ("pivot_root", errno.EINVAL, "pivot_root, detach the old root", "mount --bind DIR DIR"),
        ("mount", errno.EINVAL, "make / private", "mount --bind DIR DIR"),
        ("prlimit64", errno.EPERM, "prlimit RLIMIT_NOFILE", "raise the caller's limit"),
        ("capset", errno.EPERM, "capset effective 0x1", "Ask for fewer"),
        ("setresuid", errno.EINVAL, "become uid 5, gid 0, groups [0]", "with_userns()"),
        ("move_mount", errno.ENOSPC, "mount root on root", "fs.mount-max"),
        ("seccomp", errno.EINVAL, "seccomp filter", "CONFIG_SECCOMP_FILTER"),
    ],
)
def test_each_refusal_has_its_remedy(syscall: str, code: int, step: str, word: str) -> None:
    reason = reason_for(syscall, code, step)
    assert reason is not None
    assert word in reason.remedy


def test_what_is_not_known_has_no_remedy() -> None:
    assert reason_for("openat2", errno.ELOOP, "open /srv") is None


def test_no_remedy_ends_with_a_full_stop_and_no_cause_begins_with_a_capital() -> None:
    """They are put together to sentences: "MESSAGE: CAUSE. REMEDY"."""
    for name in ("clone3", "unshare", "fsopen", "fsconfig", "openat2", "setgroups", "mount", "pivot_root", "capset"):
        for code in errno.errorcode:
            for user_namespace in (False, True):
                reason = reason_for(name, code, "fsopen proc source=proc", user_namespace)
                if reason is not None:
                    assert reason.remedy
                    assert reason.remedy[0].isupper()
                    assert not reason.remedy.endswith(".")
                    assert not reason.cause or reason.cause.split()[0] in ("AppArmor", "SELinux") or (
                        reason.cause[0].islower() and not reason.cause.endswith(".")
                    )


# ---- causes, found where they are


@needs_root
def test_a_user_without_privileges_is_told_of_root_and_of_user_namespaces() -> None:
    text = run("become_nobody(); print(failure_of(Container.from_host()))")
    message, remedy = text.splitlines()
    assert message == (
        "the process could not be created: clone3: EPERM (Operation not permitted): user 65534 has no privileges here"
    )
    assert remedy == "Run as root, or with a user namespace of its own: with_userns()"


@needs_root
def test_a_user_without_privileges_runs_a_clone_of_the_host_with_a_user_namespace() -> None:
    code = """
become_nobody()
result = Container.from_host().with_userns().run(
    ["sh", "-c", "id -u; cat /proc/self/uid_map; echo 1 > /etc/written; cat /etc/written; cat /root/x; ls /dev/null"])
print(json.dumps([result.exit_code, result.text.split(), result.stderr.decode()]))
"""
    text = run(code)
    assert '[0, ["0", "0", "65534", "1", "1", "/dev/null"]' in text
    assert "denied" in text  # what the user cannot read outside, root inside cannot either
    assert not os.path.exists("/etc/written")


@needs_root
def test_a_filter_that_refuses_clone3_and_unshare_is_named() -> None:
    for who in ("", "become_nobody()\n"):
        text = run(f"{who}filter_calls(errno.EPERM, {CLONE3}, {UNSHARE}); print(failure_of(Container.from_host()))")
        message, remedy = text.splitlines()
        assert message.endswith("EPERM (Operation not permitted): a seccomp filter of the process forbids unshare, and "
                                "with it new namespaces")
        assert "seccomp=unconfined" in remedy


def test_a_filter_that_pretends_clone3_does_not_exist_is_named() -> None:
    text = run(f"filter_calls(errno.ENOSYS, {CLONE3}, {UNSHARE}); print(failure_of(Container.from_host()))")
    assert "ENOSYS (Function not implemented): a seccomp filter of the process forbids unshare" in text


def test_a_container_in_which_another_is_started_is_told_of_its_filter() -> None:
    """The default filter of pycontain itself."""
    package = Path(pycontain.__file__).parent.parent
    outer = Container.from_host().with_bind(package, package, read_only=True)
    outer = outer.with_env(PYTHONPATH=os.pathsep.join(sys.path))
    if os.geteuid() != 0:
        outer = outer.with_userns()
    result = outer.run([sys.executable, "-c", PRELUDE + "print(failure_of(Container.from_host()))"])
    assert result.stderr == b""
    assert "a seccomp filter of the process forbids unshare" in result.text


def test_no_more_user_namespaces_names_the_sysctl() -> None:
    """The limit of a user namespace can be set by its own root (namespaces(7), /proc/sys/user)."""
    under = in_user_namespace("echo 0 > /proc/sys/user/max_user_namespaces")
    message, remedy = run("print(failure_of(Container.from_host().with_userns()))", under=under).splitlines()
    assert message.endswith("ENOSPC (No space left on device): the sysctl user.max_user_namespaces is 0")
    assert "sysctl -w user.max_user_namespaces=" in remedy


def test_a_covered_proc_is_named() -> None:
    """mount_too_revealing(): in the new user namespace the cover cannot be taken away, nor be looked behind."""
    under = in_user_namespace("mount --bind /dev/null /proc/version")
    message, remedy = run("print(failure_of(Container.from_host().with_userns()))", under=under).splitlines()
    assert "fsopen proc" in message
    assert message.endswith(PROC_COVERED.cause)
    assert "unmask=ALL" in remedy


def test_root_of_a_user_namespace_runs_a_container_without_another() -> None:
    code = "print(Container.from_host().run(['sh', '-c', 'cat /proc/self/setgroups; id -u']).text)"
    assert run(code, under=in_user_namespace()).split() == ["deny", "0"]


@needs_root
def test_a_chroot_is_named(tmp_path: Path) -> None:
    code = """
from pycontain.runtimes import obstacles
for name in ("usr", "etc", "proc", "tmp", "run", "dev", "sys", "var"):
    os.mkdir(f"{sys.argv[1]}/{name}")
read_files()
from pycontain.linux.mounts import MountFlag, mount
from pycontain.linux.namespaces import NamespaceType, unshare
unshare(NamespaceType.MOUNT)
mount(None, "/", None, MountFlag.PRIVATE | MountFlag.REC)
for name in ("proc", "usr", "dev", "run"):
    mount("/" + name, f"{sys.argv[1]}/{name}", None, MountFlag.BIND | MountFlag.REC)
os.chroot(sys.argv[1])
os.chdir("/")
print(failure_of(Container.from_host()))
print(failure_of(Container.from_host().with_userns()))
print(obstacles.in_chroot())
"""
    plain, remedy, user, user_remedy, known = run(code, str(tmp_path)).splitlines()
    assert plain.endswith(f"mount: EINVAL (Invalid argument): {NO_ROOT_MOUNT.cause}")
    assert "mount --bind DIR DIR" in remedy
    assert user.endswith("EPERM (Operation not permitted): the process is in a chroot")
    assert "pivot_root" in user_remedy
    assert known == "True"


@needs_root
def test_root_without_cap_sys_admin_is_told_of_the_capability() -> None:
    code = """
from pycontain.linux.capabilities import parse
ctypes.CDLL(None).prctl(24, parse("CAP_SYS_ADMIN"), 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
    inner = "from pycontain import *\ntry: Container.from_host().run(['true'])\nexcept StartFailed as e: print(e)"
    text = run(code, inner)
    assert "the process runs as root but without CAP_SYS_ADMIN" in text
    assert "with_userns()" in text


def test_a_step_inside_of_a_real_start_is_reported_like_that(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(StartFailed) as caught:
        Container.from_host().with_bind(missing, "/data").run(["true"])
    assert caught.value.errno == errno.ENOENT
    assert str(missing) in caught.value.message
    assert caught.value.step is not None
    assert caught.value.remedy == "The path does not exist"
