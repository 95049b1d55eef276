"""Runs what changes a process in a process of its own: pytest's must stay in its namespaces."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes namespaces or mounts")


def run_python(code: str, *arguments: str) -> str:
    """Runs a program in a new interpreter and returns what it printed, without the last newline.

    The program finds `arguments` in sys.argv[1:]. Unless it ends with status 0 the test fails with its traceback.
    """
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.removesuffix("\n")


def open_descriptors() -> dict[str, str]:
    """The descriptors of this process and what they are, to be compared before and after."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one of the listing itself
            continue
    return found
