"""The classes that nearly every container needs: the specification itself, root, mounts, process, namespaces.
Names are those of the OCI runtime specification (config.md, config-linux.md) in Python's spelling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen

from pycontain.spec.frozen import EMPTY, Frozen, FrozenMap
from pycontain.spec.layout import ALWAYS, REQUIRED, FieldError

if TYPE_CHECKING:
    from pycontain.spec.choices import NamespaceType, Propagation, RlimitType
    from pycontain.spec.devices import Device, NetDevice
    from pycontain.spec.hooks import Hooks
    from pycontain.spec.kinds import ID, AbsolutePath, HostName, Name, OOMScoreAdj, UInt16, UInt32, UInt64, Version
    from pycontain.spec.resources import Resources
    from pycontain.spec.seccomp import Seccomp
    from pycontain.spec.tuning import (
        ExecCPUAffinity,
        IntelRdt,
        IOPriority,
        MemoryPolicy,
        Personality,
        Scheduler,
        TimeOffset,
    )


@frozen(eq=False, repr=False)
class Root(Frozen):
    """The root file system. A relative `path` starts at the bundle's directory."""

    path: Name
    readonly: bool = False


@frozen(eq=False, repr=False)
class IDMapping(Frozen):
    """`size` ids from `container_id` on are the host's from `host_id` on."""

    container_id: ID
    host_id: ID
    size: UInt32

    def _check_together(self) -> None:
        for name, first in (("container_id", self.container_id), ("host_id", self.host_id)):
            if first + self.size > 2**32 - 1:
                raise FieldError(f"{first} and {self.size} ids from there exceed the last id, {2**32 - 2}", name)


@frozen(eq=False, repr=False)
class Mount(Frozen):
    """One mount, made in the order of the list. `destination` is absolute, inside the container."""

    destination: AbsolutePath
    type: str | None = None
    source: str | None = None
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()


@frozen(eq=False, repr=False)
class ConsoleSize(Frozen):
    """The size of the terminal in characters; `struct winsize` holds unsigned shorts."""

    height: UInt16
    width: UInt16


@frozen(eq=False, repr=False)
class User(Frozen):
    """Ids are those inside the container."""

    uid: ID
    gid: ID
    umask: UInt32 | None = None
    additional_gids: tuple[ID, ...] = ()
    username: str | None = None


ROOT_USER = User(0, 0)


@frozen(eq=False, repr=False)
class Capabilities(Frozen):
    """The five sets of capabilities(7), as names such as `CAP_KILL`."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


RLIM_INFINITY = 2**64 - 1  # as the kernel and the OCI write it; Python's resource module has -1


@frozen(eq=False, repr=False)
class Rlimit(Frozen):
    """A resource limit of the process, see getrlimit(2); `RLIM_INFINITY` is no limit."""

    type: RlimitType
    soft: UInt64
    hard: UInt64

    def _check_together(self) -> None:
        if self.soft > self.hard:
            raise FieldError(f"the soft limit {self.soft} of {self.type} is above the hard limit {self.hard}")


@frozen(eq=False, repr=False)
class Process(Frozen):
    """The program that runs as the container. `env` holds `NAME=value`."""

    cwd: AbsolutePath
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: User = field(default=ROOT_USER, metadata=ALWAYS)
    terminal: bool = False
    console_size: ConsoleSize | None = None
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str | None = None
    selinux_label: str | None = None
    oom_score_adj: OOMScoreAdj | None = None
    scheduler: Scheduler | None = None
    io_priority: IOPriority | None = None
    exec_cpu_affinity: ExecCPUAffinity | None = None

    def _check_together(self) -> None:
        _refuse_duplicates("rlimits", [limit.type for limit in self.rlimits])


@frozen(eq=False, repr=False)
class Namespace(Frozen):
    """A namespace of the container: a new one, or the one of the file at `path`."""

    type: NamespaceType
    path: AbsolutePath | None = None


@frozen(eq=False, repr=False)
class Linux(Frozen):
    """The Linux part of the specification. A namespace type that is not listed is the caller's."""

    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()
    time_offsets: FrozenMap[TimeOffset] = EMPTY
    devices: tuple[Device, ...] = ()
    net_devices: FrozenMap[NetDevice] = EMPTY
    cgroups_path: str | None = None
    resources: Resources | None = None
    rootfs_propagation: Propagation | None = None
    seccomp: Seccomp | None = None
    sysctl: FrozenMap[str] = EMPTY
    masked_paths: tuple[AbsolutePath, ...] = ()
    readonly_paths: tuple[AbsolutePath, ...] = ()
    mount_label: str | None = None
    intel_rdt: IntelRdt | None = None
    memory_policy: MemoryPolicy | None = None
    personality: Personality | None = None

    def _check_together(self) -> None:
        _refuse_duplicates("namespaces", [namespace.type for namespace in self.namespaces])
        for clock in self.time_offsets:
            if clock not in ("monotonic", "boottime"):
                raise FieldError(f"{clock!r} is not one of boottime, monotonic", "time_offsets")


@frozen(eq=False, repr=False)
class Spec(Frozen):
    """The OCI runtime specification of one container: what a bundle's `config.json` holds."""

    oci_version: Version = field(default="1.2.0", metadata=REQUIRED)
    root: Root | None = None
    mounts: tuple[Mount, ...] = ()
    process: Process | None = None
    hostname: HostName | None = None
    domainname: HostName | None = None
    hooks: Hooks | None = None
    annotations: FrozenMap[str] = EMPTY
    linux: Linux | None = None

    def to_json(self, indent: int | None = None) -> str:
        """The document as JSON text, without the properties that have their defaults."""
        from pycontain.spec.convert import to_json

        return to_json(self, indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> Spec:
        """The specification in a JSON document (UTF-8).

        Unknown properties are left out with an `UnknownProperty` warning, as the OCI asks of readers.

        Raises:
            SpecError: the text is not JSON, or not a valid specification; the message begins with the path.
        """
        from pycontain.spec.convert import from_json

        return from_json(cls, text)


def _refuse_duplicates(name: str, types: list[str]) -> None:
    """The OCI asks for an error when a namespace type or a resource limit is listed twice."""
    if len(set(types)) < len(types):
        seen: set[str] = set()
        for index, type_ in enumerate(types):
            if type_ in seen:
                raise FieldError(f"{type_} is there already", f"{name}[{index}]")
            seen.add(type_)
