"""Many tasks at once in one interpreter. How long it takes is the benchmarks' business."""

from __future__ import annotations

from pathlib import Path

import programs
import pytest

THOUSAND = """
import resource, sys
from leftovers import State, children, left_since
from pycontain import Container

root, way = sys.argv[1:]
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if hard < 8192:
    print("skip: the hard limit of open files is", hard)
    raise SystemExit
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
box = Container.from_rootfs(root).with_limits(memory="64M", pids=16)
if way == "init":
    box = box.with_init()
box.run(["true"]).check()
Container.from_host().run(["true"]).check()
before = State.now()
tasks = [box.start(["sh", "-c", "echo $0; exec sleep 3600", str(number)]) for number in range(1000)]
assert all(task.state == "running" for task in tasks)
assert len({task.pid for task in tasks}) == len(children()) == 1000
assert len(State.now().cgroups - before.cgroups) in (0, 1000)
assert len(State.now().mounts) == len(before.mounts)
assert len(State.now().threads) == len(before.threads) + 1
while not all(task._plumbing.stdout.chunks for task in tasks):
    pass
for number, task in enumerate(tasks):
    if number % 2:
        result = task.stop()
    else:
        result = task.kill()
    assert result.reason == "killed" or (way, result.signal) == ("init", 15), result
    assert result.stdout == b"%d\\n" % number, result
del tasks, task, result
left = left_since(before)
assert not left, "\\n".join(left)
print("done")
"""


@pytest.mark.parametrize("way", ["plain", "init"])
def test_a_thousand_tasks_at_once_leave_everything_as_before(busybox_root: Path, way: str) -> None:
    done = programs.run(THOUSAND, busybox_root, way)
    if done.stdout.startswith("skip: "):
        pytest.skip(done.stdout[6:].strip())
    assert done.stdout == "done\n"


MANY_IN_TURN = """
import sys
from leftovers import State, left_since
from pycontain import Container

box = Container.from_rootfs(sys.argv[1])
for _ in range(50):
    box.run(["true"]).check()
Container.from_host().run(["true"]).check()
with open("/proc/self/statm") as file:
    size = int(file.read().split()[1])
before = State.now()
for number in range(1000):
    assert box.run(["echo", str(number)]).text == f"{number}\\n"
left = left_since(before)
assert not left, "\\n".join(left)
with open("/proc/self/statm") as file:
    assert int(file.read().split()[1]) - size < 1000, "memory grows"  # pages, 4 KiB a run
"""


def test_a_thousand_tasks_in_turn_leave_everything_as_before_and_take_no_memory(busybox_root: Path) -> None:
    programs.run(MANY_IN_TURN, busybox_root)
