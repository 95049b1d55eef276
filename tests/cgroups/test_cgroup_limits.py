"""What is written for the limits of the OCI specification."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycontain import spec
from pycontain.cgroups import v1, v2
from pycontain.cgroups.limits import translate
from pycontain.errors import InvalidArgument, LimitNotSupported
from pycontain.spec import CPU, Memory, Pids, Resources

MIB = 1 << 20


def written(resources, version):
    return {setting.file: setting.value for setting in translate(resources, version.TRANSLATION)}


@pytest.mark.parametrize(("resources", "files1", "files2"), [
    (Resources(), {}, {}),
    (Resources(memory=Memory(limit=MIB)),
     {"memory.limit_in_bytes": "1048576", "memory.memsw.limit_in_bytes": "1048576"},
     {"memory.max": "1048576", "memory.swap.max": "0"}),
    (Resources(memory=Memory(limit=MIB, swap=3 * MIB)),
     {"memory.limit_in_bytes": "1048576", "memory.memsw.limit_in_bytes": "3145728"},
     {"memory.max": "1048576", "memory.swap.max": "2097152"}),
    (Resources(memory=Memory(limit=MIB, swap=-1)),
     {"memory.limit_in_bytes": "1048576", "memory.memsw.limit_in_bytes": "-1"},
     {"memory.max": "1048576", "memory.swap.max": "max"}),
    (Resources(memory=Memory(limit=-1)),
     {"memory.limit_in_bytes": "-1", "memory.memsw.limit_in_bytes": "-1"},
     {"memory.max": "max", "memory.swap.max": "max"}),
    (Resources(memory=Memory(swap=-1)), {"memory.memsw.limit_in_bytes": "-1"}, {"memory.swap.max": "max"}),
    (Resources(memory=Memory(reservation=MIB)), {"memory.soft_limit_in_bytes": "1048576"}, {"memory.low": "1048576"}),
    (Resources(memory=Memory(limit=0, swap=0)), {}, {}),
    (Resources(cpu=CPU(shares=1024)), {"cpu.shares": "1024"}, {"cpu.weight": "39"}),
    (Resources(cpu=CPU(quota=50_000)), {"cpu.cfs_quota_us": "50000"}, {"cpu.max": "50000 100000"}),
    (Resources(cpu=CPU(quota=-1, period=20_000)),
     {"cpu.cfs_period_us": "20000", "cpu.cfs_quota_us": "-1"}, {"cpu.max": "max 20000"}),
    (Resources(cpu=CPU(period=20_000)), {"cpu.cfs_period_us": "20000"}, {"cpu.max": "max 20000"}),
    (Resources(pids=Pids(limit=7)), {"pids.max": "7"}, {"pids.max": "7"}),
    (Resources(pids=Pids(limit=-1)), {"pids.max": "max"}, {"pids.max": "max"}),
])
def test_each_limit_has_its_file_and_value(resources, files1, files2):
    assert written(resources, v1) == files1
    assert written(resources, v2) == files2


@pytest.mark.parametrize("version", [v1, v2])
@pytest.mark.parametrize(("resources", "name"), [
    (Resources(memory=Memory(swappiness=0)), "memory.swappiness"),
    (Resources(memory=Memory(limit=MIB, kernel=MIB)), "memory.kernel"),
    (Resources(memory=Memory(disable_oom_killer=True)), "memory.disable_oom_killer"),
    (Resources(cpu=CPU(cpus="0")), "cpu.cpus"),
    (Resources(cpu=CPU(mems="0")), "cpu.mems"),
    (Resources(cpu=CPU(burst=1000)), "cpu.burst"),
    (Resources(cpu=CPU(idle=1)), "cpu.idle"),
    (Resources(cpu=CPU(realtime_runtime=1000)), "cpu.realtime_runtime"),
    (Resources(block_io=spec.BlockIO(weight=10)), "block_io"),
    (Resources(hugepage_limits=(spec.HugepageLimit(page_size="2MB", limit=MIB),)), "hugepage_limits"),
    (Resources(network=spec.NetworkResources(class_id=1)), "network"),
    (Resources(unified=spec.FrozenMap({"memory.high": "1"})), "unified"),
    (Resources(devices=(spec.DeviceRule(allow=False),)), "devices"),
])
def test_a_limit_without_a_translation_is_refused_by_its_name(resources, name, version):
    with pytest.raises(LimitNotSupported, match=f"the limit {name} cannot be enforced.* Leave out {name}"):
        translate(resources, version.TRANSLATION)


@pytest.mark.parametrize("version", [v1, v2])
@pytest.mark.parametrize(("resources", "message"), [
    (Resources(memory=Memory(swap=MIB)), "memory.swap .* needs memory.limit"),
    (Resources(memory=Memory(limit=-1, swap=MIB)), "memory.swap .* needs memory.limit"),
    (Resources(memory=Memory(limit=2 * MIB, swap=MIB)), "below memory.limit"),
    (Resources(cpu=CPU(quota=-2)), "cpu.quota is negative: -2"),
])
def test_a_limit_that_can_never_work_is_an_invalid_argument(resources, message, version):
    with pytest.raises(InvalidArgument, match=message):
        translate(resources, version.TRANSLATION)


@given(st.integers(0, 2**64 - 1))
def test_a_weight_is_always_one_that_the_kernel_takes(shares):
    assert 1 <= v2.weight_of(shares) <= 10000


@given(st.integers(100, 87_000))
def test_three_times_the_shares_are_three_times_the_weight(shares):
    assert v2.weight_of(3 * shares) == pytest.approx(3 * v2.weight_of(shares), abs=3)


@given(st.integers(1, 2**40), st.integers(0, 2**40))
def test_swap_is_written_so_that_both_versions_allow_the_same(limit, more):
    resources = Resources(memory=Memory(limit=limit, swap=limit + more))
    legacy, unified = written(resources, v1), written(resources, v2)
    assert int(legacy["memory.memsw.limit_in_bytes"]) == int(unified["memory.max"]) + int(unified["memory.swap.max"])
