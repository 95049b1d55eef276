"""What all tests share: the roots, and the check that nothing of a test stays behind."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
from leftovers import State, left_since, token
from roots import Missing, make_busybox_root, make_debian_root

from pycontain import Container, PycontainError

# No example is timed, since a busy or emulated machine makes any of them slow. Where a change is judged (CI is set) the
# examples are the same each time, so that what fails is the change.
hypothesis.settings.register_profile(
    "pycontain", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
hypothesis.settings.load_profile("pycontain")


def pytest_configure() -> None:
    """What a shell starts in the background ignores Ctrl-C and Ctrl-\\, and what nohup starts a hang-up. Programs
    inherit that, and tests send them these signals: they are handled here instead, which is not inherited."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)


@pytest.fixture(scope="session")
def busybox_root() -> Iterator[Path]:
    """A directory with a static busybox, all its applets in /bin, users (root, alice 1000, nobody) and /tmp.

    All users can reach it, which is not so of pytest's own directories."""
    with tempfile.TemporaryDirectory(prefix="pycontain-busybox-") as directory:
        try:
            yield make_busybox_root(Path(directory))
        except Missing as missing:
            pytest.skip(str(missing))


@pytest.fixture(scope="session")
def debian_root(request: pytest.FixtureRequest) -> Path:
    """A directory with a minimal Debian of the host's suite. It is kept in pytest's cache (`pytest --cache-clear`)."""
    cache = getattr(request.config, "cache", None)
    if cache is None:
        pytest.skip("pytest's cache is switched off")
    try:
        return make_debian_root(Path(cache.mkdir("roots")))
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def box(busybox_root: Path) -> Container:
    """A container with busybox as its root."""
    return Container.from_rootfs(busybox_root)


@pytest.fixture
def public_path() -> Iterator[Path]:
    """An empty directory that all users can reach, which is not so of `tmp_path`."""
    with tempfile.TemporaryDirectory(prefix="pycontain-public-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.fixture
def root_user() -> None:
    """For tests that have to be root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(scope="session")
def _used_once() -> None:
    """Uses pycontain once, so that what it keeps for the life of the process (the table, the guard's pipe, the helper,
    the mount table) is there before the first test."""
    try:
        Container.from_host().with_init().run(["true"])
    except PycontainError:
        pass  # nothing can be started here; the tests that need it say why


@pytest.fixture(autouse=True)
def _nothing_stays_behind(_used_once: None) -> Iterator[None]:
    before = State.now()
    yield
    left = left_since(before)
    assert not left, "left behind:\n  " + "\n  ".join(left)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failing test shows the plans of its containers and what of this process is there."""
    report = yield
    if report.failed and call.excinfo is not None:
        for name, container in _containers(call.excinfo):
            report.sections.append((f"plan of {name}", _plan(container)))
        state = State.now()
        lines = [*state.processes, *state.cgroups, *state.tasks, f"{len(state.mounts)} mounts"]
        report.sections.append((f"state of the owner {token()}", "\n".join(lines)))
    return report


def _containers(failure: pytest.ExceptionInfo[BaseException], limit: int = 2) -> list[tuple[str, Container]]:
    """Containers in the variables of the functions through which an exception went, the last ones first."""
    found: list[tuple[str, Container]] = []
    for entry in reversed(failure.traceback):
        for name, value in entry.locals.items():
            if isinstance(value, Container) and all(value is not other for _, other in found):
                found.append((name, value))
    return found[:limit]


def _plan(container: Container) -> str:
    try:
        return f"{container!r}\n{container.plan()}"
    except Exception as error:  # what is shown beside a failure must not hide it
        return f"{container!r}: {error}"
