"""Device rules of the OCI specification: their meaning, the default list, and how v1 and v2 enforce them.

The rules are applied in order: for each kind of access, the last rule that matches the device says whether it is
allowed. Without any rule that matches it is, as in a new group.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import NamedTuple

from pycontain.cgroups import files
from pycontain.cgroups.refusals import DESCRIPTORS, NO_DESCRIPTOR
from pycontain.errors import InvalidArgument, LimitNotSupported
from pycontain.spec import DeviceRule

ALL_ACCESS = "rwm"


def _character(major: int, minor: int | None) -> DeviceRule:
    return DeviceRule(allow=True, type="c", major=major, minor=minor, access=ALL_ACCESS)


DEFAULT_DEVICES: tuple[DeviceRule, ...] = (
    DeviceRule(allow=True, type="c", access="m"),  # making a node does not open it
    DeviceRule(allow=True, type="b", access="m"),
    _character(1, 3),  # null
    _character(1, 5),  # zero
    _character(1, 7),  # full
    _character(1, 8),  # random
    _character(1, 9),  # urandom
    _character(5, 0),  # tty
    _character(5, 1),  # console
    _character(5, 2),  # ptmx
    _character(136, None),  # pts
)
"""The OCI specification's default list: what every container may use."""

DENY_ALL = DeviceRule(allow=False, access=ALL_ACCESS)
ALLOW_ALL = DeviceRule(allow=True, access=ALL_ACCESS)
_ONLY_DEFAULT = (DENY_ALL, *DEFAULT_DEVICES)


def with_defaults(rules: tuple[DeviceRule, ...]) -> tuple[DeviceRule, ...]:
    """The rules of a container. Without any it may use the default list and nothing else. Rules of its own come before
    that list, as in other runtimes: who denies everything means everything but these."""
    return (*rules, *DEFAULT_DEVICES) if rules else _ONLY_DEFAULT


class Rule(NamedTuple):
    """A rule with everything said. None is any type, any number."""

    allow: bool
    type: str | None
    major: int | None
    minor: int | None
    access: frozenset[str]

    def covers(self, other: Rule) -> bool:
        """Whether all devices of `other` are also devices of this rule. The access is not looked at."""
        pairs = zip(self[1:4], other[1:4], strict=True)
        return all(mine is None or mine == theirs for mine, theirs in pairs)

    def meets(self, other: Rule) -> bool:
        """Whether there can be a device that both rules name."""
        pairs = zip(self[1:4], other[1:4], strict=True)
        return all(mine is None or theirs is None or mine == theirs for mine, theirs in pairs)

    def __str__(self) -> str:
        numbers = ":".join("*" if number is None else str(number) for number in (self.major, self.minor))
        return f"{self.type or 'a'} {numbers} {''.join(letter for letter in ALL_ACCESS if letter in self.access)}"


class Policy(NamedTuple):
    """What a list of rules comes to: `exceptions` are all against `default`, and their order does not matter."""

    default: bool
    exceptions: tuple[Rule, ...]


def read_rules(rules: Sequence[DeviceRule]) -> list[Rule]:
    """The rules that matter: those before a rule for all devices are without effect.

    Raises `InvalidArgument` for numbers that no device has.
    """
    result: list[Rule] = []
    for rule in rules:
        read = Rule(
            rule.allow, None if rule.type in (None, "a") else rule.type, _number("major", rule.major),
            _number("minor", rule.minor), frozenset(rule.access or ALL_ACCESS),
        )
        if read[1:4] == (None, None, None) and len(read.access) == len(ALL_ACCESS):
            result.clear()
        result.append(read)
    return result


