"""The values of the command line's options, as people know them from docker, and the container that they describe."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from pycontain.errors import InvalidArgument

if TYPE_CHECKING:
    from pycontain.container import Container
    from pycontain.images.choice import Pull
    from pycontain.spec.choices import RlimitType


def environment(values: Sequence[str], caller: Mapping[str, str]) -> dict[str, str]:
    """`NAME=VALUE`, or `NAME` for the caller's value; a name that the caller does not have is left out."""
    found = {}
    for value in values:
        name, equals, text = value.partition("=")
        if equals or not name:  # which is refused by that name
            found[name] = text
        elif name in caller:
            found[name] = caller[name]
    return found


def volume(value: str) -> tuple[str, str, bool]:
    """`SRC:DST[:ro]` as source, target, and whether it is read-only."""
    parts = value.split(":")
    if len(parts) not in (2, 3) or not parts[0] or not parts[1]:
        raise InvalidArgument(f"the volume {value!r} is not SRC:DST or SRC:DST:ro")
    source, target, mode = parts[0], parts[1], parts[2] if len(parts) == 3 else "rw"
    if mode not in ("ro", "rw"):
        raise InvalidArgument(f"the volume {value!r} has an unknown option {mode!r}", remedy="Known are ro and rw")
    if "/" not in source and source not in (".", ".."):
        raise InvalidArgument(f"the volume {value!r} has a name", remedy=f"For a path here write ./{source}")
    return source, target, mode == "ro"


def tmpfs(value: str) -> tuple[str, str | None, int]:
    """`DST[:size=SIZE,mode=MODE]` as target, size, and mode."""
    target, _, text = value.partition(":")
    size, mode = None, 0o1777
    for option in filter(None, text.split(",")):
        name, _, setting = option.partition("=")
        if name == "size":
            size = setting
        elif name == "mode":
            mode = _mode(setting)
        else:
            raise InvalidArgument(f"the tmpfs {value!r} has an unknown option {option!r}", remedy="Known: size=, mode=")
    return target, size, mode


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise InvalidArgument(f"{text!r} is not a mode", remedy="Write it in octal digits, such as 1777")
    return mode


def ulimit(value: str) -> tuple[str, int, int]:
    """`name=soft[:hard]`, each a number or `unlimited` (or -1), as the name of the resource and both limits."""
    name, _, limits = value.partition("=")
    soft, colon, hard = limits.partition(":")
    try:
        low = _limit(soft)
        high = _limit(hard) if colon else low
    except ValueError:
        raise InvalidArgument(f"the ulimit {value!r} is not name=soft or name=soft:hard") from None
    if low > high:
        raise InvalidArgument(f"the ulimit {value!r} has a soft limit above the hard one")
    return _resource(name), low, high


def _limit(text: str) -> int:
    from pycontain.spec.runtime import RLIM_INFINITY

    if text in ("unlimited", "-1"):
        return RLIM_INFINITY
    if not (text.isascii() and text.isdigit()) or int(text) > RLIM_INFINITY:
        raise ValueError(text)
    return int(text)


def _resource(name: str) -> str:
    import resource

    known = sorted(known[7:].lower() for known in dir(resource) if known.startswith("RLIMIT_"))
    if name not in known:
        raise InvalidArgument(f"{name!r} is not the name of a ulimit", remedy=f"Known are {', '.join(known)}")
    return f"RLIMIT_{name.upper()}"


def _network(value: str) -> str:
    if value in ("none", "host"):
        return value
    if "/" not in value:
        raise InvalidArgument(f"{value!r} is not a network", remedy="Give none, host, or the path of a namespace file")
    return os.path.abspath(value)


def sysctl(value: str) -> tuple[str, str]:
    """`name=value`."""
    name, equals, setting = value.partition("=")
    if not name or not equals:
        raise InvalidArgument(f"the sysctl {value!r} is not name=value")
    return name, setting


# What a label of SELinux consists of, and what container tools use unless they are told otherwise.
LABEL = {"user": "system_u", "role": "system_r", "type": "container_t", "level": "s0"}


