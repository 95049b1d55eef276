"""The driver's protocol, with real processes, on whatever hierarchy this machine has."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from pycontain.cgroups import CgroupUsage, detect, files
from pycontain.errors import CgroupError, InvalidArgument, LimitNotSupported
from pycontain.spec import CPU, Memory, Pids, Resources

MIB = 1 << 20

# Each bomb starts two more, each in a session of its own and without a parent that waits for it.
FORK_BOMB = "while :; do (setsid sh \"$0\" &) 2>/dev/null; (setsid sh \"$0\" &) 2>/dev/null; done"


def test_a_process_over_its_memory_limit_is_killed_and_counted(machine):
    group = machine.create(Resources(memory=Memory(limit=32 * MIB)))
    process = machine.python(group, f"b = bytearray({128 * MIB})")
    process.communicate(timeout=60)
    assert process.returncode == -9
    usage = group.usage()
    assert usage.oom_kills == 1
    assert usage.memory_peak is None or 16 * MIB < usage.memory_peak <= 32 * MIB


def test_a_process_below_its_memory_limit_is_not_killed_and_its_peak_is_known(machine):
    group = machine.create(Resources(memory=Memory(limit=128 * MIB)))
    process = machine.python(group, f"b = bytearray({40 * MIB})")
    process.communicate(timeout=60)
    assert process.returncode == 0
    usage = group.usage()
    assert usage.oom_kills == 0
    assert usage.memory_peak is None or 40 * MIB < usage.memory_peak < 80 * MIB


def test_a_memory_limit_forbids_swap(machine):
    group = machine.create(Resources(memory=Memory(limit=32 * MIB)))
    try:
        assert machine.file(group, "memory.memsw.limit_in_bytes") == str(32 * MIB)
    except FileNotFoundError:
        assert machine.file(group, "memory.swap.max") == "0"


def test_a_fork_over_the_pids_limit_fails_with_eagain(machine):
    group = machine.create(Resources(pids=Pids(limit=5)))
    process = machine.python(group, """
import os, signal
pids = []
try:
    for _ in range(50):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        pids.append(pid)
except OSError as error:
    print(error.errno == 11, len(pids))
for pid in pids:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
""")
    assert process.communicate(timeout=60)[0] == b"True 4\n"
    assert group.usage().pids_peak in (5, None)


def test_a_cpu_quota_throttles(machine, eventually):
    group = machine.create(Resources(cpu=CPU(quota=2000, period=100_000, shares=512)))
    machine.python(group, "while True: pass")
    eventually(lambda: "nr_throttled 0" not in machine.file(group, "cpu.stat"), "throttling")


def test_without_limits_the_figures_are_there_all_the_same(machine):
    group = machine.create()
    machine.popen(group, "true").communicate(timeout=60)
    usage = group.usage()
    assert usage.memory_peak is None or usage.memory_peak > 0
    assert usage.pids_peak in (1, None)
    assert usage.oom_kills == 0


def test_only_the_controllers_that_are_used_are_touched(machine):
    if machine.driver.name == "systemd":
        pytest.skip("systemd chooses the hierarchies of its scopes")
    if machine.version == 2:
        assert len(machine.create().paths) == 1
        return
    assert [path.split("/")[-3] for path in machine.create().paths] == ["memory", "pids"]
    assert len(machine.create(Resources(cpu=CPU(shares=2))).paths) == 3
    assert len(machine.create(kill=True).paths) == 3


def test_the_descriptors_fit_the_hierarchy_and_are_closed_once(machine):
    if machine.driver.name == "systemd" and os.geteuid() != 0:
        pytest.skip("it depends on where the user's session is whether there is one")
    group = machine.create(kill=True)
    assert (group.into_fd is None) == (machine.driver.hierarchy == "v1")
    assert (group.attach_fds == ()) == (machine.driver.hierarchy == "v2")
    assert not any(os.get_inheritable(fd) for fd in (*group.attach_fds, *filter(None, [group.into_fd])))
    group.close_fds()
    group.close_fds()
    assert (group.into_fd, group.attach_fds) == (None, ())


def test_clone3_takes_the_descriptor(machine):
    group = machine.create(kill=True)
    if group.into_fd is None:
        pytest.skip("cgroup v1 has no CLONE_INTO_CGROUP")
    program = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
CLONE_INTO_CGROUP, SIGCHLD, CLONE3 = 0x200000000, 17, 435
arguments = struct.pack("11Q", CLONE_INTO_CGROUP, 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, int(sys.argv[1]))
pid = libc.syscall(CLONE3, arguments, len(arguments))
if pid == 0:
    os.write(1, [line for line in open("/proc/self/cgroup", "rb") if line.startswith(b"0::")][0])
    os._exit(0)
sys.exit(os.waitpid(pid, 0)[1] if pid > 0 else f"errno {ctypes.get_errno()}")
"""
    output = subprocess.run([sys.executable, "-S", "-c", program, str(group.into_fd)], pass_fds=[group.into_fd],
                            stdout=subprocess.PIPE, timeout=60, check=True).stdout
    assert output.decode().endswith(f"/{group.name}\n")


