"""Errors of system calls name the call and its arguments."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pycontain.errors import InvalidArgument
from pycontain.linux.mounts import MountFlag
from pycontain.linux.syscalls import check, encode, error
from pycontain.linux.uts import setdomainname, sethostname


def test_a_result_is_passed_on() -> None:
    assert check(5, "call") == 5


def test_a_failure_has_the_class_of_its_errno_and_shows_the_arguments() -> None:
    with pytest.raises(PermissionError) as caught:
        check(-errno.EPERM, "mount", b"\xff", Path("/mnt"), None, MountFlag.BIND | MountFlag.REC, MountFlag(0), 3)
    assert caught.value.errno == errno.EPERM
    assert caught.value.strerror == f"mount('\\udcff', '/mnt', NULL, BIND|REC, 0, 3): {os.strerror(errno.EPERM)}"


def test_long_arguments_are_cut() -> None:
    assert len(str(error(errno.EINVAL, "mount", "x" * 10_000))) < 300


def test_detail_is_added() -> None:
    assert str(error(errno.EINVAL, "fsconfig", detail="why")) == "[Errno 22] fsconfig(): Invalid argument (why)"


def test_a_nul_byte_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="holds a NUL byte"):
        encode(b"a\0b")


@pytest.mark.parametrize("function", [sethostname, setdomainname])
def test_a_name_that_is_too_long_is_refused_by_the_kernel(function: object) -> None:
    with pytest.raises(OSError, match=r"name\('x+'\)") as caught:
        function("x" * 65)  # type: ignore[operator]
    assert caught.value.errno in (errno.EINVAL, errno.EPERM)
