"""The errors that pycontain raises. All derive from `PycontainError`; each says what failed, why, and what helps."""

from __future__ import annotations

import errno as errno_module
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pycontain.result import Result


class PycontainError(Exception):
    """Base of all errors of this library.

    `remedy` is a sentence that says what helps (the sysctl, the package, the option), or None.
    """

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(f"{message}. {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


class InvalidArgument(PycontainError, ValueError):
    """A description that can never work: a malformed size, a relative mount target, a NUL byte in a name."""


class SpecError(InvalidArgument):
    """A document that is not a valid OCI specification; the message begins with the path of the field."""


class NotSupported(PycontainError):
    """This kernel, machine or user cannot do what was asked. The message names the cause, `remedy` what helps."""


class LimitNotSupported(NotSupported):
    """A resource limit cannot be enforced here. Nothing was started."""


class CgroupError(PycontainError):
    """A cgroup operation failed; `errno` is the kernel's answer, or None."""

    def __init__(self, message: str, *, errno: int | None = None, remedy: str | None = None) -> None:
        super().__init__(f"{message}: {os.strerror(errno)}" if errno else message, remedy=remedy)
        self.errno = errno


class StartFailed(PycontainError):
    """A container could not be started, and nothing of it is left.

    Attributes:
        step: the step that failed, as a line of `Container.plan()`, or None when no step was reached.
        syscall: the system call that failed.
        errno: the kernel's answer.
    """

    def __init__(
        self, message: str, *, step: str | None = None, syscall: str | None = None, errno: int = 0,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.step = step
        self.syscall = syscall
        self.errno = errno


class CommandNotFound(StartFailed):
    """The command does not exist in the container (exit status 127 on the command line)."""


class CommandNotExecutable(StartFailed):
    """The command exists but cannot be executed (exit status 126 on the command line)."""


class TaskError(PycontainError):
    """An operation that the state of the task does not allow."""


class WaitTimeout(PycontainError, TimeoutError):
    """The time of a wait is over. What was waited for goes on."""


class StoreError(PycontainError):
    """The store of images cannot be used as it is: no permission, a full disk, a newer version's database.

    `errno` is the kernel's answer, or None. What was begun has been undone, or is by the next use.
    """

    def __init__(self, message: str, *, errno: int | None = None, remedy: str | None = None) -> None:
        super().__init__(f"{message}: {os.strerror(errno)}" if errno else message, remedy=remedy)
        self.errno = errno


class SnapshotError(StoreError):
    """An operation that the state of a snapshot does not allow, or that its snapshotter cannot do."""


class ImageError(PycontainError):
    """Base of what can be wrong with an image."""


class ImageNotFound(ImageError, LookupError):
    """There is no such image, here or in the registry, or none for this platform."""


class InvalidImage(ImageError):
    """A manifest, configuration or archive that is broken or of an unknown kind."""


class BlobDamaged(InvalidImage):
    """Data whose size or digest is not what its descriptor says."""


class LayerError(InvalidImage):
    """A layer that is broken or hostile. Nothing of it is left.

    Attributes:
        layer: its digest or name.
        entry: the name of the entry in it, or None.
        rule: what it breaks.
    """

    def __init__(self, layer: str, entry: str | None, rule: str) -> None:
        where = f"the entry {entry!r} of the layer {layer}" if entry is not None else f"the layer {layer}"
        super().__init__(f"{where} is refused: {rule}")
        self.layer = layer
        self.entry = entry
        self.rule = rule


class InvalidReference(InvalidArgument):
    """A text that names no image."""


class InvalidDigest(InvalidArgument):
    """A text that is no digest, or one of an algorithm that is not supported."""


class RegistryError(ImageError):
    """A registry refused, or could not be reached. `status` is that of HTTP, or None; `code` the registry's own."""

    def __init__(
        self, message: str, *, status: int | None = None, code: str | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status
        self.code = code


class AuthenticationFailed(RegistryError):
    """The registry wants credentials, or others than were given."""


class ProcessFailed(PycontainError):
    """Raised by `Result.check()` and `run(..., check=True)`. `result` carries both streams."""

    def __init__(self, result: Result) -> None:
        self.result = result
        argv = result.argv
        command = " ".join(argv) if len(argv) < 8 else " ".join(argv[:7]) + " ..."
        super().__init__(f"{command!r} {result.describe()}{_tail(result.stderr)}")

    def __reduce__(self) -> tuple[type[ProcessFailed], tuple[Result]]:
        return type(self), (self.result,)  # not the message, as exceptions are pickled: pools of processes pickle them


def _tail(stderr: bytes, limit: int = 2000) -> str:
    """The end of standard error as an indented block, for the message of an exception."""
    text = stderr[-limit:].decode("utf-8", "backslashreplace").rstrip()
    return "\n" + "\n".join("  | " + line for line in text.splitlines()) if text else ""


def name_of(errno: int) -> str:
    """`ENOENT (No such file or directory)`."""
    return f"{errno_module.errorcode.get(errno, errno)} ({os.strerror(errno)})"
