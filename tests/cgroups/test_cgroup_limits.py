"""What is written for the limits of the OCI specification."""

from __future__ import annotations

import pytest
from attrs import evolve, fields
from hypothesis import given
from hypothesis import strategies as st

from pycontain.cgroups import legacy_limits, unified_limits
from pycontain.cgroups.limits import translate
from pycontain.errors import InvalidArgument, LimitNotSupported
from pycontain.spec import (
    CPU,
    BlockIO,
    FrozenMap,
    HugepageLimit,
    InterfacePriority,
    Memory,
    NetworkResources,
    Pids,
    Rdma,
    Resources,
    ThrottleDevice,
    WeightDevice,
)

MIB = 1 << 20
V1, V2 = legacy_limits.TRANSLATION, unified_limits.TRANSLATION
DISK = {"major": 8, "minor": 16}


def written(resources, version):
    return [(setting.file, setting.value) for setting in translate(resources, version)]


@pytest.mark.parametrize(("resources", "writes1", "writes2"), [
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
    (Resources(memory=Memory(limit=0, swap=0, kernel=0, use_hierarchy=True, check_before_update=True)), {}, {}),
    (Resources(cpu=CPU(shares=1024)), {"cpu.shares": "1024"}, {"cpu.weight": "39"}),
    (Resources(cpu=CPU(quota=50_000)), {"cpu.cfs_quota_us": "50000"}, {"cpu.max": "50000 100000"}),
    (Resources(cpu=CPU(quota=-1, period=20_000)),
     {"cpu.cfs_period_us": "20000", "cpu.cfs_quota_us": "-1"}, {"cpu.max": "max 20000"}),
    (Resources(cpu=CPU(period=20_000)), {"cpu.cfs_period_us": "20000"}, {"cpu.max": "max 20000"}),
    (Resources(cpu=CPU(quota=5000, burst=3000)),
     {"cpu.cfs_quota_us": "5000", "cpu.cfs_burst_us": "3000"}, {"cpu.max": "5000 100000", "cpu.max.burst": "3000"}),
    (Resources(cpu=CPU(burst=0, idle=0)),
     {"cpu.cfs_burst_us": "0", "cpu.idle": "0"}, {"cpu.max.burst": "0", "cpu.idle": "0"}),
    (Resources(cpu=CPU(shares=2, idle=1)),
     {"cpu.shares": "2", "cpu.idle": "1"}, {"cpu.weight": "1", "cpu.idle": "1"}),
    (Resources(cpu=CPU(cpus="0-1", mems="0")),
     {"cpuset.cpus": "0-1", "cpuset.mems": "0"}, {"cpuset.cpus": "0-1", "cpuset.mems": "0"}),
    (Resources(cpu=CPU(cpus="", mems="")), {}, {}),
    (Resources(pids=Pids(limit=7)), {"pids.max": "7"}, {"pids.max": "7"}),
    (Resources(pids=Pids(limit=-1)), {"pids.max": "max"}, {"pids.max": "max"}),
    (Resources(block_io=BlockIO(weight=10)),
     {"blkio.bfq.weight": "10"}, {"io.bfq.weight": "10", "io.weight": "default 1"}),
    (Resources(block_io=BlockIO(weight_device=(WeightDevice(**DISK, weight=1000),))),
     {"blkio.bfq.weight_device": "8:16 1000"}, {"io.bfq.weight": "8:16 1000", "io.weight": "8:16 10000"}),
    (Resources(block_io=BlockIO(throttle_read_bps_device=(ThrottleDevice(**DISK, rate=MIB),))),
     {"blkio.throttle.read_bps_device": "8:16 1048576"}, {"io.max": "8:16 rbps=1048576"}),
    (Resources(block_io=BlockIO(throttle_write_iops_device=(ThrottleDevice(**DISK, rate=0),))),
     {"blkio.throttle.write_iops_device": "8:16 0"}, {"io.max": "8:16 wiops=max"}),
    (Resources(hugepage_limits=(HugepageLimit(page_size="2MB", limit=MIB),)),
     {"hugetlb.2MB.limit_in_bytes": "1048576", "hugetlb.2MB.rsvd.limit_in_bytes": "1048576"},
     {"hugetlb.2MB.max": "1048576", "hugetlb.2MB.rsvd.max": "1048576"}),
    (Resources(rdma=FrozenMap({"mlx5_0": Rdma(hca_handles=2, hca_objects=3)})),
     {"rdma.max": "mlx5_0 hca_handle=2 hca_object=3"}, {"rdma.max": "mlx5_0 hca_handle=2 hca_object=3"}),
])
def test_each_limit_has_its_file_and_value(resources, writes1, writes2):
    assert written(resources, V1) == list(writes1.items())
    assert written(resources, V2) == list(writes2.items())


@pytest.mark.parametrize(("resources", "file", "value"), [
    (Resources(memory=Memory(swappiness=0)), "memory.swappiness", "0"),
    (Resources(memory=Memory(kernel=MIB)), "memory.kmem.limit_in_bytes", "1048576"),
    (Resources(memory=Memory(kernel_tcp=MIB)), "memory.kmem.tcp.limit_in_bytes", "1048576"),
    (Resources(memory=Memory(disable_oom_killer=True)), "memory.oom_control", "1"),
    (Resources(cpu=CPU(realtime_runtime=1000)), "cpu.rt_runtime_us", "1000"),
    (Resources(cpu=CPU(realtime_period=100_000)), "cpu.rt_period_us", "100000"),
    (Resources(network=NetworkResources(class_id=0x100001)), "net_cls.classid", "1048577"),
    (Resources(network=NetworkResources(priorities=(InterfacePriority("lo", 3),))), "net_prio.ifpriomap", "lo 3"),
])
def test_what_only_v1_has_is_refused_on_v2(resources, file, value):
    assert written(resources, V1) == [(file, value)]
    with pytest.raises(LimitNotSupported, match=r"the limit \w+\.\w+ cannot be enforced: cgroup v2 "):
        translate(resources, V2)


