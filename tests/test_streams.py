"""The three standard streams: captured, merged, sent to files, inherited, closed; and much of them."""

from __future__ import annotations

import array
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import programs
import pytest

from pycontain import DEVNULL, PIPE, STDOUT, Container, InvalidArgument

MIB = 1 << 20


@contextmanager
def memory_growth_below(limit: int) -> Iterator[None]:
    """Fails when this process's resident memory grew by more than `limit` bytes at any moment."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the peak, see proc(5)
    before = _status("VmRSS")
    yield
    assert _status("VmHWM") - before < limit


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))


# ---- much output


def test_a_gigabyte_of_both_streams_interleaved_goes_to_files_and_not_through_memory(
    box: Container, tmp_path: Path
) -> None:
    once = "head -c 33554432 /dev/zero; head -c 33554432 /dev/zero >&2"
    program = f"i=0; while [ $i -lt 16 ]; do {once}; i=$((i+1)); done"
    out, err = tmp_path / "out", tmp_path / "err"
    try:
        with open(out, "wb") as stdout, open(err, "wb") as stderr, memory_growth_below(32 * MIB):
            result = box.run(["sh", "-c", program], stdout=stdout, stderr=stderr, check=True)
        assert (out.stat().st_size, err.stat().st_size) == (512 * MIB, 512 * MIB)
        assert (result.stdout, result.stderr) == (b"", b"")
    finally:
        out.unlink(missing_ok=True)
        err.unlink(missing_ok=True)


def test_a_gigabyte_of_both_streams_at_once_through_pipes_of_the_caller(box: Container) -> None:
    program = "head -c 536870912 /dev/zero & head -c 536870912 /dev/zero >&2; wait"
    counts = [0, 0]

    def read(fd: int, index: int) -> None:
        while length := len(os.read(fd, MIB)):
            counts[index] += length
        os.close(fd)

    ends = [os.pipe(), os.pipe()]
    threads = [threading.Thread(target=read, args=(end[0], index)) for index, end in enumerate(ends)]
    with memory_growth_below(64 * MIB):
        for thread in threads:
            thread.start()
        box.run(["sh", "-c", program], stdout=ends[0][1], stderr=ends[1][1], check=True)
        for _, end in ends:
            os.close(end)
        for thread in threads:
            thread.join()
    assert counts == [512 * MIB, 512 * MIB]


@pytest.mark.parametrize("start", [False, True], ids=["run", "start"])
def test_64_mebibytes_are_captured_of_both_streams_at_once(box: Container, start: bool) -> None:
    command = ["sh", "-c", "(yes 0123456789abcde | head -c 33554432 | tee /dev/fd/3 >&2) 3>&1"]
    result = (box.start(command).wait(120) if start else box.run(command)).check()
    expected = b"0123456789abcde\n" * (2 * MIB)
    assert result.stdout == expected
    assert result.stderr == expected


def test_standard_error_alone_may_be_large(box: Container) -> None:
    assert len(box.run(["sh", "-c", "head -c 10000000 /dev/zero >&2"]).stderr) == 10_000_000


# ---- standard input


def test_input_arrives_and_its_end_too(box: Container) -> None:
    assert box.run(["cat"], input=b"some\0bytes").stdout == b"some\0bytes"
    assert box.run(["cat"], input="ä\n").text == "ä\n"
    assert box.run(["cat"], input="ä", encoding="latin-1").stdout == b"\xe4"


@pytest.mark.parametrize("data", [b"", ""])
def test_empty_input_is_an_end_at_once(box: Container, data: bytes | str) -> None:
    assert box.run(["wc", "-c"], input=data).text.strip() == "0"


def test_without_input_there_is_an_end_at_once(box: Container) -> None:
    assert box.run(["wc", "-c"], timeout=60).text.strip() == "0"
    assert box.start(["wc", "-c"]).wait(60).text.strip() == "0"


def test_large_input_and_large_output_go_through_at_the_same_time(box: Container) -> None:
    data = os.urandom(24 * MIB)
    assert box.run(["cat"], input=data).stdout == data


@pytest.mark.parametrize("kind", [bytearray, memoryview, lambda data: array.array("I", data)])
def test_input_may_be_any_bytes(box: Container, kind: Callable[[bytes], bytes]) -> None:
    assert box.run(["cat"], input=kind(b"abcd" * 100_000)).stdout == b"abcd" * 100_000


def test_input_that_no_one_reads_is_no_error(box: Container) -> None:
    result = box.run(["true"], input=bytes(8 * MIB))
    assert result.ok


def test_input_that_is_read_in_part_is_no_error(box: Container) -> None:
    assert box.run(["head", "-c", "5"], input=b"hello world" * MIB).stdout == b"hello"


def test_a_command_that_closes_its_input_may_go_on(box: Container) -> None:
    result = box.run(["sh", "-c", "exec 0<&-; sleep 0.1; echo on"], input=bytes(4 * MIB))
    assert result.text == "on\n"


def test_a_time_limit_holds_for_a_command_that_never_reads_its_input(box: Container) -> None:
    assert box.run(["sleep", "60"], input=bytes(4 * MIB), timeout=0.2).reason == "timeout"


def test_a_file_object_is_standard_input(box: Container, tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_text("first\nsecond\n")
    with open(path) as file:
        assert box.run(["cat"], stdin=file).text == "first\nsecond\n"
    with open(path, "rb") as binary:
        binary.seek(0)
        assert box.run(["cat"], stdin=binary.fileno()).text == "first\nsecond\n"


def test_a_socket_is_standard_input_and_output(box: Container) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"ping\n")
        with box.start(["cat"], stdin=theirs.fileno(), stdout=theirs.fileno()) as task:
            assert ours.recv(100) == b"ping\n"
            ours.shutdown(socket.SHUT_WR)
            assert task.wait(60).ok


# ---- where output goes


def test_standard_error_is_merged_in_order(box: Container) -> None:
    result = box.run(["sh", "-c", "echo 1; echo 2 >&2; echo 3; echo 4 >&2"], stderr=STDOUT)
    assert (result.stdout, result.stderr) == (b"1\n2\n3\n4\n", b"")


def test_both_streams_go_to_one_file(box: Container, tmp_path: Path) -> None:
    path = tmp_path / "both"
    with open(path, "w") as file:
        result = box.run(["sh", "-c", "echo 1; echo 2 >&2; echo 3"], stdout=file, stderr=STDOUT)
    assert path.read_text() == "1\n2\n3\n"
    assert result.stdout == b""


def test_a_file_is_appended_to_where_the_caller_is(box: Container, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with open(path, "w") as file:
        file.write("before\n")
        file.flush()
        box.run(["echo", "inside"], stdout=file)
        file.seek(0, os.SEEK_END)
        file.write("after\n")
    assert path.read_text() == "before\ninside\nafter\n"


def test_output_can_be_thrown_away(box: Container) -> None:
    result = box.run(["sh", "-c", "echo out; echo err >&2; exit 1"], stdout=DEVNULL, stderr=DEVNULL)
    assert (result.stdout, result.stderr, result.exit_code) == (b"", b"", 1)


def test_a_pipe_that_the_caller_reads_shows_output_while_the_command_runs(box: Container) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as reader, box.start(["sh", "-c", "echo now; sleep 60"], stdout=write_end):
        os.close(write_end)
        assert reader.readline() == "now\n"


def test_a_reader_that_goes_away_ends_the_writer_by_sigpipe(box: Container) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        result = box.with_init().run(["yes"], stdout=write_end, timeout=60)
    finally:
        os.close(write_end)
    assert result.signal == 13


def test_the_caller_s_own_streams_are_inherited(busybox_root: Path) -> None:
    program = """