@pytest.mark.parametrize("kill", [True, False])
def test_a_fork_bomb_dies_completely(machine, tmp_path, eventually, kill):
    bomb = tmp_path / "bomb.sh"
    bomb.write_text(FORK_BOMB)
    group = machine.create(Resources(pids=Pids(limit=60)), kill)
    process = machine.popen(group, "sh", str(bomb))
    eventually(lambda: int(machine.file(group, "pids.current")) > 40, "the explosion")
    group.kill()
    assert files.processes(group.paths) == set()
    process.communicate(timeout=60)
    # Zombies count in pids.current until their new parent has collected them; nothing is left that could fork.
    eventually(lambda: machine.file(group, "pids.current") == "0", "the end of the zombies")
    group.remove()


def test_killing_an_empty_or_removed_group_does_nothing(machine):
    group = machine.create(kill=True)
    group.kill()
    group.remove()
    group.kill()
    group.remove()
    assert group.usage() == CgroupUsage(None, None, 0)


def test_processes_in_groups_below_are_killed_and_the_groups_removed(machine):
    group = machine.create(kill=True)
    process = machine.popen(group, "sleep", "1000")
    for path in group.paths:
        os.makedirs(f"{path}/child/grandchild")
        with open(f"{path}/child/grandchild/cgroup.procs", "w") as file:
            file.write(str(process.pid))
    group.kill()
    process.communicate(timeout=60)
    assert process.returncode == -9
    group.remove()
    assert not any(map(os.path.exists, group.paths))


def test_remove_waits_for_a_straggler(machine):
    group = machine.create()
    process = machine.popen(group, "sleep", "1000")
    timer = threading.Timer(0.3, process.kill)
    timer.start()
    group.remove(timeout=60)
    timer.join()
    assert not any(map(os.path.exists, group.paths))


def test_remove_names_the_group_and_the_processes_that_stay(machine):
    group = machine.create()
    process = machine.popen(group, "sleep", "1000")
    with pytest.raises(CgroupError, match=rf"{group.name} cannot be removed.*\[{process.pid}\]") as caught:
        group.remove(timeout=0.1)
    assert caught.value.errno == 16
    assert process.poll() is None


@pytest.mark.parametrize("kill", [True, False])
def test_another_driver_sweeps_what_a_dead_owner_left(machine, kill):
    group = machine.create(Resources(cpu=CPU(shares=100)), kill)
    process = machine.popen(group, "sleep", "1000")
    sweeper = detect(machine.driver.name)
    assert group.name in sweeper.names()
    left = sweeper.open(group.name)
    assert set(left.paths) == set(group.paths)
    left.kill()
    process.communicate(timeout=60)
    left.remove()
    assert group.name not in sweeper.names()
    assert sweeper.open(group.name).paths == ()


