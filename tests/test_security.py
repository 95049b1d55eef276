"""What a container gets of its caller, and what it may do: nothing that is not named (DESIGN: safe by default)."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from inside import LIMIT, python, sh, status, wait_for
from programs import run
from roots import with_this_python

from pycontain import Container, InvalidArgument, StartFailed
from pycontain.defaults import CAPABILITIES
from pycontain.linux.capabilities import of_process, to_mask

pytestmark = pytest.mark.usefixtures("root_user")

STATUS = ["cat", "/proc/self/status"]


# ---- capabilities and privileges


def test_root_has_the_usual_capabilities_in_three_sets_and_none_in_two(box: Container) -> None:
    usual = to_mask(CAPABILITIES)
    with box.start(["sleep", "60"]) as task:
        sets = of_process(task.pid)
    assert (sets.effective, sets.permitted, sets.bounding) == (usual, usual, usual)
    assert (sets.inheritable, sets.ambient) == (0, 0)


@pytest.mark.parametrize(
    "name",
    [
        "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_NET_ADMIN", "CAP_SYS_RAWIO", "CAP_SYS_TIME",
        "CAP_BPF",
        "CAP_DAC_READ_SEARCH", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SYS_BOOT", "CAP_SYSLOG", "CAP_MAC_ADMIN", "CAP_PERFMON",
    ],
)  # fmt: skip
def test_the_usual_capabilities_do_not_reach_the_host(name: str) -> None:
    assert name not in CAPABILITIES


@pytest.mark.parametrize("user", ["alice", "1000", "nobody:audio"])
def test_another_user_has_no_capabilities(box: Container, user: str) -> None:
    with box.with_user(user).start(["sleep", "60"]) as task:
        sets = of_process(task.pid)
    assert (sets.effective, sets.permitted, sets.inheritable, sets.ambient) == (0, 0, 0, 0)
    assert sets.bounding == to_mask(CAPABILITIES)


@pytest.mark.parametrize("user", ["root", "alice"])
@pytest.mark.parametrize("init", [False, True], ids=["", "init"])
def test_no_new_privileges_and_a_seccomp_filter_are_set(box: Container, user: str, init: bool) -> None:
    fields = status(box.with_user(user).with_init(init).run(STATUS))
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


def test_a_setuid_program_gains_nothing() -> None:
    script = """
        cp /usr/bin/id /usr/local/bin/setuid-id && chmod 6755 /usr/local/bin/setuid-id
        setpriv --reuid 1000 --regid 1000 --clear-groups /usr/local/bin/setuid-id
    """
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv (util-linux)")
    printed = sh(Container.from_host(), script)
    assert "uid=1000" in printed
    assert "euid" not in printed
    assert "egid" not in printed


def test_a_user_has_its_groups_and_none_of_the_callers(box: Container) -> None:
    program = """
import os, sys
from pycontain import Container
os.setgroups([4, 24, 27])
box = Container.from_rootfs(sys.argv[1])
for container in (box, box.with_user("alice"), box.with_user("alice:audio"), box.with_user("12345")):
    print(container.run(["grep", "-E", "^(Uid|Gid|Groups)", "/proc/self/status"]).text.split())
"""
    root = box.spec().root
    assert root is not None
    lines = run(program, root.path).stdout.splitlines()
    assert lines == [
        str(["Uid:", *["0"] * 4, "Gid:", *["0"] * 4, "Groups:"]),
        str(["Uid:", *["1000"] * 4, "Gid:", *["1000"] * 4, "Groups:", "29", "100", "1000"]),
        str(["Uid:", *["1000"] * 4, "Gid:", *["29"] * 4, "Groups:", "29"]),
        str(["Uid:", *["12345"] * 4, "Gid:", *["0"] * 4, "Groups:", "0"]),
    ]


# The calls of syscall(2) by their x86-64 numbers where Python has no function: name, number, arguments.
REFUSED = """
import ctypes, errno, fcntl, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments))
    return errno.errorcode.get(ctypes.get_errno(), ctypes.get_errno()) if result == -1 else result
def python(function, *arguments):
    try:
        return function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
