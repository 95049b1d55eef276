"""That limits of each controller are kept, or refused where the machine cannot keep them."""

from __future__ import annotations

import os
import time

import pytest

from pycontain.cgroups import detect
from pycontain.cgroups.hierarchy import read_layout
from pycontain.errors import InvalidArgument, LimitNotSupported
from pycontain.spec import (
    CPU,
    FrozenMap,
    HugepageLimit,
    InterfacePriority,
    Memory,
    NetworkResources,
    Rdma,
    Resources,
)

MIB = 1 << 20
BUSY = "while True: pass"
TICKS = os.sysconf("SC_CLK_TCK")
INITIAL_CGROUP_NAMESPACE = f"cgroup:[{0xEFFFFFFB}]"  # PROC_CGROUP_INIT_INO in linux/proc_ns.h


def cpu_seconds(processes):
    """What each of the processes has used so far."""
    result = []
    for process in processes:
        with open(f"/proc/{process.pid}/stat") as file:
            fields = file.read().rpartition(") ")[2].split()
        result.append((int(fields[11]) + int(fields[12])) / TICKS)
    return result


def used_in(seconds, processes):
    """CPU seconds of each process while `seconds` pass, and how long they took."""
    before, start = cpu_seconds(processes), time.monotonic()
    time.sleep(seconds)
    after, wall = cpu_seconds(processes), time.monotonic() - start
    return [b - a for a, b in zip(before, after, strict=True)], wall


def test_half_a_processor_is_not_exceeded(machine):
    group = machine.create(Resources(cpu=CPU(quota=50_000, period=100_000)))
    processes = [machine.python(group, BUSY) for _ in range(2)]
    used, wall = used_in(2, processes)
    assert 0 < sum(used) < 0.6 * wall


def test_shares_divide_one_processor(machine):
    if os.cpu_count() != 1:
        machine.needs("cpuset")
    cpus = None if os.cpu_count() == 1 else "0"
    small, large = (machine.create(Resources(cpu=CPU(shares=shares, cpus=cpus))) for shares in (512, 1536))
    processes = [machine.python(group, BUSY) for group in (small, large)]
    time.sleep(0.3)  # until both have started
    (few, many), _ = used_in(3, processes)
    assert 2 < many / few < 4.5


def test_an_idle_group_gets_what_others_leave(machine):
    if os.cpu_count() != 1:
        machine.needs("cpuset")
    cpus = None if os.cpu_count() == 1 else "0"
    try:
        idle = machine.create(Resources(cpu=CPU(idle=1, cpus=cpus)))
    except LimitNotSupported as error:
        pytest.skip(str(error))
    other = machine.create(Resources(cpu=CPU(shares=1024, cpus=cpus)))
    processes = [machine.python(group, BUSY) for group in (idle, other)]
    time.sleep(0.3)
    (few, many), _ = used_in(1, processes)
    assert few < many / 5
    with pytest.raises(LimitNotSupported, match=r"shares cannot be enforced: .* An idle group .* has no shares"):
        idle.update(Resources(cpu=CPU(shares=100)))
    idle.update(Resources(cpu=CPU(shares=100, idle=0)))


def test_a_burst_is_set_with_its_quota_whichever_is_first(machine):
    try:
        group = machine.create(Resources(cpu=CPU(quota=20_000, burst=10_000)))
    except LimitNotSupported as error:
        pytest.skip(str(error))
    file = "cpu.max.burst" if machine.version == 2 else "cpu.cfs_burst_us"
    assert machine.file(group, file) == "10000"
    group.update(Resources(cpu=CPU(quota=5000, burst=4000)))
    group.update(Resources(cpu=CPU(quota=50_000, burst=40_000)))
    assert machine.file(group, file) == "40000"
    with pytest.raises(LimitNotSupported, match=r"burst cannot be enforced: .* A burst needs a quota"):
        group.update(Resources(cpu=CPU(burst=60_000)))


AFFINITY = "import os; print(*sorted(os.sched_getaffinity(0)))"


def test_the_affinity_is_what_was_asked(machine):
    machine.needs("cpuset")
    available = sorted(os.sched_getaffinity(0))
    for cpus in ({available[0]}, {available[-1]}, set(available)):
        text = ",".join(map(str, sorted(cpus)))
        group = machine.create(Resources(cpu=CPU(cpus=text, mems="0")))
        assert machine.python(group, AFFINITY).communicate(timeout=60)[0].split() == [b"%d" % n for n in sorted(cpus)]


def test_a_running_process_moves_to_other_processors(machine, eventually):
    machine.needs("cpuset")
    first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    group = machine.create(Resources(cpu=CPU(cpus=str(first))))
    process = machine.popen(group, "sleep", "1000")
    group.update(Resources(cpu=CPU(cpus=str(last))))
    eventually(lambda: os.sched_getaffinity(process.pid) == {last}, "moving")
    other = machine.create()
    process = machine.popen(other, "sleep", "1000")
    other.update(Resources(cpu=CPU(cpus=str(first))))
    eventually(lambda: os.sched_getaffinity(process.pid) == {first}, "joining")


