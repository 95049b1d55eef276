"""Finding the hierarchies, and saying why something cannot be used."""

from __future__ import annotations

import os

import pytest
from confined import NOBODY

from pycontain.cgroups import detect, files, parse
from pycontain.cgroups.cgroupfs import CgroupfsDriver
from pycontain.cgroups.hierarchy import (
    Hierarchy,
    Layout,
    delegated_group,
    is_visible,
    read_layout,
    why_immovable,
)
from pycontain.errors import LimitNotSupported, NotSupported
from pycontain.spec import Memory, Resources

LIMITED = Resources(memory=Memory(limit=32 << 20))

REPORT = """
$PYTHON - <<'END'
from pycontain.cgroups import detect, files, parse
from pycontain.errors import LimitNotSupported
from pycontain.spec import Memory, Resources
driver = detect()
try:
    group = driver.create("test-detection", Resources(memory=Memory(limit=32 << 20)), kill=True)
    print("made", *group.paths)
    group.remove()
    driver.remove_parent_if_empty()
except LimitNotSupported as error:
    print("refused", error)
END
"""


def memory_mount():
    hierarchy = next(h for h in read_layout().hierarchies if "memory" in h.controllers)
    return hierarchy.base


def test_every_controller_is_usable_or_has_a_reason():
    driver = detect()
    assert driver.name in ("cgroupfs", "systemd")
    for controller in ("memory", "cpu", "pids", "cpuset", "io", "blkio", "devices", "freezer", "rdma", "no-such-thing"):
        reason = driver.reason(controller)
        assert (reason is None) == (controller in driver.controllers)
        if reason:
            assert reason.cause
            assert reason.remedy
    assert driver.reason("no-such-thing").cause == "this kernel has no no-such-thing controller"


def test_the_kind_of_hierarchy_follows_from_the_mounts():
    with open("/proc/self/mountinfo") as file:
        text = file.read()
    v1, v2 = " - cgroup " in text, " - cgroup2 " in text
    assert detect().hierarchy in ({"hybrid", "v2"} if v1 and v2 else {"v1"} if v1 else {"v2"} if v2 else {"none"})


def test_an_unprivileged_user_without_a_delegated_group_is_refused_with_the_remedy(as_nobody):
    def attempt():
        driver = detect()
        assert driver.controllers == frozenset()
        assert driver.names() == set()
        group = driver.create("test-nobody", None)
        assert group.paths == ()
        group.kill()
        group.remove()
        with pytest.raises(NotSupported, match="a complete kill without a pid namespace needs a cgroup"):
            driver.create("test-nobody", None, kill=True)
        with pytest.raises(LimitNotSupported) as caught:
            driver.create("test-nobody", LIMITED)
        return str(caught.value)

    if os.geteuid() != 0 and detect().controllers:
        pytest.skip("this user has a delegated group")
    message = as_nobody(attempt)
    assert message.startswith("the limit memory.limit cannot be enforced: user ")
    assert "may not make groups in" in message
    assert "Run as root" in message


@pytest.mark.parametrize(("layout", "message"), [
    (Layout((), {}), "this kernel has no memory controller. Boot a kernel that has memory"),
    (Layout((), {"memory": True}), "no cgroup hierarchy is mounted here. Mount one"),
    (Layout((), {"memory": False}), "disabled on the kernel command line. Boot without cgroup_disable=memory"),
    (Layout((Hierarchy(2, "/g", frozenset({"pids"}), frozenset({"pids"})),), {"memory": True, "pids": True}),
     "not delegated to /g. Enable memory in the cgroup.subtree_control of the groups above"),
    (Layout((Hierarchy(1, "/p", frozenset({"pids"}), frozenset({"pids"})),), {"memory": True, "pids": True}),
     "is in no cgroup hierarchy that is mounted here. Mount it: mount -t cgroup -o memory"),
])
def test_a_limit_without_its_controller_is_refused_with_cause_and_remedy(layout, message):
    with pytest.raises(LimitNotSupported, match=f"the limit memory.limit cannot be enforced: .*{message}"):
        CgroupfsDriver(layout).create("test-layout", LIMITED)


