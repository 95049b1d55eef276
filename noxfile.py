"""What one can do with the project: `nox -l` shows it, `nox -s tests-3.11 -- -k terminal` does a part of it.

Everything but lint, types and docs needs root, gcc and the packages that the README names.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
nox.options.sessions = ["lint", "types", "docs", "tests"]
nox.options.error_on_missing_interpreters = False


def interpreters() -> list[str]:
    """The versions of Python that are here, those of pyenv included.

    Its shims fail for every version that is not selected: the directories behind them are searched instead.
    """
    if shutil.which("pyenv"):
        root = Path(subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True).stdout.strip())
        newest_first = sorted(root.glob("versions/3.*/bin"), key=_version, reverse=True)
        kept = [part for part in os.environ["PATH"].split(os.pathsep) if Path(part) != root / "shims"]
        os.environ["PATH"] = os.pathsep.join([*kept, *map(str, newest_first)])
    return [f"3.{minor}" for minor in range(10, 15) if shutil.which(f"python3.{minor}")]


def _version(directory: Path) -> list[int]:
    return [int(part) for part in directory.parent.name.split(".") if part.isdigit()]


@nox.session(python=interpreters())
def tests(session: nox.Session) -> None:
    """The tests, on every Python that is here. What follows `--` goes to pytest."""
    session.install("-e", ".[test]")
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    session.run("pytest", "-n", "auto", "-m", "not serial")
    session.run("pytest", "-m", "serial")


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, for everything that is Python."""
    session.install(".[lint]")
    session.run("ruff", "check")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict, for the package."""
    session.install(".[types]")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, in docs/_build/html. A warning is an error; the examples are run by the tests."""
    session.install(".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html")


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Start, scale and import, compared with a floor in C and with other tools. `-- --quick` takes seconds."""
    session.install("-e", ".")
    session.run("python", "benchmarks/start.py", *session.posargs)
    if not session.posargs:
        session.run("python", "benchmarks/scale.py")
        session.run("python", "benchmarks/import_time.py")


@nox.session
def seccomp(session: nox.Session) -> None:
    """Writes the prebuilt seccomp filters anew, after a change of the default profile."""
    session.install("-e", ".")
    session.run("python", "-m", "pycontain.linux.seccomp")


@nox.session
def sanitizers(session: nox.Session) -> None:
    """The C core under the address and undefined-behaviour sanitizers."""
    session.install("-e", ".[test]")
    session.run("python", "tests/native/run_sanitizers.py", *session.posargs)


VM_TESTS = (
    "tests/cgroups", "tests/test_task_control.py", "tests/test_cgroup_mount.py", "tests/test_devices.py",
    "tests/test_limits.py", "tests/test_run.py", "tests/test_nested.py", "tests/test_hardening_options.py",
)
VM_USER_TESTS = ("tests/cgroups",)  # only root starts containers without a user namespace
VM_LOGIN_TESTS = ("tests/cgroups/test_cgroup_detection.py", "tests/cgroups/test_systemd_driver.py")


@nox.session
@nox.parametrize(
    ("backend", "as_user"),
    [("native", False), ("native", True), ("uml", False), ("uml", True)],
    ids=["native", "native-user", "uml", "uml-user"],
)
def vm(session: nox.Session, backend: str, as_user: bool) -> None:
    """The tests of limits in a throw-away Debian with systemd, on the hierarchies here or on cgroup v2 (`tools/vm`).

    Needs root and mmdebstrap; the first run makes the image, in a minute or more. See docs/testing.md.
    """
    if obstacle := _no_machine():
        session.skip(obstacle)
    machine = ["python", "tools/vm", "--backend", backend]
    ours = _python(session, "get_python_version()")
    theirs = _python(session, "get_python_version()", *machine, "--timeout=120", "--")
    if theirs is None:
        session.skip(f"no {backend} machine runs here: see above")
    if ours != theirs:  # some packages of the tests are compiled for one version
        session.skip(f"this is Python {ours}, the machine has {theirs}: nox --force-python {theirs} -s vm")
    session.install("-e", ".[test]")
    packages = _python(session, "get_path('purelib')")
    machine += ["--timeout", "1200", "--share", ".:/src", "--share", f"{packages}:/packages"]
    pytest = ["env", f"CI={os.environ.get('CI', '')}", "python3", "-m", "pytest"]
    if not as_user:
        session.run(*machine, "--", *pytest, *(session.posargs or VM_TESTS))
        return
    session.run(*machine, "--user", "--", "tools/vm/delegated.sh", *pytest, *(session.posargs or VM_USER_TESTS))
    if not session.posargs:
        session.run(*machine, "--user", "--", *pytest, *VM_LOGIN_TESTS)


def _python(session: nox.Session, call: str, *enter: str) -> str | None:
    """What a call of sysconfig gives, here or by a command that enters a machine. None where there is no machine."""
    program = f"import sysconfig; print('it is', sysconfig.{call})"
    output = session.run(*enter, "python3", "-c", program, silent=True, success_codes=[0, 124, 125])
    *before, last = str(output).splitlines() or [""]
    if last.startswith("it is "):
        return last.removeprefix("it is ")
    session.log("\n".join([*before, last]))
    return None


def _no_machine() -> str | None:
    """Why there can be no machine here."""
    release = platform.freedesktop_os_release() if os.path.exists("/etc/os-release") else {}
    if platform.machine() != "x86_64" or release.get("ID") != "debian":
        return "machines are made on Debian for amd64 only"
    if os.geteuid() != 0:
        return "making machines needs root"
    if shutil.which("mmdebstrap") is None:
        return "there is no mmdebstrap (Debian: mmdebstrap)"
    return None