def secured(container: Container, options: Sequence[str]) -> Container:
    """The container with docker's and podman's values of `--security-opt`, each `name=value` or `name:value`."""
    label: dict[str, str] = {}
    for option in options:
        match = re.fullmatch(r"([a-z-]+)(?:[=:](.+))?", option, re.DOTALL)
        name, value = (match[1], match[2]) if match is not None else ("", None)
        if name == "no-new-privileges" and value in (None, "true", "false"):
            container = container.with_no_new_privileges(value != "false")
        elif name == "seccomp" and value is not None:
            container = container.with_seccomp(value)
        elif name == "apparmor" and value is not None:
            container = container.with_apparmor(value)
        elif name == "label" and value is not None:
            label.update(_label(value))
        elif (name, value) in (("systempaths", "unconfined"), ("unmask", "ALL")):
            container = container.with_unmasked()
        elif name == "unmask" and value is not None:
            container = container.with_unmasked(*value.split(":"))
        else:
            raise InvalidArgument(
                f"the security option {option!r} is not known",
                remedy="Known: seccomp=, no-new-privileges[=true|false], apparmor=, label=, systempaths=unconfined, "
                "unmask=ALL|PATHS",
            )
    return container.with_selinux(":".join({**LABEL, **label}.values())) if label else container


def _label(value: str) -> dict[str, str]:
    """A part of the label; `disable` is none."""
    if value == "disable":
        return {}
    part, _, text = value.partition(":")
    if part not in LABEL or not text:
        known = ", ".join(f"{name}:" for name in LABEL)
        raise InvalidArgument(f"the label {value!r} is not known", remedy=f"Known: disable, {known}")
    return {part: text}


def describe(
    *,
    image: str | None,
    pull: Pull,
    platform: str | None,
    host: bool,
    rootfs: str | None,
    env: Mapping[str, str],
    volumes: Sequence[str],
    tmpfs_mounts: Sequence[str],
    workdir: str | None,
    user: str | None,
    memory: str | None,
    cpus: float | None,
    cpu_shares: int | None,
    pids_limit: int | None,
    network: str | None,
    hostname: str | None,
    read_only: bool,
    init: bool,
    sysctls: Sequence[str],
    ulimits: Sequence[str],
    cap_add: Sequence[str] = (),
    cap_drop: Sequence[str] = (),
    security_opts: Sequence[str] = (),
    privileged: bool = False,
    oom_score_adj: int | None = None,
) -> Container:
    """The container that the options describe. Raises `InvalidArgument`."""
    from pycontain.container import Container

    if host and rootfs is not None:
        raise InvalidArgument("give the root as one of --host and --rootfs DIR")
    if image is not None:
        container = Container(image, pull=pull, platform=platform)
    else:
        container = Container.from_host() if rootfs is None else Container.from_rootfs(rootfs)
    container = container.with_env(env).with_limits(memory=memory, cpus=cpus, cpu_shares=cpu_shares, pids=pids_limit)
    for source, target, mount_read_only in map(volume, volumes):
        container = container.with_bind(source, target, read_only=mount_read_only)
    for target, size, mode in map(tmpfs, tmpfs_mounts):
        container = container.with_tmpfs(target, size=size, mode=mode)
    for name, value in map(sysctl, sysctls):
        container = container.with_sysctl(name, value)
    for resource, soft, hard in map(ulimit, ulimits):
        container = container.with_rlimit(cast("RlimitType", resource), soft, hard)
    if privileged:
        container = container.with_privileged()
    if cap_add or cap_drop:
        container = container.with_capabilities(add=cap_add, drop=cap_drop)
    container = secured(container, security_opts)
    if oom_score_adj is not None:
        container = container.with_oom_score_adj(oom_score_adj)
    if workdir is not None:
        container = container.with_workdir(workdir)
    if user is not None:
        container = container.with_user(user)
    if network is not None:
        container = container.with_network(_network(network))
    if hostname is not None:
        container = container.with_hostname(hostname)
    if read_only:
        container = container.with_read_only()
    return container.with_init() if init else container
