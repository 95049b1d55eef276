"""The BPF program that enforces device rules on cgroup v2 (cgroup-v2.rst, Device controller).

It walks the rules from the last to the first and keeps the kinds of access that no rule has decided yet: a rule that
denies one of them ends it, and when all of them are allowed it ends too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pycontain.linux.bpf import Instruction

if TYPE_CHECKING:
    from pycontain.cgroups.devices import Rule

# Instruction codes: class | operation | source (Documentation/bpf/standardization/instruction-set.rst)
_LOAD_WORD = 0x61  # LDX | MEM | W
_MOVE, _MOVE_REGISTER = 0xB7, 0xBF  # ALU64
_AND, _SHIFT_RIGHT = 0x57, 0x77
_JUMP_IF_EQUAL, _JUMP_IF_NOT_EQUAL = 0x16, 0x56  # JMP32: numbers above 2**31 are compared as they are
_EXIT = 0x95

_RESULT, _CONTEXT, _TYPE, _LEFT, _MAJOR, _MINOR, _SCRATCH = range(7)  # registers

_TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_BLOCK, _CHAR
_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_MKNOD, _READ, _WRITE


def program(rules: Sequence[Rule]) -> list[Instruction]:
    """The instructions for rules in the order of the specification."""
    instructions = [  # struct bpf_cgroup_dev_ctx: access << 16 | type, major, minor
        Instruction(_LOAD_WORD, _LEFT, _CONTEXT, 0),
        Instruction(_MOVE_REGISTER, _TYPE, _LEFT),
        Instruction(_AND, _TYPE, immediate=0xFFFF),
        Instruction(_SHIFT_RIGHT, _LEFT, immediate=16),
        Instruction(_LOAD_WORD, _MAJOR, _CONTEXT, 4),
        Instruction(_LOAD_WORD, _MINOR, _CONTEXT, 8),
    ]
    for rule in reversed(rules):
        instructions += _rule(rule)
    return instructions + _answer(True)


def _rule(rule: Rule) -> list[Instruction]:
    mask = sum(_ACCESS[letter] for letter in rule.access)
    if rule.allow:
        action = [
            Instruction(_AND, _LEFT, immediate=~mask & 7),
            Instruction(_JUMP_IF_NOT_EQUAL, _LEFT, offset=2, immediate=0),
            *_answer(True),
        ]
    else:
        action = [
            Instruction(_MOVE_REGISTER, _SCRATCH, _LEFT),
            Instruction(_AND, _SCRATCH, immediate=mask),
            Instruction(_JUMP_IF_EQUAL, _SCRATCH, offset=2, immediate=0),
            *_answer(False),
        ]
    conditions = [
        (register, value)
        for register, value in ((_TYPE, _TYPES.get(rule.type or "")), (_MAJOR, rule.major), (_MINOR, rule.minor))
        if value is not None
    ]
    tests = []
    for position, (register, value) in enumerate(conditions):
        behind = len(conditions) - position - 1 + len(action)
        tests.append(Instruction(_JUMP_IF_NOT_EQUAL, register, offset=behind, immediate=_signed(value)))
    return tests + action


def _answer(allow: bool) -> list[Instruction]:
    return [Instruction(_MOVE, _RESULT, immediate=int(allow)), Instruction(_EXIT)]


def _signed(value: int) -> int:
    return value - 2**32 if value >= 2**31 else value
