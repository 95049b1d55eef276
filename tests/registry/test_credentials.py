"""Credentials are found where docker and podman keep them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from pycontain.errors import RegistryError
from pycontain.registry import credentials as module
from pycontain.registry.credentials import Credentials, stored_credentials


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of docker's configuration, which is not there yet."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which programs are found."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return directory


def write_helper(directory: Path, name: str, script: str) -> None:
    program = directory / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("https://127.0.0.1:5000", "127.0.0.1:5000"),
        ("https://127.0.0.1:5000/v2/", "127.0.0.1:5000"),
        ("http://127.0.0.1:5000/", "127.0.0.1:5000"),
        ("docker.io", "docker.io"),
        ("https://any.docker.io/v1/", "docker.io"),
    ],
)
def test_an_entry_is_found_by_its_host_however_it_is_written(config: Path, key: str, registry: str) -> None:
    config.write_text(json.dumps({"auths": {"other": {"auth": "eDp5"}, key: {"auth": encoded("al:pa:ss é")}}}))
    assert stored_credentials(registry) == Credentials("al", "pa:ss é")


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("127.0.0.1:5000", "127.0.0.1"), ("127.0.0.1", "127.0.0.1:5000"), ("example.org", "a.example.org"),
        ("a.example.org", "example.org"), ("example.org.evil.example", "example.org"),
        ("example.org/part", "example.org"), ("notdocker.io", "docker.io"),
    ],
)
def test_an_entry_is_for_no_other_host(config: Path, key: str, registry: str) -> None:
    config.write_text(json.dumps({"auths": {key: {"auth": encoded("a:b")}}}))
    assert stored_credentials(registry) is None


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"auth": encoded("a:b")}, Credentials("a", "b")),
        ({"auth": encoded("a:b\0\0")}, Credentials("a", "b")),
        ({"username": "a", "password": "b"}, Credentials("a", "b")),
        ({"auth": encoded("a:"), "identitytoken": "t"}, Credentials("a", "", "t")),
        ({"identitytoken": "t"}, Credentials(identity_token="t")),
        ({}, None),
        ({"auth": ""}, None),
        ({"auth": 1}, None),
        ("text", None),
        (None, None),
    ],
)
def test_an_entry_has_a_user_or_an_identity_token(config: Path, entry: object, found: Credentials | None) -> None:
    config.write_text(json.dumps({"auths": {"r": entry}}))
    assert stored_credentials("r") == found


def test_without_a_configuration_there_are_no_credentials(config: Path) -> None:
    assert stored_credentials("r") is None


@pytest.mark.parametrize("text", ["{}", '{"auths": null}', '{"auths": []}', '{"credHelpers": 1, "credsStore": ""}'])
def test_a_configuration_without_entries_has_no_credentials(config: Path, text: str) -> None:
    config.write_text(text)
    assert stored_credentials("r") is None


@pytest.mark.parametrize("text", ["", "secret", "[]", "[" * 100_000, '{"auths": {"r": {"auth": "secret!"}}}'])
def test_a_configuration_that_cannot_be_read_is_named_and_not_quoted(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(RegistryError, match=r"config\.json") as failed:
        stored_credentials("r")
    assert "secret" not in str(failed.value)


def test_a_directory_in_place_of_the_configuration_is_an_error(config: Path) -> None:
    config.mkdir()
    with pytest.raises(RegistryError, match="directory"):
        stored_credentials("r")


def test_the_file_of_podman_comes_first_when_it_is_named(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(json.dumps({"auths": {"r": {"auth": encoded("docker:b")}}}))
    other = tmp_path / "auth.json"
    other.write_text(json.dumps({"auths": {"r": {"auth": encoded("podman:b")}}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(other))
    assert stored_credentials("r") == Credentials("podman", "b")


def test_the_configuration_in_the_home_directory_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(json.dumps({"auths": {"r": {"auth": encoded("home:b")}}}))
    assert stored_credentials("r") == Credentials("home", "b")


# ---- helpers

def test_a_helper_is_asked_for_the_registry(config: Path, helpers: Path) -> None:
    config.write_text(json.dumps({"credsStore": "mine"}))
    write_helper(helpers, "mine", 'read -r host; echo "{\\"Username\\": \\"$1\\", \\"Secret\\": \\"for $host\\"}"')
    assert stored_credentials("r:5000") == Credentials("get", "for r:5000")


def test_a_secret_may_be_an_identity_token(config: Path, helpers: Path) -> None:
    config.write_text(json.dumps({"credsStore": "mine"}))
    write_helper(helpers, "mine", """echo '{"Username": "<token>", "Secret": "t"}'""")
    assert stored_credentials("r") == Credentials(identity_token="t")


def test_the_registry_s_own_helper_comes_first_and_the_file_last(config: Path, helpers: Path) -> None:
    not_found = "echo 'credentials not found in native keychain'; exit 1"
    config.write_text(json.dumps({
        "credHelpers": {"r": "own"}, "credsStore": "all", "auths": {"r": {"auth": encoded("file:b")}},
    }))
    write_helper(helpers, "own", """echo '{"Username": "own", "Secret": "b"}'""")
    write_helper(helpers, "all", """echo '{"Username": "all", "Secret": "b"}'""")
    assert stored_credentials("r") == Credentials("own", "b")
    write_helper(helpers, "own", not_found)
    assert stored_credentials("r") == Credentials("all", "b")
    write_helper(helpers, "all", not_found)
    assert stored_credentials("r") == Credentials("file", "b")


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo 'the keychain is locked \33[2J'; exit 1", "failed: the keychain is locked"),
        ("exit 7", "failed"),
        ("kill -9 $$", "failed"),
        ("echo nonsense", "not as agreed"),
        ("echo '[]'", "not as agreed"),
        ("""echo '{"Username": 1, "Secret": "a"}'""", "not as agreed"),
        ("exec sleep 60", "no answer within"),
    ],
)
def test_a_helper_that_fails_is_an_error(
    config: Path, helpers: Path, monkeypatch: pytest.MonkeyPatch, script: str, problem: str
) -> None:
    config.write_text(json.dumps({"credsStore": "mine"}))
    write_helper(helpers, "mine", script)
    if "sleep" in script:
        monkeypatch.setattr(module, "HELPER_TIMEOUT", 0.2)
    with pytest.raises(RegistryError, match=problem) as failed:
        stored_credentials("r")
    assert str(failed.value).isprintable()


@pytest.mark.parametrize("name", ["../../bin/sh", "a/b", "-x", "a b", "a" * 100])
def test_a_helper_has_a_plain_name(config: Path, name: str) -> None:
    config.write_text(json.dumps({"credsStore": name}))
    with pytest.raises(RegistryError, match="is not the name of a credential helper"):
        stored_credentials("r")


def test_a_helper_that_is_not_installed_is_an_error(config: Path, helpers: Path) -> None:
    config.write_text(json.dumps({"credsStore": "absent"}))
    with pytest.raises(RegistryError, match="no docker-credential-absent"):
        stored_credentials("r")


def test_a_helper_that_cannot_be_executed_is_an_error(config: Path, helpers: Path) -> None:
    config.write_text(json.dumps({"credsStore": "mine"}))
    (helpers / "docker-credential-mine").write_text("x")
    (helpers / "docker-credential-mine").chmod(0o755)
    with pytest.raises(RegistryError, match="cannot be run"):
        stored_credentials("r")
