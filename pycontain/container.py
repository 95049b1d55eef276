"""The description of a container, and the ways to start it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

from attrs import evolve, field, frozen

from pycontain import defaults
from pycontain.cgroups.devices import DENY_ALL
from pycontain.errors import InvalidArgument, TaskError
from pycontain.limits import CPU_PERIOD, Limits, device_numbers, resources_with
from pycontain.linux.namespaces import NamespaceType
from pycontain.network import NetworkNamespace
from pycontain.runtimes.compile import CGROUP, INIT, Compiled, compile_spec
from pycontain.runtimes.failure import no_descriptors
from pycontain.runtimes.rootfs import COPY_ON_WRITE
from pycontain.sizes import format_size, parse_size
from pycontain.spec import (
    ConsoleSize,
    FrozenMap,
    IDMapping,
    Linux,
    Mount,
    Namespace,
    Process,
    Resources,
    Rlimit,
    Root,
    Spec,
    TimeOffset,
)
from pycontain.spec.runtime import RLIM_INFINITY
from pycontain.standard_streams import fill_standard_streams
from pycontain.streams import DEVNULL, PIPE, Stream
from pycontain.task import Task

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from pycontain.linux.plan import Plan
    from pycontain.linux.users import User as FoundUser
    from pycontain.result import Result
    from pycontain.spec.choices import NamespaceType as NamespaceName
    from pycontain.spec.choices import RlimitType

Path = Union[str, "os.PathLike[str]"]

OLD_VERSION = "1.0.2"  # of the OCI runtime specification, which runtimes of any age take


@frozen(repr=False)
class Container:
    """A container as a value: root, mounts, namespaces, limits, and how its process is set up.

    Made by `from_host`, `from_rootfs` or `from_spec`; each `with_*` method returns a changed copy. Descriptions that
    say the same are equal and hash equal. Nothing happens before `run` or `start`, which may be called any number of
    times, from any thread.
    """

    _spec: Spec
    _user: str | None = None
    _default_filter: bool = True
    _joined: tuple[tuple[str, Task], ...] = field(default=(), eq=False)
    _compiled: dict[object, Compiled] = field(factory=dict, init=False, eq=False)

    # ---- where it comes from

    @classmethod
    def from_host(cls) -> Self:
        """A copy-on-write clone of the host's file system: the same interpreter, packages, tools; not written through.

        `/proc`, `/sys`, `/dev`, `/run` and `/tmp` are its own. Other mounted file systems are copied on write as well;
        those that are mounted read-only or that overlayfs cannot stack on are there read-only. What is written
        lives in memory, counts as the container's, and is gone with it. `PATH` is the caller's; nothing else of the
        environment is passed. An interpreter or virtual environment below `/tmp` or `/run` is there, read-only.
        """
        return cls._new("/", (*defaults.HOST_MOUNTS, *defaults.interpreter_mounts()), defaults.host_path())

    @classmethod
    def from_rootfs(cls, path: Path) -> Self:
        """A directory as the root. It is never written to: what the container writes lives in memory, on a tmpfs.

        The path is made absolute now, and looked at when the container starts.
        """
        return cls._new(_on_host(path, "the root"), defaults.MOUNTS, defaults.PATH)

    @classmethod
    def _new(cls, root: str, mounts: tuple[Mount, ...], path: str) -> Self:
        return cls(
            Spec(
                root=Root(root),
                mounts=(*mounts, *defaults.cgroup_mounts()),
                process=defaults.process(path),
                annotations=FrozenMap({COPY_ON_WRITE: "true"}),
                linux=defaults.LINUX,
            )
        )

    @classmethod
    def from_spec(cls, spec: Spec | str | bytes) -> Self:
        """A container from an OCI runtime specification, as a value or as JSON text. It gets what the document says,
        and no defaults of pycontain: without a seccomp profile in it there is no filter.

        The root is the document's directory itself and is written to, unless the annotation of `spec()` says otherwise.
        Raises `SpecError` for a document that is none; `NotSupported`, at the start, for what is not supported.
        """
        if not isinstance(spec, Spec):
            spec = Spec.from_json(spec)
        if spec.process is None:
            spec = evolve(spec, process=Process(cwd="/"))
        return cls(spec, default_filter=False)

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
        return self.with_mount(Mount(_absolute(target), "bind", _on_host(source, "the source of a bind"), options))

    def with_tmpfs(self, target: Path, *, size: int | str | None = None, mode: int = 0o1777) -> Self:
        """An empty file system in memory at `target`, of at most `size` bytes or "16M"; half of the RAM without."""
        if isinstance(mode, bool) or not isinstance(mode, int) or not 0 <= mode <= 0o7777:
            raise InvalidArgument(f"{mode!r} is not the mode of a directory: it must be from 0 to 0o7777")
        options = ["nosuid", "nodev", f"mode={mode:o}"]
        if size is not None:
            options.append(f"size={parse_size(size, 'the size of a tmpfs')}")
        return self.with_mount(Mount(_absolute(target), "tmpfs", "tmpfs", tuple(options)))

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
        inside = os.path.normpath(_absolute(path if target is None else target))
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
            namespaces.append(Namespace(kind, _namespace_path(kind, where)))
        joined = [(name, task) for name, task in self._joined if name != kind]
        if isinstance(where, Task):
            joined.append((kind, where))
        changed = evolve(self._with_linux(namespaces=tuple(namespaces)), joined=tuple(joined))
        if kind == "cgroup" and where == "host":  # the mount would show the host's groups
            others = tuple(mount for mount in changed._spec.mounts if mount != defaults.CGROUP_MOUNT)
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
        offsets = {"monotonic": _time_offset(monotonic), "boottime": _time_offset(boottime)}
        return self.with_namespace("time", "new")._with_linux(time_offsets=FrozenMap(offsets))

    # ---- starting it

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes | str | None = None,  # noqa: A002 (as in subprocess.run)
        stdin: Stream = DEVNULL,
        stdout: Stream = PIPE,
        stderr: Stream = PIPE,
        timeout: float | None = None,
        check: bool = False,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
    ) -> Result:
        """Runs a command to its end. Like `subprocess.run`, but isolated, and a time limit keeps what was printed.

        Both streams are captured unless they are sent elsewhere: to a file object or descriptor, `DEVNULL`, the
        caller's own (None), or, for standard error, `STDOUT`. `input` goes to standard input, which is empty
        otherwise; a string is encoded. `timeout` is in seconds: when it is over all inside is killed, and the result's
        `reason` is "timeout". `check` calls `Result.check()`. The captured streams are bytes whatever `text`,
        `encoding` and `errors` say: these choose how `Result.text` decodes.

        Raises:
            CommandNotFound, CommandNotExecutable: there is no such command in the container, or it cannot be executed.
            StartFailed: the container cannot be started; nothing is left.
            LimitNotSupported, NotSupported: this machine cannot do what was asked.
            ProcessFailed: with `check`, when the command did not exit with 0.
        """
        encoding, errors = encoding or "utf-8", errors or "strict"
        _check_encoding(encoding, errors)
        if timeout is not None and not timeout >= 0:
            raise InvalidArgument(f"{timeout} is not a time limit")
        if input is not None and stdin not in (DEVNULL, PIPE):
            raise InvalidArgument("stdin and input cannot both be given")
        data = input.encode(encoding, errors) if isinstance(input, str) else input
        task = Task(self._compile(), argv, encoding, errors)
        try:
            task._start(stdin, stdout, stderr, data)
            result = task._run(timeout)
        except BaseException:  # Ctrl-C may come between the two
            task._abort()
            raise
        return result.check() if check else result

    def start(
        self,
        argv: Sequence[str],
        *,
        stdin: Stream = DEVNULL,
        stdout: Stream = PIPE,
        stderr: Stream = PIPE,
        encoding: str = "utf-8",
        errors: str = "strict",
    ) -> Task:
        """Starts a command and returns the running task, once the command has been executed.

        The streams are as for `run`; what is captured is in the result of `Task.wait`. Raises as `run` does.
        """
        from pycontain.monitor import cancel, watch

        _check_encoding(encoding, errors)
        task = Task(self._compile(), argv, encoding, errors)
        try:
            task._start(stdin, stdout, stderr, None)
            watch(task)
        except BaseException:  # Ctrl-C may come between the two
            cancel(task)
            raise
        return task

    def start_terminal(self, argv: Sequence[str], *, rows: int = 24, columns: int = 80) -> tuple[Task, int]:
        """Starts a command on a terminal of its own.

        Returns the task and the descriptor of the terminal's other end, which the caller closes.
        """
        from pycontain.monitor import cancel, watch

        compiled = self._compile(ConsoleSize(rows, columns))
        task = Task(compiled, argv, "utf-8", "strict")
        try:
            terminal = task._start_terminal()
            watch(task)
        except BaseException:
            cancel(task)
            raise
        return task, terminal

    # ---- what it compiles to

    def spec(self, argv: Sequence[str] = ()) -> Spec:
        """The OCI runtime specification that this container is, with `argv` as its command.

        The user's name is looked up, and the seccomp profile is in it. What the OCI cannot say (a copy-on-write root,
        the built-in init) is said by annotations, which `from_spec` understands.
        """
        from pycontain.linux.seccomp import default_profile

        spec = self._resolved()
        if argv:
            spec = evolve(spec, process=evolve(self._process_of(spec), args=tuple(argv)))
        if self._default_filter:
            profile = default_profile(frozenset(self._capabilities))
            linux = spec.linux or Linux()
            resources = linux.resources or Resources()
            resources = evolve(resources, devices=resources.devices or (DENY_ALL,))  # but for the OCI's default list
            spec = evolve(spec, linux=evolve(linux, seccomp=profile, resources=resources))
            if not _needs_new_version(spec):
                spec = evolve(spec, oci_version=OLD_VERSION)
        return spec

    def plan(self) -> Plan:
        """The steps that a start goes through, in their order; `print` shows one a line."""
        return self._compile().plan

    def _compile(self, terminal: ConsoleSize | None = None) -> Compiled:
        try:
            return self._compile_for(terminal)
        except OSError as error:
            raise no_descriptors(error) from None

    def _compile_for(self, terminal: ConsoleSize | None) -> Compiled:
        fill_standard_streams()
        for kind, task in self._joined:
            if task.state not in ("running", "paused"):  # its pid may be another's by now
                raise TaskError(f"{task!r} has ended: its {kind} namespace cannot be joined any more")
        compiled = self._compiled.get(terminal)
        if compiled is None or not compiled.is_current():
            spec = self._resolved()
            if terminal is not None:
                spec = evolve(spec, process=evolve(self._process_of(spec), terminal=True, console_size=terminal))
            compiled = self._compiled[terminal] = compile_spec(spec, self._default_filter)
        return compiled

    def _resolved(self) -> Spec:
        """The specification with the user's ids, groups and home directory."""
        if self._user is None and not self._default_filter:
            return self._spec
        process = self._process
        user = self._find_user() if self._user is not None else None
        home = user.home if user is not None else "/root"
        if not any(variable.startswith("HOME=") for variable in process.env):
            process = evolve(process, env=(*process.env, f"HOME={home or '/'}"))
        if user is not None:
            process = _as_user(process, user)
        return evolve(self._spec, process=process)

    def _find_user(self) -> FoundUser:
        from pycontain.linux.users import resolve_user

        path = self._spec.root.path if self._spec.root else "/"
        try:
            root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidArgument(f"the root {path!r} cannot be used: {error.strerror}") from None
        try:
            return resolve_user(root, self._user or "")
        finally:
            os.close(root)

    # ---- helpers

    @property
    def _process(self) -> Process:
        return self._process_of(self._spec)

    @staticmethod
    def _process_of(spec: Spec) -> Process:
        if spec.process is None:
            raise TaskError("a container always has a process")
        return spec.process

    @property
    def _linux(self) -> Linux:
        return self._spec.linux or Linux()

    @property
    def _capabilities(self) -> tuple[str, ...]:
        return self._process.capabilities.bounding if self._process.capabilities else ()

    def _with(self, spec: Spec) -> Self:
        return evolve(self, spec=spec)

    def _with_process(self, **changes: Any) -> Self:
        return self._with(evolve(self._spec, process=evolve(self._process, **changes)))

    def _with_linux(self, **changes: Any) -> Self:
        return self._with(evolve(self._spec, linux=evolve(self._linux, **changes)))

    def __getstate__(self) -> dict[str, object]:
        """Without the plans, which are for the process that made them."""
        names = ("_spec", "_user", "_default_filter", "_joined")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, object]) -> None:
        for name, value in {**state, "_compiled": {}}.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        spec, resources = self._spec, self._linux.resources or Resources()
        words = []
        if spec.root is None:
            words.append("no root")
        else:
            words.append("host" if spec.root.path == "/" else repr(spec.root.path))
            words += ["read-only"] if spec.root.readonly else []
        words += [f"hostname={spec.hostname}"] if spec.hostname else []
        words += [f"user={self._user}"] if self._user else []
        if resources.memory is not None and resources.memory.limit is not None:
            words.append(f"memory={format_size(resources.memory.limit)}")
        if resources.cpu is not None and resources.cpu.quota is not None:
            words.append(f"cpus={resources.cpu.quota / (resources.cpu.period or CPU_PERIOD):g}")
        if resources.pids is not None:
            words.append(f"pids={resources.pids.limit}")
        words += [f"{kind}={where}" for kind, where in self._unusual_namespaces()]
        return f"<Container {' '.join(words)}>"

    def _unusual_namespaces(self) -> list[tuple[str, str]]:
        """The namespaces that differ from the default."""
        have = {namespace.type: namespace.path or "new" for namespace in self._linux.namespaces}
        usual = {namespace.type: "new" for namespace in defaults.NAMESPACES}
        kinds = dict.fromkeys([*usual, *have])
        return [(k, have.get(k, "host")) for k in kinds if have.get(k, "host") != usual.get(k, "host")]


