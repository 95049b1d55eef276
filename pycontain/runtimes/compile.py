"""Compiles a specification into the plan of its process, in the order in which things happen.

The order is the security of it: the process is in its cgroup before anything else, everything that needs
privileges is done before they are dropped, and the seccomp filter comes last.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from attrs import define, evolve, field, frozen

from pycontain.cgroups.devices import ALLOW_ALL, DENY_ALL, with_defaults
from pycontain.errors import InvalidArgument, NotSupported, SpecError
from pycontain.linux import plan as steps
from pycontain.linux.mounts import MountFlag
from pycontain.linux.namespaces import NamespaceType
from pycontain.linux.plan import Plan, Step
from pycontain.runtimes.become import all_that_are_there, drop_privileges, execute_command, keeps_groups, raised_limits
from pycontain.runtimes.cgroupmount import delegates
from pycontain.runtimes.drivers import CgroupChoice
from pycontain.runtimes.labels import security_labels
from pycontain.runtimes.lower import Lower
from pycontain.runtimes.rootfs import RootPlan
from pycontain.spec import IDMapping, Linux, Process, Resources, Spec

if TYPE_CHECKING:
    from pycontain.snapshots.base import Root as SnapshotRoot

INIT = "org.pycontain.init"
CGROUP = "org.pycontain.cgroup."  # followed by driver, parent, name
CGROUP_SLOTS = tuple(f"cgroup{index}" for index in range(14))

# The order of setns: the user namespace first, for the privileges over the others.
JOIN_ORDER = ("user", "cgroup", "ipc", "uts", "network", "pid", "mount", "time")
# Where a joined process could be seen and traced by those inside: not in memory that is shared with Python. And a time
# namespace takes no process whose memory is shared (setns(2), EUSERS).
NEED_HELPER = frozenset(("user", "pid", "time"))

PROPAGATIONS = {
    None: MountFlag.PRIVATE, "private": MountFlag.PRIVATE, "rprivate": MountFlag.PRIVATE,
    "slave": MountFlag.SLAVE, "rslave": MountFlag.SLAVE,
}


@frozen(eq=False)
class Compiled:
    """A specification, ready to be started any number of times.

    Attributes:
        plan: what the new process does.
        clone_flags: the namespaces that are made with the process.
        joins: for each namespace to join, the name of its descriptor in the plan and the file to open.
        helper: whether the plan has to run in the helper's own memory.
        forks: whether the process that executes the command is a child of the one that was started.
        uid_map, gid_map: of the new user namespace, empty when there is none.
        resources: the limits, with the devices that may be used.
        without_devices: the same where the driver cannot limit devices; None when they were asked for.
        cgroup: which driver makes the group, and where.
        delegates: whether it is to make groups below its own, in every hierarchy.
        kill_group: whether the processes can only be found through their cgroup.
        time_namespace: whether the command must find itself in a new time namespace.
        init: whether the built-in init is process 1.
        terminal: whether the process gets a terminal of its own.
        env: of the command, encoded.
        search: the directories in which a command without a slash is looked for.
        lower: what a copy-on-write root is made from, None without one.
        spec, default_filter: what it was compiled from.
    """

    plan: Plan
    clone_flags: int
    joins: tuple[tuple[str, str], ...]
    helper: bool
    forks: bool
    uid_map: tuple[IDMapping, ...]
    gid_map: tuple[IDMapping, ...]
    resources: Resources
    without_devices: Resources | None
    cgroup: CgroupChoice
    delegates: bool
    kill_group: bool
    time_namespace: bool
    init: bool
    terminal: bool
    env: tuple[bytes, ...]
    search: tuple[str, ...]
    lower: Lower | None
    spec: Spec = field(repr=False)
    default_filter: bool

    def is_current(self) -> bool:
        """Whether the plan still fits what is mounted in the root."""
        return self.lower is None or self.lower.is_current()


def compile_spec(spec: Spec, default_filter: bool = False, snapshot: SnapshotRoot | None = None) -> Compiled:
    """Compiles `spec`. Raises `NotSupported` for what this runtime does not do, `SpecError` for contradictions.

    `default_filter` adds the default seccomp filter to a specification without a profile: reading the prebuilt
    program is much faster than making the profile as data only to compile it again. `snapshot` is the root of
    a container of an image, in place of the specification's `root.path`.
    """
    _refuse_unsupported(spec)
    return _Compiler(all_that_are_there(spec), default_filter, snapshot).compile()


@define
class _Compiler:
    spec: Spec
    default_filter: bool
    snapshot: SnapshotRoot | None
    new: dict[str, bool] = field(factory=dict)
    joins: dict[str, str] = field(factory=dict)
    lower: Lower | None = None

    def compile(self) -> Compiled:
        spec, process, linux = self.spec, self._process(), self._linux()
        for namespace in linux.namespaces:
            if namespace.path is None:
                self.new[namespace.type] = True
            else:
                self.joins[namespace.type] = namespace.path
        self._check_namespaces(linux)
        helper = bool(NEED_HELPER & self.joins.keys())
        forks = helper and ("pid" in self.joins or "pid" in self.new)
        sequence = [
            *self._enter(linux, helper, forks),
            *self._root(linux),
            *self._system(linux),
            *self._become(process, linux, helper),
        ]
        return Compiled(
            plan=Plan(tuple(sequence)),
            clone_flags=0 if helper else self._flags("mount", "pid", "network", "ipc", "uts", "user"),
            joins=tuple((f"join-{kind}", self.joins[kind]) for kind in JOIN_ORDER if kind in self.joins),
            helper=helper,
            forks=forks,
            uid_map=linux.uid_mappings if "user" in self.new else (),
            gid_map=linux.gid_mappings if "user" in self.new else (),
            resources=_with_devices(linux.resources or Resources()),
            without_devices=_without_devices(linux.resources or Resources()),
            cgroup=CgroupChoice(*(spec.annotations.get(CGROUP + word) for word in ("driver", "parent", "name"))),
            delegates=delegates(spec),
            kill_group="pid" not in self.new,
            time_namespace="time" in self.new,
            init=spec.annotations.get(INIT) == "true",
            terminal=process.terminal,
            env=tuple(os.fsencode(variable) for variable in process.env),
            search=search_path(process),
            lower=self.lower,
            spec=spec,
            default_filter=self.default_filter,
        )

    def _process(self) -> Process:
        if self.spec.process is None:
            raise SpecError("process: there is none to run")
        return self.spec.process

    def _linux(self) -> Linux:
        return self.spec.linux or Linux()

    def _flags(self, *kinds: str) -> int:
        flags = 0
        for kind in kinds:
            if kind in self.new:
                flags |= NamespaceType.from_name(kind)
        return int(flags)

    def _check_namespaces(self, linux: Linux) -> None:
        if "mount" not in self.new:
            for name, value in (
                ("root", self.spec.root), ("mounts", self.spec.mounts), ("linux.maskedPaths", linux.masked_paths),
                ("linux.readonlyPaths", linux.readonly_paths),
            ):
                if value:
                    raise SpecError(f"{name}: belongs to a new mount namespace, and this container has none")
        if "user" in self.new and not (linux.uid_mappings and linux.gid_mappings):
            raise SpecError("linux.uidMappings, linux.gidMappings: a new user namespace needs both")
        if "user" not in self.new and (linux.uid_mappings or linux.gid_mappings):
            raise SpecError("linux.uidMappings: belongs to a new user namespace, and this container has none")
        if "user" in self.new and NEED_HELPER & self.joins.keys():
            raise NotSupported(
                "a new user namespace cannot be combined with the namespaces of another",
                remedy="Join the user namespace of the task as well, or none of its pid and time namespaces",
            )
        if linux.time_offsets and "time" not in self.new:
            raise SpecError("linux.timeOffsets: belongs to a new time namespace, and this container has none")
        if (self.spec.hostname or self.spec.domainname) and "uts" not in self.new:
            raise SpecError("hostname: belongs to a new uts namespace, and this container has none")
        if "pid" not in self.new and self.spec.annotations.get(INIT) == "true":
            raise SpecError("init: belongs to a new pid namespace, and this container has none")

    # ---- the phases of the plan

    def _enter(self, linux: Linux, helper: bool, forks: bool) -> list[Step]:
        """From the first instruction of the child to the point where it is in all its namespaces."""
        late: list[str] = [kind for kind in ("cgroup", "time") if kind in self.new]
        process = self._process()
        result = [
            *([] if helper else [steps.pdeathsig(9)]),  # of a thread: the one that makes a helper ends at once
            steps.umask(0),
            steps.enter_cgroups(CGROUP_SLOTS),
        ]
        score = oom_score_adj(process)
        if score is not None:
            result.append(steps.write_file("/proc/self/oom_score_adj", str(score)))
        result += security_labels(process)
        result += [
            steps.join(f"join-{kind}", int(NamespaceType.from_name(kind)), kind)
            for kind in JOIN_ORDER if kind in self.joins
        ]
        if helper:
            late += [kind for kind in ("mount", "network", "ipc", "uts", "pid") if kind in self.new]
        if "user" in self.new:  # whose maps the parent writes before it lets the child go
            result.append(steps.await_release("owner"))
        if late:
            result.append(steps.unshare(self._flags(*late), ", ".join(late)))
        if linux.time_offsets:
            result.append(steps.write_file("/proc/self/timens_offsets", _time_offsets(linux)))
        if forks:
            result.append(steps.fork(held=True))
        if "user" in self.joins or ("user" in self.new and maps_root(linux)):  # ids without a map cannot own files
            result.append(steps.identity(0, 0, [], keep_groups=True))
        return [*result, steps.setsid(), steps.session_keyring()]

    def _root(self, linux: Linux) -> list[Step]:
        """The mount namespace, up to the point where everything in it can still be written to."""
        if "mount" not in self.new:
            return [steps.chdir("/")]
        if linux.rootfs_propagation not in PROPAGATIONS:
            raise NotSupported(
                f"linux.rootfsPropagation: {linux.rootfs_propagation} would show the container's mounts to the host"
            )
        root = RootPlan(
            self.spec,
            user_namespace="user" in self.new or "user" in self.joins,
            tty_group=_inside(5, linux.gid_mappings),
            snapshot=self.snapshot,
        )
        root.build()
        self.lower = root.lower
        flag = PROPAGATIONS[linux.rootfs_propagation]
        result = [steps.propagation(int(flag), str(flag.name).lower()), *root.sources, *root.steps]
        if self._process().terminal:
            result += self._terminal()
        result += [
            steps.write_file(f"/proc/sys/{name.replace('.', '/')}", value, root="root", resolve=steps.INSIDE)
            for name, value in linux.sysctl.items()
        ]
        return result + root.finish()

    def _terminal(self) -> list[Step]:
        size = self._process().console_size
        return [
            steps.terminal("root", "terminal", "console", size.height if size else 0, size.width if size else 0),
            steps.controlling_terminal("terminal"),
            steps.tree("", "console-mount", recursive=False, directory="terminal"),
            steps.attach("console-mount", "/dev/console", root="root"),
        ]

    def _system(self, linux: Linux) -> list[Step]:
        """Names, the loopback interface and resource limits: what needs privileges but no paths."""
        result: list[Step] = []
        if self.spec.hostname:
            result.append(steps.hostname(self.spec.hostname))
        if self.spec.domainname:
            result.append(steps.domainname(self.spec.domainname))
        if "network" in self.new:
            result.append(steps.loopback())
        return result + raised_limits(self._process())

    def _become(self, process: Process, linux: Linux, helper: bool) -> list[Step]:
        """From the parent's word to the command."""
        return [
            *([] if "user" in self.new else [steps.await_release("owner")]),
            *drop_privileges(process, keep_groups=keeps_groups(linux, "user" in self.new)),
            # its thread may end before the task; the guard watches the process from here on
            *([] if helper else [steps.pdeathsig(0)]),
            *execute_command(self.spec, self.default_filter, init=self.spec.annotations.get(INIT) == "true"),
        ]


