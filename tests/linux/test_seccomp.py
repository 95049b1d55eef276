"""Seccomp profiles and the filters compiled from them, run by an interpreter for every number of every ABI.

The meaning of a profile is written a second time here, as plainly as possible, and compared with the compiled program.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import bpf_interpreter
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycontain.errors import InvalidArgument, NotSupported
from pycontain.linux import capabilities, seccomp, seccomp_profile
from pycontain.linux.syscall_numbers import ARM_PRIVATE, MACHINES, X32_BIT, Abi, numbers
from pycontain.spec import Seccomp, Syscall, SyscallArg
from pycontain.spec.choices import SeccompOperator

ALLOW = 0x7FFF0000
EPERM = 0x00050000 | errno.EPERM
ENOSYS = 0x00050000 | errno.ENOSYS
KILL_PROCESS = 0x80000000
WORD = 0xFFFFFFFF

ALL = frozenset(capabilities.NAMES)
CAPABILITY_SETS = [
    capabilities.DEFAULT,
    frozenset(),
    capabilities.DEFAULT | {"CAP_SYS_ADMIN"},
    capabilities.DEFAULT | {"CAP_BPF", "CAP_SYSLOG", "CAP_SYS_PTRACE", "CAP_SYS_TIME"},
    ALL,
]
ABIS = [(machine, abi) for machine, abis in MACHINES.items() for abi in abis]
EVERY_NUMBER = [*range(601), X32_BIT, X32_BIT + 1, X32_BIT + 600, WORD, *range(ARM_PRIVATE - 1, ARM_PRIVATE + 10)]

TIOCSTI, TIOCLINUX, TCGETS = 0x5412, 0x541C, 0x5401
CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWCGROUP = 0x10000000, 0x00020000, 0x02000000
AF_INET, AF_NETLINK, AF_ALG, AF_VSOCK = 2, 16, 38, 40

#: Arguments on which rules may differ.
INTERESTING = sorted(
    {0, 1, 8, 13, 2**31, 2**32 - 1, 2**32, 2**64 - 1, TIOCSTI, TIOCLINUX, TCGETS, 0x5413, 0x541B, 0x541D, 0x80045430}
    | {0x20000, 0x20008, 0x40000, CLONE_NEWUSER | 17, CLONE_NEWNS, CLONE_NEWCGROUP, 0x003D0F00, 0x01200011}
    | {*range(48), *((1 << 32) + family for family in range(48)), (1 << 32) + TIOCSTI, (WORD << 32) + TIOCLINUX}
)


def compares(argument: SyscallArg, value: int, bits: int) -> bool:
    limit = (1 << bits) - 1
    wanted, two = argument.value & limit, (argument.value_two or 0) & limit
    return {
        "SCMP_CMP_EQ": value == wanted,
        "SCMP_CMP_NE": value != wanted,
        "SCMP_CMP_LT": value < wanted,
        "SCMP_CMP_LE": value <= wanted,
        "SCMP_CMP_GT": value > wanted,
        "SCMP_CMP_GE": value >= wanted,
        "SCMP_CMP_MASKED_EQ": value & wanted == two & wanted,
    }[argument.op]


ACTIONS = {"SCMP_ACT_ALLOW": ALLOW, "SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_KILL_PROCESS": KILL_PROCESS}


def answer_of(action: str, errno_ret: int | None) -> int:
    if action == "SCMP_ACT_ERRNO":
        return 0x00050000 | (errno.EPERM if errno_ret is None else errno_ret)
    return ACTIONS[action]


def meaning(profile: Seccomp, abi: Abi) -> Callable[[int, Sequence[int]], int]:
    """What a profile says of (number, arguments), read rule by rule."""
    table = numbers(abi)
    default = answer_of(profile.default_action, profile.default_errno_ret)
    rules: dict[int, list[Syscall]] = {}
    for rule in profile.syscalls:
        for name in rule.names:
            if name in table:
                rules.setdefault(table[name], []).append(rule)
    newest = max((number for number in rules if number < ARM_PRIVATE), default=X32_BIT)
    next_known = min((number for number in rules if number >= ARM_PRIVATE), default=X32_BIT)
    permissive = profile.default_action in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")

    def answer(number: int, arguments: Sequence[int]) -> int:
        if number >= X32_BIT:
            return ENOSYS
        if newest < number < next_known and not permissive:
            return ENOSYS
        for rule in sorted(rules.get(number, ()), key=lambda rule: bool(rule.args)):
            holds = [compares(argument, arguments[argument.index], abi.bits) for argument in rule.args]
            repeated = len({argument.index for argument in rule.args}) < len(holds)
            if any(holds) if repeated else all(holds):
                return answer_of(rule.action, rule.errno_ret)
        return default

    return answer


def tries(abi: Abi) -> Iterator[tuple[int, ...]]:
    for value in {value & ((1 << abi.bits) - 1) for value in INTERESTING}:
        yield (value, value, value, 0, 0, 0)


@pytest.mark.parametrize(("machine", "abi"), ABIS, ids=[abi.name for _, abi in ABIS])
@pytest.mark.parametrize("granted", CAPABILITY_SETS, ids=["default", "none", "admin", "some", "all"])
def test_the_filter_answers_every_number_as_the_profile_says(machine: str, abi: Abi, granted: frozenset[str]) -> None:
    profile = seccomp_profile.build(granted, machine)
    program = seccomp.compile_for(machine, profile)
    expected = meaning(profile, abi)
    conditional = {numbers(abi).get(name) for name in ("clone", "socket", "ioctl", "personality")}
    for number in EVERY_NUMBER:
        for arguments in tries(abi) if number in conditional else [(0,) * 6, (2**abi.bits - 1,) * 6]:
            found = bpf_interpreter.run(program, abi.audit, number, arguments)
            assert hex(found) == hex(expected(number, arguments)), (number, arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_prebuilt_filter_is_what_a_fresh_compilation_gives(machine: str) -> None:
    """If this fails after a change of the profile: `python -m pycontain.linux.seccomp` writes the files again."""
    prebuilt = Path(seccomp.__file__).with_name(f"seccomp_default.{machine}.bpf").read_bytes()
    assert prebuilt == seccomp.compile_for(machine, seccomp_profile.build(capabilities.DEFAULT, machine))


def test_the_filter_of_the_default_profile_is_the_default_filter() -> None:
    assert seccomp.compile(seccomp.default_profile()) is seccomp.default_filter()


def test_a_profile_equal_to_the_default_one_gets_the_default_filter() -> None:
    assert seccomp.compile(seccomp_profile.build(capabilities.DEFAULT, os.uname().machine)) == seccomp.default_filter()


def test_a_capability_opens_calls_in_the_default_filter() -> None:
    abi = MACHINES[os.uname().machine][0]
    number = numbers(abi)["mount"]
    assert bpf_interpreter.run(seccomp.default_filter(), abi.audit, number) == EPERM
    program = seccomp.default_filter(capabilities.DEFAULT | {"CAP_SYS_ADMIN"})
    assert bpf_interpreter.run(program, abi.audit, number) == ALLOW


@pytest.mark.parametrize(("machine", "abi"), ABIS, ids=[abi.name for _, abi in ABIS])
def test_a_decision_was_made_for_every_system_call(machine: str, abi: Abi) -> None:
    special = {"clone", "clone3", "socket", "ioctl", "personality"}
    allowed = {name for names in seccomp_profile.ALLOWED.values() for name in names.split()}
    gated = {name for names in seccomp_profile.BY_CAPABILITY.values() for name in names.split()}
    denied = {name for names in seccomp_profile.DENIED.values() for name in names.split()}
    assert set(numbers(abi)) <= special | allowed | gated | denied
    assert not allowed & (special | gated | denied)
    assert not denied & (special | gated)


def test_the_profile_names_no_call_that_no_abi_has() -> None:
    known = {name for _, abi in ABIS for name in numbers(abi)}
    groups = [seccomp_profile.ALLOWED, seccomp_profile.BY_CAPABILITY, seccomp_profile.DENIED]
    named = [name for group in groups for names in group.values() for name in names.split()]
    assert set(named) <= known
    allowed = [name for names in seccomp_profile.ALLOWED.values() for name in names.split()]
    assert len(allowed) == len(set(allowed))


@pytest.mark.parametrize(("machine", "abi"), ABIS, ids=[abi.name for _, abi in ABIS])
def test_two_names_never_share_a_number_but_for_the_aliases_of_arm(machine: str, abi: Abi) -> None:
    table = numbers(abi)
    shared = {name for name in table if list(table.values()).count(table[name]) > 1}
    assert shared == ({"sync_file_range2", "arm_sync_file_range"} if abi.name == "arm" else set())


@pytest.mark.parametrize("machine", MACHINES)
def test_what_the_core_does_after_the_filter_is_allowed(machine: str) -> None:
    abi = MACHINES[machine][0]
    for granted in CAPABILITY_SETS:
        program = seccomp.compile_for(machine, seccomp_profile.build(granted, machine))
        for name in ("rt_sigprocmask", "execve", "execveat", "exit_group", "write", "faccessat"):
            assert bpf_interpreter.run(program, abi.audit, numbers(abi)[name]) == ALLOW, name


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_machine_kill_the_process(machine: str) -> None:
    program = seccomp.compile_for(machine, seccomp_profile.build(capabilities.DEFAULT, machine))
    for other, abis in MACHINES.items():
        for abi in abis if other != machine else ():
            assert bpf_interpreter.run(program, abi.audit, 0) == KILL_PROCESS


@pytest.mark.parametrize("request_number", [TIOCSTI, TIOCLINUX])
@pytest.mark.parametrize("upper", [0, 1, 0x80000000, WORD])
def test_bits_that_the_kernel_ignores_do_not_open_a_denied_ioctl(request_number: int, upper: int) -> None:
    abi = MACHINES["x86_64"][0]
    program = seccomp.compile_for("x86_64", seccomp_profile.build(capabilities.DEFAULT, "x86_64"))
    arguments = (0, upper << 32 | request_number, 0, 0, 0, 0)
    assert bpf_interpreter.run(program, abi.audit, numbers(abi)["ioctl"], arguments) == EPERM


# ---- profiles in general ----

NAMES = ["read", "write", "getpid", "socket", "umount", "fstat64", "statx", "cacheflush", "no_such_call"]
VALUES = st.one_of(
    st.sampled_from([0, 1, 2, 3, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1]),
    st.integers(0, 63).map(lambda bit: 1 << bit),
    st.integers(0, 2**64 - 1),
)
OPERATORS: list[SeccompOperator] = [
    *("SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GT", "SCMP_CMP_GE", "SCMP_CMP_MASKED_EQ")
]
CONDITIONS = st.builds(
    lambda index, value, two, operator: SyscallArg(index=index, value=value, value_two=two, op=operator),
    st.integers(0, 5),
    VALUES,
    VALUES,
    st.sampled_from(OPERATORS),
)
OUTCOMES = st.one_of(
    st.sampled_from([("SCMP_ACT_ALLOW", None), ("SCMP_ACT_LOG", None), ("SCMP_ACT_KILL_PROCESS", None)]),
    st.tuples(st.just("SCMP_ACT_ERRNO"), st.one_of(st.none(), st.integers(0, 4095))),
)
RULES = st.builds(
    lambda names, outcome, args: Syscall(names=tuple(names), action=outcome[0], errno_ret=outcome[1], args=tuple(args)),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
    OUTCOMES,
    st.lists(CONDITIONS, max_size=3),
)
PROFILES = st.builds(
    lambda outcome, architectures, rules: Seccomp(
        default_action=outcome[0],
        default_errno_ret=outcome[1],
        architectures=tuple(architectures),
        syscalls=tuple(rules),
    ),
    OUTCOMES,
    st.sets(st.sampled_from(["SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_ARM", "SCMP_ARCH_MIPS"])),
    st.lists(RULES, max_size=8),
)


@settings(max_examples=200)
@given(PROFILES, st.lists(st.tuples(*[VALUES] * 6), min_size=1, max_size=8))
def test_a_filter_means_what_its_profile_says(profile: Seccomp, arguments: list[tuple[int, ...]]) -> None:
    # The values of the conditions themselves, and their neighbours, are where a comparison goes wrong.
    near = [argument.value + step for rule in profile.syscalls for argument in rule.args for step in (-1, 0, 1)]
    arguments = arguments + [(value % 2**64,) * 6 for value in near]
    for machine, abi in ABIS:
        program = seccomp.compile_for(machine, profile)
        included = abi is MACHINES[machine][0] or abi.scmp in profile.architectures
        expected = meaning(profile, abi)
        for name in [*NAMES, "listxattr", "file_setattr"]:
            number = numbers(abi).get(name, 599)
            for values in arguments:
                values = tuple(value & ((1 << abi.bits) - 1) for value in values)
                found = bpf_interpreter.run(program, abi.audit, number, values)
                assert hex(found) == hex(expected(number, values) if included else KILL_PROCESS)


def allow_read_of(values: Sequence[int]) -> Seccomp:
    conditions = [SyscallArg(index=0, value=value, op="SCMP_CMP_EQ") for value in values]
    return Seccomp(
        default_action="SCMP_ACT_ERRNO",
        syscalls=tuple(Syscall(names=("read",), action="SCMP_ACT_ALLOW", args=(one,)) for one in conditions),
    )


@pytest.mark.parametrize("count", [1, 199, 200, 201, *range(240, 264), 500])
def test_any_number_of_values_of_an_argument_can_be_allowed(count: int) -> None:
    """Around 250 the code becomes longer than a conditional jump can cross."""
    program = seccomp.compile_for("x86_64", allow_read_of(range(count)))
    allowed = [run_read(program, value) == ALLOW for value in range(count + 2)]
    assert allowed == [True] * count + [False, False]


def test_values_with_different_upper_halves_are_told_apart() -> None:
    program = seccomp.compile_for("x86_64", allow_read_of([1, (1 << 32) + 2, (2 << 32) + 3]))
    assert [run_read(program, (upper << 32) + lower) == ALLOW for upper in range(4) for lower in range(4)] == [
        *(False, True, False, False),
        *(False, False, True, False),
        *(False, False, False, True),
        *(False, False, False, False),
    ]


def run_read(program: bytes, argument: int) -> int:
    return bpf_interpreter.run(program, MACHINES["x86_64"][0].audit, 0, (argument, 0, 0, 0, 0, 0))


def test_an_action_that_needs_a_listener_is_not_supported() -> None:
    with pytest.raises(NotSupported, match="SCMP_ACT_NOTIFY"):
        seccomp.compile(Seccomp(default_action="SCMP_ACT_NOTIFY"))


def test_an_errno_for_an_action_that_returns_none_is_refused() -> None:
    rule = Syscall(names=("read",), action="SCMP_ACT_KILL", errno_ret=1)
    with pytest.raises(InvalidArgument, match="SCMP_ACT_KILL takes no errno"):
        seccomp.compile(Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=(rule,)))


def test_a_profile_that_needs_too_many_instructions_is_refused() -> None:
    rules = tuple(
        Syscall(names=("read",), action="SCMP_ACT_ALLOW", args=(SyscallArg(index=0, value=n, op="SCMP_CMP_GT"),))
        for n in range(1000)
    )
    with pytest.raises(InvalidArgument, match="4096"):
        seccomp.compile(Seccomp(default_action="SCMP_ACT_ERRNO", syscalls=rules))


@pytest.mark.parametrize(
    ("names", "flags"),
    [((), 4), (("SECCOMP_FILTER_FLAG_LOG",), 2), (("SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"), 6)],
)
def test_flags_are_those_of_the_profile_or_else_spec_allow(names: tuple[str, ...], flags: int) -> None:
    assert seccomp.filter_flags(Seccomp(default_action="SCMP_ACT_ALLOW", flags=names)) == flags  # type: ignore[arg-type]


def test_a_flag_for_a_listener_is_not_supported() -> None:
    with pytest.raises(NotSupported, match="WAIT_KILLABLE_RECV"):
        seccomp.filter_flags(
            Seccomp(default_action="SCMP_ACT_ALLOW", flags=("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",))
        )


# ---- compared with libseccomp ----


def libseccomp() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp.so.2 is not installed")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_rule_add_array.argtypes = [
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
    ]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    return library


class ScmpArgCmp(ctypes.Structure):
    """struct scmp_arg_cmp (seccomp.h)."""

    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


SCMP_CMP = {"SCMP_CMP_LT": 2, "SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}  # those of the default profile
SCMP_FLTATR_CTL_OPTIMIZE = 8


def compiled_by_libseccomp(profile: Seccomp, abis: Sequence[Abi]) -> bytes:
    library = libseccomp()
    context = library.seccomp_init(EPERM)
    try:
        for abi in abis[1:]:
            assert library.seccomp_arch_add(context, abi.audit) == 0
        assert library.seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2) == 0
        for rule in profile.syscalls:
            arguments = (ScmpArgCmp * len(rule.args))(
                *[ScmpArgCmp(a.index, SCMP_CMP[a.op], a.value, a.value_two or 0) for a in rule.args]
            )
            for name in rule.names:
                number = library.seccomp_syscall_resolve_name(name.encode())
                if number != -1:  # __NR_SCMP_ERROR: a name that this version does not know
                    action = answer_of(rule.action, rule.errno_ret)
                    library.seccomp_rule_add_array(context, action, number, len(rule.args), arguments)
        descriptor = os.memfd_create("filter", os.MFD_CLOEXEC)
        try:
            assert library.seccomp_export_bpf(context, descriptor) == 0
            return os.pread(descriptor, 1 << 20, 0)
        finally:
            os.close(descriptor)
    finally:
        library.seccomp_release(context)


@pytest.mark.parametrize("granted", CAPABILITY_SETS, ids=["default", "none", "admin", "some", "all"])
def test_libseccomp_gives_the_same_answers_for_the_default_profile(granted: frozenset[str]) -> None:
    abis = MACHINES[os.uname().machine]
    profile = seccomp.default_profile(granted)
    ours, theirs = seccomp.compile(profile), compiled_by_libseccomp(profile, abis)
    library = libseccomp()
    for abi in abis:
        compared = 0
        for name, number in numbers(abi).items():
            if library.seccomp_syscall_resolve_name_arch(abi.audit, name.encode()) != number:
                continue  # newer than this libseccomp, or one that it folds into socketcall or ipc
            compared += 1
            for arguments in tries(abi) if name in ("clone", "socket", "ioctl", "personality") else [(0,) * 6]:
                answers = [bpf_interpreter.run(program, abi.audit, number, arguments) for program in (ours, theirs)]
                assert answers[0] == answers[1], (abi.name, name, arguments)
        assert compared > 250
