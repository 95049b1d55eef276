"""Registries and clients for the tests of this directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import FaultyProxy, faulty_proxy
from registries import Certificate, Server, docker_registry

from pycontain.registry.client import Registry
from pycontain.registry.retry import Patience

Connect = Callable[..., Registry]
QUICK = Patience(attempts=4, first_pause=0.01, longest_pause=3.0, total=60.0, connect=20.0, silence=20.0)


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the configuration of the user nor the proxies of the machine."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker"))
    for name in ("REGISTRY_AUTH_FILE", "PYCONTAIN_MIRRORS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A registry that is open to all."""
    with docker_registry() as started:
        yield started


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.make(tmp_path_factory.mktemp("certificates"), "registry")


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultyProxy]:
    """A proxy in front of that registry. What it is told to do wrong has to happen."""
    with faulty_proxy(server.host) as started:
        yield started
        assert not started.left, "a fault was expected and did not happen"


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes clients, which are closed after the test; by default they lose patience quickly."""
    with ExitStack() as stack:
        def client(host: str, **options: Any) -> Registry:
            return stack.enter_context(Registry(host, **{"patience": QUICK, **options}))

        yield client


@pytest.fixture
def registry(server: Server, connect: Connect) -> Registry:
    """A client of the open registry."""
    return connect(server.host)
