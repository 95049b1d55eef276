"""The image: a disk with Debian on it and the kernel of user-mode Linux, made once and then never written."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import recipe
from machine import MachineError


def ready() -> Path:
    """The directory with `disk` and `linux.uml`, made by mmdebstrap if not there yet, which takes a minute or more."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # not in the path of all users
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "pycontain-vm")
    release = _release()
    image = cache / recipe.key(release)
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # others that want it wait for the one that makes it
        if not image.is_dir():
            _build(image, release)
    return image


def _release() -> str:
    """The host's release of Debian, which is the machine's too."""
    fields = platform.freedesktop_os_release()
    if fields.get("ID") != "debian" or platform.machine() != "x86_64":
        raise MachineError("machines are made on Debian for amd64 only")
    return fields["VERSION_CODENAME"]


def _build(image: Path, release: str) -> None:
    if os.geteuid() != 0:
        raise MachineError("the image is not yet made, which needs root once")
    for program, package in (("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs")):
        if shutil.which(program) is None:
            raise MachineError(f"there is no {program} (Debian: {package})")
    begun = time.monotonic()
    print(f"tools/vm: making {image}, once", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=image.parent) as directory:
        work = Path(directory)
        root = work / "root"
        _bootstrap(root, release, work)
        _configure(root)
        result = work / "image"
        result.mkdir()
        shutil.move(root / "usr/bin/linux.uml", result)
        _call("mke2fs", "-q", "-t", "ext4", "-m", "0", "-d", str(root), str(result / "disk"), recipe.DISK_SIZE)
        result.rename(image)
    print(f"tools/vm: made in {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def _bootstrap(root: Path, release: str, work: Path) -> None:
    """Debian in a directory, from where the host has its own packages and by the ways that the host uses."""
    sources, settings = work / "sources.list", work / "apt.conf"
    sources.write_text(_sources(release))
    settings.write_text(_call("apt-config", "dump", "Acquire"))
    unread = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "locale", "man")]
    _call(
        "mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", f"--aptopt={settings}", *unread,
        f"--include={','.join(recipe.PACKAGES)}", release, str(root), str(sources),
    )


def _sources(release: str) -> str:
    listed = _call("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    lines = {f"deb {line}\n" for line in listed.splitlines() if line.endswith(" main") and f" {release}" in line}
    if not lines:
        raise MachineError(f"apt has no sources of {release} here")
    return "".join(sorted(lines))


def _configure(root: Path) -> None:
    user = ["useradd", "--create-home", "--uid", str(recipe.UID), "--shell", "/bin/bash", recipe.USER]
    _call("chroot", str(root), *user)
    for name, (path, mode) in recipe.INSTALLED.items():
        shutil.copy(recipe.GUEST / name, root / path)
        (root / path).chmod(mode)
    for path, text in recipe.WRITTEN.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).unlink(missing_ok=True)  # it may be a link
        (root / path).write_text(text)
    units = root / "etc/systemd/system"
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/vm-job.service").symlink_to("../vm-job.service")
    for unit in recipe.MASKED_UNITS:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    for modules in (root / "usr/lib/uml/modules").iterdir():  # where its kernel looks for them
        (root / "usr/lib/modules").mkdir(exist_ok=True)
        shutil.move(modules, root / "usr/lib/modules")
        _call("chroot", str(root), "depmod", modules.name)


def _call(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise MachineError(f"{command[0]} failed:\n{done.stderr[-4000:]}")
    return done.stdout