def test_a_read_only_hierarchy_is_refused(fresh_python):
    output = fresh_python(f'mount -o remount,bind,ro "$1"; {REPORT}', memory_mount())
    cause = f"the cgroup hierarchy at {memory_mount()} is mounted read-only. Mount it read-write"
    assert output.startswith(f"refused the limit memory.limit cannot be enforced: {cause}")


def test_a_hierarchy_is_used_where_it_is_mounted(fresh_python, tmp_path):
    place = tmp_path / "an unusual\tplace"
    place.mkdir()
    output = fresh_python(f'mount --bind "$1" "$2"; umount -l "$1"; {REPORT}', memory_mount(), str(place))
    assert output.startswith(f"made {place}/pycontain/test-detection")


def test_a_hierarchy_that_is_hidden_under_another_mount_is_not_used(fresh_python):
    output = fresh_python(f'mount -t tmpfs none "$1"; {REPORT}', memory_mount())
    assert output.startswith("refused")


def test_only_a_part_of_a_hierarchy_may_be_mounted(fresh_python, tmp_path):
    driver = detect()
    if "memory" not in driver.controllers:
        pytest.skip(f"no limits here: {driver.reason('memory')}")
    group = driver.create(f"test-{os.getpid()}-part", LIMITED)
    try:
        output = fresh_python(f'mount --bind "$1" "$2"; umount -l "$3"; {REPORT}', group.paths[0], str(tmp_path),
                              memory_mount())
    finally:
        group.remove()
    assert output.startswith(f"made {tmp_path}/pycontain/test-detection")


def test_a_v2_root_with_processes_gives_controllers_when_they_have_moved_below_it(fresh_python, tmp_path):
    driver = detect()
    if driver.hierarchy != "v2" or "memory" not in driver.controllers:
        pytest.skip("the memory controller is not on cgroup v2, or cannot be used")
    group = driver.create(f"test-{os.getpid()}-busy", None)
    try:
        # A container's view: its own group is the root of the mount, and the container lives in it.
        output = fresh_python(f"""
            echo 0 > "$2/cgroup.procs"
            exec unshare --cgroup sh -ec 'umount -l "$1"; mount -t cgroup2 none "$3"
            {REPORT}
            ' sh "$@"
        """.replace("'END'", "END"), memory_mount(), group.paths[0], str(tmp_path))
    finally:
        group.kill()
        group.remove()
    assert output.startswith(f"made {tmp_path}/pycontain/test-detection")


def test_a_threaded_group_gives_no_controllers():
    unified = next((h for h in read_layout().hierarchies if h.version == 2 and not h.obstacle), None)
    if unified is None:
        pytest.skip("there is no cgroup v2 in which groups can be made")
    group = detect().create(f"test-{os.getpid()}-threaded", None, kill=True)
    path = next(path for path in group.paths if path.startswith(unified.base))
    try:
        assert why_immovable(path) is None
        os.mkdir(f"{path}/below")
        files.write(f"{path}/below/cgroup.type", "threaded")  # which makes the one above "domain threaded"
        assert why_immovable(path).cause.startswith(f"{path} is a threaded group")
        assert why_immovable(f"{path}/below").cause.startswith(f"{path}/below is a threaded group")
    finally:
        group.remove()


def test_the_callers_own_group_serves_when_systemd_says_that_it_was_delegated(as_nobody):
    mounts = parse.mountinfo(files.read("/proc/self/mountinfo"))
    mount = next((m for m in mounts if m.file_system == "cgroup2" and m.root == "/" and is_visible(m)), None)
    if os.geteuid() != 0 or mount is None or "ro" in mount.options:
        pytest.skip("there is no cgroup v2 in which this user can make groups")
    path = f"{mount.mount_point}/test-delegated-{os.getpid()}"
    os.mkdir(path)
    try:
        for name in (path, f"{path}/cgroup.procs", f"{path}/cgroup.subtree_control"):
            os.chown(name, NOBODY, NOBODY)
        def found() -> str:
            return str(delegated_group(mount, path[len(mount.mount_point):]))

        assert as_nobody(found) == "None"
        os.setxattr(path, "user.delegate", b"1")
        assert as_nobody(found) == path
    finally:
        os.rmdir(path)
