"""Documents: every property there and back, those that real runtimes write, and what these make of ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import attrs
import pytest

from pycontain import spec as spec_package
from pycontain.errors import InvalidArgument, SpecError
from pycontain.spec import (
    Frozen,
    FrozenMap,
    Mount,
    Process,
    Root,
    Spec,
    UnknownProperty,
    User,
    from_dict,
    to_dict,
)
from pycontain.spec.kinds import Object, Sequence, Table
from pycontain.spec.layout import layout_of

MAPPINGS = [{"containerID": 0, "hostID": 1000, "size": 32000}]
HOOK = {"path": "/usr/bin/hook", "args": ["hook", "a"], "env": ["A=1"], "timeout": 5}
THROTTLE = [{"major": 8, "minor": 0, "rate": 600}]

# Written by hand from the text of the OCI specification: every property, and none with its default.
EVERYTHING: dict[str, Any] = {
    "ociVersion": "1.2.1-dev+x",
    "root": {"path": "rootfs", "readonly": True},
    "mounts": [
        {
            "destination": "/data",
            "type": "none",
            "source": "/volumes/data",
            "options": ["rbind", "ro"],
            "uidMappings": MAPPINGS,
            "gidMappings": MAPPINGS,
        },
        {"destination": "/proc", "type": "proc", "source": "proc"},
    ],
    "process": {
        "terminal": True,
        "consoleSize": {"height": 25, "width": 80},
        "user": {"uid": 1, "gid": 2, "umask": 63, "additionalGids": [5, 6], "username": "x"},
        "cwd": "/tmp",
        "args": ["sh", "-c", "true"],
        "env": ["PATH=/bin", "TERM=xterm"],
        "capabilities": {
            "bounding": ["CAP_KILL"],
            "effective": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"],
            "permitted": ["CAP_KILL"],
            "ambient": ["CAP_KILL"],
        },
        "rlimits": [{"type": "RLIMIT_CORE", "hard": 18446744073709551615, "soft": 1024}],
        "noNewPrivileges": True,
        "apparmorProfile": "profile",
        "selinuxLabel": "system_u:system_r:svirt_lxc_net_t:s0:c124,c675",
        "oomScoreAdj": 100,
        "scheduler": {
            "policy": "SCHED_DEADLINE",
            "nice": -19,
            "priority": 5,
            "flags": ["SCHED_FLAG_RESET_ON_FORK"],
            "runtime": 1,
            "deadline": 2,
            "period": 3,
        },
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 4},
        "execCPUAffinity": {"initial": "7", "final": "0-3,7"},
    },
    "hostname": "box",
    "domainname": "example.net",
    "hooks": {
        "prestart": [HOOK],
        "createRuntime": [HOOK],
        "createContainer": [HOOK],
        "startContainer": [HOOK],
        "poststart": [HOOK],
        "poststop": [HOOK, {"path": "/bin/true"}],
    },
    "annotations": {"com.example.key": "value", "empty": ""},
    "linux": {
        "namespaces": [
            {"type": "pid", "path": "/proc/1234/ns/pid"},
            *({"type": type_} for type_ in ("network", "mount", "ipc", "uts", "user", "cgroup", "time")),
        ],
        "uidMappings": MAPPINGS,
        "gidMappings": MAPPINGS,
        "timeOffsets": {"monotonic": {"secs": -172800, "nanosecs": 999999999}, "boottime": {}},
        "devices": [
            {
                "path": "/dev/fuse",
                "type": "c",
                "major": 10,
                "minor": 229,
                "fileMode": 0o20666,
                "uid": 0,
                "gid": 4294967294,
            },
            {"path": "/dev/fifo", "type": "p"},
        ],
        "netDevices": {"eth0": {"name": "container_eth0"}, "ens4": {}},
        "cgroupsPath": "/myRuntime/myContainer",
        "resources": {
            "devices": [
                {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
                {"allow": False, "access": "rwm"},
            ],
            "memory": {
                "limit": 536870912,
                "reservation": 536870912,
                "swap": 536870912,
                "kernel": -1,
                "kernelTCP": -1,
                "swappiness": 0,
                "disableOOMKiller": False,
                "useHierarchy": False,
                "checkBeforeUpdate": True,
            },
            "cpu": {
                "shares": 1024,
                "quota": 1000000,
                "burst": 1000000,
                "period": 500000,
                "realtimeRuntime": 950000,
                "realtimePeriod": 1000000,
                "cpus": "2-3",
                "mems": "0-7",
                "idle": 0,
            },
            "pids": {"limit": 32771},
            "blockIO": {
                "weight": 10,
                "leafWeight": 10,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 500, "leafWeight": 300}],
                "throttleReadBpsDevice": THROTTLE,
                "throttleWriteBpsDevice": THROTTLE,
                "throttleReadIOPSDevice": THROTTLE,
                "throttleWriteIOPSDevice": THROTTLE,
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 209715200}],
            "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "mlx4_0": {"hcaObjects": 1000}},
            "unified": {"io.max": "259:0 rbps=2097152 wiops=120\n253:0 rbps=2097152 wiops=120"},
        },
        "rootfsPropagation": "slave",
        "seccomp": {
            "defaultAction": "SCMP_ACT_ALLOW",
            "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": "/run/seccomp.sock",
            "listenerMetadata": "MKNOD=/dev/null",
            "syscalls": [
                {
                    "names": ["getcwd", "chmod"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 38,
                    "args": [{"index": 1, "value": 18446744073709551615, "valueTwo": 8, "op": "SCMP_CMP_MASKED_EQ"}],
                }
            ],
        },
        "sysctl": {"net.core.somaxconn": "256"},
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "mountLabel": "system_u:object_r:svirt_sandbox_file_t:s0:c715,c811",
        "intelRdt": {
            "closID": "guaranteed_group",
            "schemata": ["L3:0=7f0;1=1f", "MB:0=20;1=70"],
            "l3CacheSchema": "L3:0=7f0;1=1f",
            "memBwSchema": "MB:0=20;1=70",
            "enableCMT": True,
            "enableMBM": False,
            "enableMonitoring": True,
        },
        "memoryPolicy": {"mode": "MPOL_INTERLEAVE", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]},
        "personality": {"domain": "LINUX32", "flags": ["x"]},
    },
}


def test_every_property_goes_there_and_back() -> None:
    spec = Spec.from_json(json.dumps(EVERYTHING))
    assert json.loads(spec.to_json()) == EVERYTHING
    assert Spec.from_json(spec.to_json().encode()) == spec


def test_the_document_with_everything_leaves_no_field_out() -> None:
    missing: list[str] = []
    seen: set[type[Frozen]] = set()

    def walk(value: Any) -> None:
        if isinstance(value, tuple):
            for item in value:
                walk(item)
        elif isinstance(value, FrozenMap):
            walk(tuple(value.values()))
        elif isinstance(value, Frozen) and type(value) not in seen:
            seen.add(type(value))
            layout = layout_of(type(value))
            for field, element in zip(layout.fields, layout.values(value), strict=True):
                if element == field.default:
                    missing.append(f"{type(value).__name__}.{field.name}")
                walk(element)

    walk(Spec.from_json(json.dumps(EVERYTHING)))
    assert missing == []
    classes = {value for name in spec_package.__all__ if isinstance(value := getattr(spec_package, name), type)}
    classes = {cls for cls in classes if cls.__module__ != "pycontain.spec.image"}  # these have a test of their own
    assert seen == {cls for cls in classes if issubclass(cls, Frozen)} - {Frozen}


def test_a_minimal_document_is_the_version_alone() -> None:
    assert Spec.from_json('{"ociVersion": "1.0.0"}') == Spec("1.0.0")
    assert Spec("1.0.0").to_json() == '{"ociVersion": "1.0.0"}'
    assert Spec() == Spec("1.2.0")


def test_what_other_runtimes_need_is_written_though_it_is_the_default() -> None:
    data = to_dict(Spec(process=Process("/")))
    assert data == {"ociVersion": "1.2.0", "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}}}


def test_null_empty_and_false_are_the_same_as_absent() -> None:
    document = {
        "ociVersion": "1.2.0",
        "annotations": None,
        "hooks": None,
        "mounts": [],
        "process": {"cwd": "/", "user": {"uid": 1, "gid": 1}, "terminal": False, "args": None},
    }
    assert from_dict(Spec, document) == Spec(process=Process("/", user=User(1, 1)))


def test_indentation_is_passed_on() -> None:
    assert Spec().to_json(indent=2) == '{\n  "ociVersion": "1.2.0"\n}'


def test_every_class_converts_alone() -> None:
    mount = from_dict(Mount, {"destination": "/a", "options": ["ro"]})
    assert mount == Mount("/a", options=("ro",))
    assert to_dict(mount) == {"destination": "/a", "options": ["ro"]}


def test_unknown_properties_are_left_out_with_a_warning_that_names_the_path_and_the_caller() -> None:
    document = {"ociVersion": "1.2.0", "linux": {"namespaces": [{"type": "pid", "colour": 1}]}, "a b": 2, "vm": {}}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        spec = from_dict(Spec, document)
        assert Spec.from_json(json.dumps(document)) == spec
    paths = [str(warning.message).partition(" is not in")[0] for warning in caught]
    assert paths == ["linux.namespaces[0].colour", "['a b']", "vm"] * 2
    assert {warning.category for warning in caught} == {UnknownProperty}
    assert {warning.filename for warning in caught} == {__file__}
    assert to_dict(spec) == {"ociVersion": "1.2.0", "linux": {"namespaces": [{"type": "pid"}]}}


VERY_LONG = "x" * 100_000

# (where, what stands there, the message)
BAD: list[tuple[str, Any, str]] = [
    ("ociVersion", 1, "ociVersion: must be a string, not an integer"),
    ("ociVersion", None, "ociVersion: must be a string, not null"),
    ("ociVersion", "one", "ociVersion: 'one' is not a version such as 1.2.0"),
    ("ociVersion", "1.2.0\n", r"ociVersion: '1.2.0\n' is not a version such as 1.2.0"),
    ("root", [], "root: must be an object, not an array"),
    ("root", {}, "root.path: is required"),
    ("root.path", "", "root.path: must not be empty"),
    ("root.readonly", 1, "root.readonly: must be a boolean, not an integer"),
    ("root.readonly", "true", "root.readonly: must be a boolean, not a string"),
    ("hostname", "a" * 65, f"hostname: '{'a' * 65}' is longer than 64 bytes"),
    ("hostname", "a\0b", r"hostname: 'a\x00b' contains a NUL byte"),
    ("hostname", "\ud800", r"hostname: '\ud800' cannot be encoded as UTF-8"),
    ("annotations", ["a"], "annotations: must be an object, not an array"),
    ("annotations", {"a": 1}, "annotations['a']: must be a string, not an integer"),
    ("annotations", {"a": "\0"}, r"annotations['a']: '\x00' contains a NUL byte"),
    ("annotations", {"a\0": ""}, r"annotations['a\x00']: 'a\x00' contains a NUL byte"),
    ("annotations", {"": ""}, "annotations['']: must not be empty"),
    ("mounts", {}, "mounts: must be an array, not an object"),
    ("mounts", "/proc", "mounts: must be an array, not a string"),
    ("mounts[1]", None, "mounts[1]: must be an object, not null"),
    ("mounts[1]", {}, "mounts[1].destination: is required"),
    ("mounts[1].destination", "proc", "mounts[1].destination: 'proc' is not an absolute path"),
    ("mounts[0].options", ["ro", 5], "mounts[0].options[1]: must be a string, not an integer"),
    ("mounts[0].source", "/a\0/b", r"mounts[0].source: '/a\x00/b' contains a NUL byte"),
    ("mounts[0].uidMappings[0].size", -1, "mounts[0].uidMappings[0].size: -1 is not between 0 and 4294967295"),
    ("process.cwd", "tmp", "process.cwd: 'tmp' is not an absolute path"),
    ("process.args", "true", "process.args: must be an array, not a string"),
    ("process.args[2]", "a\0", r"process.args[2]: 'a\x00' contains a NUL byte"),
    ("process.user", {"uid": 1}, "process.user.gid: is required"),
    ("process.user.uid", -1, "process.user.uid: -1 is not between 0 and 4294967294"),
    ("process.user.uid", 2**32 - 1, "process.user.uid: 4294967295 is not between 0 and 4294967294"),
    ("process.user.uid", 2**32, "process.user.uid: 4294967296 is not between 0 and 4294967294"),
    ("process.user.uid", True, "process.user.uid: must be an integer, not a boolean"),
    ("process.user.uid", 1.0, "process.user.uid: must be an integer, not a number with a fraction"),
    ("process.user.uid", "0", "process.user.uid: must be an integer, not a string"),
    ("process.user.additionalGids[1]", 2**32 - 1, "process.user.additionalGids[1]: 4294967295 is not between"),
    ("process.consoleSize.width", 65536, "process.consoleSize.width: 65536 is not between 0 and 65535"),
    ("process.rlimits[0].type", "RLIMIT_FOO", "process.rlimits[0].type: 'RLIMIT_FOO' is not one of RLIMIT_AS, "),
    ("process.rlimits[0].soft", 2**64, "process.rlimits[0].soft: 18446744073709551616 is not between"),
    ("process.rlimits[0].hard", 5, "process.rlimits[0]: the soft limit 1024 of RLIMIT_CORE is above the hard limit 5"),
    ("process.oomScoreAdj", 1001, "process.oomScoreAdj: 1001 is not between -1000 and 1000"),
    ("process.ioPriority.class", "x", "process.ioPriority.class: 'x' is not one of IOPRIO_CLASS_BE, "),
    ("process.ioPriority", {"class": "IOPRIO_CLASS_BE"}, "process.ioPriority.priority: is required"),
    ("process.execCPUAffinity.final", "a", "process.execCPUAffinity.final: 'a' is not a list such as 0-3,7"),
    ("hooks.poststop[0].path", "true", "hooks.poststop[0].path: 'true' is not an absolute path"),
    ("hooks.prestart[0].timeout", 0, "hooks.prestart[0].timeout: 0 is not between 1 and"),
    ("linux.namespaces[2].type", "mnt", "linux.namespaces[2].type: 'mnt' is not one of cgroup, ipc, mount, "),
    ("linux.namespaces[2].type", 5, "linux.namespaces[2].type: must be a string, not an integer"),
    ("linux.namespaces[2].type", "pid", "linux.namespaces[2]: pid is there already"),
    ("linux.namespaces[2].path", "", "linux.namespaces[2].path: '' is not an absolute path"),
    ("linux.uidMappings[0].hostID", 2**32 - 2, "linux.uidMappings[0].hostID: 4294967294 and 32000 ids from there"),
    ("linux.timeOffsets", {"realtime": {}}, "linux.timeOffsets: 'realtime' is not one of boottime, monotonic"),
    ("linux.timeOffsets.monotonic.nanosecs", 10**9, "linux.timeOffsets['monotonic'].nanosecs: 1000000000 is not"),
    ("linux.timeOffsets.monotonic.secs", 2**63, "linux.timeOffsets['monotonic'].secs: 9223372036854775808 is not"),
    ("linux.devices[0].type", "x", "linux.devices[0].type: 'x' is not one of b, c, p, u"),
    ("linux.devices[0].minor", None, "linux.devices[0].minor: is required for a device of type c"),
    ("linux.devices[0].path", "fuse", "linux.devices[0].path: 'fuse' is not an absolute path"),
    ("linux.resources.memory.limit", -2, "linux.resources.memory.limit: -2 is not between -1 and"),
    ("linux.resources.memory.limit", 2**63, "linux.resources.memory.limit: 9223372036854775808 is not between"),
    ("linux.resources.memory.limit", 10**400, "linux.resources.memory.limit: an integer of 1329 bits is not between"),
    ("linux.resources.memory.limit", "1G", "linux.resources.memory.limit: must be an integer, not a string"),
    ("linux.resources.memory.swappiness", 101, "linux.resources.memory.swappiness: 101 is not between 0 and 100"),
    ("linux.resources.cpu.shares", -1, "linux.resources.cpu.shares: -1 is not between 0 and"),
    ("linux.resources.cpu.burst", 1000001, "linux.resources.cpu.burst: 1000001 is above the quota 1000000"),
    ("linux.resources.pids", {}, "linux.resources.pids.limit: is required"),
    ("linux.resources.pids.limit", -2, "linux.resources.pids.limit: -2 is not between -1 and"),
    ("linux.resources.devices[0].allow", None, "linux.resources.devices[0].allow: must be a boolean, not null"),
    ("linux.resources.devices[0].access", "x", "linux.resources.devices[0].access: 'x' is not made of r, w and m"),
    ("linux.resources.blockIO.weight", 65536, "linux.resources.blockIO.weight: 65536 is not between 0 and 65535"),
    (
        "linux.resources.blockIO.weightDevice[0]",
        {"major": 8, "minor": 0},
        "linux.resources.blockIO.weightDevice[0]: needs weight or leafWeight",
    ),
    ("linux.resources.hugepageLimits[0].pageSize", "2M", "linux.resources.hugepageLimits[0].pageSize: '2M' is not a"),
    ("linux.resources.rdma.mlx5_1", {}, "linux.resources.rdma['mlx5_1']: needs hcaHandles or hcaObjects"),
    ("linux.resources.unified", {"io.max": 5}, "linux.resources.unified['io.max']: must be a string, not an integer"),
    ("linux.rootfsPropagation", "none", "linux.rootfsPropagation: 'none' is not one of private, "),
    ("linux.seccomp.defaultAction", "ALLOW", "linux.seccomp.defaultAction: 'ALLOW' is not one of SCMP_ACT_ALLOW, "),
    ("linux.seccomp.syscalls[0].names", [], "linux.seccomp.syscalls[0].names: must not be empty"),
    ("linux.seccomp.syscalls[0].args[0].index", 6, "linux.seccomp.syscalls[0].args[0].index: 6 is not between 0 and 5"),
    ("linux.seccomp.listenerPath", None, "linux.seccomp.listenerMetadata: must not be set without listenerPath"),
    ("linux.maskedPaths[0]", "proc/kcore", "linux.maskedPaths[0]: 'proc/kcore' is not an absolute path"),
    ("linux.maskedPaths[0]", VERY_LONG, f"linux.maskedPaths[0]: '{'x' * 80}' is not an absolute path"),
    ("linux.personality.domain", "BSD", "linux.personality.domain: 'BSD' is not one of LINUX, LINUX32"),
]


def with_value(where: str, value: Any) -> dict[str, Any]:
    """The document with everything, and `value` at the path `where`."""
    document: dict[str, Any] = json.loads(json.dumps(EVERYTHING))
    *parents, last = where.replace("[", ".[").split(".")
    place: Any = document
    for name in parents:
        place = place[int(name[1:-1])] if name[0] == "[" else place[name]
    place[int(last[1:-1]) if last[0] == "[" else last] = value
    return document


@pytest.mark.parametrize(("where", "value", "message"), BAD, ids=[f"{w}-{i}" for i, (w, *_) in enumerate(BAD)])
def test_a_bad_value_is_refused_with_its_path(where: str, value: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Spec.from_json(json.dumps(with_value(where, value)))
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 600
    assert isinstance(caught.value, InvalidArgument)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON: Expecting value: line 1 column 1"),
        (b"\xff\xfe", "not JSON: 'utf-8' codec can't decode"),
        ('{"ociVersion": "1.2.0",}', "not JSON: "),
        ('{"ociVersion": NaN}', "not JSON: NaN is not a JSON value"),
        ('{"ociVersion": ' + "1" * 5000 + "}", "not JSON: Exceeds the limit"),
        ("[]", "must be an object, not an array"),
        ("null", "must be an object, not null"),
        ('"spec"', "must be an object, not a string"),
        ("{}", "ociVersion: is required"),
        ("[" * 500_000, "the document is nested too deeply"),
        ('{"a":' * 500_000, "the document is nested too deeply"),
    ],
)
def test_what_is_not_a_document_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Spec.from_json(text)
    assert str(caught.value).startswith(message)


def test_a_required_property_is_missed_wherever_it_is_removed() -> None:
    """Take each required property out of the document with everything, one at a time."""

    def walk(kind: Any, data: Any, path: str) -> None:
        if isinstance(kind, Sequence):
            for index, element in enumerate(data):
                walk(kind.item, element, f"{path}[{index}]")
        elif isinstance(kind, Table):
            for key, element in data.items():
                walk(kind.item, element, f"{path}[{key!r}]")
        elif isinstance(kind, Object):
            for field in layout_of(kind.cls).fields:
                if field.json not in data:
                    continue
                where = f"{path}.{field.json}".lstrip(".")
                walk(field.kind, data[field.json], where)
                if field.required:
                    kept = data.pop(field.json)
                    with pytest.raises(SpecError) as caught:
                        from_dict(Spec, document)
                    assert str(caught.value) == f"{where}: is required"
                    data[field.json] = kept
                    checked.append(where)

    checked: list[str] = []
    document: dict[str, Any] = json.loads(json.dumps(EVERYTHING))
    walk(Object(Spec), document, "")
    assert len(checked) > 60
    assert {"ociVersion", "root.path", "linux.namespaces[7].type"} <= set(checked)


def written_by(runtime: str, bundle: Path) -> dict[str, Any]:
    """The config.json that `runc spec` or `crun spec` writes."""
    if shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    subprocess.run([runtime, "spec"], cwd=bundle, check=True, timeout=60)
    document: dict[str, Any] = json.loads((bundle / "config.json").read_bytes())
    return document


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_the_document_of_a_real_runtime_goes_there_and_back(runtime: str, tmp_path: Path) -> None:
    document = written_by(runtime, tmp_path)
    spec = Spec.from_json((tmp_path / "config.json").read_bytes())
    # crun writes an empty set of inheritable capabilities, which says the same as none.
    capabilities = document["process"]["capabilities"]
    document["process"]["capabilities"] = {name: names for name, names in capabilities.items() if names}
    assert json.loads(spec.to_json()) == document


# crun does not start where version 2 of cgroups is mounted beside version 1 and has controllers: hide it, in a mount
# namespace of the test's own.
HIDE_HYBRID = ["unshare", "--mount", "sh", "-c", 'umount -q /sys/fs/cgroup/unified; exec "$@"', "sh"]


@pytest.mark.parametrize(("runtime", "prefix"), [("runc", []), ("crun", HIDE_HYBRID)], ids=["runc", "crun"])
def test_a_real_runtime_runs_what_we_write(runtime: str, prefix: list[str], tmp_path: Path) -> None:
    if not os.path.exists("/bin/busybox"):
        pytest.skip("/bin/busybox is not there (package busybox-static)")
    if os.geteuid() != 0:
        pytest.skip("the test needs root: the specification has no user namespace")
    written_by(runtime, tmp_path)
    spec = Spec.from_json((tmp_path / "config.json").read_bytes())
    assert spec.process is not None
    assert spec.linux is not None
    program = "/bin/busybox hostname; /bin/busybox id -u; exit 3"
    process = attrs.evolve(spec.process, terminal=False, args=("/bin/busybox", "sh", "-c", program))
    spec = attrs.evolve(spec, root=Root("rootfs", readonly=True), process=process, hostname="box")
    for directory in ("bin", "proc", "dev", "sys"):
        (tmp_path / "rootfs" / directory).mkdir(parents=True)
    shutil.copy("/bin/busybox", tmp_path / "rootfs/bin/busybox")
    (tmp_path / "config.json").write_text(spec.to_json(indent=2))

    name = f"pycontain-test-{os.getpid()}-{runtime}"
    command = [*prefix, runtime, "--root", str(tmp_path / "state"), "run", "--bundle", str(tmp_path), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (3, "box\n0\n"), done.stderr
