"""What a specification compiles to: the phases in their order, and the refusal of what this runtime does not do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from pycontain import Container, InvalidArgument, NotSupported, SpecError
from pycontain.linux.namespaces import NamespaceType
from pycontain.runtimes.compile import CGROUP_SLOTS, Compiled, compile_spec
from pycontain.spec import (
    Capabilities,
    ConsoleSize,
    ExecCPUAffinity,
    FrozenMap,
    Hook,
    Hooks,
    IDMapping,
    IntelRdt,
    Linux,
    MemoryPolicy,
    Mount,
    Namespace,
    NetDevice,
    Personality,
    Process,
    Rlimit,
    Root,
    Scheduler,
    Spec,
    TimeOffset,
    User,
)

MAP = (IDMapping(0, 100000, 65536),)
KINDS = ("mount", "pid", "network", "ipc", "uts", "cgroup", "time", "user")
WITHOUT_MOUNT = tuple(Namespace(kind) for kind in KINDS[1:6])  # type: ignore[arg-type]


def namespaces(*kinds: str) -> tuple[Namespace, ...]:
    return tuple(Namespace(kind) for kind in kinds)  # type: ignore[arg-type]


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    """A container with nothing but a root."""
    return Spec(
        root=Root(str(tmp_path)),
        process=Process(cwd="/", args=("true",), env=("PATH=/bin:/usr/bin",)),
        linux=Linux(namespaces=namespaces("mount", "pid", "network", "ipc", "uts", "cgroup")),
    )


def linux(spec: Spec, **changes: object) -> Spec:
    assert spec.linux is not None
    return evolve(spec, linux=evolve(spec.linux, **changes))  # type: ignore[arg-type]


def process(spec: Spec, **changes: object) -> Spec:
    assert spec.process is not None
    return evolve(spec, process=evolve(spec.process, **changes))  # type: ignore[arg-type]


def lines(compiled: Compiled) -> list[str]:
    return [step.text for step in compiled.plan.steps]


def in_order(compiled: Compiled, *beginnings: str) -> None:
    """Each of these begins a line of the plan, one after the other."""
    text = lines(compiled)
    at = -1
    for beginning in beginnings:
        found = [index for index, line in enumerate(text) if line.startswith(beginning) and index > at]
        assert found, f"no step {beginning!r} after step {at} of\n{compiled.plan}"
        at = found[0]


# ---- the order of the phases


def test_the_phases_follow_each_other_as_security_needs(tmp_path: Path) -> None:
    container = (
        Container.from_rootfs(tmp_path).with_hostname("box", "example")
        .with_rlimit("RLIMIT_CORE", 0).with_rlimit("RLIMIT_NOFILE", 64)
        .with_bind("/etc", "/data", read_only=True).with_sysctl("net.ipv4.ip_forward", 1).with_read_only()
    )
    in_order(
        compile_spec(container.spec()),
        "prctl PR_SET_PDEATHSIG 9",  # from the first moment it dies with who started it
        "enter the cgroups",  # before anything that could use memory or make processes
        "unshare cgroup",  # after that, so that its root is the container's own group
        "setsid", "join a new session keyring",
        "make / private",  # before the first mount
        f"open {tmp_path}", "open_tree /etc",  # sources are opened before anything is covered
        "fsopen tmpfs source=pycontain", "fsopen overlay",
        "fsopen proc", "mount mount0 on /proc",
        "mount mount6 on /data",
        "write '1' to /proc/sys/net/ipv4/ip_forward",  # while /proc/sys can be written to
        "mask /proc/kcore", "make /proc/sys read-only",  # after all else below the root was done
        "mount_setattr root (rdonly)",
        "pivot_root, detach the old root",
        "sethostname box", "setdomainname example", "bring lo up",
        "wait for the parent's word",  # everything below needs no privileges of the host
        "capability bounding set", "become uid 0", "capset", "ambient capabilities 0x0", "no_new_privs",
        "chdir /", "umask 022", "reset all signals", "set standard input, output and error",
        "close descriptors from 3 on at exec",
        "give the soft resource limits their defaults", "prlimit RLIMIT_CORE 0:0",
        "prlimit RLIMIT_NOFILE 64:64",  # it may be below what the steps before it have open
        "seccomp filter",  # last: it forbids what the steps before it do
        "execute the command",
    )


def test_the_filter_is_the_last_step_but_the_command(spec: Spec) -> None:
    assert [line.split()[0] for line in lines(compile_spec(spec, default_filter=True))[-2:]] == ["seccomp", "execute"]


def test_a_profile_of_the_specification_takes_the_place_of_the_default_filter(tmp_path: Path) -> None:
    with_profile = Container.from_rootfs(tmp_path).spec()
    filters = [line for line in lines(compile_spec(with_profile, default_filter=True)) if line.startswith("seccomp")]
    assert len(filters) == 1


def test_without_a_profile_and_without_the_default_there_is_no_filter(spec: Spec) -> None:
    assert not [line for line in lines(compile_spec(spec)) if line.startswith("seccomp")]


def test_in_a_new_user_namespace_nothing_happens_before_its_maps_are_written(spec: Spec) -> None:
    mapped = linux(spec, namespaces=namespaces(*KINDS[:6], "user"), uid_mappings=MAP, gid_mappings=MAP)
    compiled = compile_spec(mapped)
    in_order(
        compiled, "enter the cgroups", "wait for the parent's word", "unshare cgroup", "become uid 0, gid 0",
        "make / private", "pivot_root", "become uid 0, gid 0, groups []",
    )
    assert lines(compiled).count("wait for the parent's word") == 1
    assert (compiled.uid_map, compiled.gid_map) == (MAP, MAP)


def test_otherwise_the_parents_word_comes_last_so_that_both_work_at_once(spec: Spec) -> None:
    text = lines(compile_spec(spec))
    assert text.index("wait for the parent's word") > text.index("pivot_root, detach the old root")


def test_process_1_is_the_init_when_it_is_asked_for(spec: Spec) -> None:
    compiled = compile_spec(evolve(spec, annotations=FrozenMap({"org.pycontain.init": "true"})))
    assert compiled.init
    in_order(compiled, "close descriptors", "keep descriptor 'init-report' open", "execute 'init'")


def test_a_terminal_is_opened_inside_before_the_root_is_left(spec: Spec) -> None:
    terminal = process(spec, terminal=True, console_size=ConsoleSize(40, 120))
    compiled = compile_spec(terminal)
    assert compiled.terminal
    in_order(
        compiled, "setsid", "open a terminal at dev/pts/ptmx", "make it the controlling terminal",
        "mount console-mount on /dev/console", "pivot_root", "set standard input",
    )


def test_namespaces_are_joined_user_first_and_mount_late(spec: Spec) -> None:
    """The user namespace gives the privileges over the others; behind the mount namespace lies another /proc."""
    files = [Namespace(kind, f"/proc/1/ns/{kind}") for kind in KINDS]  # type: ignore[arg-type]
    compiled = compile_spec(evolve(linux(spec, namespaces=tuple(files)), root=None))
    assert [name for name, _ in compiled.joins] == [
        "join-user", "join-cgroup", "join-ipc", "join-uts", "join-network", "join-pid", "join-mount", "join-time",
    ]
    in_order(compiled, "enter the cgroups", "setns user", "setns cgroup", "setns pid", "setns mount", "fork", "setsid")


@pytest.mark.parametrize(("kind", "helper"), [("user", True), ("pid", True), ("network", False), ("uts", False)])
def test_a_namespace_whose_processes_could_trace_the_child_is_joined_by_the_helper(
    spec: Spec, kind: str, helper: bool
) -> None:
    """Never in memory that is shared with Python (CVE-2019-5736)."""
    assert spec.linux is not None
    others = tuple(namespace for namespace in spec.linux.namespaces if namespace.type != kind)
    joined = linux(spec, namespaces=(*others, Namespace(kind, f"/proc/1/ns/{kind}")))  # type: ignore[arg-type]
    compiled = compile_spec(joined)
    assert compiled.helper is helper
    assert (compiled.clone_flags == 0) is helper


@given(st.sets(st.sampled_from(KINDS)))
def test_any_set_of_namespaces_compiles_to_flags_and_an_unshare_of_just_these(kinds: set[str]) -> None:
    bare = Spec(process=Process(cwd="/", args=("true",)), root=Root("/") if "mount" in kinds else None)
    maps = MAP if "user" in kinds else ()
    described = Linux(namespaces=namespaces(*kinds), uid_mappings=maps, gid_mappings=maps)
    compiled = compile_spec(evolve(bare, linux=described))
    cloned = 0
    for kind in kinds - {"cgroup", "time"}:
        cloned |= NamespaceType.from_name(kind)
    assert compiled.clone_flags == cloned
    late = sorted(kinds & {"cgroup", "time"})
    unshared = [line for line in lines(compiled) if line.startswith("unshare ")]
    assert unshared == (["unshare " + ", ".join(late)] if late else [])
    assert compiled.kill_group is ("pid" not in kinds)
    assert compiled.time_namespace is ("time" in kinds)
    assert ("bring lo up" in lines(compiled)) is ("network" in kinds)
    assert ("pivot_root, detach the old root" in lines(compiled)) is ("mount" in kinds)
    assert lines(compiled)[-1] == "execute the command"


def test_the_slots_of_the_cgroups_are_one_after_the_other(spec: Spec) -> None:
    slots = compile_spec(spec).plan.slots
    assert [slots[name] - slots[CGROUP_SLOTS[0]] for name in CGROUP_SLOTS] == list(range(len(CGROUP_SLOTS)))


def test_the_search_path_is_that_of_the_container(spec: Spec) -> None:
    assert compile_spec(spec).search == ("/bin", "/usr/bin")
    assert compile_spec(process(spec, env=())).search == ("/usr/local/bin", "/usr/bin", "/bin")


def test_capabilities_of_another_user_are_kept_over_the_change_of_identity(spec: Spec) -> None:
    """Otherwise setresuid clears them (capabilities(7))."""
    sets = Capabilities(bounding=("CAP_KILL",), effective=("CAP_KILL",), permitted=("CAP_KILL",))
    compiled = compile_spec(process(spec, user=User(1000, 1000), capabilities=sets))
    in_order(compiled, "capability bounding set 0x20", "become uid 1000", "capset effective 0x20, permitted 0x20")


# ---- what is refused: each field of the specification that this runtime does not act on

HOOK = (Hook("/bin/true"),)

UNSUPPORTED: dict[str, dict[str, object]] = {
    "process.scheduler": {"process": {"scheduler": Scheduler("SCHED_BATCH")}},
    "process.execCPUAffinity": {"process": {"exec_cpu_affinity": ExecCPUAffinity(initial="0")}},
    "linux.netDevices": {"linux": {"net_devices": FrozenMap({"eth0": NetDevice()})}},
    "linux.cgroupsPath": {"linux": {"cgroups_path": "/somewhere"}},
    "linux.mountLabel": {"linux": {"mount_label": "system_u:object_r:container_file_t:s0"}},
    "linux.intelRdt": {"linux": {"intel_rdt": IntelRdt(clos_id="group")}},
    "linux.memoryPolicy": {"linux": {"memory_policy": MemoryPolicy("MPOL_BIND", nodes="0")}},
    "linux.personality": {"linux": {"personality": Personality("LINUX32")}},
    **{
        f"hooks {name}": {"hooks": Hooks(**{name: HOOK})}  # type: ignore[arg-type]
        for name in ("prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop")
    },
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_field_that_this_runtime_does_not_act_on_is_refused_by_its_name(spec: Spec, name: str) -> None:
    changes = dict(UNSUPPORTED[name])
    changed = process(spec, **changes.pop("process", {}))  # type: ignore[arg-type]
    changed = linux(changed, **changes.pop("linux", {}))  # type: ignore[arg-type]
    changed = evolve(changed, **changes)  # type: ignore[arg-type]
    with pytest.raises(NotSupported) as caught:
        compile_spec(changed)
    assert caught.value.message.startswith(name.split()[0] + " ")


@pytest.mark.parametrize("propagation", ["shared", "rshared", "unbindable", "runbindable"])
def test_a_propagation_that_would_reach_the_host_is_refused(spec: Spec, propagation: str) -> None:
    with pytest.raises(NotSupported, match=r"linux\.rootfsPropagation"):
        compile_spec(linux(spec, rootfs_propagation=propagation))


@pytest.mark.parametrize(
    ("mount", "cause"),
    [
        (Mount("/data", "bind", "/etc", ("rbind",), uid_mappings=MAP), "id-mapped mounts"),
        (Mount("/data", "bind", "/etc", ("bind", "remount", "ro")), "remount"),
    ],
)
def test_a_mount_that_this_runtime_does_not_make_is_refused(spec: Spec, mount: Mount, cause: str) -> None:
    with pytest.raises(NotSupported, match=cause):
        compile_spec(evolve(spec, mounts=(mount,)))


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("kernel.panic", "it has no namespace"),
        ("vm.swappiness", "it has no namespace"),
        ("kernel.hostname", "it has no namespace"),
        ("net.ipv4.ip_forward", "no new network namespace"),
        ("kernel.shmmax", "no new ipc namespace"),
        ("kernel.sem", "no new ipc namespace"),
        ("fs.mqueue.msg_max", "no new ipc namespace"),
    ],
)
def test_a_sysctl_that_would_change_the_host_is_refused(spec: Spec, name: str, cause: str) -> None:
    shared = linux(spec, namespaces=namespaces("mount", "pid"), sysctl=FrozenMap({name: "1"}))
    with pytest.raises(NotSupported, match=cause):
        compile_spec(shared)


@pytest.mark.parametrize("name", ["", "..", "net..x", "net.../../kernel.panic", "net/ipv4/ip_forward", "net.ipv4."])
def test_what_is_no_name_of_a_sysctl_is_refused(spec: Spec, name: str) -> None:
    with pytest.raises(InvalidArgument):
        compile_spec(linux(spec, sysctl=FrozenMap({name: "1"})))


def test_a_field_that_is_empty_is_not_refused(spec: Spec) -> None:
    compile_spec(evolve(linux(spec, devices=(), cgroups_path="", mount_label=""), hooks=Hooks()))


# ---- what contradicts itself


def _contradictions() -> dict[str, dict[str, object]]:
    return {
        "root": {"root": Root("/"), "linux": Linux(namespaces=WITHOUT_MOUNT)},
        "mounts": {"root": None, "mounts": (Mount("/x", "tmpfs"),), "linux": Linux(namespaces=WITHOUT_MOUNT)},
        "linux.maskedPaths": {"root": None, "linux": Linux(namespaces=WITHOUT_MOUNT, masked_paths=("/proc/kcore",))},
        "linux.readonlyPaths": {"root": None, "linux": Linux(namespaces=WITHOUT_MOUNT, readonly_paths=("/proc/sys",))},
        "root: a container with a mount namespace": {"root": None},
        "linux.uidMappings, linux.gidMappings": {
            "linux": Linux(namespaces=namespaces("mount", "user"), uid_mappings=MAP),
        },
        "linux.uidMappings: belongs": {
            "linux": Linux(namespaces=namespaces("mount"), uid_mappings=MAP, gid_mappings=MAP),
        },
        "linux.timeOffsets": {
            "linux": Linux(namespaces=namespaces("mount"), time_offsets=FrozenMap({"boottime": TimeOffset(1)}))
        },
        "hostname": {"hostname": "box", "linux": Linux(namespaces=namespaces("mount"))},
        "init": {
            "annotations": FrozenMap({"org.pycontain.init": "true"}), "linux": Linux(namespaces=namespaces("mount")),
        },
        "process": {"process": None},
        "mounts: the bind mount on /x has no source": {"mounts": (Mount("/x", "bind"),)},
        "mounts: the mount on /x has no type": {"mounts": (Mount("/x"),)},
    }


@pytest.mark.parametrize("beginning", _contradictions())
def test_a_contradiction_is_an_error_that_names_the_field(spec: Spec, beginning: str) -> None:
    with pytest.raises(SpecError) as caught:
        compile_spec(evolve(spec, **_contradictions()[beginning]))  # type: ignore[arg-type]
    assert caught.value.message.startswith(beginning)


def test_a_domain_name_without_a_uts_namespace_is_an_error(spec: Spec) -> None:
    with pytest.raises(SpecError):
        compile_spec(evolve(linux(spec, namespaces=namespaces("mount")), domainname="example"))


@pytest.mark.parametrize("path", ["/no/such/root", "/etc/passwd"])
def test_a_copy_on_write_root_that_is_no_directory_is_an_error(path: str) -> None:
    with pytest.raises(InvalidArgument, match=r"cannot be used|is not a directory"):
        Container.from_rootfs(path).plan()


def test_a_mount_over_the_root_is_an_error(spec: Spec) -> None:
    for target in ("/", "/.", "//", "/x/.."):
        with pytest.raises(InvalidArgument, match="would hide the root"):
            compile_spec(evolve(spec, mounts=(Mount(target, "tmpfs", "tmpfs"),)))


def test_a_resource_limit_is_set_with_its_number(spec: Spec) -> None:
    compiled = compile_spec(process(spec, rlimits=(Rlimit("RLIMIT_CORE", 0, 2**64 - 1),)))
    assert f"prlimit RLIMIT_CORE 0:{2**64 - 1}" in lines(compiled)


def test_the_document_of_a_container_compiles_to_the_plan_of_the_container(tmp_path: Path) -> None:
    container = Container.from_rootfs(tmp_path).with_hostname("box").with_limits(pids=10)
    document = json.loads(container.spec(["true"]).to_json())
    again = Container.from_spec(json.dumps(document))
    assert str(again.plan()) == str(container.plan())