print("mount", call(165, 0, 0, 0, 0, 0))
print("umount2", call(166, 0, 0))
print("unshare user", call(272, 0x10000000))
print("unshare mount", call(272, 0x20000))
print("clone user", call(56, 0x10000000 | 17, 0, 0, 0, 0))
print("clone3", call(435, 0, 0))
print("setns", call(308, 0, 0))
print("pivot_root", call(155, 0, 0))
print("open_tree", call(428, 0, 0, 0))
print("fsopen", call(430, 0, 0))
print("keyctl", call(250, 0, -3, 0))
print("add_key", call(248, 0, 0, 0, 0, 0))
print("bpf", call(321, 0, 0, 0))
print("perf_event_open", call(298, 0, 0, 0, 0, 0))
print("io_uring_setup", call(425, 0, 0))
print("userfaultfd", call(323, 0))
print("name_to_handle_at", call(303, 0, 0, 0, 0, 0))
print("open_by_handle_at", call(304, 0, 0, 0))
print("pidfd_getfd", call(438, 0, 0, 0))
print("init_module", call(175, 0, 0, 0))
print("kexec_load", call(246, 0, 0, 0, 0))
print("reboot", call(169, 0, 0, 0, 0))
print("swapon", call(167, 0, 0))
print("settimeofday", call(164, 0, 0))
print("sethostname", call(170, 0, 0))
print("iopl", call(172, 3))
print("acct", call(163, 0))
print("quotactl", call(179, 0, 0, 0, 0))
print("syslog", call(103, 3, 0, 0))
print("mknod", python(os.mknod, "/device", 0o20666, os.makedev(1, 3)))
print("vsock", python(socket.socket, 40, socket.SOCK_STREAM))
print("raw socket", python(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1))
print("packet socket", python(socket.socket, socket.AF_PACKET, socket.SOCK_RAW))
print("TIOCSTI", python(fcntl.ioctl, 0, 0x5412, b"x"))
print("TIOCLINUX", python(fcntl.ioctl, 0, 0x541c, b"x"))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of the calls are those of x86-64")
def test_what_reaches_out_of_a_container_is_refused() -> None:
    answers = dict(line.rsplit(" ", 1) for line in python(Container.from_host(), REFUSED).splitlines())
    assert answers.pop("clone3") == "ENOSYS"  # so that a C library takes clone, whose flags can be looked at
    assert answers == dict.fromkeys(answers, "EPERM") | {"vsock": answers["vsock"]}
    assert answers["vsock"] in ("EPERM", "EAFNOSUPPORT")


def test_devices_cannot_be_made_and_file_systems_not_mounted(box: Container) -> None:
    for command in (
        "mknod /d c 1 3",
        "mknod /d b 8 0",
        "mount -t tmpfs x /tmp",
        "unshare -U true",
        "umount /proc",
        "dmesg",
    ):
        assert not box.run(["sh", "-c", command]).ok, command
    sh(box, "mkfifo /fifo")


def test_a_device_node_of_the_root_does_not_work(tmp_path: Path, busybox_root: Path) -> None:
    root = Path(shutil.copytree(busybox_root, tmp_path / "root", symlinks=True))
    os.mknod(root / "etc/zero", 0o20666, os.makedev(1, 5))
    result = Container.from_rootfs(root).run(["head", "-c", "1", "/etc/zero"])
    assert (result.exit_code, b"Permission denied" in result.stderr) == (1, True)


# ---- what does not pass from the caller


