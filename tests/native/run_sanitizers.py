"""Runs tests with the C core under the address and undefined-behaviour sanitizers.

    python tests/native/run_sanitizers.py [PYTEST_ARGUMENT...]

Where no argument is a path these are the tests that start processes and those of the system calls. The instrumented
core is built into a temporary directory, beside a copy of the package; the one in the source tree stays as it is.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAGS = "-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
SELECTION = ("linux", "native", "runtimes", "test_run.py", "test_streams.py", "test_task.py")
# It imports the package in a container, whose environment has no LD_PRELOAD.
WITHOUT = "tests/runtimes/test_failure.py::test_a_container_in_which_another_is_started_is_told_of_its_filter"


def main(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="pycontain-sanitizers-") as directory:
        package = build(Path(directory))
        chosen = [os.path.abspath(word) if os.path.exists(word.split("::")[0]) else word for word in arguments]
        if not any(map(os.path.isabs, chosen)):
            chosen += [str(ROOT / "tests" / path) for path in SELECTION]
        command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
        command += ["--deselect", WITHOUT, *chosen]
        return subprocess.run(command, cwd=package, env={**os.environ, **environment(package)}).returncode


def build(directory: Path) -> Path:
    """Builds the instrumented core; returns the directory to import the package from."""
    package = directory / "package"
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    command += ["--build-temp", str(directory / "objects"), "--build-lib", str(package)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYCONTAIN_CFLAGS": FLAGS}, check=True)
    others = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "pycontain", package / "pycontain", ignore=others, dirs_exist_ok=True)
    return package


def environment(package: Path) -> dict[str, str]:
    """The address sanitizer's runtime has to be the first library of the process. Python's own leaks do not count."""
    return {
        "LD_PRELOAD": _runtime("libasan.so"),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
        "PYTHONPATH": str(package),
        "PYTHONFAULTHANDLER": "",
    }


def _runtime(name: str) -> str:
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    path = subprocess.run([*compiler, f"-print-file-name={name}"], stdout=subprocess.PIPE, text=True, check=True).stdout
    if "/" not in path:
        raise SystemExit(f"the compiler {compiler[0]} has no {name}: install the sanitizers, or use gcc")
    return path.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
