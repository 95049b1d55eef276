"""What tests ask a container from within, by a shell or by Python, and what they compare directories by."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from roots import with_this_python
from typing_extensions import Self

from pycontain import Container, Result, Task
from pycontain.linux.mountinfo import MountInfo, parse
from pycontain.linux.namespaces import NamespaceType

LIMIT = 30  # seconds, so that a test that goes wrong ends

# The beginning of a program that makes mounts in a mount namespace of its own, where no one else sees them.
PRIVATE_MOUNTS = f"""
import os, sys
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
from attrs import evolve
from inside import *
from pycontain import Container
from pycontain.linux import mountinfo
from pycontain.linux.mounts import *
from pycontain.linux.namespaces import NamespaceType, unshare
from pycontain.spec import Mount
unshare(NamespaceType.MOUNT)
mount(None, "/", None, MountFlag.PRIVATE | MountFlag.REC)
root, base = sys.argv[1:3]
"""


def sh(container: Container, script: str) -> str:
    """What a shell script in the container prints, without the last newline. It has to end with status 0."""
    result = container.run(["sh", "-c", script], timeout=LIMIT)
    assert result.ok, f"{result.describe()}\n{result.stdout!r}\n{result.stderr.decode()}"
    return result.text.removesuffix("\n")


def python(container: Container, program: str, *arguments: object) -> str:
    """What this very interpreter prints in the container, whose root is the host's. It has to end with status 0."""
    container = with_this_python(container)
    result = container.run([sys.executable, "-c", program, *map(str, arguments)], timeout=LIMIT)
    assert result.ok, f"{result.describe()}\n{result.stdout!r}\n{result.stderr.decode()}"
    return result.text.removesuffix("\n")


def status(result: Result) -> dict[str, str]:
    """The fields of a /proc/PID/status that was printed."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in result.text.splitlines())}


def mount_table(container: Container) -> dict[str, MountInfo]:
    """What is mounted in the container, by mount point; of mounts on each other the topmost."""
    result = container.run(["cat", "/proc/self/mountinfo"], timeout=LIMIT)
    return {mount.mount_point: mount for mount in parse(result.stdout)}


def namespace_of(pid: int | str, kind: NamespaceType) -> str:
    """Which namespace a process is in, as the kernel writes it: `uts:[4026531838]`."""
    return os.readlink(f"/proc/{pid}/ns/{kind.file_name}")


def wait_for(path: Path) -> None:
    """Until a file that the other side makes is there."""
    deadline = time.monotonic() + LIMIT
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.005)


def ends(task: Task) -> Result:
    return task.wait(LIMIT)


class Gate:
    """A standard input at which a shell waits by `read go`: as long as the test needs for what comes before, however
    busy the machine is. A context manager.

    Attributes:
        fd: what the shell reads from.
    """

    def __enter__(self) -> Self:
        self.fd, self._write_end = os.pipe()
        return self

    def open(self) -> None:
        os.write(self._write_end, b"go\n")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self.fd)
        os.close(self._write_end)


def in_time(run: Callable[[float], Result], printed: bytes) -> Result:
    """What `run` gives with a time limit that is over after it has printed this: the next longer one is taken where the
    machine was too busy for that."""
    for seconds in (0.3, 3, 30):
        result = run(seconds)
        if printed in result.stdout:
            break
    return result


def digest(tree: Path | str) -> str:
    """A hash of a whole directory: names, contents, links, modes, owners, times, inodes and extended attributes."""
    state = hashlib.sha256()

    def add(*values: Any) -> None:
        state.update(repr(values).encode())

    for directory, names, files in os.walk(tree):
        names.sort()
        for name in [".", *names, *sorted(files)]:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            add(path, info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_mtime_ns, info.st_ino)
            add(
                sorted(
                    (key, os.getxattr(path, key, follow_symlinks=False))
                    for key in os.listxattr(path, follow_symlinks=False)
                )
            )
            if os.path.islink(path):
                add(os.readlink(path))
            elif os.path.isfile(path):
                state.update(Path(path).read_bytes())
    return state.hexdigest()
