"""`pycontain run -t`: a terminal inside that is one, and the caller's terminal as it was afterwards."""

from __future__ import annotations

import hashlib
import os
import signal
import termios
from pathlib import Path

import pytest
from commandline import Console, complaint_of, marker, run_cli, start_cli, wait_until_gone

PROMPT = "/ # "


def settings_of(console: Console) -> list[object]:
    return list(termios.tcgetattr(console.terminal))


def test_the_command_has_a_terminal_of_its_own_with_the_size_of_the_callers(busybox_root: Path) -> None:
    script = "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; echo $TERM"
    with Console("run", "-it", "--rootfs", busybox_root, "sh", "-c", script, rows=33, columns=99) as console:
        assert console.finish() == 0
        assert console.output == "/dev/pts/0\r\n33 99\r\nall\r\nxterm\r\n"


def test_the_terminal_is_the_controlling_one_and_the_console(busybox_root: Path) -> None:
    script = "echo one > /dev/tty; echo two > /dev/console; stat -c %t:%T /dev/pts/0 /dev/console | uniq | wc -l"
    with Console("run", "-t", "--rootfs", busybox_root, "sh", "-c", script) as console:
        assert console.finish() == 0
        assert console.output.split() == ["one", "two", "1"]


def test_a_shell_has_job_control(busybox_root: Path) -> None:
    with Console("run", "-it", "--rootfs", busybox_root, "sh", "-i") as console:
        assert "can't access tty" not in console.expect(PROMPT)
        console.type("sleep 100\r")
        console.expect("sleep 100")
        _wait_for_child(console, "sleep 100")
        console.type("\x1a")
        console.expect("Stopped")
        console.type("fg\r")
        console.expect("sleep 100")
        _wait_for_child(console, "sleep 100")
        console.type("\x03")
        console.expect(PROMPT)
        console.type("echo status $?\r")
        console.expect("status 130")
        console.type("exit 6\r")
        assert console.finish() == 6


