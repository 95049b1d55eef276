"""Seccomp filters: the default one, and those that an OCI profile describes, as programs that seccomp(2) takes.

The default filter for the default capabilities is prebuilt (`seccomp_default.*.bpf`); any other is compiled when used.
`python -m pycontain.linux.seccomp` writes the prebuilt files again after a change of the profile or the table of calls.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pycontain.errors import InvalidArgument, NotSupported
from pycontain.linux import syscall_numbers
from pycontain.linux.capabilities import DEFAULT

if TYPE_CHECKING:
    from pycontain.linux.seccomp_bpf import Check, Decision, Rule
    from pycontain.linux.syscall_numbers import Abi
    from pycontain.spec import Seccomp, Syscall, SyscallArg

#: Answers of a filter (seccomp(2), linux/seccomp.h); the lower 16 bits are data.
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_KILL_PROCESS = _ACTIONS["SCMP_ACT_KILL_PROCESS"]
_NO_SUCH_CALL = _ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS

#: A profile with one of these defaults lists what it denies, and lets newer calls pass.
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
#: SECCOMP_FILTER_FLAG_* that a profile may name.
_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1 << 0,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
}

_prebuilt: bytes | None = None
_filters: dict[Seccomp, bytes] = {}
_profiles: dict[frozenset[str], Seccomp] = {}


def default_filter(capabilities: frozenset[str] = DEFAULT) -> bytes:
    """The default filter of this machine for a container with these capabilities, as an array of struct sock_filter.

    It covers all ABIs of the machine, and is read or compiled once. Raises NotSupported on an unknown machine.
    """
    global _prebuilt
    if capabilities != DEFAULT:
        return compile(default_profile(capabilities))
    if _prebuilt is None:
        with open(_prebuilt_path(syscall_numbers.machine()), "rb") as file:
            _prebuilt = file.read()
    return _prebuilt


def default_profile(capabilities: frozenset[str] = DEFAULT) -> Seccomp:
    """The default profile of this machine for a container with these capabilities, as OCI data."""
    if capabilities not in _profiles:
        from pycontain.linux import seccomp_profile

        _profiles[capabilities] = seccomp_profile.build(capabilities, syscall_numbers.machine())
    return _profiles[capabilities]


def compile(profile: Seccomp) -> bytes:  # noqa: A001 (as in re.compile)
    """The filter for an OCI profile (config-linux.md, "Seccomp"), as an array of struct sock_filter.

    What the specification leaves open is as in runc and crun, which use libseccomp: the native ABI is always covered;
    calls that an ABI does not have are skipped; a rule without conditions wins over those with conditions; conditions
    on the same argument in one rule are alternatives; numbers above the highest one that the profile names get ENOSYS
    unless the default action lets them pass. Rules with conditions are tried in their order. A call of an ABI that is
    not in the profile kills the process, and calls of x32 always get ENOSYS.

    Raises InvalidArgument for an errno that the action cannot return and for a profile that needs more instructions
    than the kernel takes, NotSupported for SCMP_ACT_NOTIFY and on an unknown machine.
    """
    if profile not in _filters:
        if profile == default_profile():
            _filters[profile] = default_filter()
        else:
            _filters[profile] = compile_for(syscall_numbers.machine(), profile)
    return _filters[profile]


def compile_for(machine: str, profile: Seccomp) -> bytes:
    """As `compile`, for another machine (a key of `syscall_numbers.MACHINES`), and always anew."""
    from pycontain.linux import seccomp_bpf

    default = _answer(profile.default_action, profile.default_errno_ret)
    sections = []
    for position, abi in enumerate(syscall_numbers.MACHINES[machine]):
        if position == 0 or abi.scmp in profile.architectures:
            decisions = _decisions(profile.syscalls, abi, default)
            newer = default if profile.default_action in _PERMISSIVE else _NO_SUCH_CALL
            sections.append((abi, _ranges(decisions, default, newer)))
    return seccomp_bpf.assemble(sections, _KILL_PROCESS)


def filter_flags(profile: Seccomp) -> int:
    """The flags for seccomp(2) that a profile names; as in runc, SPEC_ALLOW if it names none.

    Raises NotSupported for SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, which goes with SCMP_ACT_NOTIFY.
    """
    flags = 0
    for name in profile.flags or ("SECCOMP_FILTER_FLAG_SPEC_ALLOW",):
        if name not in _FLAGS:
            raise NotSupported(f"the seccomp flag {name} needs a listener, and none can be given")
        flags |= _FLAGS[name]
    return flags


def _answer(action: str, errno_ret: int | None) -> int:
    if action == "SCMP_ACT_NOTIFY":
        raise NotSupported("the seccomp action SCMP_ACT_NOTIFY needs a listener, and none can be given")
    if action not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        if errno_ret is not None:
            raise InvalidArgument(f"the seccomp action {action} takes no errno, and {errno_ret} was given")
        return _ACTIONS[action]
    return _ACTIONS[action] | (errno.EPERM if errno_ret is None else errno_ret)


def _decisions(rules: Iterable[Syscall], abi: Abi, default: int) -> dict[int, Decision]:
    """What each number that the profile names gets."""
    from pycontain.linux.seccomp_bpf import Rule

    numbers = syscall_numbers.numbers(abi)
    always: dict[int, int] = {}
    conditional: dict[int, list[Rule]] = {}
    for rule in rules:
        answer = _answer(rule.action, rule.errno_ret)
        alternatives = [Rule(checks, answer) for checks in _alternatives(rule.args, abi.bits)]
        for name in rule.names:
            number = numbers.get(name)
            if number is None:
                continue
            if rule.args:
                conditional.setdefault(number, []).extend(alternatives)
            else:
                always.setdefault(number, answer)
    decisions: dict[int, Decision] = {number: (tuple(tried), default) for number, tried in conditional.items()}
    return {**decisions, **always}


def _alternatives(arguments: tuple[SyscallArg, ...], bits: int) -> list[tuple[Check, ...]]:
    """Conditions on different arguments must all hold; if an argument has several, each condition stands alone."""
    checks = [_check(argument, bits) for argument in arguments]
    if len({check.index for check in checks}) < len(checks):
        return [(check,) for check in checks]
    return [tuple(checks)]


def _check(argument: SyscallArg, bits: int) -> Check:
    """The condition, cut to the width of the ABI's arguments as libseccomp does: -1 is -1 on every ABI."""
    from pycontain.linux.seccomp_bpf import Check

    limit = (1 << bits) - 1
    index, value, two = argument.index, argument.value & limit, (argument.value_two or 0) & limit
    if argument.op == "SCMP_CMP_MASKED_EQ":
        wanted = two & value
        if not wanted:
            return Check(index, "NONE", mask=value)
        if wanted == value and not value & (value - 1):
            return Check(index, "ANY", mask=value)
        return Check(index, "EQ", (wanted,), mask=value)
    return Check(index, argument.op.removeprefix("SCMP_CMP_"), (value,))


