"""The system call filter (config-linux.md, seccomp). Names are those of libseccomp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from pycontain.spec.frozen import Frozen
from pycontain.spec.layout import FieldError

if TYPE_CHECKING:
    from pycontain.spec.choices import SeccompAction, SeccompArch, SeccompFlag, SeccompOperator
    from pycontain.spec.kinds import ArgumentIndex, Errno, Name, UInt64


@frozen(eq=False, repr=False)
class SyscallArg(Frozen):
    """A condition on one argument. For `SCMP_CMP_MASKED_EQ`, `value` is the mask and `value_two` what must remain."""

    index: ArgumentIndex
    value: UInt64
    op: SeccompOperator
    value_two: UInt64 | None = None


@frozen(eq=False, repr=False)
class Syscall(Frozen):
    """The action for system calls whose arguments meet all conditions. `errno_ret` None is EPERM."""

    names: tuple[Name, ...]
    action: SeccompAction
    errno_ret: Errno | None = None
    args: tuple[SyscallArg, ...] = ()

    def _check_together(self) -> None:
        if not self.names:
            raise FieldError("must not be empty", "names")


@frozen(eq=False, repr=False)
class Seccomp(Frozen):
    """The filter: what happens by default, and the rules for single system calls."""

    default_action: SeccompAction
    default_errno_ret: Errno | None = None
    architectures: tuple[SeccompArch, ...] = ()
    flags: tuple[SeccompFlag, ...] = ()
    listener_path: Name | None = None
    listener_metadata: str | None = None
    syscalls: tuple[Syscall, ...] = ()

    def _check_together(self) -> None:
        if self.listener_metadata is not None and self.listener_path is None:
            raise FieldError("must not be set without listenerPath", "listener_metadata")
