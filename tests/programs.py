"""Python programs that use pycontain and run as processes of their own: to be killed, interrupted, or set up oddly."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pycontain

SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(pycontain.__file__)))


def environment() -> dict[str, str]:
    """The caller's environment, in which the same pycontain is found from every directory."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([SOURCE, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}


def run(program: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, and fails with what it printed when its exit status is not 0."""
    options = {"env": environment(), "capture_output": True, "text": True, "timeout": 120, **options}
    words = [str(argument) for argument in arguments]
    done = subprocess.run([sys.executable, "-X", "dev", "-W", "error", "-c", program, *words], **options)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def popen(program: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Starts a program; standard output is a pipe."""
    options = {"env": environment(), "stdout": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([sys.executable, "-c", program, *(str(argument) for argument in arguments)], **options)