def _check_encoding(encoding: str, errors: str) -> None:
    import codecs

    try:
        codecs.lookup(encoding)
        codecs.lookup_error(errors)
    except LookupError as error:
        raise InvalidArgument(str(error)) from None


def _needs_new_version(spec: Spec) -> bool:
    """Whether a specification has what came with version 1.1."""
    time = spec.linux is not None and any(namespace.type == "time" for namespace in spec.linux.namespaces)
    return time or spec.domainname is not None


def _on_host(path: Path, what: str) -> str:
    """The path made absolute. An empty one, of a variable that was not set, would be the working directory."""
    text = os.fspath(path)
    if not text:
        raise InvalidArgument(f"{what} cannot be an empty path")
    return os.path.abspath(text)


def _absolute(path: Path) -> str:
    text = os.fspath(path)
    if not text.startswith("/"):
        raise InvalidArgument(f"the mount target {text!r} is not an absolute path")
    return "/" + text.lstrip("/")  # POSIX leaves it open what two slashes mean


def _time_offset(seconds: float) -> TimeOffset:
    if not -(2**63) < seconds < 2**63:
        raise InvalidArgument(f"{seconds} is not an offset of a clock in seconds")
    return TimeOffset(*divmod(round(seconds * 1_000_000_000), 1_000_000_000))


def _namespace_path(kind: NamespaceName, where: NetworkNamespace | Task | Path) -> str | None:
    if where == "new":
        return None
    if isinstance(where, NetworkNamespace):
        if kind != "network":
            raise InvalidArgument(f"a network namespace cannot be the container's {kind} namespace")
        return where.path
    if isinstance(where, Task):
        where._check_owner()
        if where.state not in ("running", "paused"):
            raise TaskError(f"{where!r} does not run: its namespaces cannot be joined")
        return f"/proc/{where.pid}/ns/{NamespaceType.from_name(kind).file_name}"
    path = os.fspath(where)
    if not path.startswith("/"):
        raise InvalidArgument(
            f"{path!r} is not a {kind} namespace",
            remedy='Give "new", "host", a task, or the absolute path of a namespace file',
        )
    return path


def _as_user(process: Process, user: FoundUser) -> Process:
    """The process as another user: its ids and, unless it is root, no capabilities but those it may gain."""
    from pycontain.spec import User

    process = evolve(process, user=User(user.uid, user.gid, additional_gids=user.additional_gids))
    if process.capabilities is not None and user.uid != 0:
        process = evolve(process, capabilities=evolve(process.capabilities, effective=(), permitted=()))
    return process
