"""Limits as properties of a unit, and the names of units and slices. No systemd is needed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycontain.cgroups import legacy_limits, unified_limits
from pycontain.cgroups.limits import translate
from pycontain.cgroups.systemd_properties import INFINITY, properties
from pycontain.cgroups.systemd_units import name_of, slice_path, unit_of
from pycontain.errors import InvalidArgument, LimitNotSupported
from pycontain.spec import CPU, BlockIO, Memory, Pids, Resources, ThrottleDevice, WeightDevice
from pycontain.spec.frozen import FrozenMap

MIB = 1 << 20
V1, V2 = legacy_limits.TRANSLATION, unified_limits.TRANSLATION


def of(resources, version=V2):
    return {name: value for name, (_, value) in properties(translate(resources, version))}


@pytest.mark.parametrize(("resources", "expected"), [
    (Resources(), {}),
    (Resources(memory=Memory(limit=64 * MIB)), {"MemoryMax": 65 * MIB, "MemorySwapMax": 0}),
    (Resources(memory=Memory(limit=64 * MIB, swap=96 * MIB)), {"MemoryMax": 65 * MIB, "MemorySwapMax": 32 * MIB}),
    (Resources(memory=Memory(limit=-1)), {"MemoryMax": INFINITY, "MemorySwapMax": INFINITY}),
    (Resources(memory=Memory(reservation=MIB)), {"MemoryLow": MIB}),
    (Resources(unified=FrozenMap({"memory.high": "1048576", "memory.min": "max"})),
     {"MemoryHigh": MIB, "MemoryMin": INFINITY}),
    (Resources(pids=Pids(limit=10)), {"TasksMax": 11}),
    (Resources(pids=Pids(limit=-1)), {"TasksMax": INFINITY}),
    (Resources(cpu=CPU(quota=50_000)), {"CPUQuotaPerSecUSec": 500_000, "CPUQuotaPeriodUSec": 100_000}),
    (Resources(cpu=CPU(quota=30_000, period=20_000)), {"CPUQuotaPerSecUSec": 1_500_000, "CPUQuotaPeriodUSec": 20_000}),
    (Resources(cpu=CPU(quota=-1)), {"CPUQuotaPerSecUSec": INFINITY, "CPUQuotaPeriodUSec": 100_000}),
    (Resources(cpu=CPU(shares=1024)), {"CPUWeight": 39}),
    (Resources(cpu=CPU(idle=1)), {"CPUWeight": 0}),
    (Resources(cpu=CPU(cpus="0-2,9", mems="1")), {"AllowedCPUs": b"\x07\x02", "AllowedMemoryNodes": b"\x02"}),
    (Resources(block_io=BlockIO(weight=500)), {"IOWeight": 4950}),
    (Resources(block_io=BlockIO(weight_device=(WeightDevice(8, 0, weight=10),))),
     {"IODeviceWeight": [("/dev/block/8:0", 1)]}),
    (Resources(block_io=BlockIO(throttle_read_bps_device=(ThrottleDevice(8, 0, MIB), ThrottleDevice(8, 16, 0)))),
     {"IOReadBandwidthMax": [("/dev/block/8:0", MIB), ("/dev/block/8:16", INFINITY)]}),
])
def test_limits_of_v2_become_properties(resources, expected):
    assert of(resources) == expected


@pytest.mark.parametrize(("resources", "expected"), [
    (Resources(memory=Memory(limit=64 * MIB, reservation=MIB)), {"MemoryMax": 65 * MIB}),
    (Resources(memory=Memory(limit=-1)), {"MemoryMax": INFINITY}),
    (Resources(pids=Pids(limit=10)), {"TasksMax": 11}),
    (Resources(cpu=CPU(shares=512, quota=50_000)),
     {"CPUShares": 512, "CPUQuotaPerSecUSec": 500_000, "CPUQuotaPeriodUSec": 100_000}),
    (Resources(block_io=BlockIO(weight=500)), {"IOWeight": 100}),
    (Resources(block_io=BlockIO(throttle_write_iops_device=(ThrottleDevice(8, 0, 100),))),
     {"IOWriteIOPSMax": [("/dev/block/8:0", 100)]}),
])
def test_limits_of_v1_become_properties(resources, expected):
    assert of(resources, V1) == expected


@given(st.integers(1_000, 10**7), st.integers(1_000, 10**6))
def test_a_share_of_cpu_is_the_next_whole_percent(quota, period):
    share = of(Resources(cpu=CPU(quota=quota, period=period)))["CPUQuotaPerSecUSec"]
    assert share % 10_000 == 0
    assert 0 <= share - quota * 1_000_000 / period < 10_000


@given(st.sets(st.integers(0, 300), min_size=1))
def test_a_list_of_processors_becomes_a_mask(numbers):
    mask = of(Resources(cpu=CPU(cpus=",".join(map(str, numbers)))))["AllowedCPUs"]
    assert {index for index in range(len(mask) * 8) if mask[index // 8] >> index % 8 & 1} == numbers


@pytest.mark.parametrize("text", ["nonsense", "1-", "-1", "0-99999999999", "²"])
def test_what_is_no_list_of_processors_is_left_to_the_kernel(text):
    assert of(Resources(cpu=CPU(cpus=text))) == {}


def test_time_for_real_time_processes_is_refused():
    with pytest.raises(LimitNotSupported, match=r"limit cpu\.realtime_runtime cannot be enforced: systemd gives"):
        of(Resources(cpu=CPU(realtime_runtime=1000)), V1)


@given(st.text(min_size=1, max_size=15))
def test_the_name_of_a_unit_gives_the_name_of_the_group(name):
    unit = unit_of(name)
    assert name_of(unit) == name
    assert set(unit) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.\\-")


def test_an_ordinary_name_stays_as_it_is():
    assert unit_of("0123abcd-7") == "pycontain-0123abcd-7.scope"


def test_a_name_that_is_too_long_for_a_unit_is_refused():
    with pytest.raises(InvalidArgument, match="too long for a unit"):
        unit_of("x" * 240)


@pytest.mark.parametrize("unit", ["session-1.scope", "pycontain-1.service", "pycontain"])
def test_a_unit_of_others_has_no_name(unit):
    assert name_of(unit) is None


@pytest.mark.parametrize(("name", "path"), [
    ("machine.slice", "machine.slice"),
    ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
    ("-.slice", ""),
])
def test_a_slice_is_in_the_slices_that_its_name_says(name, path):
    assert slice_path(name) == path


@pytest.mark.parametrize("name", [
    "", "machine", ".slice", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice", "a b.slice",
])
def test_what_is_no_slice_is_refused(name):
    with pytest.raises(InvalidArgument, match="not a slice of systemd"):
        slice_path(name)
