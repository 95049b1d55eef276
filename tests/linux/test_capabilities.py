"""Capabilities by name, number and mask, and the sets of real processes."""

from __future__ import annotations

import ctypes
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolated import needs_root, run_python

from pycontain.errors import InvalidArgument
from pycontain.linux import capabilities

HEADER = "/usr/include/linux/capability.h"
PR_CAPBSET_READ = 23


def test_the_numbers_are_those_of_the_kernel_header() -> None:
    if not os.path.exists(HEADER):
        pytest.skip(f"{HEADER} is not installed")
    with open(HEADER, encoding="utf-8") as file:
        found = re.findall(r"^#define (CAP_\w+)\s+(\d+)\s*$", file.read(), re.MULTILINE)
    assert capabilities.NUMBERS.items() >= {(name, int(number)) for name, number in found}


@pytest.mark.parametrize("spelling", ["CAP_NET_RAW", "cap_net_raw", "NET_RAW", "net_raw", "Cap_Net_Raw"])
def test_a_name_is_known_in_any_case_with_and_without_its_prefix(spelling: str) -> None:
    assert capabilities.parse(spelling) == 13


def test_an_unknown_name_is_refused_with_the_names_that_are_close() -> None:
    with pytest.raises(InvalidArgument, match=r"unknown capability 'net_rwa'.*CAP_NET_RAW"):
        capabilities.parse("net_rwa")


@pytest.mark.parametrize("name", ["", "CAP_", "40", "CAP_NET_RAW ", "ﬀ", "ALL"])
def test_what_is_not_the_name_of_a_capability_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        capabilities.parse(name)


def test_docker_grants_fourteen_capabilities_and_so_do_we() -> None:
    # The effective set in /proc/self/status of a container that docker started.
    assert capabilities.to_mask(capabilities.DEFAULT) == 0x00000000A80425FB
    assert len(capabilities.DEFAULT) == 14


@given(st.integers(0, 2 ** len(capabilities.NAMES) - 1))
def test_a_mask_survives_the_way_to_names_and_back(mask: int) -> None:
    names = capabilities.from_mask(mask)
    assert capabilities.to_mask(names) == mask
    assert [capabilities.parse(name) for name in names] == sorted(capabilities.parse(name) for name in names)


@pytest.mark.parametrize("mask", [-1, 1 << 41, 1 << 63])
def test_a_mask_with_a_bit_that_has_no_name_is_refused(mask: int) -> None:
    with pytest.raises(InvalidArgument):
        capabilities.from_mask(mask)


def test_the_last_capability_is_the_last_that_the_kernel_answers_for() -> None:
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_CAPBSET_READ, capabilities.last_cap(), 0, 0, 0) >= 0
    assert libc.prctl(PR_CAPBSET_READ, capabilities.last_cap() + 1, 0, 0, 0) == -1


def test_the_bounding_set_of_this_process_is_what_prctl_says() -> None:
    libc = ctypes.CDLL(None)
    bits = [libc.prctl(PR_CAPBSET_READ, number, 0, 0, 0) for number in range(capabilities.last_cap() + 1)]
    assert capabilities.of_process().bounding == sum(bit << number for number, bit in enumerate(bits))


def test_a_process_is_found_by_its_pid() -> None:
    assert capabilities.of_process(os.getpid()) == capabilities.of_process()


def test_the_effective_set_lies_within_the_permitted_set() -> None:
    sets = capabilities.of_process()
    assert sets.effective & ~sets.permitted == 0
    assert sets.ambient & ~(sets.permitted & sets.inheritable) == 0


def test_a_process_that_does_not_exist_is_a_process_lookup_error() -> None:
    with pytest.raises(ProcessLookupError):
        capabilities.of_process(2**22 + 1)  # PID_MAX_LIMIT is 2**22


@needs_root
def test_a_thread_gives_up_capabilities_and_cannot_take_them_back() -> None:
    printed = run_python("""
from pycontain.linux import capabilities
kept = capabilities.to_mask(["CAP_CHOWN", "CAP_KILL"])
capabilities.set_own(kept, kept, 0)
own = capabilities.of_process()
assert (own.effective, own.permitted, own.inheritable) == (kept, kept, 0)
try:
    capabilities.set_own(kept, capabilities.to_mask(["CAP_SYS_ADMIN"]), 0)
except PermissionError as error:
    print(error)
""")
    assert "capset(" in printed
