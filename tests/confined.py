"""Runs Python programs as somebody else: without privileges, under a filter, in a chroot, in a user namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

import pytest

NOBODY = 65534

# Everything is imported first: who gives up privileges may not be able to read the library any more.
PRELUDE = """
import atexit, ctypes, errno, importlib, json, os, pkgutil, shutil, struct, sys, tempfile, traceback
import pycontain
for module in pkgutil.walk_packages(pycontain.__path__, "pycontain."):
    if not module.name.startswith(("pycontain.cli", "pycontain.__main__")):
        importlib.import_module(module.name)
from pycontain import Container, PycontainError, StartFailed
from pycontain.linux import prctl

def read_files():
    "What is read when the first container is compiled: where this process goes it may be out of reach."
    Container.from_host().plan()

def become_nobody():
    read_files()
    directory = os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="pycontain-nobody-")
    os.chown(directory, 65534, 65534)
    atexit.register(shutil.rmtree, directory)
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    prctl.set_dumpable(True)  # else the process may not write the id maps of its children

def filter_calls(answer, *numbers):
    "A seccomp filter that answers these calls with an errno."
    load, equal, ret = 0x20, 0x15, 0x06
    lines = [(load, 0, 0, 0)]
    for number in numbers:
        lines += [(equal, 0, 1, number), (ret, 0, 0, 0x50000 | answer)]
    code = b"".join(struct.pack("=HBBI", *line) for line in [*lines, (ret, 0, 0, 0x7FFF0000)])
    memory = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HL", len(code) // 8, ctypes.addressof(memory)))
    prctl.set_no_new_privs()
    assert ctypes.CDLL(None).prctl(22, 2, program) == 0

def failure_of(container, argv=("true",)):
    "The error of a start, in lines: message, remedy."
    try:
        result = container.run(list(argv))
    except PycontainError as error:
        return f"{error.message}\\n{error.remedy}"
    return f"no error: {result}"
"""


def run(code: str, *arguments: str, under: Sequence[str] = ()) -> str:
    """Runs a program in a new interpreter, itself run by the command `under`; what it printed.

    It finds `arguments` in sys.argv[1:]. Unless it ends with status 0 the test fails with its traceback.
    """
    command = [*under, sys.executable, "-W", "error", "-c", PRELUDE + code, *arguments]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.removesuffix("\n")


def in_user_namespace(script: str = "") -> list[str]:
    """A command that runs another as root of a new user and mount namespace, after a shell script in it."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare (util-linux)")
    probe = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip(f"no user namespace can be made here: {probe.stderr.strip()}")
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", f'{script}\nexec "$@"', "sh"]


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: changes to another user, mounts or a chroot")
