"""The default seccomp filter in the kernel: real system calls of both ABIs, and real programs, under it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pycontain.linux import seccomp
from pycontain.linux.syscall_numbers import MACHINES, X32_BIT, Abi, numbers
from pycontain.spec import Seccomp

WORD = 0xFFFFFFFF
TIOCSTI, TIOCLINUX, TCGETS = 0x5412, 0x541C, 0x5401
CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWCGROUP = 0x10000000, 0x00020000, 0x02000000
AF_INET, AF_NETLINK, AF_ALG, AF_VSOCK = 2, 16, 38, 40


@pytest.fixture(scope="session")
def call_under_filter(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: the program that makes calls under a filter cannot be built")
    program = tmp_path_factory.mktemp("seccomp") / "call_under_filter"
    source = Path(__file__).with_name("call_under_filter.c")
    subprocess.run([compiler, "-O1", "-o", program, source], check=True)
    return str(program)


@pytest.fixture
def default_filter_file(tmp_path: Path) -> str:
    path = tmp_path / "filter.bpf"
    path.write_bytes(seccomp.default_filter())
    return str(path)


def errnos(program: str, filter_file: str, mode: str, calls: Sequence[Sequence[int]]) -> list[str]:
    lines = [",".join(str(value) for value in (*call, *[0] * (7 - len(call)))) for call in calls]
    done = subprocess.run([program, filter_file, mode, *lines], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return [errno.errorcode.get(int(line), "ok") for line in done.stdout.split()]


BAD = 0xFFFFFFF0  # a descriptor, a process or an address that does not exist, also as a 32-bit argument
#: name, arguments, and the errno: the call's own, which shows that the kernel saw it, or that of the filter.
CALLS = [
    ("getpid", (), "ok"),
    ("read", (BAD,), "EBADF"),
    ("openat", (BAD, 0), "EFAULT"),
    ("faccessat", (BAD, 0), "EFAULT"),
    ("execve", (0,), "EFAULT"),
    ("ptrace", (BAD,), "ESRCH"),
    ("process_vm_readv", (0x7FFFFFF0, 0, 0, 0, 0, 1), "EINVAL"),
    ("memfd_create", (0,), "EFAULT"),
    ("mseal", (1, 0, 0), "EINVAL"),
    ("cachestat", (BAD,), "EBADF"),
    ("fchmodat2", (BAD, 0), "EFAULT"),
    ("statmount", (0,), "EFAULT"),
    ("futex_wake", (1, 0, 0, BAD), "EINVAL"),
    ("seccomp", (BAD,), "EINVAL"),
    ("capset", (0,), "EFAULT"),
    ("chroot", (0,), "EFAULT"),
    ("mknodat", (BAD, 0), "EFAULT"),
    ("clone3", (0, 0), "ENOSYS"),
    ("clone", (CLONE_NEWUSER,), "EPERM"),
    ("clone", (CLONE_NEWNS,), "EPERM"),
    ("clone", (CLONE_NEWCGROUP,), "EPERM"),
    ("unshare", (0,), "EPERM"),
    ("setns", (BAD,), "EPERM"),
    ("mount", (0,), "EPERM"),
    ("umount2", (0,), "EPERM"),
    ("pivot_root", (0,), "EPERM"),
    ("open_tree", (BAD,), "EPERM"),
    ("open_tree_attr", (BAD,), "EPERM"),
    ("move_mount", (BAD,), "EPERM"),
    ("mount_setattr", (BAD,), "EPERM"),
    ("fsopen", (0,), "EPERM"),
    ("fsconfig", (BAD,), "EPERM"),
    ("fsmount", (BAD,), "EPERM"),
    ("fspick", (BAD,), "EPERM"),
    ("sethostname", (0, BAD), "EPERM"),
    ("keyctl", (BAD,), "EPERM"),
    ("add_key", (0,), "EPERM"),
    ("request_key", (0,), "EPERM"),
    ("io_uring_setup", (0, 0), "EPERM"),
    ("io_uring_enter", (BAD,), "EPERM"),
    ("io_uring_register", (BAD,), "EPERM"),
    ("bpf", (BAD,), "EPERM"),
    ("perf_event_open", (0,), "EPERM"),
    ("userfaultfd", (BAD,), "EPERM"),
    ("name_to_handle_at", (BAD,), "EPERM"),
    ("open_by_handle_at", (BAD,), "EPERM"),
    ("pidfd_getfd", (BAD,), "EPERM"),
    ("kexec_load", (0, BAD), "EPERM"),
    ("init_module", (0,), "EPERM"),
    ("finit_module", (BAD,), "EPERM"),
    ("delete_module", (0,), "EPERM"),
    ("swapon", (0,), "EPERM"),
    ("reboot", (0,), "EPERM"),
    ("settimeofday", (0, 0), "EPERM"),
    ("acct", (1,), "EPERM"),
    ("quotactl", (0, 0), "EPERM"),
    ("lsm_list_modules", (0,), "EPERM"),
    ("mbind", (0,), "EPERM"),
    ("kcmp", (BAD,), "EPERM"),
    ("ioctl", (BAD, TCGETS), "EBADF"),
    ("ioctl", (BAD, TIOCSTI), "EPERM"),
    ("ioctl", (BAD, TIOCLINUX), "EPERM"),
    ("socket", (AF_INET, 1), "ok"),
    ("socket", (AF_NETLINK, 3), "ok"),
    ("socket", (AF_VSOCK, 1), "EPERM"),
    ("socket", (AF_ALG, 5), "EPERM"),
    ("personality", (WORD,), "ok"),
    ("personality", (0,), "ok"),
    ("personality", (0x40000,), "EPERM"),
]
#: Newer than some kernels that pycontain runs on: these may answer ENOSYS themselves.
NEW = {"mseal", "cachestat", "fchmodat2", "statmount", "futex_wake"}


def check_calls(program: str, filter_file: str, mode: str, abi: Abi) -> None:
    table = numbers(abi)
    calls = [(name, arguments, expected) for name, arguments, expected in CALLS if name in table]
    found = errnos(program, filter_file, mode, [(table[name], *arguments) for name, arguments, _ in calls])
    wrong = [
        (name, arguments, expected, answer)
        for (name, arguments, expected), answer in zip(calls, found, strict=True)
        if answer != expected and not (name in NEW and answer == "ENOSYS")
    ]
    assert not wrong
    assert len(calls) > 60


def test_the_kernel_answers_calls_as_the_filter_says(call_under_filter: str, default_filter_file: str) -> None:
    check_calls(call_under_filter, default_filter_file, "syscall", MACHINES[os.uname().machine][0])


def needs_int80(program: str, tmp_path: Path) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("int 0x80 exists on x86 only")
    path = tmp_path / "allow.bpf"
    path.write_bytes(seccomp.compile(Seccomp(default_action="SCMP_ACT_ALLOW", architectures=("SCMP_ARCH_X86",))))
    done = subprocess.run([program, path, "int80", "20,0,0,0,0,0,0"], capture_output=True, timeout=30)
    if done.returncode == -signal.SIGSEGV:
        pytest.skip("this kernel has no 32-bit calls (CONFIG_IA32_EMULATION)")
    assert done.stdout == b"0\n"


def test_the_32_bit_calls_of_a_64_bit_program_are_filtered_too(
    call_under_filter: str, default_filter_file: str, tmp_path: Path
) -> None:
    needs_int80(call_under_filter, tmp_path)
    check_calls(call_under_filter, default_filter_file, "int80", MACHINES["x86_64"][1])


def test_calls_newer_than_the_profile_and_calls_of_x32_do_not_exist(
    call_under_filter: str, default_filter_file: str
) -> None:
    calls = [(470,), (500,), (599,), (2**31 - 1,)]
    if os.uname().machine == "x86_64":
        calls += [(X32_BIT + 39,), (X32_BIT + 520,)]
    found = errnos(call_under_filter, default_filter_file, "syscall", calls)
    assert found == ["ENOSYS"] * len(calls)


def test_a_call_of_an_abi_that_the_profile_does_not_list_kills(call_under_filter: str, tmp_path: Path) -> None:
    needs_int80(call_under_filter, tmp_path)
    path = tmp_path / "native.bpf"
    path.write_bytes(seccomp.compile(Seccomp(default_action="SCMP_ACT_ALLOW", architectures=("SCMP_ARCH_X86_64",))))
    done = subprocess.run([call_under_filter, path, "int80", "20,0,0,0,0,0,0"], capture_output=True, timeout=30)
    assert done.returncode == -signal.SIGSYS


PROGRAM = """
import os, socket, subprocess, tempfile, threading, time
thread = threading.Thread(target=time.sleep, args=(0.001,))  # needs clone: clone3 does not exist
thread.start(); thread.join()
assert subprocess.run(["/bin/sh", "-c", "exit 3"]).returncode == 3
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
    server.accept()[0].close()
with tempfile.TemporaryFile() as file:
    file.write(b"x"); file.flush(); os.fsync(file.fileno())
pid = os.fork() or os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
print("ran")
"""


def test_a_program_with_threads_children_sockets_and_files_runs(
    call_under_filter: str, default_filter_file: str
) -> None:
    command = [call_under_filter, default_filter_file, "exec", sys.executable, "-I", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr


def test_a_program_in_the_default_filter_can_confine_itself_further(
    call_under_filter: str, default_filter_file: str
) -> None:
    inner = [call_under_filter, default_filter_file, "syscall", "20,0,0,0,0,0,0"]
    done = subprocess.run([call_under_filter, default_filter_file, "exec", *inner], capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr
