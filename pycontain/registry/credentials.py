"""Credentials from where docker and podman keep them: `config.json`, and the credential helpers that it names.

See https://docs.docker.com/reference/cli/docker/login/#credential-stores and containers-auth.json(5), of which entries
for single repositories are not read.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Callable

from attrs import field, frozen

from pycontain.errors import RegistryError
from pycontain.registry.failure import clean
from pycontain.registry.reference import DEFAULT_REGISTRY

HELPER_TIMEOUT = 30.0  # seconds; a helper may ask its user for a password
_LARGEST_CONFIG = 4 << 20
_HELPER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_TOKEN_USER = "<token>"  # the user name of a helper whose secret is an identity token


@frozen
class Credentials:
    """Who asks. Either a user with a password, or an identity token, which is exchanged for tokens of a short life."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of `Authorization` for the basic scheme (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


CredentialSource = Callable[[str], Credentials | None]
"""Gives the credentials for a registry's host name (with the port, if it is not the usual one), or None."""


def stored_credentials(registry: str) -> Credentials | None:
    """The credentials for `registry` from the file that `REGISTRY_AUTH_FILE` names, or `config.json` in the directory
    `DOCKER_CONFIG`, or else `~/.docker/config.json`. None when there are none.

    A helper of the registry (`credHelpers`) is asked first, then the helper for all (`credsStore`), then the file.
    Raises `RegistryError` when the file or the helper cannot be used.
    """
    path = _config_path()
    config = _read_config(path)
    helpers = config.get("credHelpers")
    names = [helpers.get(registry) if isinstance(helpers, dict) else None, config.get("credsStore")]
    for name in names:
        if isinstance(name, str) and name and (found := _ask_helper(name, registry)) is not None:
            return found
    entries = config.get("auths")
    for key, entry in entries.items() if isinstance(entries, dict) else ():
        if _is_for(key, registry) and isinstance(entry, dict) and (found := _from_entry(entry, path, key)) is not None:
            return found
    return None


def _config_path() -> str:
    if path := os.environ.get("REGISTRY_AUTH_FILE"):
        return path
    return os.path.join(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"), "config.json")


def _read_config(path: str) -> dict[str, object]:
    try:
        with open(path, "rb") as file:
            config = json.loads(file.read(_LARGEST_CONFIG))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise RegistryError(f"credentials cannot be read: {path}: {error.strerror}") from None
    except (ValueError, RecursionError):  # the error's text would quote the file
        raise RegistryError(f"credentials cannot be read: {path} is not JSON") from None
    if not isinstance(config, dict):
        raise RegistryError(f"credentials cannot be read: {path} is not a JSON object")
    return config


def _is_for(key: str, registry: str) -> bool:
    """Whether an entry of `auths` belongs to `registry`. Keys may be host names or, from old times, URLs; docker writes
    the one of its default registry as a URL of another name in the same domain."""
    scheme, separator, rest = key.partition("://")
    host = (rest if separator else scheme).partition("/")
    if not separator and host[1]:
        return False  # an entry for a part of a registry, as podman writes them
    return host[0] == registry or (registry == DEFAULT_REGISTRY and host[0].endswith("." + DEFAULT_REGISTRY))


def _from_entry(entry: dict[str, object], path: str, key: str) -> Credentials | None:
    def text(name: str) -> str:
        value = entry.get(name)
        return value if isinstance(value, str) else ""

    username, password = text("username"), text("password")
    if encoded := text("auth"):
        try:
            username, _, password = base64.b64decode(encoded, validate=True).decode().rstrip("\0").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise RegistryError(f"credentials cannot be read: {path}: auths.{key}.auth is no text in base64") from None
    if not username and not text("identitytoken"):
        return None
    return Credentials(username, password, text("identitytoken"))


def _ask_helper(name: str, registry: str) -> Credentials | None:
    """What `docker-credential-NAME get` says: https://github.com/docker/docker-credential-helpers"""
    program = f"docker-credential-{name}"
    if not _HELPER.fullmatch(name):
        raise RegistryError(f"{name!r} is not the name of a credential helper")
    try:
        done = subprocess.run(
            [program, "get"], input=registry.encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=HELPER_TIMEOUT,
        )
    except FileNotFoundError:
        raise RegistryError(f"there is no {program}", remedy="Install it, or change config.json") from None
    except OSError as error:
        raise RegistryError(f"{program} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise RegistryError(f"{program} gave no answer within {HELPER_TIMEOUT:g} seconds") from None
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace")
        if "credentials not found" in said:
            return None
        raise RegistryError(f"{program} failed: {clean(said)}")
    try:
        answer = json.loads(done.stdout)
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RegistryError(f"{program} gave an answer that is not as agreed") from None
    if not (isinstance(username, str) and isinstance(secret, str)):
        raise RegistryError(f"{program} gave an answer that is not as agreed")
    return Credentials(identity_token=secret) if username == _TOKEN_USER else Credentials(username, secret)
