"""What a container is like: an immutable value, of which each `with_*` method returns a changed copy.

It holds a specification of the OCI and what that cannot hold. `Container`, which is a description, makes and starts it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen

from pycontain import defaults
from pycontain.arguments import absolute, namespace_path, on_host, time_offset
from pycontain.cgroups.devices import DENY_ALL
from pycontain.errors import InvalidArgument
from pycontain.limits import Limits, device_numbers, resources_with
from pycontain.linux.namespaces import NamespaceType
from pycontain.resolve import DEFAULT_PROFILE, process_of
from pycontain.runtimes.compile import CGROUP, INIT, Compiled
from pycontain.sizes import parse_size
from pycontain.spec import FrozenMap, IDMapping, Linux, Mount, Namespace, Process, Resources, Rlimit, Spec
from pycontain.spec.runtime import RLIM_INFINITY
from pycontain.task import Task

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from pycontain.arguments import Path
    from pycontain.images.choice import ImageChoice
    from pycontain.network import NetworkNamespace
    from pycontain.spec.choices import NamespaceType as NamespaceName
    from pycontain.spec.choices import RlimitType


@frozen(repr=False)
class Description:
    """See `Container`. What it consists of:

    spec: what the OCI's runtime specification can say, with annotations for a copy-on-write root and the init.
    user: who runs the command, looked up when it first starts.
    seccomp: the profile: DEFAULT_PROFILE, a JSON text, or None for what the specification says.
    as_written: whether the specification is complete, and no defaults are added to it.
    joined: the tasks whose namespaces it joins, by the kind of the namespace.
    source: the image that it is made from, None for other roots.
    compiled: the plans that were made so far; of no meaning for what it is.
    """

    _spec: Spec
    _user: str | None = None
    _seccomp: str | None = DEFAULT_PROFILE
    _as_written: bool = False
    _joined: tuple[tuple[str, Task], ...] = field(default=(), eq=False)
    _source: ImageChoice | None = None
    _compiled: dict[object, Compiled] = field(factory=dict, init=False, eq=False)

    # ---- what it is like inside

    def with_hostname(self, hostname: str, domainname: str | None = None) -> Self:
        """Its host name, and the NIS domain name; the host's without this. At most 64 bytes each."""
        if not hostname:
            raise InvalidArgument("a host name cannot be empty")
        spec = evolve(self._spec, hostname=hostname)
        return self._with(evolve(spec, domainname=domainname) if domainname is not None else spec)

    def with_env(self, variables: Mapping[str, str] | None = None, /, **more: str) -> Self:
        """Sets environment variables; those that were set before stay unless they are named."""
        env = dict(variable.split("=", 1) for variable in self._process.env)
        for name, value in {**(variables or {}), **more}.items():
            if not name or "=" in name:
                raise InvalidArgument(f"{name!r} is not the name of an environment variable")
            if not isinstance(value, str):
                raise InvalidArgument(f"the value of the environment variable {name} must be a string, not {value!r}")
            env[name] = value
        return self._with_process(env=tuple(f"{name}={value}" for name, value in env.items()))

    def with_workdir(self, path: Path) -> Self:
        """The directory in which commands start, an absolute path inside; `/` without this. It must exist."""
        return self._with_process(cwd=os.fspath(path))

    def with_user(self, user: str | int) -> Self:
        """Who runs the command: `name`, `uid`, `name:group` or `uid:gid`, as docker's `--user`; root without this.

        Names are looked up in the container's own /etc/passwd and /etc/group, when it first starts.
        """
        if isinstance(user, bool) or not isinstance(user, (str, int)) or str(user) == "":
            raise InvalidArgument(f"{user!r} is not a user")
        return evolve(self, user=str(user))

    def with_bind(self, source: Path, target: Path, *, read_only: bool = False) -> Self:
        """Makes a file or directory of the host visible at `target`, with all that is mounted below it.

        `read_only` holds for what is mounted below as well. The target is created where it is missing. The node of a
        device that is bound cannot be opened as a rule: `with_device` allows that too.
        """
        options = ("rbind", "rprivate", *(("rro",) if read_only else ()))
        return self.with_mount(Mount(absolute(target), "bind", on_host(source, "the source of a bind"), options))

    def with_tmpfs(self, target: Path, *, size: int | str | None = None, mode: int = 0o1777) -> Self:
        """An empty file system in memory at `target`, of at most `size` bytes or "16M"; half of the RAM without."""
        if isinstance(mode, bool) or not isinstance(mode, int) or not 0 <= mode <= 0o7777:
            raise InvalidArgument(f"{mode!r} is not the mode of a directory: it must be from 0 to 0o7777")
        options = ["nosuid", "nodev", f"mode={mode:o}"]
        if size is not None:
            options.append(f"size={parse_size(size, 'the size of a tmpfs')}")
        return self.with_mount(Mount(absolute(target), "tmpfs", "tmpfs", tuple(options)))

    def with_mount(self, mount: Mount) -> Self:
        """Any mount that the OCI runtime specification can express, after those that are there.

        One at the same place is replaced.
        """
        target = os.path.normpath(mount.destination)
        kept = tuple(m for m in self._spec.mounts if os.path.normpath(m.destination) != target)
        return self._with(evolve(self._spec, mounts=(*kept, mount)))

    def with_read_only(self, read_only: bool = True) -> Self:
        """Makes the root read-only. Its mounts, such as a tmpfs, stay as they are."""
        if self._spec.root is None:
            raise InvalidArgument("this container has no root of its own")
        return self._with(evolve(self._spec, root=evolve(self._spec.root, readonly=read_only)))

    def with_init(self, init: bool = True) -> Self:
        """Runs the command below a small init, which is process 1, reaps orphans and forwards signals."""
        annotations = {name: value for name, value in self._spec.annotations.items() if name != INIT}
        if init:
            annotations[INIT] = "true"
        return self._with(evolve(self._spec, annotations=FrozenMap(annotations)))

    def with_sysctl(self, name: str, value: str | int) -> Self:
        """Sets a sysctl of its network or ipc namespace, such as `net.ipv4.ip_forward`. The host's cannot be set."""
        return self._with_linux(sysctl=FrozenMap({**self._linux.sysctl, name: str(value)}))

    def with_rlimit(self, name: RlimitType, soft: int, hard: int | None = None) -> Self:
        """Sets a resource limit of the process such as `RLIMIT_NOFILE`, see getrlimit(2); `hard` is `soft` without.

        -1, which is `resource.RLIM_INFINITY`, is no limit.
        """
        kept = tuple(limit for limit in self._process.rlimits if limit.type != name)
        values = (RLIM_INFINITY if value == -1 else value for value in (soft, soft if hard is None else hard))
        return self._with_process(rlimits=(*kept, Rlimit(name, *values)))

    # ---- limits

    def with_limits(self, **limits: Unpack[Limits]) -> Self:
        """Limits what all its processes may use together, by the names of `Limits`; those not named stay as they are.

        The usual ones: `memory` in bytes or a text such as "256M", swap included; `cpus`, processors' worth of time
        (0.5 is half of one); `pids`, processes and threads.

        Raises `InvalidArgument` for values that can never hold. A limit that this machine cannot enforce
        makes the start fail with `LimitNotSupported`.
        """
        return self._with_linux(resources=resources_with(self._linux.resources, limits))

    def with_resources(self, resources: Resources) -> Self:
        """All cgroup settings as the OCI writes them, in place of those that are there."""
        return self._with_linux(resources=resources)

    def with_cgroup(self, driver: str | None = None, parent: str | None = None, name: str | None = None) -> Self:
        """Which cgroup driver limits it, "cgroupfs" or "systemd", and where: `parent` is a group at the top of each
        hierarchy for cgroupfs, a slice for systemd. `name` becomes the end of the group's or scope's name, to be
        recognised by. What is None pycontain chooses (see `pycontain.cgroups.detect`).

        A driver that cannot be used here makes the start fail with `NotSupported`.
        """
        if name is not None and not re.fullmatch(r"[A-Za-z0-9_.]{1,64}", name):
            raise InvalidArgument(f"{name!r} is not the name of a cgroup: use up to 64 letters, digits, '_' and '.'")
        words = {"driver": driver, "parent": parent, "name": name}
        kept = {key: value for key, value in self._spec.annotations.items() if not key.startswith(CGROUP)}
        kept.update({CGROUP + word: value for word, value in words.items() if value is not None})
        return self._with(evolve(self._spec, annotations=FrozenMap(kept)))

    def with_device(self, path: Path, target: Path | None = None, *, access: str = "rwm") -> Self:
        """A device of the host at the same place inside, or at `target`, which has to be below /dev.

        `access` is what may be done with it: r for reading, w for writing, m for making its node. In a user namespace
        it can only be at the same place. Raises `InvalidArgument` for what is not a device.
        """
        from pycontain.spec import Device, DeviceRule

        kind, major, minor, mode = device_numbers(os.fspath(path))
        inside = os.path.normpath(absolute(path if target is None else target))
        if not inside.startswith("/dev/"):
            raise InvalidArgument(f"{inside!r} is not below /dev: devices work nowhere else in a container")
        if not access:
            raise InvalidArgument("`access` is empty: give some of r, w and m")
        rule = DeviceRule(allow=True, type=kind, major=major, minor=minor, access=access)
        old = self._linux.resources or Resources()
        rules = old.devices or (DENY_ALL,)
        kept = tuple(device for device in self._linux.devices if device.path != inside)
        return self._with_linux(
            devices=(*kept, Device(kind, inside, major, minor, file_mode=mode)),
            resources=evolve(old, devices=(*rules, rule)),
        )

    # ---- namespaces

    def with_network(self, network: NetworkNamespace | Task | Path) -> Self:
        """"none" (the default): only a loopback interface; "host": the caller's network; or that of a task, a
        `NetworkNamespace`, or the file at a path."""
        if network == "none":
            return self.with_namespace("network", "new")
        return self.with_namespace("network", network)

    def with_namespace(self, kind: NamespaceName, where: NetworkNamespace | Task | Path) -> Self:
        """Which namespace of a kind it has: "new", "host" (the caller's), a running task's, or that of a file's path.

        Without a mount namespace of its own a container has neither root nor mounts.
        """
        NamespaceType.from_name(kind)
        namespaces = [namespace for namespace in self._linux.namespaces if namespace.type != kind]
        if where != "host":
            namespaces.append(Namespace(kind, namespace_path(kind, where)))
        joined = [(name, task) for name, task in self._joined if name != kind]
        if isinstance(where, Task):
            joined.append((kind, where))
        changed = evolve(self._with_linux(namespaces=tuple(namespaces)), joined=tuple(joined))
        if kind == "cgroup" and where == "host":  # the mount would show the host's groups
            others = tuple(mount for mount in changed._spec.mounts if mount.type != defaults.CGROUP_MOUNT.type)
            changed = changed._with(evolve(changed._spec, mounts=others))
        return changed._without_mounts() if kind == "mount" and where != "new" else changed

    def _without_mounts(self) -> Self:
        bare = evolve(self._linux, masked_paths=(), readonly_paths=())
        return self._with(evolve(self._spec, root=None, mounts=(), linux=bare))

    def with_userns(
        self, uid_map: Sequence[tuple[int, int, int]] = (), gid_map: Sequence[tuple[int, int, int]] = ()
    ) -> Self:
        """A user namespace of its own. Each entry maps ids as (first inside, first outside, how many).

        Without maps, root inside is the caller outside. See user_namespaces(7).
        """
        uids = tuple(IDMapping(*entry) for entry in uid_map) or (IDMapping(0, os.geteuid(), 1),)
        gids = tuple(IDMapping(*entry) for entry in gid_map) or (IDMapping(0, os.getegid(), 1),)
        return self.with_namespace("user", "new")._with_linux(uid_mappings=uids, gid_mappings=gids)

    def with_time_offset(self, *, monotonic: float = 0.0, boottime: float = 0.0) -> Self:
        """A time namespace of its own, whose clocks differ by so many seconds from the host's: time_namespaces(7)."""
        offsets = {"monotonic": time_offset(monotonic), "boottime": time_offset(boottime)}
        return self.with_namespace("time", "new")._with_linux(time_offsets=FrozenMap(offsets))

    # ---- helpers

    @property
    def _process(self) -> Process:
        return process_of(self._spec)

    @property
    def _linux(self) -> Linux:
        return self._spec.linux or Linux()

    def _with(self, spec: Spec) -> Self:
        return evolve(self, spec=spec)

    def _with_process(self, **changes: Any) -> Self:
        return self._with(evolve(self._spec, process=evolve(self._process, **changes)))

    def _with_linux(self, **changes: Any) -> Self:
        return self._with(evolve(self._spec, linux=evolve(self._linux, **changes)))

    def __getstate__(self) -> dict[str, object]:
        """Without the plans, which are for the process that made them."""
        names = ("_spec", "_user", "_seccomp", "_as_written", "_joined", "_source")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, object]) -> None:
        for name, value in {**state, "_compiled": {}}.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        from pycontain.summary import summary

        return f"<Container {summary(self._spec, self._user, self._source)}>"
