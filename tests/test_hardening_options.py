"""What a container may do to the kernel, option by option: each test fails without its option."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from confined import needs_root
from hypothesis import given
from hypothesis import strategies as st
from inside import LIMIT, mount_table, sh, status

from pycontain import Container, InvalidArgument, NotSupported, SpecError, StartFailed
from pycontain.defaults import CAPABILITIES
from pycontain.linux import capabilities as caps
from pycontain.linux import seccomp_document
from pycontain.runtimes.labels import has_apparmor, has_selinux

STATUS = ["cat", "/proc/self/status"]
ALLOW_ALL_BUT = {"defaultAction": "SCMP_ACT_ALLOW"}
NO_MKDIR: dict[str, Any] = {
    **ALLOW_ALL_BUT, "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
}


def bounding(container: Container) -> set[str]:
    found = status(container.run(STATUS, timeout=LIMIT))
    assert found["CapBnd"] == found["CapPrm"] == found["CapEff"]
    return set(caps.from_mask(int(found["CapBnd"], 16)))


def own() -> set[str]:
    return set(caps.from_mask(caps.of_process().permitted))


# ---- capabilities


@needs_root
@pytest.mark.parametrize(
    ("add", "drop", "left"),
    [
        ([], [], set(CAPABILITIES)),
        (["net_raw"], [], {*CAPABILITIES, "CAP_NET_RAW"}),
        ([], ["CAP_KILL", "Chown"], {*CAPABILITIES} - {"CAP_KILL", "CAP_CHOWN"}),
        ([], ["ALL"], set()),
        (["NET_ADMIN"], ["all"], {"CAP_NET_ADMIN"}),
    ],
)
def test_capabilities_are_added_and_dropped_by_name(
    box: Container, add: list[str], drop: list[str], left: set[str]
) -> None:
    assert bounding(box.with_capabilities(add=add, drop=drop)) == left


@needs_root
def test_all_capabilities_are_those_that_the_caller_has(box: Container) -> None:
    assert bounding(box.with_capabilities(add=["all"])) == own()
    assert bounding(box.with_capabilities(add=["all"], drop=["sys_admin"])) == own() - {"CAP_SYS_ADMIN"}


def test_in_a_user_namespace_all_capabilities_are_there(box: Container) -> None:
    found = status(box.with_userns().with_capabilities(add=["all"]).run(STATUS, timeout=LIMIT))
    assert int(found["CapEff"], 16) == (1 << caps.last_cap() + 1) - 1


def test_another_user_gets_no_capability_that_was_added(box: Container) -> None:
    found = status(box.with_user("1000").with_capabilities(add=["net_raw"]).run(STATUS, timeout=LIMIT))
    assert int(found["CapEff"], 16) == 0
    assert int(found["CapBnd"], 16) >> caps.parse("net_raw") & 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"add": ["nonsense"]}, "unknown capability"),
        ({"drop": ["net_rw"]}, "unknown capability"),
        ({"add": "net_raw"}, "one name"),
        ({"add": [13]}, "not the name"),
        ({"add": ["kill"], "drop": ["CAP_KILL"]}, "both"),
        ({"add": ["all"], "drop": ["all"]}, "both"),
    ],
)
def test_capabilities_that_cannot_be_meant_are_refused(
    box: Container, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        box.with_capabilities(**arguments)


@needs_root
def test_the_default_filter_lets_an_added_capability_be_used(box: Container) -> None:
    script = "mount -t tmpfs x /tmp && echo mounted"
    assert not box.run(["sh", "-c", script], timeout=LIMIT).ok
    assert sh(box.with_capabilities(add=["sys_admin"]), script) == "mounted"


# ---- no_new_privileges


@needs_root
def test_programs_gain_nothing_unless_they_may(box: Container) -> None:
    assert status(box.run(STATUS, timeout=LIMIT))["NoNewPrivs"] == "1"
    found = status(box.with_no_new_privileges(False).run(STATUS, timeout=LIMIT))
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("0", "2")
    assert set(caps.from_mask(int(found["CapEff"], 16))) == set(CAPABILITIES)


@needs_root
@pytest.mark.parametrize("user", ["0", "1000"])
def test_what_was_kept_for_the_filter_is_gone_before_the_command(box: Container, user: str) -> None:
    found = status(box.with_no_new_privileges(False).with_user(user).run(STATUS, timeout=LIMIT))
    assert found["Seccomp"] == "2"
    assert not int(found["CapPrm"], 16) & caps.to_mask(["sys_admin"])


@needs_root
def test_a_setuid_program_becomes_root_only_without_no_new_privileges() -> None:
    if not all(map(shutil.which, ("id", "chroot"))) or os.path.realpath(str(shutil.which("id"))).endswith("busybox"):
        pytest.skip("needs id and chroot (coreutils)")
    host = Container.from_host()
    script = "cp $(command -v id) /own && chmod 4755 /own && chroot --userspec=1000 / /own -u"
    assert sh(host.with_no_new_privileges(False), script) == "0"
    assert sh(host, script) == "1000"


# ---- seccomp


def test_without_a_filter_none_is_there(box: Container) -> None:
    assert status(box.run(STATUS, timeout=LIMIT))["Seccomp"] == "2"
    assert status(box.with_seccomp("unconfined").run(STATUS, timeout=LIMIT))["Seccomp"] == "0"
    assert box.with_seccomp("unconfined").with_seccomp("default") == box


@pytest.mark.parametrize("form", ["mapping", "text", "file"])
def test_a_profile_is_a_mapping_a_text_or_a_file(box: Container, tmp_path: Path, form: str) -> None:
    profile: Any = NO_MKDIR if form == "mapping" else json.dumps(NO_MKDIR)
    if form == "file":
        file = tmp_path / "profile.json"
        file.write_text(profile)
        profile = file
    result = box.with_seccomp(profile).run(["mkdir", "/tmp/x"], timeout=LIMIT)
    assert b"Function not implemented" in result.stderr
    assert box.run(["mkdir", "/tmp/x"], timeout=LIMIT).ok


def test_a_profile_is_part_of_the_value_and_of_its_specification(box: Container) -> None:
    one = box.with_seccomp(NO_MKDIR)
    assert one == box.with_seccomp(json.dumps(NO_MKDIR)) != box
    assert pickle.loads(pickle.dumps(one)) == one
    again = Container.from_spec(one.spec().to_json())
    assert b"Function not implemented" in again.run(["mkdir", "/tmp/x"], timeout=LIMIT).stderr


@needs_root
def test_what_a_rule_includes_is_chosen_by_the_capabilities_when_it_starts(box: Container) -> None:
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_NET_RAW"]}}
    container = box.with_seccomp({**ALLOW_ALL_BUT, "syscalls": [rule]})
    assert container.run(["mkdir", "/tmp/x"], timeout=LIMIT).ok
    assert not container.with_capabilities(add=["net_raw"]).run(["mkdir", "/tmp/x"], timeout=LIMIT).ok


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ({}, True),
        ({"includes": {"caps": ["CAP_KILL"]}}, True),
        ({"includes": {"caps": ["CAP_KILL", "CAP_BPF"]}}, False),
        ({"excludes": {"caps": ["CAP_BPF", "CAP_KILL"]}}, False),
        ({"excludes": {"caps": ["CAP_BPF"]}}, True),
        ({"includes": {"arches": ["arm64", "amd64"]}}, True),
        ({"includes": {"arches": ["s390x"]}}, False),
        ({"excludes": {"arches": ["amd64"]}}, False),
        ({"includes": {"minKernel": "4.8"}}, True),
        ({"includes": {"minKernel": "6.2"}}, False),
        ({"excludes": {"minKernel": "6.1"}}, False),
        ({"includes": {}, "excludes": None}, True),
    ],
)
def test_a_rule_holds_under_its_conditions(conditions: dict[str, Any], kept: bool) -> None:
    text = json.dumps({
        "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ALLOW", **conditions}],
    })
    profile = seccomp_document.choose(text, {"CAP_KILL"}, "x86_64", (6, 1))
    assert len(profile.syscalls) == int(kept)


def test_dockers_map_of_machines_and_podmans_names_of_errors_are_understood() -> None:
    text = json.dumps({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "defaultErrno": "ENOSYS",
        "archMap": [
            {"architecture": "SCMP_ARCH_S390X", "subArchitectures": ["SCMP_ARCH_S390"]},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
        ],
        "syscalls": [{"name": "mkdir", "action": "SCMP_ACT_ERRNO", "errno": "EPERM", "args": None, "comment": ""}],
    })
    profile = seccomp_document.choose(text, (), "x86_64", (6, 1))
    assert (profile.default_errno_ret, profile.architectures) == (38, ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"))
    assert (profile.syscalls[0].names, profile.syscalls[0].errno_ret) == (("mkdir",), 1)
    assert seccomp_document.choose(text, (), "aarch64", (6, 1)).architectures == ("SCMP_ARCH_AARCH64",)


def test_the_profile_of_podman_runs_programs(box: Container) -> None:
    file = Path("/usr/share/containers/seccomp.json")
    if not file.exists():
        pytest.skip("needs /usr/share/containers/seccomp.json (Debian: golang-github-containers-common)")
    container = box.with_seccomp(file)
    assert sh(container, "mkdir /tmp/x && ls /tmp") == "x"
    assert not container.run(["mount", "-t", "tmpfs", "x", "/tmp"], timeout=LIMIT).ok


@pytest.mark.parametrize(
    ("profile", "error", "message"),
    [
        ("{", SpecError, "not JSON"),
        ({}, SpecError, "defaultAction"),
        ({"defaultAction": "ALLOW"}, SpecError, "defaultAction"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}, SpecError, "syscalls"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": ["mkdir"]}, SpecError, r"syscalls\[0\]"),
        ({**ALLOW_ALL_BUT, "archMap": [{}], "architectures": ["SCMP_ARCH_X86"]}, SpecError, "archMap"),
        ({"defaultAction": object()}, InvalidArgument, "JSON"),
        ("/nowhere", InvalidArgument, "cannot be read"),
        ("Unconfined", InvalidArgument, "cannot be read"),
        ("/", InvalidArgument, "cannot be read"),
        ("\0", InvalidArgument, "cannot be read"),
        (b"{}", InvalidArgument, "not a seccomp profile"),
        (0, InvalidArgument, "not a seccomp profile"),
    ],
)
def test_what_is_no_profile_is_refused_at_once(
    box: Container, profile: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        box.with_seccomp(profile)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8,
)
words = st.sampled_from([
    "defaultAction", "SCMP_ACT_ALLOW", "syscalls", "names", "action", "includes", "excludes", "caps", "arches",
    "minKernel", "archMap", "architecture", "subArchitectures", "errno", "args",
])
documents = st.dictionaries(
    words, st.recursive(json_values | words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        words, inner, max_size=4), max_leaves=12), max_size=6,
)


@pytest.mark.filterwarnings("ignore::pycontain.spec.UnknownProperty")
@given(documents)
def test_whatever_a_profile_holds_it_is_read_or_refused(document: dict[str, Any]) -> None:
    try:
        seccomp_document.choose(json.dumps(document), (), "x86_64", (6, 1))
    except SpecError:
        pass


# ---- what is hidden


@needs_root
def test_what_is_masked_is_shown_when_it_is_asked_for(box: Container) -> None:
    def covers(container: Container) -> set[str]:
        return {path for path in mount_table(container) if path.startswith("/proc/")}

    assert {"/proc/keys", "/proc/sys"} <= covers(box)
    assert covers(box.with_unmasked("/proc/keys")) == covers(box) - {"/proc/keys"}
    assert not covers(box.with_unmasked())


def test_only_what_is_masked_can_be_unmasked(box: Container) -> None:
    with pytest.raises(InvalidArgument, match="neither masked nor read-only"):
        box.with_unmasked("/proc/nowhere")


# ---- labels


@pytest.mark.parametrize(
    ("label", "there"),
    [(Container.with_apparmor, has_apparmor), (Container.with_selinux, has_selinux)], ids=["apparmor", "selinux"],
)
def test_a_label_is_refused_where_there_is_no_such_module(box: Container, label: Any, there: Any) -> None:
    if there():
        pytest.skip("this machine has that security module")
    with pytest.raises(NotSupported, match="is not enabled here"):
        label(box, "user_u:role_r:type_t").run(["true"])


@needs_root
def test_the_profile_of_apparmor_is_that_of_the_command(box: Container) -> None:
    if not has_apparmor():
        pytest.skip("AppArmor is not enabled here")
    with pytest.raises(StartFailed, match="Load the profile"):
        box.with_apparmor("no-such-profile").run(["true"])
    assert sh(box.with_apparmor("unconfined"), "cat /proc/self/attr/current") == "unconfined"


def test_a_label_of_another_form_is_refused(box: Container) -> None:
    anything: Any
    for anything in ("", None, 1):
        with pytest.raises(InvalidArgument, match="AppArmor profile"):
            box.with_apparmor(anything)
    for anything in ("container_t", "a:b", "::", "a::c", None):
        with pytest.raises(InvalidArgument, match="SELinux context"):
            box.with_selinux(anything)


# ---- oom_score_adj, I/O priority


def test_the_oom_score_is_what_was_asked_for(box: Container) -> None:
    assert sh(box.with_oom_score_adj(700), "cat /proc/self/oom_score_adj") == "700"


@pytest.mark.parametrize("score", [-1001, 1001, True, 1.5])
def test_an_oom_score_out_of_range_is_refused(box: Container, score: Any) -> None:
    with pytest.raises(InvalidArgument, match="oom score"):
        box.with_oom_score_adj(score)


@pytest.mark.parametrize(("class_", "level", "shown"), [("best-effort", 2, "best-effort: prio 2"), ("idle", 4, "idle")])
def test_the_io_priority_is_what_was_asked_for(box: Container, class_: Any, level: int, shown: str) -> None:
    assert sh(box.with_io_priority(class_, level), "ionice -p $$") == shown


@pytest.mark.parametrize(("class_", "level"), [("rt", 1), ("idle", 8), ("idle", -1), ("idle", True)])
def test_an_io_priority_out_of_range_is_refused(box: Container, class_: Any, level: Any) -> None:
    with pytest.raises(InvalidArgument):
        box.with_io_priority(class_, level)


# ---- privileged


@needs_root
def test_a_privileged_container_has_all_that_its_caller_has(box: Container) -> None:
    container = box.with_privileged()
    found = status(container.run(STATUS, timeout=LIMIT))
    assert (found["Seccomp"], found["NoNewPrivs"]) == ("0", "0")
    assert set(caps.from_mask(int(found["CapEff"], 16))) == own()
    mounts = mount_table(container)
    assert "ro" not in {*mounts["/sys"].options, *mounts["/proc"].options}
    assert not [path for path in mounts if path.startswith(("/proc/", "/sys/firmware"))]


@needs_root
def test_a_privileged_container_has_the_devices_of_the_host(box: Container) -> None:
    device = next((path for path in ("/dev/loop-control", "/dev/fuse", "/dev/ttyS0") if os.path.exists(path)), None)
    if device is None:
        pytest.skip("no device here that every machine has")
    script = f": < {device} && echo opened"
    assert sh(box.with_privileged(), script) == "opened"
    assert not box.run(["sh", "-c", script], timeout=LIMIT).ok


# ---- the command line


def pycontain(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "pycontain", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * LIMIT, check=False)


@needs_root
def test_the_options_of_the_command_line_are_dockers(busybox_root: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(NO_MKDIR))
    done = pycontain(
        "--rootfs", str(busybox_root), "--cap-drop=ALL", "--cap-add", "NET_RAW", "--oom-score-adj", "600",
        "--security-opt", "no-new-privileges=false", "--security-opt", f"seccomp={profile}", "sh", "-c",
        "cat /proc/self/status /proc/self/oom_score_adj; mkdir /tmp/x",
    )
    lines = dict(line.partition(":")[::2] for line in done.stdout.splitlines())
    assert int(lines["CapEff"], 16) == 1 << caps.parse("net_raw")
    assert lines["NoNewPrivs"].strip() == "0"
    assert "600" in lines
    assert "Function not implemented" in done.stderr


@needs_root
@pytest.mark.parametrize("option", ["seccomp=unconfined", "seccomp:unconfined"])
def test_a_security_option_is_written_with_either_sign(busybox_root: Path, option: str) -> None:
    done = pycontain("--rootfs", str(busybox_root), "--security-opt", option, *STATUS)
    assert "Seccomp:\t0" in done.stdout, done.stderr


@needs_root
def test_the_command_line_runs_a_privileged_container(busybox_root: Path) -> None:
    done = pycontain("--rootfs", str(busybox_root), "--privileged", *STATUS)
    assert "Seccomp:\t0" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("nonsense", "security option"), ("seccomp=", "security option"), ("no-new-privileges=x", "security option"),
        ("label=colour:red", "label"), ("seccomp=/nowhere", "cannot be read"),
    ],
)
def test_a_security_option_that_is_not_known_is_refused(option: str, message: str) -> None:
    from pycontain.cli.options import secured

    with pytest.raises(InvalidArgument, match=message):
        secured(Container.from_rootfs("/"), [option])


def test_a_label_of_selinux_is_put_together_from_its_parts() -> None:
    from pycontain.cli.options import secured

    one = secured(Container.from_rootfs("/"), ["label=type:my_t", "label=level:s0:c1,c2"])
    assert one == Container.from_rootfs("/").with_selinux("system_u:system_r:my_t:s0:c1,c2")
    assert secured(Container.from_rootfs("/"), ["label=disable"]) == Container.from_rootfs("/")