def _with_devices(asked: Resources) -> Resources:
    """With the devices that every container may use. One value for all starts: drivers keep what they made of it."""
    return evolve(asked, devices=with_defaults(asked.devices))


def _without_devices(asked: Resources) -> Resources | None:
    """Where no device was asked for or refused by itself, the list is not needed."""
    return evolve(asked, devices=()) if asked.devices in ((), (DENY_ALL,), (ALLOW_ALL,)) else None


def search_path(process: Process) -> tuple[str, ...]:
    """The directories in which a command without a slash is looked for."""
    for variable in process.env:
        if variable.startswith("PATH="):
            return tuple(variable[5:].split(":"))
    return ("/usr/local/bin", "/usr/bin", "/bin")


def oom_score_adj(process: Process) -> int | None:
    """What to set: what is asked for, or 0 where the caller is protected from the OOM killer: that is not passed on."""
    if process.oom_score_adj is not None:
        return process.oom_score_adj
    with open("/proc/self/oom_score_adj") as file:
        return 0 if int(file.read()) < 0 else None


def maps_root(linux: Linux) -> bool:
    return _inside(0, linux.uid_mappings) and _inside(0, linux.gid_mappings)


def _inside(container_id: int, mappings: tuple[IDMapping, ...]) -> bool:
    return any(m.container_id <= container_id < m.container_id + m.size for m in mappings)