@pytest.mark.parametrize("version", [V1, V2])
@pytest.mark.parametrize(("resources", "name"), [
    (Resources(memory=Memory(use_hierarchy=False)), "memory.use_hierarchy"),
    (Resources(block_io=BlockIO(leaf_weight=100)), "block_io.leaf_weight"),
    (Resources(block_io=BlockIO(weight_device=(WeightDevice(**DISK, weight=10, leaf_weight=10),))),
     "block_io.weight_device.leaf_weight"),
])
def test_what_no_kernel_has_any_more_is_refused_by_its_name(resources, name, version):
    with pytest.raises(LimitNotSupported, match=f"the limit {name} cannot be enforced.* Leave out {name}"):
        translate(resources, version)


EVERYTHING = Resources(
    memory=Memory(limit=MIB, reservation=MIB, swap=MIB, kernel=MIB, kernel_tcp=MIB, swappiness=1,
                  disable_oom_killer=True),
    cpu=CPU(shares=2, quota=1000, burst=1, period=1000, realtime_runtime=1, realtime_period=1, cpus="0", mems="0",
            idle=1),
    pids=Pids(limit=1),
    block_io=BlockIO(weight=10, weight_device=(WeightDevice(**DISK, weight=10),), **{
        f"throttle_{kind}_device": (ThrottleDevice(**DISK, rate=1),)
        for kind in ("read_bps", "write_bps", "read_iops", "write_iops")}),
    network=NetworkResources(class_id=1, priorities=(InterfacePriority("lo", 1),)),
)
NO_WRITE = {"use_hierarchy", "check_before_update", "leaf_weight"}


@pytest.mark.parametrize("version", [V1, V2])
@pytest.mark.parametrize("part", ["memory", "cpu", "pids", "block_io", "network"])
def test_every_field_is_written_or_refused(part, version):
    value = getattr(EVERYTHING, part)
    expected = {f"{part}.{field.name}" for field in fields(type(value)) if field.name not in NO_WRITE}
    while expected:
        try:
            limits = {setting.limit for setting in translate(Resources(**{part: value}), version)}
        except LimitNotSupported as error:
            refused = str(error).split()[2]
            expected.remove(refused)
            value = evolve(value, **{refused.split(".")[1]: () if refused == "network.priorities" else None})
        else:
            # On v2 the period is written together with the quota.
            assert expected - limits <= {"cpu.period"}
            break


@pytest.mark.parametrize("version", [V1, V2])
@pytest.mark.parametrize(("resources", "message"), [
    (Resources(memory=Memory(swap=MIB)), "memory.swap .* needs memory.limit"),
    (Resources(memory=Memory(limit=-1, swap=MIB)), "memory.swap .* needs memory.limit"),
    (Resources(memory=Memory(limit=2 * MIB, swap=MIB)), "below memory.limit"),
    (Resources(cpu=CPU(quota=-2)), "cpu.quota is negative: -2"),
    *((Resources(unified=FrozenMap({file: "1"})), "is not a file of a cgroup v2 controller")
      for file in ("cgroup.procs", "cgroup.freeze", "memory", "memory.", ".max", "../x.y", "memory.max/..")),
])
def test_a_limit_that_can_never_work_is_an_invalid_argument(resources, message, version):
    with pytest.raises(InvalidArgument, match=message):
        translate(resources, version)


def test_unified_is_written_line_by_line_and_after_the_others():
    unified = FrozenMap({"memory.max": "5", "io.max": "8:0 rbps=1\n8:1 rbps=2"})
    resources = Resources(memory=Memory(limit=MIB), unified=unified)
    assert written(resources, V2)[-3:] == [("memory.max", "5"), ("io.max", "8:0 rbps=1"), ("io.max", "8:1 rbps=2")]


@given(st.integers(0, 2**64 - 1))
def test_a_weight_is_always_one_that_the_kernel_takes(shares):
    assert 1 <= unified_limits.weight_of(shares) <= 10000


@given(st.integers(100, 87_000))
def test_three_times_the_shares_are_three_times_the_weight(shares):
    assert unified_limits.weight_of(3 * shares) == pytest.approx(3 * unified_limits.weight_of(shares), abs=3)


@given(st.integers(0, 2**16 - 1))
def test_an_io_weight_is_always_one_that_the_kernel_takes(weight):
    assert 1 <= unified_limits.io_weight_of(weight) <= 10000


@given(st.integers(1, 2**40), st.integers(0, 2**40))
def test_swap_is_written_so_that_both_versions_allow_the_same(limit, more):
    resources = Resources(memory=Memory(limit=limit, swap=limit + more))
    legacy, unified = dict(written(resources, V1)), dict(written(resources, V2))
    assert int(legacy["memory.memsw.limit_in_bytes"]) == int(unified["memory.max"]) + int(unified["memory.swap.max"])
