"""The names of `Limits` and what each comes to in the OCI's resources; what can never hold is refused at once."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pycontain import Container, InvalidArgument
from pycontain.limits import CPU_PERIOD, Limits, device_numbers, resources_with
from pycontain.spec import CPU, BlockIO, FrozenMap, HugepageLimit, Memory, Pids, Resources, ThrottleDevice

NAMES = tuple(Limits.__annotations__)
MIB = 1 << 20
SLOW, FEW = (ThrottleDevice(8, 0, MIB),), (ThrottleDevice(8, 16, 100),)

TABLE: list[tuple[str, Any, Resources]] = [
    ("memory", "256M", Resources(memory=Memory(limit=256 * MIB))),
    ("memory", 1, Resources(memory=Memory(limit=1))),
    ("memory_reservation", "64 MiB", Resources(memory=Memory(reservation=64 * MIB))),
    ("memory_swap", -1, Resources(memory=Memory(swap=-1))),
    ("cpus", 0.5, Resources(cpu=CPU(quota=50_000, period=CPU_PERIOD))),
    ("cpus", 2, Resources(cpu=CPU(quota=200_000, period=CPU_PERIOD))),
    ("cpus", 0.01, Resources(cpu=CPU(quota=1_000, period=CPU_PERIOD))),
    ("cpu_shares", 512, Resources(cpu=CPU(shares=512))),
    ("cpuset_cpus", "0-2,4", Resources(cpu=CPU(cpus="0-2,4"))),
    ("cpuset_cpus", "0-31:2/4", Resources(cpu=CPU(cpus="0-31:2/4"))),
    ("cpuset_cpus", 0, Resources(cpu=CPU(cpus="0"))),
    ("cpuset_mems", "0", Resources(cpu=CPU(mems="0"))),
    ("pids", 64, Resources(pids=Pids(64))),
    ("blkio_weight", 500, Resources(block_io=BlockIO(weight=500))),
    ("device_read_bps", {"8:0": "1M"}, Resources(block_io=BlockIO(throttle_read_bps_device=SLOW))),
    ("device_write_bps", {"8:0": MIB}, Resources(block_io=BlockIO(throttle_write_bps_device=SLOW))),
    ("device_read_iops", {"8:16": 100}, Resources(block_io=BlockIO(throttle_read_iops_device=FEW))),
    ("device_write_iops", {"8:16": 100}, Resources(block_io=BlockIO(throttle_write_iops_device=FEW))),
    ("hugetlb", {"2MB": "64M", "1GB": 1 << 30}, Resources(
        hugepage_limits=(HugepageLimit("2MB", 64 * MIB), HugepageLimit("1GB", 1 << 30))
    )),
    ("unified", {"memory.high": 1000, "io.weight": "default 50"}, Resources(
        unified=FrozenMap({"memory.high": "1000", "io.weight": "default 50"})
    )),
]


def limited(**limits: Any) -> Resources:
    return resources_with(None, limits)


# ---- every name


@pytest.mark.parametrize(("name", "value", "resources"), TABLE, ids=[f"{row[0]}-{row[1]}" for row in TABLE])
def test_a_limit_is_the_field_of_the_resources_that_the_oci_has_for_it(
    name: str, value: object, resources: Resources
) -> None:
    assert limited(**{name: value}) == resources


def test_the_table_has_every_name() -> None:
    assert {name for name, _, _ in TABLE} == set(NAMES)


def test_all_limits_can_be_given_together() -> None:
    values = {name: value for name, value, _ in TABLE}
    together = limited(**{**values, "memory_swap": "512M", "memory": "256M"})
    assert together.memory == Memory(limit=256 * MIB, reservation=64 * MIB, swap=512 * MIB)
    assert together.cpu == CPU(quota=1_000, period=CPU_PERIOD, shares=512, cpus="0", mems="0")
    assert together.block_io is not None
    assert together.block_io.weight == 500
    assert together.block_io.throttle_read_bps_device == SLOW
    assert together.block_io.throttle_write_iops_device == FEW


@pytest.mark.parametrize("name", NAMES)
def test_none_leaves_a_limit_as_it_is(name: str) -> None:
    before = next(resources for other, _, resources in TABLE if other == name)
    assert resources_with(before, {name: None}) == before
    assert limited(**{name: None}) == Resources()


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_leaves_the_others_as_they_are(name: str) -> None:
    values = {other: value for other, value, _ in TABLE} | {"memory": "256M", "memory_swap": "512M"}
    others = {other: value for other, value in values.items() if other != name}
    if name == "memory":
        others["memory"] = "1M"  # which memory_swap needs
    assert resources_with(limited(**others), {name: values[name]}) == limited(**values)


def test_a_later_value_replaces_an_earlier_one() -> None:
    first = limited(memory="256M", device_read_bps={"8:0": 1}, hugetlb={"2MB": "2M"}, unified={"memory.high": 1})
    second = resources_with(
        first, {"memory": "1G", "device_read_bps": {"8:16": 2}, "hugetlb": {"1GB": "1G"}, "unified": {"io.weight": 50}}
    )
    assert second.memory == Memory(limit=1 << 30)
    assert second.block_io == BlockIO(throttle_read_bps_device=(ThrottleDevice(8, 16, 2),))
    assert second.hugepage_limits == (HugepageLimit("1GB", 1 << 30),)
    assert second.unified == FrozenMap({"memory.high": "1", "io.weight": "50"})  # files are limits of their own


def test_the_resources_that_are_changed_stay_themselves() -> None:
    before = limited(memory="256M", unified={"memory.high": 1})
    copy = limited(memory="256M", unified={"memory.high": 1})
    resources_with(before, {"memory": "1M", "unified": {"memory.high": 2}})
    assert before == copy


def test_a_container_has_the_same_limits_by_name() -> None:
    container = Container.from_rootfs("/nowhere").with_limits(memory="256M", pids=64).with_limits(cpus=0.5)
    linux = container.spec(["true"]).linux
    assert linux is not None
    assert linux.resources is not None
    assert (linux.resources.memory, linux.resources.pids) == (Memory(limit=256 * MIB), Pids(64))
    assert linux.resources.cpu == CPU(quota=50_000, period=CPU_PERIOD)


# ---- refusals


@pytest.mark.parametrize("name", ["memry", "Memory", "memory.limit", "shm_size", ""])
def test_a_name_that_does_not_exist_is_a_type_error_that_says_it(name: str) -> None:
    with pytest.raises(TypeError, match=f"there is no limit named {name}"):
        limited(**{name: 1})
    with pytest.raises(TypeError):
        limited(**{name: None})


SIZES: list[object] = [
    0, -1, True, 1.5, "", "x", "1X", "-1M", "1 2", "0.4b", 2**63, "9" * 5000, "9" * 400 + ".0", b"1", [], {},
]
RATES: list[object] = [{"8:0": rate} for rate in SIZES]
LISTS: list[object] = [
    "", "abc", "-1", -1, "1-", "1,", ",1", "0 1", "0-2-4", "0x1", "0\n", "\N{SUPERSCRIPT TWO}", True, 1.5, ["0"], b"0",
]
DEVICES: list[object] = [
    "", "8", "8:", ":0", "8:0:0", "-1:0", "x:y", "\N{SUPERSCRIPT TWO}:0", "1" * 11 + ":0", "/nowhere", "a\0b",
]
# name, values that it never takes, what is said of them
NEVER: list[tuple[str, list[object], str]] = [
    ("memory", SIZES, "is not a memory limit"),
    ("memory_reservation", SIZES, "is not a memory reservation"),
    ("memory_swap", [0, -2, True, "-1", "x"], "is not a limit of memory and swap"),
    ("memory_swap", ["1M"], "cannot be less than memory, which it needs"),
    ("cpus", [0, -1, 0.0099, 100_001, 10**400, float("nan"), float("inf"), True, "1"], "not a number of processors"),
    ("cpu_shares", [1, 0, -1, 262_145, 1.5, "2", True], "cpu shares"),
    ("cpuset_cpus", LISTS, "is not a list of processors"),
    ("cpuset_mems", LISTS, "is not a list of memory nodes"),
    ("pids", [0, -1, 1.5, "1", True], "is not a limit of processes"),
    ("pids", [2**63], "Pids.limit"),
    ("blkio_weight", [9, 0, 1001, 50.0, "50", True], "is not a weight"),
    ("device_read_bps", RATES, "is not a rate for 8:0"),
    ("device_write_bps", RATES, "is not a rate for 8:0"),
    ("device_read_iops", RATES, "is not a rate for 8:0"),
    ("device_write_iops", RATES, "is not a rate for 8:0"),
    ("device_read_bps", [{device: 1} for device in DEVICES], "cannot be used"),
    ("device_read_bps", [{"/": 1}], "'/' is not a device"),
    ("device_read_bps", [{"/dev/null": 1}], "'/dev/null' is not a block device"),
    ("hugetlb", [{"2MB": size} for size in SIZES], "is not a limit of huge pages"),
    ("hugetlb", [{name: 1} for name in ("", "2", "MB", "2mb", "../../x", "0")], "is not a size such as"),
    ("unified", [{"memory.high": value} for value in (None, True, 1.5, b"1")], "cannot be written to memory.high"),
]
ONE_BY_ONE = [(name, value, message) for name, values, message in NEVER for value in values]


@pytest.mark.parametrize(
    ("name", "value", "message"), ONE_BY_ONE, ids=[f"{name}-{str(value)[:30]!r}" for name, value, _ in ONE_BY_ONE]
)
def test_what_can_never_hold_is_refused_with_what_it_is_not(name: str, value: object, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        limited(**{name: value})


def test_memory_and_swap_together_below_memory_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="cannot be less than memory"):
        limited(memory="2M", memory_swap="1M")


def test_a_limit_of_memory_above_an_earlier_one_of_both_is_refused() -> None:
    before = limited(memory="1M", memory_swap="2M")
    assert resources_with(before, {"memory": "2M"}).memory == Memory(limit=2 * MIB, swap=2 * MIB)
    with pytest.raises(InvalidArgument, match="memory and swap together"):
        resources_with(before, {"memory": "3M"})
    assert resources_with(before, {"memory": "3M", "memory_swap": -1}).memory == Memory(limit=3 * MIB, swap=-1)


# ---- devices


def first_device(wanted: Callable[[int], bool]) -> Path:
    for path in sorted(Path("/dev").iterdir()):
        if not path.is_symlink() and wanted(path.stat().st_mode):
            return path
    pytest.skip("/dev has no device of this kind")


def test_a_block_device_is_the_same_by_path_and_by_number() -> None:
    path = first_device(stat.S_ISBLK)
    number = path.stat().st_rdev
    by_number = limited(device_write_bps={f"{os.major(number)}:{os.minor(number)}": "1M"})
    assert limited(device_write_bps={str(path): "1M"}) == by_number


def test_a_block_device_is_found_through_a_symbolic_link(tmp_path: Path) -> None:
    path = first_device(stat.S_ISBLK)
    (tmp_path / "disk").symlink_to(path)
    assert limited(device_read_iops={str(tmp_path / "disk"): 5}) == limited(device_read_iops={str(path): 5})


def test_numbers_need_no_device_that_is_there() -> None:
    assert limited(device_read_bps={"4095:1048575": 1}).block_io == BlockIO(
        throttle_read_bps_device=(ThrottleDevice(4095, 1_048_575, 1),)
    )


def test_the_numbers_of_a_device_are_those_of_its_node() -> None:
    assert device_numbers("/dev/null")[:3] == ("c", 1, 3)
    assert device_numbers("/dev/null")[3] == stat.S_IMODE(os.stat("/dev/null").st_mode)


# ---- properties

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=5), st.just([]),
    st.from_regex(r"[0-9.,:/ -]{1,12}[bkmgtiBKMGTI]{0,3}"),
)
MAPPINGS = ("device_read_bps", "device_write_bps", "device_read_iops", "device_write_iops", "hugetlb", "unified")
PLAIN = tuple(name for name in NAMES if name not in MAPPINGS)


@given(st.dictionaries(st.sampled_from(PLAIN), SCALARS))
def test_any_value_is_taken_or_refused_as_an_invalid_argument(limits: dict[str, Any]) -> None:
    try:
        assert isinstance(limited(**limits), Resources)
    except InvalidArgument:
        pass


@given(st.sampled_from(MAPPINGS), st.dictionaries(st.text(), SCALARS))
def test_any_entry_is_taken_or_refused_as_an_invalid_argument(name: str, entries: dict[str, Any]) -> None:
    try:
        assert isinstance(limited(**{name: entries}), Resources)
    except InvalidArgument:
        pass


@given(st.floats(0.01, 100_000))
def test_the_quota_is_the_processors_times_the_period(cpus: float) -> None:
    cpu = limited(cpus=cpus).cpu
    assert cpu is not None
    assert cpu.quota is not None
    assert cpu.period == CPU_PERIOD
    assert abs(cpu.quota / CPU_PERIOD - cpus) <= 0.5 / CPU_PERIOD * 1.01
    assert cpu.quota >= 1000  # the kernel's least


@given(st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1))
def test_memory_and_swap_together_is_never_less_than_memory(memory: int, both: int) -> None:
    assume(memory != both)
    limits = {"memory": memory, "memory_swap": both}
    if both < memory:
        with pytest.raises(InvalidArgument):
            limited(**limits)
    else:
        assert limited(**limits).memory == Memory(limit=memory, swap=both)


RANGE = st.tuples(st.integers(0, 9999), st.integers(0, 9999)).map(lambda pair: f"{min(pair)}-{max(pair)}")


@given(st.lists(st.one_of(st.integers(0, 9999).map(str), RANGE), min_size=1))
def test_a_list_of_processors_is_passed_on_as_it_is(parts: list[str]) -> None:
    text = ",".join(parts)
    assert limited(cpuset_cpus=text, cpuset_mems=text).cpu == CPU(cpus=text, mems=text)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(1, 2**63 - 1))
def test_a_device_by_number_is_passed_on_as_it_is(major: int, minor: int, rate: int) -> None:
    throttles = limited(device_read_bps={f"{major}:{minor}": rate}).block_io
    assert throttles == BlockIO(throttle_read_bps_device=(ThrottleDevice(major, minor, rate),))