@pytest.mark.parametrize("cpu", [CPU(cpus="1000"), CPU(cpus="0,1000"), CPU(mems="77"), CPU(cpus="nonsense")])
def test_processors_that_are_not_there_are_refused(machine, cpu):
    machine.needs("cpuset")
    name = machine.new_name()
    with pytest.raises(LimitNotSupported, match=r"the limit cpu\.(cpus|mems) cannot be enforced: .* Choose from"):
        machine.driver.create(name, Resources(cpu=cpu))
    assert name not in machine.driver.names()


def test_processors_of_a_child_are_among_those_of_the_group(machine):
    machine.needs("cpuset")
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        pytest.skip("one processor only")
    group = machine.create(Resources(cpu=CPU(cpus=str(available[0]))))
    machine.popen(group, "sleep", "1000")
    child = machine.child(group)
    output = machine.python(child, AFFINITY).communicate(timeout=60)[0]
    assert output.split() == [b"%d" % available[0]]
    with pytest.raises(LimitNotSupported, match="cpus cannot be enforced"):
        group.child("other", Resources(cpu=CPU(cpus=str(available[1]))))


REALTIME = """
import os
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    print("real-time")
except PermissionError:
    print("refused")
"""


def time_for_real_time():
    """Microseconds, in the group at the top: with a cgroup namespace it may be one that has been given none."""
    base = next(hierarchy.base for hierarchy in read_layout().hierarchies if "cpu" in hierarchy.controllers)
    with open(f"{base}/cpu.rt_runtime_us") as file:
        return int(file.read())


def test_a_group_gets_time_for_real_time_processes_on_v1(machine):
    if machine.driver.name == "systemd":
        pytest.skip("systemd gives its groups no real-time processor time")
    if machine.version == 2:
        with pytest.raises(LimitNotSupported, match="cgroup v2 has no limits for real-time processes"):
            machine.create(Resources(cpu=CPU(realtime_runtime=1000)))
        return
    try:
        group = machine.create(Resources(cpu=CPU(realtime_runtime=10_000, realtime_period=500_000)))
    except LimitNotSupported as error:
        if "no more time for real-time processes" in str(error) and not time_for_real_time():
            pytest.skip("the topmost group that is seen here has no real-time processor time")
        assert "this kernel has no cpu.rt_" in str(error)  # noqa: PT017 (a kernel without RT_GROUP_SCHED)
        return
    assert machine.python(group, REALTIME).communicate(timeout=60)[0] == b"real-time\n"
    without = machine.create(Resources(cpu=CPU(shares=100)))
    assert machine.python(without, REALTIME).communicate(timeout=60)[0] == b"refused\n"
    with pytest.raises(LimitNotSupported, match="no more time for real-time processes"):
        machine.create(Resources(cpu=CPU(realtime_runtime=490_000, realtime_period=500_000)))


def test_a_reservation_is_set(machine):
    group = machine.create(Resources(memory=Memory(limit=64 * MIB, reservation=32 * MIB)))
    file = "memory.low" if machine.version == 2 else "memory.soft_limit_in_bytes"
    assert machine.file(group, file) == str(32 * MIB)


def test_swappiness_is_set_on_v1(machine):
    resources = Resources(memory=Memory(limit=64 * MIB, swappiness=7))
    if machine.version == 2:
        with pytest.raises(LimitNotSupported, match="one swappiness for the whole machine"):
            machine.create(resources)
    else:
        assert machine.file(machine.create(resources), "memory.swappiness") == "7"


def test_a_process_waits_for_memory_where_the_killer_is_off_on_v1(machine, eventually):
    resources = Resources(memory=Memory(limit=32 * MIB, disable_oom_killer=True))
    if machine.version == 2:
        with pytest.raises(LimitNotSupported, match=r"no such switch. Set memory\.high with `unified`"):
            machine.create(resources)
        return
    group = machine.create(resources)
    process = machine.python(group, f"b = bytearray({128 * MIB})")
    eventually(lambda: "under_oom 1" in machine.file(group, "memory.oom_control"), "running out of memory")
    assert process.poll() is None
    group.kill()
    process.communicate(timeout=60)
    assert process.returncode == -9


def test_a_limit_below_what_is_in_use_is_refused_when_it_is_to_be_checked(machine, eventually):
    group = machine.create(Resources(memory=Memory(limit=128 * MIB)))
    process = machine.python(group, f"b = bytearray({64 * MIB}); print(flush=True); import time; time.sleep(1000)")
    process.stdout.readline()
    with pytest.raises(LimitNotSupported, match=r"memory.limit cannot be enforced: \d+ bytes are in use"):
        group.update(Resources(memory=Memory(limit=32 * MIB, check_before_update=True)))
    group.update(Resources(memory=Memory(limit=256 * MIB, check_before_update=True)))
    assert process.poll() is None