def _wait_for_child(console: Console, command: str) -> None:
    """Until `command` is in the foreground of the terminal inside: it has been executed, and gets the keys."""
    words = command.split()
    while True:
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                argv = Path("/proc", name, "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
                session, _, foreground = Path("/proc", name, "stat").read_text().rpartition(") ")[2].split()[3:6]
            except (OSError, ValueError):
                continue
            if argv == words and foreground == name and _descends(int(session), console.process.pid):
                return
        assert console.process.poll() is None


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    return pid == ancestor


def test_with_an_init_a_shell_has_job_control_too(busybox_root: Path) -> None:
    with Console("run", "-it", "--init", "--rootfs", busybox_root, "sh", "-i") as console:
        assert "can't access tty" not in console.expect(PROMPT)
        console.type("sleep 100\r")
        _wait_for_child(console, "sleep 100")
        console.type("\x1a")
        console.expect("Stopped")
        console.type("kill %1; exit\r")
        console.expect("exit")
        console.type("exit\r")
        assert console.finish() == 0


def test_ctrl_c_reaches_a_program_that_handles_it(busybox_root: Path) -> None:
    script = "trap 'echo caught; exit 4' INT; echo up; while :; do sleep 0.05; done"
    with Console("run", "-it", "--rootfs", busybox_root, "sh", "-c", script) as console:
        console.expect("up")
        console.type("\x03")
        assert console.finish() == 4
        assert "caught" in console.output


@pytest.mark.parametrize("options", [(), ("--init",)])
def test_ctrl_c_ends_a_program_that_does_not_handle_it(busybox_root: Path, options: tuple[str, ...]) -> None:
    """Also as process 1, which the kernel's own signal does not reach."""
    with Console("run", "-it", *options, "--rootfs", busybox_root, "tail", "-f", "/etc/passwd") as console:
        console.expect("root:")
        console.type("\x03")
        assert console.finish() == 130


def test_ctrl_c_is_a_key_like_others_in_a_program_that_wants_it_so(busybox_root: Path) -> None:
    script = "stty raw; echo up; dd bs=1 count=1 2>/dev/null | od -An -tx1"
    with Console("run", "-it", "--rootfs", busybox_root, "sh", "-c", script) as console:
        console.expect("up")
        console.type("\x03")
        assert console.finish() == 0
        assert console.output.split()[-1] == "03"


def test_the_window_is_followed(busybox_root: Path) -> None:
    script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done"
    with Console("run", "-it", "--rootfs", busybox_root, "sh", "-c", script) as console:
        console.expect("24 80")
        console.resize(50, 132)
        console.expect("50 132")
        console.resize(10, 20)
        console.expect("10 20")


# ---- the caller's terminal


def test_the_terminal_is_raw_meanwhile_and_as_it_was_afterwards(busybox_root: Path) -> None:
    with Console("run", "-it", "--rootfs", busybox_root, "sh", "-c", "echo up; read x") as console:
        before = settings_of(console)
        console.expect("up")
        flags = settings_of(console)[3]
        assert isinstance(flags, int)
        assert not flags & (termios.ICANON | termios.ECHO | termios.ISIG)
        console.type("\r")
        assert console.finish() == 0
        assert settings_of(console) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_the_terminal_is_as_it_was_after_a_signal(busybox_root: Path, number: signal.Signals) -> None:
    with Console("run", "-it", "--rootfs", busybox_root, "tail", "-f", "/etc/passwd") as console:
        before = settings_of(console)
        console.expect("root:")
        console.process.send_signal(number)
        assert console.finish() == 128 + number
        assert settings_of(console) == before


def test_the_terminal_is_as_it_was_after_the_time_limit(busybox_root: Path) -> None:
    options = ["--timeout", "0.5", "--rootfs", busybox_root]
    with Console("run", "-it", *options, "sh", "-c", "stty raw; sleep 100") as console:
        before = settings_of(console)
        assert console.finish() == 124
        assert settings_of(console) == before


def test_the_terminal_is_as_it_was_after_an_error(busybox_root: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with Console("run", "-it", "--rootfs", busybox_root, "sh", "-c", "echo up; sleep 100", stdout=full) as console:
        os.close(full)
        before = settings_of(console)
        assert console.finish() == 125
        assert settings_of(console) == before
        assert "pycontain: standard output cannot be used: No space left on device\r\n" in console.output


def test_a_start_that_fails_does_not_touch_the_terminal(busybox_root: Path) -> None:
    with Console("run", "-it", "--rootfs", busybox_root, "nope") as console:
        before = settings_of(console)
        assert console.finish() == 127
        assert settings_of(console) == before
        assert console.output.startswith("pycontain: 'nope' was not found")


def test_without_i_the_terminal_is_not_raw_and_ctrl_c_is_the_callers(busybox_root: Path) -> None:
    # not busybox's shell: its handler of SIGINT takes locks that it may have interrupted, and it hangs in a futex then
    program = 'BEGIN { print "up"; fflush(); while (1); }'
    with Console("run", "-t", "--rootfs", busybox_root, "awk", program) as console:
        console.expect("up")
        flags = settings_of(console)[3]
        assert isinstance(flags, int)
        assert flags & termios.ISIG
        console.type("\x03")
        assert console.finish() == 130


def test_what_is_typed_before_the_command_runs_is_not_lost(busybox_root: Path) -> None:
    with Console("run", "-it", "--rootfs", busybox_root, "sh", "-c", "read x; echo got $x") as console:
        console.type("early\r")
        assert console.finish() == 0
        assert "got early" in console.output


def test_the_end_of_the_callers_terminal_ends_the_command(busybox_root: Path) -> None:
    """As when its window is closed."""
    word = marker()
    console = Console("run", "-it", "--rootfs", busybox_root, "sh", "-c", "echo up; sleep 100", word)
    with console:
        console.expect("up")
        console.hang_up()
        assert console.process.wait(30) == 129
        assert wait_until_gone(word) == []


# ---- without a terminal on the caller's side


def test_all_output_arrives_before_the_end(busybox_root: Path) -> None:
    done = run_cli("run", "-t", "--rootfs", busybox_root, "seq", "100000")
    assert done.returncode == 0
    assert done.stdout == "".join(f"{number}\r\n" for number in range(1, 100001)).encode()


def test_input_from_a_pipe_is_typed_to_its_end(busybox_root: Path) -> None:
    """What docker refuses: "the input device is not a TTY"."""
    done = run_cli("run", "-it", "--rootfs", busybox_root, "sh", "-c", "stty -echo; cat; echo end", stdin=b"one\ntwo\n")
    assert done.returncode == 0
    assert done.stdout.endswith(b"one\r\ntwo\r\nend\r\n")


@pytest.mark.parametrize("stdin", [b"", b"echo 1-$((1+1))\n"])
def test_an_interactive_shell_ends_with_its_input(busybox_root: Path, stdin: bytes) -> None:
    """It changes the terminal's mode for each line, and thereby loses the key for the end that was typed before."""
    done = run_cli("run", "-it", "--rootfs", busybox_root, "sh", stdin=stdin)
    assert done.returncode == 0
    assert (b"1-2\r\n" in done.stdout) == bool(stdin)


def test_the_last_line_of_the_input_may_be_incomplete(busybox_root: Path) -> None:
    done = run_cli("run", "-it", "--rootfs", busybox_root, "sh", "-c", "stty -echo; cat", stdin=b"one\ntwo")
    assert done.returncode == 0
    assert done.stdout.endswith(b"one\r\ntwo")


def test_much_input_is_typed_no_faster_than_it_is_read(busybox_root: Path) -> None:
    lines = b"".join(b"%060d\n" % number for number in range(3000))
    done = run_cli("run", "-it", "--rootfs", busybox_root, "sh", "-c", "stty -echo; md5sum", stdin=lines)
    assert done.returncode == 0
    assert hashlib.md5(lines).hexdigest() in done.stdout.decode()


def test_an_empty_input_is_the_end_at_once(busybox_root: Path) -> None:
    done = run_cli("run", "-it", "--rootfs", busybox_root, "sh", "-c", "read x || echo nothing")
    assert done.stdout == b"nothing\r\n"


def test_a_program_may_close_its_terminal_and_open_it_again(busybox_root: Path) -> None:
    script = "echo first; exec < /dev/null > /dev/null 2>&1; sleep 0.3; echo second > /dev/console"
    done = run_cli("run", "-t", "--rootfs", busybox_root, "sh", "-c", script)
    assert done.stdout == b"first\r\nsecond\r\n"


def test_a_reader_that_goes_away_ends_the_command(busybox_root: Path) -> None:
    process = start_cli("run", "-t", "--rootfs", busybox_root, "yes")
    with process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"y\r"
        process.stdout.close()
        assert process.wait(30) == 141


def test_the_size_is_the_usual_one_where_the_caller_has_none(busybox_root: Path) -> None:
    done = run_cli("run", "-t", "--rootfs", busybox_root, "stty", "size", start_new_session=True)
    assert done.stdout == b"24 80\r\n"


def test_a_terminal_needs_a_command_too(busybox_root: Path) -> None:
    assert "Missing argument" in complaint_of("run", "-it", "--rootfs", busybox_root, status=125)


def test_a_variable_may_name_another_type_of_terminal(busybox_root: Path) -> None:
    done = run_cli("run", "-t", "-e", "TERM=vt100", "--rootfs", busybox_root, "sh", "-c", "echo $TERM")
    assert done.stdout == b"vt100\r\n"
