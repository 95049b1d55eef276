"""Containers: where they come from, the ways to start them, and what they compile to.

What they are like inside is in `description`, what they may do in `hardening`: their `with_*` methods change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from pycontain import defaults, image_root
from pycontain.arguments import check_encoding, on_host
from pycontain.errors import InvalidArgument, TaskError
from pycontain.hardening import Hardened
from pycontain.resolve import DEFAULT_PROFILE, process_of, with_device_rules, with_profile, with_user
from pycontain.runtimes.compile import Compiled, compile_spec
from pycontain.runtimes.failure import no_descriptors
from pycontain.runtimes.rootfs import COPY_ON_WRITE
from pycontain.spec import ConsoleSize, FrozenMap, Mount, Process, Root, Spec
from pycontain.standard_streams import fill_standard_streams
from pycontain.streams import DEVNULL, PIPE, Stream
from pycontain.task import Task

if TYPE_CHECKING:
    from typing_extensions import Self

    from pycontain.arguments import Path
    from pycontain.images.choice import Pull
    from pycontain.images.image import Image
    from pycontain.images.layer import WritableLayer
    from pycontain.linux.plan import Plan
    from pycontain.result import Result


@frozen(repr=False, init=False, getstate_setstate=False)  # those of Description
class Container(Hardened):
    """A container as a value: root, mounts, namespaces, limits, and how its process is set up.

    Made from an image, `Container("debian:12")`, or by `from_host`, `from_rootfs` or `from_spec`; each `with_*` method
    returns a changed copy. Descriptions that say the same are equal and hash equal. Nothing happens before `run` or
    `start`, which may be called any number of times, from any thread.
    """

    # ---- where it comes from

    def __init__(
        self,
        image: str | Image | None = None,
        *,
        pull: Pull = "missing",
        platform: str | None = None,
        snapshotter: str | None = None,
        **fields: Any,
    ) -> None:
        """A container of an image: its environment, user, working directory, entrypoint and command apply.

        The name is looked up when the container starts: in the store of this user, and, as `pull` says, in the
        registry ("missing", "always", "never"). What the container writes goes to a layer of its own, on the disk,
        which is removed with it. `snapshotter` says how the layers are put together, "overlay" or "native"; by default
        the one that suits the store. `fields` are those of the description, for attrs.
        """
        if image is not None:
            from pycontain.images.choice import ImageChoice

            process = evolve(defaults.process(), env=(), cwd=image_root.UNSET)
            fields = {
                "spec": _with_defaults(image_root.ROOT, defaults.MOUNTS, process),
                "source": ImageChoice.of(image, pull, platform, snapshotter),
            }
        self.__attrs_init__(**fields)

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
        return cls._new(on_host(path, "the root"), defaults.MOUNTS, defaults.PATH)

    @classmethod
    def _new(cls, root: str, mounts: tuple[Mount, ...], path: str) -> Self:
        spec = _with_defaults(root, mounts, defaults.process(path))
        return cls(spec=evolve(spec, annotations=FrozenMap({COPY_ON_WRITE: "true"})))

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
        return cls(spec=spec, seccomp=None, as_written=True)

    # ---- starting it

    def run(
        self,
        argv: Sequence[str] | None = None,
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
        check_encoding(encoding, errors)
        if timeout is not None and not timeout >= 0:
            raise InvalidArgument(f"{timeout} is not a time limit")
        if input is not None and stdin not in (DEVNULL, PIPE):
            raise InvalidArgument("stdin and input cannot both be given")
        data = input.encode(encoding, errors) if isinstance(input, str) else input
        task = self._task(argv, None, encoding, errors)
        try:
            task._start(stdin, stdout, stderr, data)
            result = task._run(timeout)
        except BaseException:  # Ctrl-C may come between the two
            task._abort()
            raise
        finally:
            task.remove()
        return result.check() if check else result

    def start(
        self,
        argv: Sequence[str] | None = None,
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

        check_encoding(encoding, errors)
        task = self._task(argv, None, encoding, errors)
        try:
            task._start(stdin, stdout, stderr, None)
            watch(task)
        except BaseException:  # Ctrl-C may come between the two
            cancel(task)
            raise
        return task

    def start_terminal(
        self, argv: Sequence[str] | None = None, *, rows: int = 24, columns: int = 80
    ) -> tuple[Task, int]:
        """Starts a command on a terminal of its own.

        Returns the task and the descriptor of the terminal's other end, which the caller closes.
        """
        from pycontain.monitor import cancel, watch

        task = self._task(argv, ConsoleSize(rows, columns))
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
        the built-in init) is said by annotations, which `from_spec` understands. The root of an image is `rootfs`,
        as in a bundle: `Image.unpack` puts it there.
        """
        if self._source is None:
            spec = self._resolved()
        else:
            with self._trial_layer() as layer:
                spec = self._resolved(layer)
        if argv:
            spec = evolve(spec, process=evolve(process_of(spec), args=tuple(argv)))
        spec = with_profile(spec, self._seccomp)
        return spec if self._as_written else with_device_rules(spec)

    @contextmanager
    def _trial_layer(self) -> Iterator[WritableLayer]:
        """A layer of which only what it is made of is looked at."""
        assert self._source is not None
        layer = self._layer(self._source.resolve())
        try:
            yield layer
        finally:
            layer.remove()

    def plan(self) -> Plan:
        """The steps that a start goes through, in their order; `print` shows one a line."""
        if self._source is None:
            return self._compile().plan
        with self._trial_layer() as layer:
            return self._compile(None, layer).plan

    def _task(
        self, argv: Sequence[str] | None, terminal: ConsoleSize | None, encoding: str = "utf-8", errors: str = "strict"
    ) -> Task:
        """A task that is to be started."""
        if self._source is not None:
            return self._image_task(self._source.resolve(), argv, terminal, encoding, errors)
        if argv is None:
            raise InvalidArgument("the command is missing", remedy="Only an image can have one of its own")
        return Task(self._compile(terminal), argv, encoding, errors)

    def _image_task(
        self, image: Image, argv: Sequence[str] | None, terminal: ConsoleSize | None, encoding: str, errors: str
    ) -> Task:
        words = image_root.command(image, argv)
        layer = self._layer(image)
        try:
            return Task(self._compile(terminal, layer), words, encoding, errors, layer)
        except BaseException:
            layer.remove()
            raise

    def _layer(self, image: Image) -> WritableLayer:
        from pycontain.images.layer import WritableLayer

        image_root.check(self._spec)
        return WritableLayer.prepare(image, self._source.snapshotter if self._source is not None else None)

    def _compile(self, terminal: ConsoleSize | None = None, layer: WritableLayer | None = None) -> Compiled:
        try:
            return self._compile_for(terminal, layer)
        except OSError as error:
            raise no_descriptors(error) from None

    def _compile_for(self, terminal: ConsoleSize | None, layer: WritableLayer | None) -> Compiled:
        fill_standard_streams()
        for kind, task in self._joined:
            if task.state not in ("running", "paused"):  # its pid may be another's by now
                raise TaskError(f"{task!r} has ended: its {kind} namespace cannot be joined any more")
        key = terminal, None if layer is None else layer.plan_key
        compiled = self._compiled.get(key)
        if compiled is None or not compiled.is_current():
            spec = self._resolved(layer)
            if terminal is not None:
                spec = evolve(spec, process=evolve(process_of(spec), terminal=True, console_size=terminal))
            default_filter = self._seccomp == DEFAULT_PROFILE
            if not default_filter:
                spec = with_profile(spec, self._seccomp)
            compiled = self._compiled[key] = compile_spec(spec, default_filter, None if layer is None else layer.root)
        return compiled

    def _resolved(self, layer: WritableLayer | None = None) -> Spec:
        """The specification with the user's ids, groups and home directory, and what the image says."""
        if layer is not None:
            return image_root.resolved(self._spec, layer, self._user)
        if self._user is None and self._as_written:
            return self._spec
        return with_user(self._spec, self._user)


def _with_defaults(root: str, mounts: Sequence[Mount], process: Process) -> Spec:
    return Spec(
        root=Root(root), mounts=(*mounts, *defaults.cgroup_mounts()), process=process, linux=defaults.LINUX
    )
