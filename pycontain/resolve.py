"""What is known of a container only when it starts or is shown: its user's ids, and its seccomp profile as data."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from attrs import evolve

from pycontain.cgroups.devices import DENY_ALL
from pycontain.errors import InvalidArgument, TaskError
from pycontain.linux.users import resolve_user
from pycontain.spec import Linux, Process, Resources, Spec

if TYPE_CHECKING:
    from pycontain.linux.users import User as FoundUser

DEFAULT_PROFILE = "default"
OLD_VERSION = "1.0.2"  # of the OCI runtime specification, which runtimes of any age take


def process_of(spec: Spec) -> Process:
    if spec.process is None:
        raise TaskError("a container always has a process")
    return spec.process


def with_user(spec: Spec, user: str | None, root: int | None = None) -> Spec:
    """The specification with the ids, groups and home directory of the user, who is looked up in `root`, a descriptor,
    or else in the specification's root."""
    process = process_of(spec)
    found = None
    if user is not None:
        found = _find(spec, user) if root is None else resolve_user(root, user)
    home = found.home if found is not None else "/root"
    if not any(variable.startswith("HOME=") for variable in process.env):
        process = evolve(process, env=(*process.env, f"HOME={home or '/'}"))
    if found is not None:
        process = _as_user(process, found)
    return evolve(spec, process=process)


def _find(spec: Spec, user: str) -> FoundUser:
    path = spec.root.path if spec.root else "/"
    try:
        root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument(f"the root {path!r} cannot be used: {error.strerror}") from None
    try:
        return resolve_user(root, user)
    finally:
        os.close(root)


def _as_user(process: Process, user: FoundUser) -> Process:
    """The process as another user: its ids and, unless it is root, no capabilities but those it may gain."""
    from pycontain.spec import User

    process = evolve(process, user=User(user.uid, user.gid, additional_gids=user.additional_gids))
    if process.capabilities is not None and user.uid != 0:
        process = evolve(process, capabilities=evolve(process.capabilities, effective=(), permitted=()))
    return process


def with_profile(spec: Spec, seccomp: str | None) -> Spec:
    """The specification with the seccomp profile as data, as its capabilities have it; None leaves what is there."""
    if seccomp is None:
        return spec
    from pycontain.linux import capabilities as caps

    sets = process_of(spec).capabilities
    names = frozenset(sets.bounding if sets is not None else caps.NAMES)
    if seccomp == DEFAULT_PROFILE:
        from pycontain.linux.seccomp import default_profile

        profile = default_profile(names)
    else:
        from pycontain.linux.seccomp_document import read_profile

        profile = read_profile(seccomp, names)
    return evolve(spec, linux=evolve(spec.linux or Linux(), seccomp=profile))


def with_device_rules(spec: Spec) -> Spec:
    """The specification with the rules for devices that this runtime takes as given, for others that do not."""
    linux = spec.linux or Linux()
    resources = linux.resources or Resources()
    resources = evolve(resources, devices=resources.devices or (DENY_ALL,))  # but for the OCI's default list
    spec = evolve(spec, linux=evolve(linux, resources=resources))
    return spec if _needs_new_version(spec) else evolve(spec, oci_version=OLD_VERSION)


def _needs_new_version(spec: Spec) -> bool:
    """Whether a specification has what came with version 1.1."""
    time = spec.linux is not None and any(namespace.type == "time" for namespace in spec.linux.namespaces)
    return time or spec.domainname is not None
