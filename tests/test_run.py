"""`Container.run`: a command, to its end, and its result."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from inside import in_time
from roots import own_names, with_this_python

from pycontain import Container, InvalidArgument, LimitNotSupported, ProcessFailed, Result
from pycontain.runtimes.drivers import cgroup_driver


def needs(controller: str) -> None:
    reason = cgroup_driver().reason(controller)
    if reason is not None:
        pytest.skip(f"no {controller} controller: {reason.cause}")


def test_a_command_gives_its_exit_code_and_both_streams(box: Container) -> None:
    result = box.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.exit_code, result.signal, result.reason) == (3, None, "exited")
    assert (result.stdout, result.stderr, result.text) == (b"out\n", b"err\n", "out\n")
    assert not result.ok


@pytest.mark.parametrize("code", [0, 1, 2, 125, 126, 127, 128, 137, 255])
def test_every_exit_code_arrives(box: Container, code: int) -> None:
    result = box.run(["sh", "-c", f"exit {code}"])
    assert (result.exit_code, result.signal, result.reason) == (code, None, "exited")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGRTMIN + 3])
def test_a_command_that_a_signal_ends_has_the_signal_and_no_exit_code(box: Container, number: int) -> None:
    result = box.with_init().run(["sh", "-c", f"kill -{int(number)} $$"])
    assert (result.exit_code, result.signal, result.reason) == (None, number, "signaled")


def test_a_command_that_kills_itself_without_a_pid_namespace_is_signaled(box: Container) -> None:
    needs("memory")
    result = box.with_namespace("pid", "host").run(["sh", "-c", "kill -KILL $$"])
    assert (result.exit_code, result.signal, result.reason) == (None, signal.SIGKILL, "signaled")


def test_a_command_that_wants_more_memory_than_it_may_is_out_of_memory(box: Container) -> None:
    needs("memory")
    limited = box.with_limits(memory="16M")
    result = limited.run(["tail", "/dev/zero"])
    assert (result.exit_code, result.signal, result.reason) == (None, signal.SIGKILL, "oom")
    assert result.usage.memory_peak is not None
    assert 8 << 20 < result.usage.memory_peak <= 16 << 20
    assert "ran out of memory" in result.describe()


@pytest.mark.parametrize("command", ["tail /dev/zero", "tail /dev/zero; exit 137", "tail /dev/zero | cat; exit 137"])
def test_a_shell_whose_command_ran_out_of_memory_is_out_of_memory(box: Container, command: str) -> None:
    needs("memory")
    assert box.with_limits(memory="16M").run(["sh", "-c", command]).reason == "oom"


def test_a_shell_that_survives_its_command_that_ran_out_of_memory_has_exited(box: Container) -> None:
    needs("memory")
    result = box.with_limits(memory="16M").run(["sh", "-c", "tail /dev/zero; echo survived"])
    assert (result.reason, result.exit_code, result.text) == ("exited", 0, "survived\n")


def test_more_processes_than_allowed_are_refused_inside(box: Container) -> None:
    needs("pids")
    result = box.with_limits(pids=4).run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done"], timeout=20)
    assert b"fork" in result.stderr
    assert result.usage.pids_peak in (4, None)


def test_a_time_limit_ends_the_whole_tree_and_gives_what_was_printed(box: Container) -> None:
    program = "echo trouble >&2; echo before; (sleep 60 & sleep 60) & sleep 60"
    result = in_time(lambda seconds: box.run(["sh", "-c", program], timeout=seconds), b"before")
    assert (result.reason, result.exit_code, result.signal) == ("timeout", None, signal.SIGKILL)
    assert (result.stdout, result.stderr) == (b"before\n", b"trouble\n")
    assert result.usage.wall_time >= 0.3
    assert "time limit" in result.describe()


def test_a_time_limit_ends_a_command_that_ignores_every_signal(box: Container) -> None:
    command = ["sh", "-c", "trap '' 1 2 3 15; echo deaf; while :; do sleep 60; done"]
    result = in_time(lambda seconds: box.with_init().run(command, timeout=seconds), b"deaf")
    assert (result.reason, result.text) == ("timeout", "deaf\n")


def test_a_time_limit_ends_a_command_that_prints_without_end(box: Container) -> None:
    result = in_time(lambda seconds: box.run(["yes"], timeout=seconds), b"y")
    assert result.reason == "timeout"
    assert result.stdout.startswith(b"y\ny\n")


def test_a_time_limit_of_zero_is_a_time_limit(box: Container) -> None:
    assert box.run(["sleep", "60"], timeout=0).reason == "timeout"


def test_a_time_limit_that_is_not_reached_changes_nothing(box: Container) -> None:
    assert box.run(["echo", "quick"], timeout=60).check().text == "quick\n"


@pytest.mark.parametrize("limit", [-1, -0.001, float("-inf"), float("nan")])
def test_a_time_limit_that_is_none_is_refused(box: Container, limit: float) -> None:
    with pytest.raises(InvalidArgument, match="time limit"):
        box.run(["true"], timeout=limit)


def test_check_gives_the_result_of_a_command_that_succeeded(box: Container) -> None:
    result = box.run(["true"], check=True)
    assert isinstance(result, Result)
    assert result.check() is result
    assert result.ok


def test_check_raises_for_a_command_that_failed_and_carries_both_streams(box: Container) -> None:
    with pytest.raises(ProcessFailed, match="exited with 7") as failure:
        box.run(["sh", "-c", "echo out; echo this went wrong >&2; exit 7"], check=True)
    result = failure.value.result
    assert (result.exit_code, result.stdout, result.stderr) == (7, b"out\n", b"this went wrong\n")
    assert "this went wrong" in str(failure.value)


def test_check_raises_for_a_time_limit_although_the_command_could_exit_with_0(box: Container) -> None:
    with pytest.raises(ProcessFailed, match="time limit"):
        box.run(["sleep", "60"], timeout=0.1, check=True)


def test_text_is_standard_output_decoded(box: Container) -> None:
    assert box.run(["printf", r"\303\244"]).text == "ä"
    assert box.run(["printf", r"\344"], encoding="latin-1").text == "ä"
    assert box.run(["printf", r"a\377"], errors="replace").text == "a\ufffd"
    with pytest.raises(UnicodeDecodeError):
        _ = box.run(["printf", r"\377"]).text


def test_a_result_holds_the_command_and_is_shown_short(box: Container) -> None:
    result = box.run(["sh", "-c", "seq 1 1000"])
    assert result.argv == ("sh", "-c", "seq 1 1000")
    assert len(repr(result)) < 600


def test_usage_counts_time_of_the_whole_tree(box: Container) -> None:
    result = box.run(["sh", "-c", "sh -c 'i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done'; sleep 0.1"])
    usage = result.usage
    assert usage.user_time > 0.005
    assert usage.cpu_time == usage.user_time + usage.system_time
    assert usage.wall_time >= usage.user_time * 0.5
    assert usage.wall_time >= 0.1


def test_usage_counts_memory_and_processes_where_the_machine_can(box: Container) -> None:
    needs("memory")
    program = "dd if=/dev/zero of=/tmp/file bs=1M count=24 2>/dev/null; sleep 60 & sleep 60 & true"
    usage = box.run(["sh", "-c", program]).usage
    assert usage.memory_peak is not None
    assert usage.memory_peak >= 24 << 20
    assert usage.pids_peak is None or usage.pids_peak >= 3


def test_a_limit_that_this_machine_cannot_enforce_is_refused(box: Container) -> None:
    if cgroup_driver().reason("memory") is None:
        pytest.skip("this machine can enforce a memory limit")
    with pytest.raises(LimitNotSupported, match="memory"):
        box.with_limits(memory="16M").run(["true"])


def test_the_command_is_process_1_and_sees_only_its_own(box: Container) -> None:
    assert box.run(["sh", "-c", "echo $$"]).text == "1\n"
    lines = box.run(["ps", "-o", "pid,comm"]).text.splitlines()
    assert [line.split() for line in lines] == [["PID", "COMMAND"], ["1", "ps"]]


def test_with_init_the_command_is_a_child_of_process_1(box: Container) -> None:
    assert box.with_init().run(["sh", "-c", "echo $PPID"]).text == "1\n"


def test_init_reaps_orphans(box: Container) -> None:
    program = "(sleep 0.05 &) ; (sleep 0.05 &) ; sleep 0.3; ps -o stat,comm"
    assert " Z" not in box.with_init().run(["sh", "-c", program]).check().text


def test_what_the_command_leaves_running_ends_with_it(box: Container) -> None:
    result = box.run(["sh", "-c", "setsid sleep 60 & sleep 60 & echo done"])
    assert (result.text, result.reason) == ("done\n", "exited")


@pytest.mark.parametrize("init", [False, True])
def test_a_container_runs_any_number_of_times(box: Container, init: bool) -> None:
    container = box.with_init(init)
    assert [container.run(["sh", "-c", "echo $$; touch /mark; ls /mark"]).exit_code for _ in range(20)] == [0] * 20


def test_a_root_is_never_written_to(box: Container, busybox_root: Path) -> None:
    before = sorted(os.walk(busybox_root))
    program = "echo x > /new && rm /etc/passwd && mkdir /bin/d && chmod 0 /bin/busybox && ls /new /bin/d"
    box.run(["sh", "-c", program])
    assert sorted(os.walk(busybox_root)) == before
    assert (busybox_root / "bin/busybox").stat().st_mode & 0o777 == 0o755
    assert box.run(["cat", "/etc/passwd"]).text == (busybox_root / "etc/passwd").read_text()


def test_the_host_as_root_has_its_programs_and_is_not_written_to(tmp_path: Path) -> None:
    target = Path("/var/tmp") / f"pycontain-test-{os.getpid()}"
    result = Container.from_host().run(["sh", "-c", f"echo written > {target} && cat {target} && cat /etc/os-release"])
    assert result.check().text == "written\n" + Path("/etc/os-release").read_text()
    assert not target.exists()


def test_the_host_as_root_runs_the_same_interpreter() -> None:
    host = with_this_python(Container.from_host())
    result = host.run([sys.executable, "-c", "import sys, attrs; print(sys.version)"])
    assert result.check().text == sys.version + "\n"


def test_the_host_as_root_shows_none_of_its_temporary_files_and_sockets(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    result = Container.from_host().run(["ls", "-A", "/tmp", "/run", str(tmp_path)])
    assert result.text.split() == ["/run:", *own_names("/run"), "/tmp:", *own_names("/tmp")]
    assert result.exit_code == 2


def test_a_debian_as_root_runs_its_own_programs(debian_root: Path) -> None:
    debian = Container.from_rootfs(debian_root)
    program = "echo ${BASH_VERSION:+bash}; id -un; perl -e 'print 6 * 7, qq(\\n)'; dpkg -s dpkg | grep ^Status"
    result = debian.with_user("nobody").run(["bash", "-c", program])
    assert result.check().text == "bash\nnobody\n42\nStatus: install ok installed\n"


def test_a_debian_as_root_installs_a_package_and_forgets_it(debian_root: Path) -> None:
    debian = Container.from_rootfs(debian_root)
    result = debian.run(["sh", "-c", "dpkg-divert --add /etc/motd && dpkg-divert --list | grep motd"])
    assert "/etc/motd" in result.check().text
    assert debian.run(["dpkg-divert", "--list", "/etc/motd"]).text == ""
