"""The constants of the wrappers are those of the kernel's headers."""

from __future__ import annotations

import enum
import shutil
import subprocess
from pathlib import Path

import pytest

from pycontain.linux.mounts import MountAttr, MountFlag, MoveFlag, TreeFlag, UmountFlag
from pycontain.linux.namespaces import NamespaceType
from pycontain.linux.paths import Resolve
from pycontain.linux.prctl import SecureBit

OTHER_NAMES = {"NEWMOUNT": "NEWNS", "NEWNETWORK": "NEWNET"}
NEWER_THAN_SOME_HEADERS = {"SET_GROUP", "BENEATH"}


def values_in(header: str, names: list[str], directory: Path) -> dict[str, int]:
    """The values of macros, as far as the header has them, printed by a C program."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (cc)")
    lines = [f'#ifdef {name}\nprintf("{name} %lu\\n", (unsigned long)(unsigned)({name}));\n#endif' for name in names]
    source = "\n".join(("#include <stdio.h>", f"#include <{header}>", "int main(void) {", *lines, "}"))
    program = directory / "program"
    subprocess.run([compiler, "-x", "c", "-o", program, "-"], input=source, text=True, check=True)
    output = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in map(str.split, output.splitlines())}


@pytest.mark.parametrize(
    ("flags", "header", "prefixes"),
    [
        (MountFlag, "linux/mount.h", ("MS_",)),
        (UmountFlag, "sys/mount.h", ("MNT_", "UMOUNT_")),
        (MountAttr, "linux/mount.h", ("MOUNT_ATTR_", "MOUNT_ATTR__")),
        (TreeFlag, "linux/mount.h", ("OPEN_TREE_",)),
        (TreeFlag, "linux/fcntl.h", ("AT_",)),
        (MoveFlag, "linux/mount.h", ("MOVE_MOUNT_",)),
        (Resolve, "linux/openat2.h", ("RESOLVE_",)),
        (SecureBit, "linux/securebits.h", ("SECBIT_",)),
        (NamespaceType, "linux/sched.h", ("CLONE_NEW",)),
    ],
)
def test_the_constants_are_those_of_the_headers(
    flags: type[enum.IntFlag], header: str, prefixes: tuple[str, ...], tmp_path: Path
) -> None:
    members = {prefix + str(member.name): member for prefix in prefixes for member in flags}
    for ours, name in OTHER_NAMES.items():
        if "CLONE_" + ours in members:
            members["CLONE_" + name] = members.pop("CLONE_" + ours)
    values = values_in(header, list(members), tmp_path)
    assert values == {name: member for name, member in members.items() if name in values}
    if flags is not TreeFlag:  # its names come from two headers
        missing = {str(member.name) for member in flags} - {str(members[name].name) for name in values}
        assert missing <= NEWER_THAN_SOME_HEADERS