def _time_offsets(linux: Linux) -> str:
    return "".join(
        f"{clock} {offset.secs or 0} {offset.nanosecs or 0}\n" for clock, offset in linux.time_offsets.items()
    )


def _refuse_unsupported(spec: Spec) -> None:
    """Every field of the specification that this runtime does not act on, so that none is passed over in silence."""
    process, linux = spec.process, spec.linux
    hooks = spec.hooks if spec.hooks is not None and spec.hooks != type(spec.hooks)() else None  # not an empty object
    present: list[tuple[str, object]] = [("hooks", hooks)]
    if process is not None:
        present += [
            ("process.scheduler", process.scheduler), ("process.execCPUAffinity", process.exec_cpu_affinity),
        ]
    if linux is not None:
        present += [
            ("linux.netDevices", linux.net_devices),
            ("linux.cgroupsPath", linux.cgroups_path), ("linux.mountLabel", linux.mount_label),
            ("linux.intelRdt", linux.intel_rdt), ("linux.memoryPolicy", linux.memory_policy),
            ("linux.personality", linux.personality),
        ]
        for name in linux.sysctl:
            _check_sysctl(name, {namespace.type for namespace in linux.namespaces if namespace.path is None})
    for name, value in present:
        if value:
            raise NotSupported(f"{name} is not supported by the native runtime yet")


def _check_sysctl(name: str, new: set[str]) -> None:
    """Only those that belong to a namespace of the container; all others would change the host."""
    if not all(part and part not in (".", "..") and "/" not in part for part in name.split(".")):
        raise InvalidArgument(f"{name!r} is not the name of a sysctl")
    ipc = name.startswith(("kernel.shm", "kernel.msg", "fs.mqueue.")) or name == "kernel.sem"
    needed = "network" if name.startswith("net.") else "ipc" if ipc else None
    if needed is None:
        raise NotSupported(f"the sysctl {name} is the host's: it has no namespace")
    if needed not in new:
        raise NotSupported(f"the sysctl {name} would change the host's: the container has no new {needed} namespace")
