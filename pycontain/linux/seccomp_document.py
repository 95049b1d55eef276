"""Seccomp profiles as people have them in files: the OCI's, and docker's, which is more than one profile in one.

Docker's names rules that hold with or without certain capabilities, machines and kernels (https://docs.docker.com/
engine/security/seccomp/); podman's adds errors by name. What holds here is chosen, and the OCI's profile is left.
"""

from __future__ import annotations

import errno
import functools
import os
import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from pycontain.errors import SpecError
from pycontain.linux import syscall_numbers

if TYPE_CHECKING:
    from pycontain.spec import Seccomp

#: A machine (`uname -m`) as Go and docker call it.
_GO_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}
_CONDITIONS = ("arches", "caps", "minKernel")
#: Properties of docker's and podman's form that the OCI's does not have.
_ONLY_DOCKER = ("archMap", "defaultErrno")
_ONLY_DOCKER_RULE = ("name", "comment", "includes", "excludes", "errno")
LARGEST = 1 << 20  # bytes; docker's default profile has 20 KiB


@functools.lru_cache(maxsize=32)
def read_profile(text: str, capabilities: frozenset[str]) -> Seccomp:
    """The profile in a JSON text for a container with these capabilities, on this machine and kernel.

    Raises `SpecError` for what is not a profile, `NotSupported` on an unknown machine.
    """
    return choose(text, capabilities, syscall_numbers.machine(), _version(os.uname().release))


def choose(text: str, capabilities: Collection[str], machine: str, kernel: tuple[int, int]) -> Seccomp:
    """As `read_profile`, for another machine and kernel."""
    import json

    from pycontain.spec import Seccomp, from_dict

    if len(text) > LARGEST:
        raise SpecError(f"the seccomp profile has {len(text)} characters: at most {LARGEST} are read")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"the seccomp profile is not JSON: {error}") from None
    document = _object(document, "the seccomp profile")
    rules = _list(document.get("syscalls"), "syscalls")
    holds = _condition(frozenset(capabilities), _GO_NAMES[machine], kernel)
    kept = []
    for index, item in enumerate(rules):
        path = f"syscalls[{index}]"
        rule = _object(item, path)
        if holds(rule, path):
            kept.append(_rule(rule, path))
    profile = {key: value for key, value in document.items() if key not in _ONLY_DOCKER}
    return from_dict(Seccomp, {**profile, **_architectures(document, machine), **_default(document), "syscalls": kept})


def _condition(
    capabilities: frozenset[str], machine: str, kernel: tuple[int, int]
) -> Callable[[Mapping[str, Any], str], bool]:
    """Whether a rule holds: all that it includes is so, and nothing that it excludes."""

    def met(conditions: Mapping[str, Any], path: str) -> list[bool]:
        for name in conditions:
            if name not in _CONDITIONS:
                raise SpecError(f"{path}.{name}: not one of {', '.join(_CONDITIONS)}")
        answers = [name in capabilities for name in _names(conditions.get("caps"), f"{path}.caps")]
        arches = _names(conditions.get("arches"), f"{path}.arches")
        if arches:
            answers.append(machine in arches)
        if conditions.get("minKernel") is not None:
            answers.append(kernel >= _version(conditions["minKernel"], f"{path}.minKernel"))
        return answers

    def holds(rule: Mapping[str, Any], path: str) -> bool:
        included = met(_object(rule.get("includes") or {}, f"{path}.includes"), f"{path}.includes")
        excluded = met(_object(rule.get("excludes") or {}, f"{path}.excludes"), f"{path}.excludes")
        return all(included) and not any(excluded)

    return holds


def _rule(rule: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The rule in the OCI's form."""
    result = {key: value for key, value in rule.items() if key not in _ONLY_DOCKER_RULE}
    if rule.get("name"):
        if rule.get("names"):
            raise SpecError(f"{path}: both name and names are given")
        result["names"] = [rule["name"]]
    if rule.get("errno"):
        result["errnoRet"] = _number(rule["errno"], f"{path}.errno")
    if rule.get("action") not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE") and not result.get("errnoRet"):
        result.pop("errnoRet", None)  # docker's writes 0 for none
    return result


def _architectures(document: Mapping[str, Any], machine: str) -> dict[str, Any]:
    """Docker's map gives the other ABIs of each machine; without it the native ABI is the only one."""
    entries = _list(document.get("archMap"), "archMap")
    if not entries:
        return {}
    if document.get("architectures"):
        raise SpecError("archMap: architectures are given as well")
    native = syscall_numbers.MACHINES[machine][0].scmp
    for index, item in enumerate(entries):
        entry = _object(item, f"archMap[{index}]")
        if entry.get("architecture") == native:
            return {"architectures": [native, *_list(entry.get("subArchitectures"), "subArchitectures")]}
    return {"architectures": [native]}


def _default(document: Mapping[str, Any]) -> dict[str, Any]:
    name = document.get("defaultErrno")
    return {"defaultErrnoRet": _number(name, "defaultErrno")} if name else {}


def _number(name: object, path: str) -> int:
    number = getattr(errno, name, None) if isinstance(name, str) and name.startswith("E") else None
    if not isinstance(number, int):
        raise SpecError(f"{path}: {name!r} is not the name of an error")
    return number


def _version(text: object, path: str = "kernel") -> tuple[int, int]:
    match = re.match(r"(\d{1,4})\.(\d{1,4})", text) if isinstance(text, str) else None
    if match is None:
        raise SpecError(f"{path}: {text!r} is not the version of a kernel")
    return int(match[1]), int(match[2])


def _object(value: object, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise SpecError(f"{path}: must be an object")
    return value


def _list(value: object, path: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise SpecError(f"{path}: must be a list")
    return value


def _names(value: object, path: str) -> list[str]:
    names = _list(value, path)
    if not all(isinstance(name, str) for name in names):
        raise SpecError(f"{path}: must be a list of names")
    return names
