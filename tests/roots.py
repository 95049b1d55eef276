"""Root directories for the tests: busybox with its applets, and a Debian made by mmdebstrap."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pycontain
from pycontain import Container
from pycontain.defaults import interpreter_mounts

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
alice:x:1000:1000:Alice:/home/alice:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""
GROUP = """\
root:x:0:
daemon:x:1:
tty:x:5:
users:x:100:alice
alice:x:1000:
audio:x:29:alice
nogroup:x:65534:
"""


class Missing(Exception):
    """A root cannot be made here; the text is the reason with which the tests are skipped."""


def static_busybox() -> str:
    """The path of a statically linked busybox. Raises `Missing`."""
    path = shutil.which("busybox")
    if path is None:
        raise Missing("there is no busybox (Debian: busybox-static)")
    if _has_interpreter(path):
        raise Missing(f"{path} is not linked statically (Debian: busybox-static)")
    return path


def _has_interpreter(path: str) -> bool:
    """Whether a 64-bit ELF file asks for a dynamic loader (PT_INTERP), see elf(5)."""
    with open(path, "rb") as file:
        head = file.read(4096)
    start = int.from_bytes(head[32:40], "little")
    size, count = (int.from_bytes(head[at : at + 2], "little") for at in (54, 56))
    return any(head[start + i * size : start + i * size + 4] == b"\x03\0\0\0" for i in range(count))


def with_this_python(host: Container) -> Container:
    """A clone of the host with this interpreter and this pycontain, also when they are in /tmp: a clone has its own."""
    for place in {sys.prefix, str(Path(pycontain.__file__).parents[1])}:
        if place.startswith("/tmp/"):
            host = host.with_bind(place, place, read_only=True)
    return host


def own_names(directory: str) -> list[str]:
    """What a clone of the host has in a directory that is its own: the place of this interpreter, if it is there."""
    prefix = directory + "/"
    places = [mount.destination for mount in interpreter_mounts() if mount.destination.startswith(prefix)]
    return sorted({place[len(prefix) :].split("/")[0] for place in places})


def make_busybox_root(path: Path) -> Path:
    """Fills the empty directory `path` with busybox, a link for each applet, passwd, group, the usual directories."""
    binary = static_busybox()
    path.chmod(0o755)
    for name in ("bin", "etc", "home/alice", "root", "tmp", "var", "proc", "sys", "dev"):
        (path / name).mkdir(parents=True)
    (path / "tmp").chmod(0o1777)
    os.chown(path / "home/alice", 1000, 1000)
    shutil.copy(binary, path / "bin/busybox")
    for applet in subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (path / "bin" / applet).symlink_to("busybox")
    (path / "etc/passwd").write_text(PASSWD)
    (path / "etc/group").write_text(GROUP)
    return path


def make_debian_root(cache: Path) -> Path:
    """A minimal Debian of the host's suite below `cache`, made once: pytest's cache keeps it for the next run.

    Several test processes may ask at once: one makes it, the others wait. Raises `Missing`.
    """
    suite = _debian_suite()
    tool = shutil.which("mmdebstrap")
    if tool is None:
        raise Missing("there is no mmdebstrap (Debian: mmdebstrap)")
    root = cache / f"debian-{suite}"
    with _locked(cache / f"debian-{suite}.lock"):
        if not root.is_dir():
            unfinished = cache / f"debian-{suite}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            # in a mount namespace of its own: its mounts must not be seen by tests that run at the same time
            command = ["unshare", "--mount", tool, "--variant=minbase", "--mode=root", "--format=directory"]
            command += [suite, str(unfinished)]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode != 0:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise Missing(f"mmdebstrap cannot make a Debian {suite}: {done.stderr.strip().splitlines()[-1:]}")
            unfinished.chmod(0o755)
            unfinished.rename(root)
    return root


def _debian_suite() -> str:
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        text = ""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    suite = fields.get("VERSION_CODENAME", "").strip('"')
    if fields.get("ID") != "debian" or not suite:
        raise Missing("the host is not a Debian, whose suite the root would be")
    return suite


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
