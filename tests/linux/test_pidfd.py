"""Processes are signalled, waited for and measured through descriptors."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest
from isolated import run_python

from pycontain.linux.pidfd import getfd, pidfd_open, send_signal, wait


def start(*argv: str) -> tuple[int, int]:
    """A child and its pidfd. The test waits for it itself."""
    pid = os.posix_spawnp(argv[0], argv, os.environ)
    return pid, pidfd_open(pid)


def test_an_exit_code_is_reported() -> None:
    pid, fd = start("sh", "-c", "exit 7")
    ended = wait(fd)
    os.close(fd)
    assert ended is not None
    assert (ended.pid, ended.exit_code, ended.signal, ended.core_dumped) == (pid, 7, None, False)


def test_a_signal_is_sent_and_reported() -> None:
    _, fd = start("sleep", "60")
    send_signal(fd, 0)
    send_signal(fd, signal.SIGTERM)
    ended = wait(fd)
    assert ended is not None
    assert (ended.exit_code, ended.signal, ended.core_dumped) == (None, signal.SIGTERM, False)
    with pytest.raises(ProcessLookupError, match=r"pidfd_send_signal\(\d+, 15\): No such process"):
        send_signal(fd, signal.SIGTERM)
    with pytest.raises(ChildProcessError, match="waitid"):
        wait(fd)
    os.close(fd)


def test_without_hanging_none_means_that_it_still_runs() -> None:
    _, fd = start("sleep", "60")
    assert wait(fd, nohang=True) is None
    send_signal(fd, signal.SIGKILL)
    assert wait(fd) is not None
    os.close(fd)


def test_what_the_process_used_is_reported() -> None:
    code = "import time; block = b'x' * 50_000_000\nwhile time.process_time() < 0.2: pass"
    _, fd = start(sys.executable, "-c", code)
    ended = wait(fd)
    os.close(fd)
    assert ended is not None
    assert 0.2 <= ended.user_time + ended.system_time < 30
    assert 50_000_000 < ended.max_rss < 1 << 30


def test_a_signal_handler_of_python_runs_while_waiting() -> None:
    code = """
import os, signal
from pycontain.linux.pidfd import *
seen = []
signal.signal(signal.SIGALRM, lambda *_: (seen.append(1), send_signal(fd, signal.SIGKILL)))
pid = os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
fd = pidfd_open(pid)
signal.setitimer(signal.ITIMER_REAL, 0.1)
print(wait(fd).signal, seen)
"""
    assert run_python(code) == "9 [1]"


def test_a_descriptor_of_another_process_is_duplicated() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        fd = pidfd_open(process.pid)
        copy = getfd(fd, 0)
        assert os.fstat(copy).st_ino == os.fstat(process.stdin.fileno()).st_ino  # type: ignore[union-attr]
        assert not os.get_inheritable(copy)
        os.close(copy)
        with pytest.raises(OSError, match="pidfd_getfd") as caught:
            getfd(fd, 1000)
        assert caught.value.errno == errno.EBADF
        os.close(fd)


def test_no_such_process_is_an_error() -> None:
    with pytest.raises(ProcessLookupError, match=r"pidfd_open\(4194305\): No such process|Invalid argument"):
        pidfd_open(4194305)
