"""The code generator for seccomp filters: decisions by system call number in, a classic BPF program out.

A filter is one binary search tree over ranges of numbers for each ABI; the leaves hold the answer or the checks of
arguments. Ranges make it several times smaller than one comparison for each call, and so faster to load: the kernel
verifies and compiles it, and runs it once for every number (seccomp_cache_prepare) in each process that starts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from attrs import frozen

from pycontain.errors import InvalidArgument
from pycontain.linux.syscall_numbers import Abi

#: code, jump if true, jump if false, constant: struct sock_filter (linux/filter.h).
Instruction: TypeAlias = "tuple[int, int, int, int]"
Code: TypeAlias = "list[Instruction]"

LOAD, AND, RET = 0x20, 0x54, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_ALU|BPF_AND|BPF_K, BPF_RET|BPF_K
JA, JEQ, JGT, JGE, JSET = 0x05, 0x15, 0x25, 0x35, 0x45

#: Offsets in struct seccomp_data (linux/seccomp.h); arguments are 64 bits wide, least significant half first.
NR, ARCH, ARGS = 0, 4, 16
_WORD = 0xFFFFFFFF
#: BPF_MAXINSNS: the kernel takes no longer program.
MAX_INSTRUCTIONS = 4096
#: In one check, which conditional jumps (8 bits) have to cross.
MAX_VALUES = 200

_MATCH, _FAIL = -1, -2  # jump targets inside a check: to its end, and to the end of its rule


@frozen
class Check:
    """A condition on one argument.

    `op` is EQ (`argument & mask` is one of `values`, which share their upper half), NE, LT, LE, GT, GE (compared with
    the only value, the mask is unused), ANY (some bit of the mask is set) or NONE (no bit of the mask is set). Values
    and masks are as wide as the arguments of the ABI.
    """

    index: int
    op: str
    values: tuple[int, ...] = (0,)
    mask: int = 2**64 - 1


@frozen
class Rule:
    """An answer (`SECCOMP_RET_*` with its data) that applies if all checks hold."""

    checks: tuple[Check, ...]
    answer: int


#: What a system call number gets: one answer, or the first rule whose checks hold and otherwise the last answer.
Decision: TypeAlias = "int | tuple[tuple[Rule, ...], int]"


def assemble(sections: Sequence[tuple[Abi, Sequence[tuple[int, Decision]]]], other: int) -> bytes:
    """The program for these ABIs, as an array of struct sock_filter. Calls of any other ABI get the answer `other`.

    A section lists (first number, decision) in ascending order from 0; a decision is valid up to the next number.
    """
    code: Code = [(LOAD, 0, 0, ARCH)]
    for abi, ranges in sections:
        body = [(LOAD, 0, 0, NR), *_tree([(first, _leaf(decision, abi.bits)) for first, decision in ranges])]
        code += [*_branch(JEQ, abi.audit, body), *body]
    code.append((RET, 0, 0, other))
    if len(code) > MAX_INSTRUCTIONS:
        raise InvalidArgument(
            f"the seccomp profile needs {len(code)} BPF instructions, and the kernel takes {MAX_INSTRUCTIONS}",
            remedy="Use fewer conditions on arguments",
        )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _branch(jump: int, constant: int, body: Code) -> Code:
    """Enters `body`, which follows, if the comparison holds, and otherwise jumps over it."""
    if len(body) < 256:  # jt and jf have 8 bits
        return [(jump, 0, len(body), constant)]
    return [(jump, 1, 0, constant), (JA, 0, 0, len(body))]


def _tree(leaves: Sequence[tuple[int, Code]]) -> Code:
    """A binary search for the leaf whose range holds the accumulator."""
    if len(leaves) == 1:
        return leaves[0][1]
    middle = len(leaves) // 2
    upper = _tree(leaves[middle:])
    return [*_branch(JGE, leaves[middle][0], upper), *upper, *_tree(leaves[:middle])]


def _leaf(decision: Decision, bits: int) -> Code:
    if isinstance(decision, int):
        return [(RET, 0, 0, decision)]
    rules, otherwise = decision
    code: Code = []
    loaded = None  # the offset that the accumulator is known to hold
    for rule in _merged(rules):
        part = _rule(rule, bits)
        if loaded is not None and part[0] == (LOAD, 0, 0, loaded):
            part = part[1:]
        else:
            loaded = part[0][3] if part[0][0] == LOAD else None
        if any(operation == AND or (operation == LOAD and k != loaded) for operation, _, _, k in part):
            loaded = None
        code += part
    return [*code, (RET, 0, 0, otherwise)]


def _merged(rules: Sequence[Rule]) -> Iterator[Rule]:
    """Joins neighbours that give one answer for several bits (one `JSET`) or several values of one argument."""
    previous: Rule | None = None
    for rule in rules:
        if previous is None:
            previous = rule
            continue
        joined = _join(previous, rule)
        if joined is None:
            yield previous
        previous = joined or rule
    if previous is not None:
        yield previous


def _join(first: Rule, second: Rule) -> Rule | None:
    if len(first.checks) != 1 or len(second.checks) != 1 or first.answer != second.answer:
        return None
    (a,), (b,) = first.checks, second.checks
    if a.index != b.index or a.op != b.op:
        return None
    if a.op == "ANY":
        return Rule((Check(a.index, "ANY", mask=a.mask | b.mask),), first.answer)
    if (
        a.op == "EQ"
        and a.mask == b.mask
        and a.values[0] >> 32 == b.values[0] >> 32
        and len(a.values) < MAX_VALUES
    ):
        return Rule((Check(a.index, "EQ", a.values + b.values, a.mask),), first.answer)
    return None


def _rule(rule: Rule, bits: int) -> Code:
    """Returns the answer if all checks hold, and otherwise runs into what follows."""
    parts = [_check(check, bits) for check in rule.checks]
    end = sum(map(len, parts)) + 1
    code: Code = []
    for part in parts:
        after = len(code) + len(part)
        for operation, jt, jf, constant in part:
            here = len(code) + 1
            targets = {_MATCH: after - here, _FAIL: end - here}
            code.append((operation, targets.get(jt, jt), targets.get(jf, jf), constant))
    return [*code, (RET, 0, 0, rule.answer)]


def _check(check: Check, bits: int) -> Code:
    """Jumps to _MATCH (the end of this code) or _FAIL."""
    low = ARGS + 8 * check.index
    high = low + 4 if bits == 64 else None
    if check.op in ("ANY", "NONE"):
        return _bits(low, high, check)
    if check.op == "EQ":
        return _equal(low, high, check)
    value = check.values[0]
    if check.op == "NE":
        return _negated(_equal(low, high, check))
    if check.op in ("GE", "GT"):
        return _order(low, high, value, JGE if check.op == "GE" else JGT)
    return _negated(_order(low, high, value, JGE if check.op == "LT" else JGT))


def _negated(code: Code) -> Code:
    swap = {_MATCH: _FAIL, _FAIL: _MATCH}
    return [(operation, swap.get(jt, jt), swap.get(jf, jf), constant) for operation, jt, jf, constant in code]


def _bits(low: int, high: int | None, check: Check) -> Code:
    """Tests the mask of ANY or NONE, of which NONE may be empty: it then always holds."""
    code: Code = []
    for offset, mask in ((high, check.mask >> 32), (low, check.mask & _WORD)):
        if offset is not None and mask:
            code += [(LOAD, 0, 0, offset), (JSET, _MATCH, 0, mask)]
    if code:  # the last test decides both ways
        code[-1] = (JSET, _MATCH, _FAIL, code[-1][3])
    return code if check.op == "ANY" else _negated(code)


def _equal(low: int, high: int | None, check: Check) -> Code:
    code: Code = []
    if high is not None and check.mask >> 32:
        code += [*_load(high, check.mask >> 32), (JEQ, 0, _FAIL, check.values[0] >> 32)]
    if check.mask & _WORD:
        code += _load(low, check.mask & _WORD)
        code += [(JEQ, _MATCH, 0, value & _WORD) for value in check.values]
        code[-1] = (JEQ, _MATCH, _FAIL, check.values[-1] & _WORD)
    return code


def _load(offset: int, mask: int) -> Code:
    load = (LOAD, 0, 0, offset)
    return [load] if mask == _WORD else [load, (AND, 0, 0, mask)]


def _order(low: int, high: int | None, value: int, jump: int) -> Code:
    code: Code = []
    if high is not None:
        code = [(LOAD, 0, 0, high), (JGT, _MATCH, 0, value >> 32), (JEQ, 0, _FAIL, value >> 32)]
    return [*code, (LOAD, 0, 0, low), (jump, _MATCH, _FAIL, value & _WORD)]