def test_only_three_descriptors_pass(box: Container, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with open(tmp_path / "secret") as secret:
        os.set_inheritable(secret.fileno(), True)
        high = fcntl.fcntl(secret.fileno(), fcntl.F_DUPFD, 500)
        try:
            for container in (box, box.with_init(), box.with_user("alice"), box.with_userns()):
                # of the shell, process 1 or its child: not those of ls, which reads the directory through one more
                assert sh(container, "ls /proc/$$/fd; true").split() == ["0", "1", "2"]
            with box.start(["sleep", "60"]) as task:
                joined = box.with_namespace("pid", task)
                assert sh(joined, "ls /proc/$$/fd; true").split() == ["0", "1", "2"]
        finally:
            os.close(high)


def test_init_holds_nothing_but_its_report(box: Container) -> None:
    with box.with_init().start(["sleep", "60"]) as task:
        targets = [os.readlink(f"/proc/{task.pid}/fd/{name}") for name in os.listdir(f"/proc/{task.pid}/fd")]
        assert len(targets) == 1
        assert targets[0].startswith("pipe:")


def test_the_environment_of_the_caller_does_not_pass(box: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    for container in (box, box.with_init()):
        assert "SECRET" not in sh(container, "env; cat /proc/1/environ /proc/self/environ | tr '\\0' '\\n'")
    assert sorted(sh(box, "env").splitlines()) == [
        "HOME=/root",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PWD=/",
        "SHLVL=1",  # these two are the shell's
    ]


@pytest.mark.parametrize("init", [False, True], ids=["", "init"])
def test_signals_umask_and_working_directory_of_the_caller_do_not_pass(box: Container, init: bool) -> None:
    program = """
import os, signal, sys
from pycontain import Container
for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP, signal.SIGRTMIN + 1):
    signal.signal(number, signal.SIG_IGN)
signal.signal(signal.SIGUSR2, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGCHLD, signal.SIGRTMIN})
os.umask(0o077)
os.chdir("/etc")
box = Container.from_rootfs(sys.argv[1]).with_init(sys.argv[2] == "True")
print(box.run(["sh", "-c", "umask; pwd"]).text, box.run(["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"]).text)
blocked = signal.pthread_sigmask(signal.SIG_BLOCK, set())
print(blocked == {signal.SIGUSR1, signal.SIGCHLD, signal.SIGRTMIN}, oct(os.umask(0)))
"""
    root = box.spec().root
    assert root is not None
    none = "0" * 16
    assert run(program, root.path, init).stdout.split() == [
        "0022", "/", "SigBlk:", none, "SigIgn:", none, "SigCgt:", none, "True", "0o77",
    ]  # fmt: skip


def test_a_task_is_a_session_of_its_own_without_a_terminal(box: Container) -> None:
    with box.start(["sleep", "60"]) as task:
        assert os.getsid(task.pid) == os.getpgid(task.pid) == task.pid
        assert Path(f"/proc/{task.pid}/stat").read_text().rpartition(") ")[2].split()[4] == "0"  # tty_nr


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of keyctl is that of x86-64")
def test_the_session_keyring_is_a_new_one() -> None:
    program = """
import ctypes, os, sys
from attrs import evolve
from pycontain import Container
from pycontain.linux.prctl import join_session_keyring
from roots import with_this_python
libc = ctypes.CDLL(None, use_errno=True)
join_session_keyring("of-the-caller")
libc.syscall(248, b"user", b"secret", b"hunter2", 7, -3)  # add_key
spec = Container.from_host().spec()
container = Container.from_spec(evolve(spec, linux=evolve(spec.linux, seccomp=None, masked_paths=())))
code = '''
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
text = ctypes.create_string_buffer(200)
libc.syscall(250, 6, -3, text, 200)  # KEYCTL_DESCRIBE of the session keyring
print(text.value.decode().split(";")[-1])
print(libc.syscall(250, 10, -3, b"user", b"secret", 0))  # KEYCTL_SEARCH
'''
print(with_this_python(container).run([sys.executable, "-c", code], check=True).text)
"""
    assert run(program).stdout.split() == ["_ses", "-1"]


def test_the_keys_of_the_host_are_masked(box: Container) -> None:
    assert sh(box, "cat /proc/keys | wc -c") == "0"


def test_limits_of_the_process_are_as_asked(box: Container) -> None:
    limited = (
        box.with_rlimit("RLIMIT_NOFILE", 77, 99).with_rlimit("RLIMIT_CORE", 0).with_rlimit("RLIMIT_FSIZE", 512_000)
    )
    assert sh(limited, "ulimit -n; ulimit -Hn; ulimit -c; ulimit -Hc; ulimit -f").split() == [
        "77",
        "99",
        "0",
        "0",
        "1000",
    ]
    assert sh(limited.with_rlimit("RLIMIT_NOFILE", 50), "ulimit -n; ulimit -Hn").split() == ["50", "50"]
    assert limited.run(["sh", "-c", "head -c 1000000 /dev/zero > /file"]).ok is False
    unlimited = box.with_rlimit("RLIMIT_CORE", resource.RLIM_INFINITY)
    assert sh(unlimited, "ulimit -c; ulimit -Hc").split() == ["unlimited"] * 2
    assert unlimited == box.with_rlimit("RLIMIT_CORE", 0, 1).with_rlimit("RLIMIT_CORE", 2**64 - 1)
    with pytest.raises(InvalidArgument, match="the soft limit 9 of RLIMIT_NOFILE is above the hard limit 8"):
        box.with_rlimit("RLIMIT_NOFILE", 9, 8)


# ---- where it starts


def test_a_command_starts_in_the_directory_that_is_asked_for(box: Container, tmp_path: Path) -> None:
    assert sh(box, "pwd") == "/"
    assert sh(box.with_workdir("/home/alice"), "pwd") == "/home/alice"
    assert sh(box.with_bind(tmp_path, "/data").with_workdir("/data"), "pwd") == "/data"
    assert sh(box.with_workdir("/home/../etc/./"), "pwd -P") == "/etc"


@pytest.mark.parametrize(
    "path", [*(f"/proc/self/fd/{fd}" for fd in range(3, 40)), "/proc/self/cwd", "/proc/self/root/..", "/proc/1/cwd"]
)
def test_a_command_cannot_start_outside_through_proc(box: Container, path: str) -> None:
    """CVE-2024-21626: a descriptor of the host's that leaks is no way to be in the host's directories."""
    with pytest.raises(StartFailed, match=f"chdir {path}: openat2: (ELOOP|ENOENT|ENOTDIR)"):
        box.with_workdir(path).run(["true"])


@pytest.mark.parametrize(("path", "code"), [("/nowhere", "ENOENT"), ("/etc/passwd", "ENOTDIR")])
def test_a_directory_that_is_not_there_is_refused(box: Container, path: str, code: str) -> None:
    with pytest.raises(StartFailed, match=f"chdir {path}: .*{code}"):
        box.with_workdir(path).run(["true"])


def test_a_directory_that_the_user_may_not_enter_is_refused(box: Container) -> None:
    container = box.with_tmpfs("/closed", mode=0o700).with_workdir("/closed")
    assert sh(container, "pwd") == "/closed"
    with pytest.raises(StartFailed, match=r"chdir /closed: .*EACCES"):
        container.with_user("alice").run(["true"])


def test_a_relative_directory_is_refused(box: Container) -> None:
    with pytest.raises((InvalidArgument, StartFailed), match="relative"):
        box.with_workdir("relative").run(["true"])


# ---- what runs beside the command


def test_the_executable_of_init_cannot_be_written_to(box: Container) -> None:
    """CVE-2019-5736: it is the one program of the host's side that a container can reach, as /proc/1/exe."""
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    container = box.with_init()
    with container.start(["sleep", "60"]) as task:
        fd = os.open(f"/proc/{task.pid}/exe", os.O_RDONLY)
        try:
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == seals
        finally:
            os.close(fd)
    assert sh(container, "(echo x > /proc/1/exe) 2>/dev/null || echo refused") == "refused"
    assert sh(container, "(cat /proc/1/exe > /copy && echo x >> /proc/1/exe) 2>/dev/null || echo refused") == "refused"


def test_a_task_cannot_look_into_its_caller(box: Container) -> None:
    """In the host's pid namespace it sees the caller: as root it is the same user, but has fewer capabilities."""
    shared = box.with_namespace("pid", "host")
    pid = os.getpid()
    for command in ("head -c 1 mem", "head -c 1 environ", "head -c 1 maps", "ls root/", "ls cwd/", "head -c 1 fd/0"):
        result = shared.run(["sh", "-c", f"cd /proc/{pid} && {command}"])
        assert not result.ok, command
        assert b"Permission denied" in result.stderr


def test_an_intruder_cannot_trace_a_command_that_joins(box: Container) -> None:
    """What joins a pid namespace is in the helper's memory, which is not dumpable, until it executes its command."""
    code = """
import os, sys, time
open("/shared/ready", "w").close()
end = time.monotonic() + 3
seen = []
while time.monotonic() < end and not os.path.exists("/shared/done"):
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                seen.append((os.readlink(f"/proc/{name}/exe"), sorted(os.listdir(f"/proc/{name}/fd"))))
            except OSError:
                pass
bad = [entry for entry in seen if "memfd" in entry[0] or not set(entry[1]) <= {"0", "1", "2", "3"}]
print("bad", bad)
"""
    with tempfile.TemporaryDirectory(prefix="pycontain-test-") as directory:
        shared = Path(directory)
        host = with_this_python(Container.from_host()).with_bind(shared, "/shared")
        with host.start([sys.executable, "-c", code]) as intruder:
            wait_for(shared / "ready")
            joined = box.with_namespace("pid", intruder)
            for _ in range(30):
                assert joined.run(["true"], timeout=LIMIT).ok
            (shared / "done").touch()
            result = intruder.wait(LIMIT)
    assert (result.text, result.stderr) == ("bad []\n", b"")


def test_signals_from_inside_reach_no_one_outside(box: Container) -> None:
    assert sh(box, "kill -9 -1; echo still here").endswith("still here")
    assert not box.run(["kill", str(os.getppid())]).ok
    assert signal.getsignal(signal.SIGTERM) is not None


def test_the_callers_soft_limits_are_not_passed_on(busybox_root: Path) -> None:
    program = """
        import resource, sys
        from pycontain import Container
        resource.setrlimit(resource.RLIMIT_NOFILE, (333, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        resource.setrlimit(resource.RLIMIT_CPU, (777, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        print(Container.from_rootfs(sys.argv[1]).run(["sh", "-c", "ulimit -n; ulimit -t; ulimit -c"]).check().text)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(busybox_root)]
    limits = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert limits == ["1024", "unlimited", "0"]


def test_protection_from_the_oom_killer_is_not_passed_on(busybox_root: Path) -> None:
    program = """
        import sys
        from pycontain import Container
        try:
            open("/proc/self/oom_score_adj", "wb", 0).write(b"-500")
        except PermissionError:
            sys.exit("not allowed")
        print(Container.from_rootfs(sys.argv[1]).run(["cat", "/proc/self/oom_score_adj"]).check().text)
        print(open("/proc/self/oom_score_adj").read())
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(busybox_root)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if "not allowed" in ended.stderr:
        pytest.skip("this user may not lower oom_score_adj (CAP_SYS_RESOURCE)")
    assert ended.stdout.split() == ["0", "-500"]
