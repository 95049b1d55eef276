"""Python programs that use pycontain and run as processes of their own: to be killed, interrupted, or set up oddly."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pycontain

SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(pycontain.__file__)))

NOBODY = (
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=-all,+dac_read_search", "--bounding-set=-all,+dac_read_search", "--",
)


def environment() -> dict[str, str]:
    """The caller's environment, in which the same pycontain and the helpers of the tests are found."""
    places = [SOURCE, os.path.dirname(os.path.abspath(__file__)), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in places if place)}


def run(
    program: str, *arguments: object, as_nobody: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, and fails with what it printed when its exit status is not 0.

    `as_nobody` runs it as user 65534, with the one capability that lets it read an interpreter in root's own directory.
    """
    options = {"env": environment(), "capture_output": True, "text": True, "timeout": 120, **options}
    words = [str(argument) for argument in arguments]
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", program, *words]
    done = subprocess.run([*NOBODY, *command] if as_nobody else command, **options)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def popen(program: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Starts a program; standard output is a pipe."""
    options = {"env": environment(), "stdout": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([sys.executable, "-c", program, *(str(argument) for argument in arguments)], **options)
