"""`pycontain run`: exit statuses, every option proven inside, standard streams."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from commandline import (
    COMMAND,
    complaint_of,
    environment,
    marker,
    output_of,
    run_cli,
    start_cli,
    token_of,
    wait_until_gone,
)

from pycontain import NetworkNamespace
from pycontain.cgroups import detect

# ---- exit statuses


@pytest.mark.parametrize("status", [0, 1, 7, 124, 125, 255])
def test_the_exit_status_is_the_commands_own(busybox_root: Path, status: int) -> None:
    done = run_cli("run", "--rootfs", busybox_root, "--", "sh", "-c", f"exit {status}")
    assert done.returncode == status
    assert done.stderr == b""


@pytest.mark.parametrize(("name", "status"), [("TERM", 143), ("KILL", 137), ("SEGV", 139)])
def test_the_exit_status_is_128_and_the_signal_that_ended_the_command(
    busybox_root: Path, name: str, status: int
) -> None:
    done = run_cli("run", "--init", "--rootfs", busybox_root, "sh", "-c", f"kill -{name} $$")
    assert done.returncode == status


def test_the_exit_status_is_124_when_the_time_is_over_and_everything_is_killed(busybox_root: Path) -> None:
    word = marker()
    script = f"sh -c 'sleep 100; :' {word} & echo begun; trap '' TERM; sleep 100"
    done = run_cli("run", "--timeout", "0.5", "--rootfs", busybox_root, "--", "sh", "-c", script)
    assert done.returncode == 124
    assert done.stdout == b"begun\n"
    assert done.stderr == b"pycontain: sh did not end within 0.5 s\n"
    assert wait_until_gone(word) == []


def test_a_command_that_ends_in_time_keeps_its_exit_status(busybox_root: Path) -> None:
    assert run_cli("run", "--timeout", "60", "--rootfs", busybox_root, "sh", "-c", "exit 3").returncode == 3


def test_the_exit_status_is_126_when_the_command_cannot_be_executed() -> None:
    assert "not executable" in complaint_of("run", "--host", "/etc/passwd", status=126)


def test_the_exit_status_is_127_when_the_command_is_not_there(busybox_root: Path) -> None:
    assert complaint_of("run", "--rootfs", busybox_root, "nope", status=127).startswith("'nope' was not found in /")
    assert "/bin/nope" in complaint_of("run", "--rootfs", busybox_root, "/bin/nope", status=127)


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ([], "Missing argument"),
        ([], "See 'pycontain run --help'."),
        (["--pull", "never", "no/such/image"], "there is no image"),
        (["--host", "--rootfs", "/", "true"], "--host and --rootfs"),
        (["--host"], "Missing argument"),
        (["--bogus", "true"], "--bogus"),
        (["--rootfs", "/does/not/exist", "true"], "/does/not/exist"),
        (["--rootfs", "/etc/passwd", "true"], "/etc/passwd"),
        (["--host", "-m", "2Q", "true"], "'2Q' is not a memory limit"),
        (["--host", "-m", "-1", "true"], "'-1' is not a memory limit"),
        (["--host", "--cpus", "x", "true"], "'x'"),
        (["--host", "--cpus", "nan", "true"], "nan is not a number of processors"),
        (["--host", "--cpus", "-1", "true"], "-1.0 is not a number of processors"),
        (["--host", "--cpu-shares", "1", "true"], "cpu shares"),
        (["--host", "--pids-limit", "0", "true"], "0 is not a limit of processes"),
        (["--host", "--timeout", "nan", "true"], "nan is not a time limit"),
        (["--host", "--timeout", "0", "true"], "0 is not a time limit"),
        (["--host", "--timeout", "inf", "true"], "inf is not a time limit"),
        (["--host", "-v", "/etc", "true"], "'/etc' is not SRC:DST"),
        (["--host", "-v", "name:/data", "true"], "./name"),
        (["--host", "-v", "/etc:/data:zz", "true"], "'zz'"),
        (["--host", "-v", "/etc:data", "true"], "'data' is not an absolute path"),
        (["--host", "-v", "/does/not/exist:/data", "true"], "/does/not/exist"),
        (["--host", "--tmpfs", "/x:uid=3", "true"], "'uid=3'"),
        (["--host", "--tmpfs", "/x:size=no", "true"], "'no' is not the size of a tmpfs"),
        (["--host", "--tmpfs", "/x:mode=9", "true"], "'9' is not a mode"),
        (["--host", "-e", "=x", "true"], "'' is not the name of an environment variable"),
        (["--host", "-e", "", "true"], "'' is not the name of an environment variable"),
        (["--host", "-u", "no-such-user", "true"], "no-such-user"),
        (["--host", "-w", "relative", "true"], "'relative'"),
        (["--host", "-w", "/does/not/exist", "true"], "/does/not/exist"),
        (["--host", "--network", "bogus", "true"], "'bogus' is not a network"),
        (["--host", "--network", "/does/not/exist", "true"], "/does/not/exist"),
        (["--host", "--sysctl", "net.x", "true"], "'net.x' is not name=value"),
        (["--host", "--sysctl", "kernel.panic=1", "true"], "kernel.panic"),
        (["--host", "--ulimit", "nofile", "true"], "'nofile' is not name=soft"),
        (["--host", "--ulimit", "bogus=1", "true"], "'bogus' is not the name of a ulimit"),
        (["--host", "--ulimit", "nofile=2:1", "true"], "above the hard one"),
        (["--host", "--hostname", "x" * 65, "true"], "hostname"),
    ],
)
def test_the_exit_status_is_125_for_a_failure_of_pycontain_itself(args: list[str], complaint: str) -> None:
    assert complaint in complaint_of("run", *args, status=125)


def test_an_unknown_command_of_pycontain_is_refused() -> None:
    assert "bogus" in complaint_of("bogus", status=125)


def test_the_death_for_want_of_memory_is_said(busybox_root: Path) -> None:
    command = ["dd", "if=/dev/zero", "of=/tmp/x", "bs=1M", "count=64"]
    done = run_cli("run", "--rootfs", busybox_root, "-m", "16M", "--", *command)
    assert done.returncode == 137
    assert done.stderr.decode().splitlines()[-1].startswith("pycontain: dd ran out of memory")


# ---- options


def test_options_after_the_command_belong_to_it(busybox_root: Path) -> None:
    assert output_of("run", "--rootfs", busybox_root, "echo", "-e", "a\\tb", "--help", "-t") == "a\tb --help -t\n"
    assert output_of("run", "--rootfs", busybox_root, "--", "echo", "--", "-i") == "-- -i\n"


def test_the_host_is_the_root_and_is_not_written_to(tmp_path: Path) -> None:
    del tmp_path  # below /tmp, which is the container's own
    file = Path("/var/tmp") / marker()
    assert output_of("run", "--host", "sh", "-c", f"echo new > {file}; cat {file}") == "new\n"
    assert not file.exists()


def test_a_directory_is_the_root_and_is_not_written_to(busybox_root: Path) -> None:
    before = sorted(os.listdir(busybox_root))
    assert "new" in output_of("run", "--rootfs", busybox_root, "sh", "-c", "touch /new; ls /").split()
    assert sorted(os.listdir(busybox_root)) == before


def test_a_relative_root_is_found(busybox_root: Path) -> None:
    assert output_of("run", "--rootfs", busybox_root.name, "echo", "here", cwd=busybox_root.parent) == "here\n"


def test_variables_are_set_or_passed_on_by_name(busybox_root: Path) -> None:
    output = output_of(
        "run", "--rootfs", busybox_root, "-e", "A=1=2", "-e", "FROM_CALLER", "-e", "NOT_THERE", "-e", "EMPTY=", "env",
        env={"FROM_CALLER": "yes", "SECRET": "no"},
    )
    lines = output.splitlines()
    assert {"A=1=2", "FROM_CALLER=yes", "EMPTY="} <= set(lines)
    assert not [line for line in lines if line.startswith(("NOT_THERE", "SECRET", "TERM"))]


def test_bytes_that_are_not_utf8_reach_the_command(busybox_root: Path) -> None:
    word = os.fsdecode(b"\xff\xfe")
    done = run_cli("run", "--rootfs", busybox_root, "-e", f"A={word}", "sh", "-c", 'echo "$A$1"', "sh", word)
    assert done.stdout == b"\xff\xfe\xff\xfe\n"


def test_a_volume_is_written_through_and_a_read_only_one_is_not(busybox_root: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from outside")
    script = "cat /data/in; echo inside > /data/out; touch /locked/x || echo refused"
    done = run_cli(
        "run", "--rootfs", busybox_root, "-v", f"{tmp_path}:/data", "-v", f"{tmp_path}:/locked:ro", "sh", "-c", script
    )
    assert done.stdout == b"from outsiderefused\n"
    assert (tmp_path / "out").read_text() == "inside\n"
    assert not (tmp_path / "x").exists()


def test_a_volume_may_be_relative_to_the_working_directory(busybox_root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a")
    assert output_of("run", "--rootfs", busybox_root, "-v", "./file:/f:rw", "cat", "/f", cwd=tmp_path) == "a"


def test_a_tmpfs_has_its_size_and_mode(busybox_root: Path) -> None:
    output = output_of(
        "run", "--rootfs", busybox_root, "--tmpfs", "/a", "--tmpfs", "/b:size=2M,mode=0700", "sh", "-c",
        "stat -f -c %T /a; stat -c %a /a; stat -c %a /b; df -k /b | tail -1",
    )
    lines = output.splitlines()
    assert lines[:3] == ["tmpfs", "1777", "700"]
    assert lines[3].split()[1] == "2048"


def test_the_command_starts_in_the_working_directory(busybox_root: Path) -> None:
    assert output_of("run", "--rootfs", busybox_root, "-w", "/home/alice", "pwd") == "/home/alice\n"


@pytest.mark.parametrize(
    ("user", "ids"), [("alice", "1000 1000"), ("12:34", "12 34"), ("alice:users", "1000 100"), ("65534", "65534 65534")]
)
def test_the_command_runs_as_the_user(busybox_root: Path, user: str, ids: str) -> None:
    assert output_of("run", "--rootfs", busybox_root, "-u", user, "sh", "-c", "echo $(id -u) $(id -g)") == f"{ids}\n"


def test_the_limits_are_in_the_cgroup_while_the_command_runs(busybox_root: Path) -> None:
    """Read from outside: the files of the process's own group, v1 or v2."""
    options = ["-i", "-m", "64M", "--cpus", "0.5", "--cpu-shares", "512", "--pids-limit", "17"]
    command = ["sh", "-c", "echo up; read x"]
    process = start_cli("run", "--rootfs", busybox_root, *options, *command, stdin=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"up\n"
        found = _limits_of_child(process.pid)
        process.stdin.close()
    assert process.returncode == 1  # read has met the end of its input
    assert found["memory"] == str(64 << 20)
    assert found["pids"] == "17"
    assert found["quota"] == "50000"


def _limits_of_child(pid: int) -> dict[str, str]:
    """The limits in the groups that pycontain made for the process `pid`'s task."""
    names = [name for name in detect().names() if name.startswith(token_of(pid))]
    assert len(names) == 1
    files = {
        "memory": ("memory.limit_in_bytes", "memory.max"),
        "pids": ("pids.max",),
        "quota": ("cpu.cfs_quota_us", "cpu.max"),
    }
    found = {}
    for directory, _, present in os.walk("/sys/fs/cgroup"):
        if os.path.basename(directory) == names[0]:
            for key, candidates in files.items():
                for name in set(candidates) & set(present):
                    found[key] = Path(directory, name).read_text().split()[0]
    return found


def test_the_network_is_none_unless_asked_for(busybox_root: Path) -> None:
    assert output_of("run", "--rootfs", busybox_root, "ls", "/sys/class/net") == "lo\n"
    assert output_of("run", "--rootfs", busybox_root, "--network", "none", "ls", "/sys/class/net") == "lo\n"


def test_the_network_may_be_the_hosts(busybox_root: Path) -> None:
    output = output_of("run", "--rootfs", busybox_root, "--network", "host", "readlink", "/proc/self/ns/net")
    assert output.strip() == os.readlink("/proc/self/ns/net")


def test_the_network_may_be_the_one_of_a_file(busybox_root: Path, root_user: None) -> None:
    namespace = NetworkNamespace.create(marker())
    try:
        options = ["--rootfs", busybox_root, "--network", namespace.path]
        output = output_of("run", *options, "readlink", "/proc/self/ns/net")
        assert output.strip() == f"net:[{os.stat(namespace.path).st_ino}]"
    finally:
        namespace.delete()


def test_the_host_name_is_the_one_given(busybox_root: Path) -> None:
    assert output_of("run", "--rootfs", busybox_root, "-h", "box", "hostname") == "box\n"


def test_a_read_only_root_refuses_to_be_written_to_and_a_tmpfs_in_it_does_not(busybox_root: Path) -> None:
    script = "touch /x 2>/dev/null || echo refused; touch /scratch/x && echo allowed"
    output = output_of("run", "--rootfs", busybox_root, "--read-only", "--tmpfs", "/scratch", "sh", "-c", script)
    assert output == "refused\nallowed\n"


def test_the_command_is_process_1_unless_there_is_an_init(busybox_root: Path) -> None:
    assert output_of("run", "--rootfs", busybox_root, "sh", "-c", "echo $$") == "1\n"
    assert output_of("run", "--rootfs", busybox_root, "--init", "sh", "-c", "echo $$") == "2\n"


def test_a_sysctl_of_the_containers_network_is_set(busybox_root: Path) -> None:
    options = ["--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "net.ipv4.ip_default_ttl=33"]
    files = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/ip_default_ttl"]
    assert output_of("run", "--rootfs", busybox_root, *options, "cat", *files) == "1\n33\n"


def test_a_ulimit_is_set(busybox_root: Path) -> None:
    options = ["--ulimit", "nofile=100:200", "--ulimit", "core=0", "--ulimit", "stack=unlimited"]
    script = "ulimit -n; ulimit -Hn; ulimit -c; ulimit -s"
    assert output_of("run", "--rootfs", busybox_root, *options, "sh", "-c", script) == "100\n200\n0\nunlimited\n"


def test_more_open_files_are_allowed_than_the_caller_may_have(busybox_root: Path) -> None:
    if subprocess.run(["sh", "-c", "ulimit -n 500; ulimit -n 2000"], capture_output=True).returncode != 0:
        pytest.skip("raising a hard limit needs CAP_SYS_RESOURCE")
    shell = ["sh", "-c", 'ulimit -n 500; exec "$@"', "sh", *COMMAND, "run", "--rootfs", str(busybox_root)]
    command = ["--ulimit", "nofile=400:2000", "-u", "alice", "sh", "-c", "ulimit -n; ulimit -Hn"]
    done = subprocess.run([*shell, *command], env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("400\n2000\n", "")


def test_very_few_open_files_are_no_obstacle_to_the_start(busybox_root: Path) -> None:
    assert output_of("run", "--rootfs", busybox_root, "--ulimit", "nofile=4", "sh", "-c", "ulimit -n") == "4\n"


# ---- standard streams


def test_the_command_inherits_standard_output_and_error_themselves(busybox_root: Path) -> None:
    (out_read, out), (error_read, error) = os.pipe(), os.pipe()
    try:
        script = "readlink /proc/self/fd/1; readlink /proc/self/fd/2 >&2"
        done = run_cli("run", "--rootfs", busybox_root, "sh", "-c", script, stdout=out, stderr=error)
        assert done.returncode == 0
        assert os.read(out_read, 100).decode().strip() == f"pipe:[{os.fstat(out).st_ino}]"
        assert os.read(error_read, 100).decode().strip() == f"pipe:[{os.fstat(error).st_ino}]"
    finally:
        for fd in (out_read, out, error_read, error):
            os.close(fd)


def test_standard_input_is_passed_on_with_i_to_its_end(busybox_root: Path) -> None:
    data = os.urandom(1 << 20)
    assert run_cli("run", "-i", "--rootfs", busybox_root, "cat", stdin=data).stdout == data


def test_standard_input_is_empty_without_i(busybox_root: Path) -> None:
    script = "cat; readlink /proc/self/fd/0"
    done = run_cli("run", "--rootfs", busybox_root, "sh", "-c", script, stdin=b"not for the command")
    assert done.stdout == b"/dev/null\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_a_standard_stream_that_the_caller_has_closed_is_empty(
    busybox_root: Path, tmp_path: Path, closed: str
) -> None:
    """And nothing of pycontain's own takes its number, which the command would write into."""
    script = "for i in 0 1 2; do x=$(readlink /proc/1/fd/$i); echo $x >> /data/seen; done; echo out; echo error >&2"
    words = ["run", "-i", "--rootfs", str(busybox_root), "-v", f"{tmp_path}:/data", "sh", "-c", script]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, *words]
    done = subprocess.run(shell, env=environment(), stdin=subprocess.PIPE, capture_output=True, timeout=60)
    assert done.returncode == 0
    seen = (tmp_path / "seen").read_text().split()
    for redirection, file in zip(("<&-", " >&-", "2>&-"), seen, strict=True):
        assert (file == "/dev/null") == (redirection in f" {closed}"), seen
    assert done.stdout == (b"" if " >&-" in f" {closed}" else b"out\n")


def test_a_reader_that_goes_away_ends_the_command_by_sigpipe(busybox_root: Path) -> None:
    process = start_cli("run", "--rootfs", busybox_root, "--init", "yes")
    with process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"y\n"
        process.stdout.close()
        assert process.wait(30) == 141


# ---- the command itself


def test_the_version_is_the_packages() -> None:
    import pycontain

    assert output_of("--version") == f"pycontain {pycontain.__version__}\n"


def test_without_arguments_it_says_what_it_can_do() -> None:
    assert "run" in output_of()
    assert "--rootfs" in output_of("run", "--help")