import sys
from pycontain import Container
result = Container.from_rootfs(sys.argv[1]).run(["sh", "-c", "cat; echo err >&2"], stdin=None, stdout=None, stderr=None)
assert result.stdout == result.stderr == b""
"""
    done = programs.run(program, busybox_root, input="typed\n")
    assert (done.stdout, done.stderr) == ("typed\n", "err\n")


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
@pytest.mark.parametrize("ways", ["inherit", "capture", "files"])
def test_streams_that_the_caller_has_closed_confuse_nothing(
    busybox_root: Path, tmp_path: Path, closed: str, ways: str
) -> None:
    report = tmp_path / "report"
    programs.run(CLOSED_STREAMS, busybox_root, closed, ways, report)
    assert report.read_text() == "ok"


# The descriptors that pycontain opens get the numbers 0, 1 and 2 in such a process.
CLOSED_STREAMS = """
import os, sys, traceback
root, closed, ways, report = sys.argv[1:]
for number in closed:
    os.close(int(number))
result = "nothing"
try:
    from pycontain import Container
    box = Container.from_rootfs(root)
    script = "cat; echo out; echo err >&2; for fd in 0 1 2; do test -e /proc/self/fd/$fd || exit $((10+fd)); done"
    script += "; set -- /proc/self/fd/*; test $# = 4"  # with the one by which the shell reads the directory
    for attempt in range(3):
        for container in (box, box.with_init()):
            if ways == "inherit":
                streams = dict(stdin=None, stdout=None, stderr=None)
                if "0" not in closed:
                    streams["stdin"] = -3
                expected = b"", b""
            elif ways == "capture":
                streams, expected = dict(input=b"in "), (b"in out\\n", b"err\\n")
            else:
                out, err = open(report + ".out", "w+b"), open(report + ".err", "w+b")
                streams, expected = dict(stdout=out, stderr=err), (b"", b"")
            done = container.run(["sh", "-c", script], **streams)
            assert done.exit_code == 0, done
            assert (done.stdout, done.stderr) == expected, done
            if ways == "files":
                out.seek(0); err.seek(0)
                assert (out.read(), err.read()) == (b"out\\n", b"err\\n")
                out.close(); err.close()
            task = container.start(["sh", "-c", "echo started"])
            assert task.wait(60).stdout == b"started\\n", task.result
    for number in closed:  # none of pycontain's own descriptors has the number of a standard stream
        assert os.readlink("/proc/self/fd/" + number) == "/dev/null"
    result = "ok"
