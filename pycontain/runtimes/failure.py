"""Turns a step that failed into an error that says what, why and what helps."""

from __future__ import annotations

import errno
import os
from typing import Any

from pycontain.cgroups.refusals import DESCRIPTORS, NO_DESCRIPTOR
from pycontain.errors import CommandNotExecutable, CommandNotFound, NotSupported, StartFailed, name_of
from pycontain.linux.plan import Plan
from pycontain.runtimes.remedies import reason_for
from pycontain.runtimes.start import StepFailed

NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def start_failed(
    failure: StepFailed, plan: Plan, argv: list[str], candidates: list[str], user_namespace: bool = False
) -> StartFailed:
    """The error to raise for a failure of `plan`; `user_namespace` tells whether the process was to have a new one."""
    if failure.index is None:
        step, message = "", "the process could not be created"
    else:
        step = plan.steps[failure.index].text
        if failure.syscall in ("execve", "execveat"):
            return command_failed(failure.errno, failure.candidate, argv, candidates, step)
        message = f"the container could not be started: {step}"
    reason = reason_for(failure.syscall, failure.errno, step, user_namespace)
    because = f": {reason.cause}" if reason and reason.cause else ""
    return StartFailed(
        f"{message}: {failure.syscall}: {name_of(failure.errno)}{because}",
        step=step or None, syscall=failure.syscall, errno=failure.errno, remedy=reason.remedy if reason else None,
    )


def command_failed(code: int, candidate: int, argv: list[str], candidates: list[str], step: str) -> StartFailed:
    """The error for a command that could not be executed; `candidate` is the path that was found, or -1."""
    details: dict[str, Any] = {"step": step, "syscall": "execve", "errno": code}
    if candidate < 0 and code in NOT_THERE:
        directories = [os.path.dirname(path) for path in candidates]
        where = "" if "/" in argv[0] else f" in {':'.join(directories)}"
        return CommandNotFound(f"{argv[0]!r} was not found{where}", **details)
    path = candidates[candidate] if candidate >= 0 else argv[0]
    if code == errno.ENOENT:
        return CommandNotFound(
            f"{path!r} is there, but its interpreter or loader is not",
            remedy="Look at its first line, or use a program that is linked statically or for this root's libc",
            **details,
        )
    causes = {
        errno.EACCES: (
            f"{path!r} is not executable for this user",
            "Check that it is a file, its mode, those of its directories, and noexec",
        ),
        errno.ENOEXEC: (
            f"{path!r} has no format that this kernel executes",
            "It is for another architecture, or a script without a #! line",
        ),
        errno.E2BIG: (
            f"the arguments and environment of {argv[0]!r} are too long",
            "One string may have 128 KiB, all together a quarter of the stack limit: use standard input or a file",
        ),
    }
    message, remedy = causes.get(code, (f"{path!r} could not be executed: {name_of(code)}", None))
    return CommandNotExecutable(message, remedy=remedy, **details)


def no_descriptors(error: OSError) -> OSError | NotSupported:
    """`error` itself, or a clearer one when it says that this process or the machine has no descriptor left."""
    if error.errno not in NO_DESCRIPTOR:
        return error
    return NotSupported(f"there is no free descriptor: {name_of(error.errno)}", remedy=DESCRIPTORS)