def test_files_of_v2_controllers_can_be_written(machine):
    unified = FrozenMap({"memory.high": str(64 * MIB), "memory.oom.group": "1"})
    if machine.version == 1:
        with pytest.raises(LimitNotSupported, match="the memory controller is on cgroup v1 here"):
            machine.create(Resources(unified=unified))
        return
    group = machine.create(Resources(unified=unified))
    assert machine.file(group, "memory.high") == str(64 * MIB)
    assert machine.file(group, "memory.oom.group") == "1"
    with pytest.raises(LimitNotSupported, match=r"unified\[memory.no_such\] cannot be enforced: this kernel has no"):
        machine.create(Resources(unified=FrozenMap({"memory.no_such": "1"})))
    with pytest.raises(InvalidArgument):
        machine.create(Resources(unified=FrozenMap({"cgroup.freeze": "1"})))


def test_all_processes_of_a_group_die_with_the_first_where_oom_group_is_set(machine):
    if machine.version == 1:
        pytest.skip("cgroup v1 has no memory.oom.group")
    group = machine.create(Resources(memory=Memory(limit=32 * MIB), unified=FrozenMap({"memory.oom.group": "1"})))
    bystander = machine.popen(group, "sleep", "1000")
    machine.python(group, f"b = bytearray({128 * MIB})").communicate(timeout=60)
    bystander.communicate(timeout=60)
    assert bystander.returncode == -9


def test_a_partition_that_cannot_be_is_refused(machine):
    machine.needs("cpuset")
    if machine.version == 1:
        pytest.skip("cgroup v1 has no partitions")
    resources = Resources(cpu=CPU(cpus="0"), unified=FrozenMap({"cpuset.cpus.partition": "root"}))
    with pytest.raises(LimitNotSupported, match="the partition is root invalid"):
        machine.create(resources)


@pytest.mark.parametrize(("resources", "controller"), [
    (Resources(hugepage_limits=(HugepageLimit(page_size="2MB", limit=4 * MIB),)), "hugetlb"),
    (Resources(network=NetworkResources(class_id=0x10001)), "net_cls"),
    (Resources(network=NetworkResources(priorities=(InterfacePriority("lo", 3),))), "net_prio"),
    (Resources(rdma=FrozenMap({"mlx5_0": Rdma(hca_handles=2)})), "rdma"),
])
def test_a_controller_that_the_machine_has_not_is_refused_with_the_remedy(machine, resources, controller):
    reason = machine.driver.reason(controller)
    if reason is None:
        pytest.skip(f"{controller} can be used here")
    if controller.startswith("net_") and machine.version == 2:
        reason = reason._replace(cause="cgroup v2 has no net_", remedy="Match the cgroup in nftables")
    with pytest.raises(LimitNotSupported) as caught:
        machine.create(resources)
    assert reason.cause in str(caught.value)
    assert reason.remedy in str(caught.value)


def test_huge_pages_are_limited(machine):
    machine.needs("hugetlb")
    sizes = os.listdir("/sys/kernel/mm/hugepages")
    if "hugepages-2048kB" not in sizes:
        pytest.skip("no huge pages of 2 MB")
    group = machine.create(Resources(hugepage_limits=(HugepageLimit(page_size="2MB", limit=4 * MIB),)))
    assert str(4 * MIB) in [machine.file(group, name) for name in ("hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes")
                            if any(os.path.exists(f"{path}/{name}") for path in group.paths)]
    with pytest.raises(LimitNotSupported, match=r"this kernel has no hugetlb.3MB.*/sys/kernel/mm/hugepages"):
        machine.create(Resources(hugepage_limits=(HugepageLimit(page_size="3MB", limit=0),)))


NETWORK = """
mount -t cgroup -o net_cls,net_prio none "$1"
$PYTHON - <<'END'
from pycontain.cgroups import detect
from pycontain.spec import InterfacePriority, NetworkResources, Resources
driver = detect()
network = NetworkResources(class_id=0x10001, priorities=(InterfacePriority("lo", 3),))
group = driver.create("test-network", Resources(network=network))
path = next(path for path in group.paths if "%s" in path)
print(open(path + "/net_cls.classid").read().strip(), "lo 3" in open(path + "/net_prio.ifpriomap").read())
group.remove()
driver.remove_parent_if_empty()
END
umount "$1"
"""


def test_network_classes_and_priorities_are_set_where_v1_has_them(fresh_python, tmp_path):
    reasons = [detect().reason(controller) for controller in ("net_cls", "net_prio")]
    if not all(reason and reason.remedy.startswith("Mount it") for reason in reasons):
        pytest.skip("net_cls and net_prio cannot be mounted here")
    if os.readlink("/proc/self/ns/cgroup") != INITIAL_CGROUP_NAMESPACE:
        pytest.skip("the kernel mounts no new hierarchy from a cgroup namespace")
    assert fresh_python(NETWORK.replace("%s", str(tmp_path)), str(tmp_path)) == "65537 True\n"