def policy_of(rules: Sequence[Rule]) -> Policy:
    """The rules as v1 can have them: one default and exceptions from it.

    Raises `LimitNotSupported` for a rule that takes a part out of an earlier exception, such as one terminal of all:
    the devices controller would ignore it without a word.
    """
    rest = list(rules)
    default = True
    if rest and rest[0][1:4] == (None, None, None) and len(rest[0].access) == len(ALL_ACCESS):
        default = rest.pop(0).allow
    exceptions: list[Rule] = []
    for rule in rest:
        if rule.allow != default:
            exceptions.append(rule)
            continue
        kept: list[Rule] = []
        for earlier in exceptions:
            if rule.covers(earlier):
                left = earlier.access - rule.access
                if left:
                    kept.append(earlier._replace(access=left))
            elif rule.meets(earlier) and rule.access & earlier.access:
                raise LimitNotSupported(
                    f"the limit devices cannot be enforced: {'allowing' if rule.allow else 'denying'} {rule} takes a "
                    f"part out of {earlier}, and the devices controller of cgroup v1 has no such rule",
                    remedy="Name the devices one by one instead",
                )
            else:
                kept.append(earlier)
        exceptions = kept
    return Policy(default, tuple(exceptions))


def apply_legacy(path: str, rules: Sequence[DeviceRule]) -> None:
    """Writes the rules to a v1 group. Meant for groups without processes and for frozen ones: while it is being written
    a group may open what neither the old nor the new rules allow. Raises OSError, `LimitNotSupported`."""
    policy = policy_of(read_rules(rules))
    against = "devices.allow" if not policy.default else "devices.deny"
    files.write(f"{path}/{'devices.allow' if policy.default else 'devices.deny'}", "a")
    for rule in policy.exceptions:
        for line in _lines(rule):
            files.write(f"{path}/{against}", line)


class Program:
    """A loaded program that enforces the rules. Loading takes 0.1 ms, so that a driver keeps it for the next group."""

    def __init__(self, rules: Sequence[DeviceRule]) -> None:
        from pycontain.cgroups.device_bpf import program
        from pycontain.linux import bpf

        self.rules = rules
        self.fd = -1
        self.fd = bpf.load(bpf.PROG_TYPE_CGROUP_DEVICE, bpf.ATTACH_CGROUP_DEVICE, program(read_rules(rules)), "devices")

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def attach(self, path: str) -> None:
        """Attaches it to a v2 group. One that is there already is replaced in one step, so that at no moment more is
        allowed than by one of the two. Raises OSError."""
        from pycontain.linux import bpf

        kind = bpf.ATTACH_CGROUP_DEVICE
        opened = [os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        group = opened[0]
        try:
            old = bpf.attached(group, kind)
            opened += old
            bpf.attach(group, self.fd, kind, old[0] if old else None)
            for other in old[1:]:
                bpf.detach(group, other, kind)
        finally:
            for fd in opened:
                os.close(fd)


def can_load() -> bool:
    """Whether this user may load such programs on this kernel, found out by loading one."""
    try:
        Program(())
    except OSError:
        return False
    return True


def refused(error: OSError, version: int) -> LimitNotSupported:
    """The error for rules that the kernel does not take."""
    message = "the limit devices cannot be enforced"
    if error.errno in NO_DESCRIPTOR:
        return LimitNotSupported(f"{message}: {os.strerror(error.errno)}", remedy=DESCRIPTORS)
    if version == 2 and error.errno in (errno.EPERM, errno.EACCES):
        return LimitNotSupported(
            f"{message}: on cgroup v2 that needs a BPF program, which user {os.geteuid()} may not load here",
            remedy="Run as root outside of a user namespace (CAP_BPF and CAP_NET_ADMIN)",
        )
    if version == 2 and error.errno in (errno.EINVAL, errno.ENOSYS):
        return LimitNotSupported(
            f"{message}: this kernel has no BPF programs for the devices of a cgroup",
            remedy="Boot a kernel with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF",
        )
    return LimitNotSupported(
        f"{message}: {os.strerror(error.errno or 0)}",
        remedy="The group above, in which this process may be itself, must allow what a group below it allows",
    )


def _number(name: str, value: int | None) -> int | None:
    """-1 is any number, as in documents of older programs."""
    if value is None or value == -1:
        return None
    if not 0 <= value < 2**32:
        raise InvalidArgument(f"no device has the {name} number {value}")
    return value


def _lines(rule: Rule) -> list[str]:
    """The kernel takes `a` for everything, whatever numbers and access follow it: block and character are written
    one by one."""
    types = ("b", "c") if rule.type is None else (rule.type,)
    return [str(rule._replace(type=kind)) for kind in types]