def test_a_name_that_is_taken_is_refused_and_the_group_stays(machine):
    group = machine.create()
    with pytest.raises(CgroupError, match=f"{group.name} cannot be made: File exists"):
        machine.driver.create(group.name, None)
    assert all(map(os.path.isdir, group.paths))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0b"])
def test_a_name_that_is_no_file_name_is_refused(machine, name):
    with pytest.raises(InvalidArgument, match="not a name for a cgroup"):
        machine.driver.create(name, None)


@pytest.mark.parametrize(("resources", "message"), [
    (Resources(memory=Memory(limit=MIB), cpu=CPU(quota=10)), "limit cpu.quota cannot be enforced: .* at least 1000"),
    (Resources(cpu=CPU(quota=5000, period=10)), "limit cpu.(period|quota) cannot be enforced: .* 1000 to 1000000"),
    (Resources(pids=Pids(limit=2**40)), "limit pids.limit cannot be enforced: .* Choose another value"),
    (Resources(memory=Memory(kernel=MIB)), "limit memory.kernel cannot be enforced: .* Leave out"),
])
def test_a_limit_that_is_refused_leaves_no_group(machine, resources, message):
    name = machine.new_name()
    with pytest.raises(LimitNotSupported, match=message):
        machine.driver.create(name, resources, kill=True)
    assert name not in machine.driver.names()


def test_a_running_group_gets_other_limits(machine):
    group = machine.create(Resources(memory=Memory(limit=64 * MIB), pids=Pids(limit=10)))
    process = machine.popen(group, "sleep", "1000")
    names = ["memory.max", "memory.swap.max"] if machine.version == 2 else [
        "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]

    def limits():
        return [machine.file(group, name) for name in names]

    for limit in (128 * MIB, 32 * MIB):
        group.update(Resources(memory=Memory(limit=limit)))
        assert limits() == [str(limit), "0" if machine.version == 2 else str(limit)]
    assert machine.file(group, "pids.max") == "10"
    group.update(Resources(memory=Memory(limit=-1), pids=Pids(limit=-1)))
    assert limits() == (["max"] * 2 if machine.version == 2 else [str(2**63 - 4096)] * 2)
    assert machine.file(group, "pids.max") == "max"
    assert process.poll() is None


def test_a_running_group_gets_a_controller_that_it_did_not_have(machine):
    group = machine.create()
    process = machine.popen(group, "sleep", "1000")
    group.update(Resources(cpu=CPU(quota=30_000, period=60_000)))
    if machine.version == 2:
        assert machine.file(group, "cpu.max") == "30000 60000"
    else:
        assert machine.file(group, "cpu.cfs_quota_us") == "30000"
        directory = next(path for path in group.paths if os.path.exists(f"{path}/cpu.cfs_quota_us"))
        with open(f"{directory}/cgroup.procs") as file:
            assert file.read() == f"{process.pid}\n"


def test_a_period_alone_changes_no_running_group(machine):
    group = machine.create(Resources(cpu=CPU(quota=30_000)))
    with pytest.raises(InvalidArgument, match=r"give cpu\.quota"):
        group.update(Resources(cpu=CPU(period=60_000)))


def test_groups_are_made_while_others_remove_the_empty_parent(machine):
    done = threading.Event()
    failures = []

    def remove_parents():
        other = detect()
        while not done.is_set():
            other.remove_parent_if_empty()

    def make_groups():
        try:
            for _ in range(100):
                machine.driver.create(machine.new_name(), Resources(pids=Pids(limit=9))).remove()
        except Exception as error:
            failures.append(error)

    remover = threading.Thread(target=remove_parents)
    makers = [threading.Thread(target=make_groups) for _ in range(4)]
    remover.start()
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    done.set()
    remover.join()
    assert failures == []


def test_the_parent_is_removed_only_when_it_is_empty(machine):
    group = machine.create()
    parents = [os.path.dirname(path) for path in group.paths]
    machine.driver.remove_parent_if_empty()
    assert all(map(os.path.isdir, parents))
    group.remove()
    machine.driver.remove_parent_if_empty()
    if not machine.driver.names():
        assert not any(map(os.path.isdir, parents))