def _ranges(decisions: dict[int, Decision], default: int, newer: int) -> list[tuple[int, Decision]]:
    """Where the decision changes, from number 0 on."""
    common = [number for number in decisions if number < syscall_numbers.ARM_PRIVATE]
    last = max(common) if common else -1
    starts: dict[int, Decision] = {0: default}
    for number in sorted(decisions):
        starts[number] = decisions[number]
        if number + 1 not in decisions:
            starts[number + 1] = newer if number == last else default
    starts[syscall_numbers.X32_BIT] = _NO_SUCH_CALL
    ranges: list[tuple[int, Decision]] = []
    for first, decision in starts.items():
        if not ranges or ranges[-1][1] != decision:
            ranges.append((first, decision))
    return ranges


def _prebuilt_path(machine: str) -> str:
    return os.path.join(os.path.dirname(__file__), f"seccomp_default.{machine}.bpf")


def _write_prebuilt() -> None:
    from pycontain.linux import seccomp_profile

    for machine in syscall_numbers.MACHINES:
        program = compile_for(machine, seccomp_profile.build(DEFAULT, machine))
        with open(_prebuilt_path(machine), "wb") as file:
            file.write(program)
        print(f"{_prebuilt_path(machine)}: {len(program) // 8} instructions")


if __name__ == "__main__":
    _write_prebuilt()