except BaseException:
    result = traceback.format_exc()
finally:
    with open(report, "w") as file:
        file.write(result)
"""


def test_nothing_else_of_the_caller_is_open_inside(box: Container, tmp_path: Path) -> None:
    with open(tmp_path / "inherited", "w") as file:
        os.set_inheritable(file.fileno(), True)
        result = box.run(["sh", "-c", "exec ls -l /proc/self/fd"])
    lines = result.check().text.splitlines()[1:]
    assert len(lines) == 4  # 0, 1, 2 and the directory that ls reads
    assert "inherited" not in result.text


def test_the_caller_s_files_keep_their_flags(box: Container) -> None:
    ends = [os.pipe(), os.pipe()]
    try:
        box.run(["true"], stdin=ends[0][0], stdout=ends[1][1])
        for end in (ends[0][0], ends[1][1]):
            assert os.get_blocking(end)
            assert not os.get_inheritable(end)
    finally:
        for pair in ends:
            for end in pair:
                os.close(end)


def test_captured_streams_are_ordinary_blocking_pipes_inside(box: Container) -> None:
    result = box.run(["sh", "-c", "cat /proc/self/fdinfo/0 /proc/self/fdinfo/1"], input=b"")
    flags = [int(line.split()[1], 8) for line in result.text.splitlines() if line.startswith("flags")]
    assert len(flags) == 2
    assert all(not value & os.O_NONBLOCK for value in flags)


# ---- what is no stream


def _closed_file() -> object:
    with open(os.devnull, "wb") as file:
        pass
    return file


BAD_STREAMS: list[tuple[str, dict[str, Any], str]] = [
    ("stdout=STDOUT", {"stdout": STDOUT}, "standard error"),
    ("stdin=STDOUT", {"stdin": STDOUT}, "standard error"),
    ("stdin=PIPE", {"stdin": PIPE}, "input"),
    ("a negative number", {"stdout": -7}, "-7"),
    ("a text", {"stdout": "file.txt"}, "file descriptor"),
    ("a path", {"stderr": Path("/tmp/file")}, "file descriptor"),
    ("a closed file", {"stdout": _closed_file()}, "file descriptor"),
    ("an object without a descriptor", {"stdin": object()}, "file descriptor"),
    ("True", {"stdout": True}, "True"),
]


@pytest.mark.parametrize("case", BAD_STREAMS, ids=[case[0] for case in BAD_STREAMS])
def test_what_is_no_stream_is_refused(box: Container, case: tuple[str, dict[str, Any], str]) -> None:
    _, streams, message = case
    for call in (box.run, box.start):
        with pytest.raises(InvalidArgument, match=message):
            call(["true"], **streams)


def test_stdin_and_input_cannot_both_be_given(box: Container) -> None:
    with open(os.devnull) as file, pytest.raises(InvalidArgument, match="stdin and input"):
        box.run(["true"], input=b"", stdin=file)


@pytest.mark.parametrize("data", [3, ["a"], object()])
def test_input_that_is_neither_bytes_nor_text_is_refused(box: Container, data: object) -> None:
    with pytest.raises(InvalidArgument, match="bytes"):
        box.run(["true"], input=data)  # type: ignore[arg-type]


def test_a_descriptor_that_is_not_open_is_named(box: Container) -> None:
    fd = os.open(os.devnull, os.O_WRONLY)
    os.close(fd)
    for name in ("stdin", "stdout", "stderr"):
        with pytest.raises(InvalidArgument, match=f"{fd} is not open"):
            box.run(["true"], **{name: fd})  # type: ignore[arg-type]


def test_an_encoding_that_does_not_exist_is_known_before_the_command_runs(box: Container, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no-such-encoding"):
        box.with_bind(tmp_path, "/data").run(["touch", "/data/ran"], encoding="no-such-encoding")
    assert not (tmp_path / "ran").exists()
