"""What a machine is to do: a command and copies of directories, which it takes from a tar archive."""

from __future__ import annotations

import argparse
import io
import os
import shlex
import tarfile
from pathlib import Path
from typing import NamedTuple

import recipe


class Share(NamedTuple):
    directory: str
    path: str


class Job(NamedTuple):
    command: list[str]
    shares: list[Share]
    as_user: bool

    def write(self, archive: Path) -> None:
        """The archive that the machine unpacks in its root: run/job/{user,command}, and the shares."""
        place = self.shares[0].path if self.shares else "/"
        script = f"cd {shlex.quote(place)} && exec {shlex.join(self.command)}\n"
        with tarfile.open(archive, "w") as tar:
            _add_text(tar, "run/job/command", script)
            _add_text(tar, "run/job/user", recipe.USER if self.as_user else "root")
            for share in self.shares:
                tar.add(share.directory, share.path.lstrip("/"), filter=self._taken)

    def _taken(self, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """Not caches, environments and what git keeps; it all belongs to the user of the command."""
        name = os.path.basename(member.name)
        if member.isdir() and (name.startswith(".") or name == "__pycache__"):
            return None
        if not (member.isdir() or member.isreg() or member.issym() or member.islnk()):
            return None
        member.uid = member.gid = recipe.UID if self.as_user else 0
        member.uname = member.gname = ""
        return member


def share(text: str) -> Share:
    """DIRECTORY:PATH, as it is written on the command line."""
    directory, colon, path = text.rpartition(":")
    if not colon or not path.startswith("/") or not os.path.isdir(directory):
        raise argparse.ArgumentTypeError(f"{text!r} is not DIRECTORY:PATH, an existing directory and an absolute path")
    return Share(directory, path)


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    data = text.encode()
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))
