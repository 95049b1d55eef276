"""The preflight: what it finds here, and what it finds where something is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from confined import PRELUDE, in_user_namespace, needs_root, run

import pycontain
from pycontain import Container, Finding, PycontainError, Report

UNSHARE = {"x86_64": 272, "aarch64": 97}[os.uname().machine]
CLONE3 = 435

# Prints the report as JSON.
EXAMINE = "print(json.dumps(pycontain.doctor().to_dict()))"


@pytest.fixture(scope="module")
def report() -> Report:
    return pycontain.doctor()


def examined(code: str = "", *arguments: str, under: list[str] | None = None) -> Report:
    """The report of a process of its own, after it has run `code`."""
    return _read(run(f"{code}\n{EXAMINE}", *arguments, under=under or ()))


def _read(text: str) -> Report:
    return Report(tuple(Finding(**finding) for finding in json.loads(text)["findings"]))


# ---- the report


def test_it_is_ok_exactly_when_a_container_can_be_run(report: Report) -> None:
    try:
        Container.from_host().run(["true"])
    except PycontainError:
        assert not report.ok
    else:
        assert report.ok


def test_each_finding_has_a_name_of_its_own(report: Report) -> None:
    names = [finding.name for finding in report.findings]
    assert len(names) == len(set(names))


def test_each_finding_can_be_had_by_its_name(report: Report) -> None:
    for finding in report.findings:
        assert report[finding.name] is finding
    with pytest.raises(KeyError):
        report["nothing"]


def test_it_looks_at_everything_that_a_container_needs(report: Report) -> None:
    names = {finding.name for finding in report.findings}
    assert names >= {
        "kernel", "machine", "system call: clone3", "system call: openat2", "system call: mount_setattr",
        "seccomp filter",
        "namespace: mount", "namespace: pid", "namespace: network", "namespace: ipc", "namespace: uts",
        "namespace: cgroup", "namespace: time", "namespace: user", "unprivileged user namespaces", "mount: overlay",
        "mount: tmpfs",
        "mount: proc", "mount: sysfs", "mount: mqueue", "mount: devpts", "privileges", "subuid", "subgid", "newuidmap",
        "cgroup hierarchy", "limit: memory", "limit: cpu", "limit: pids", "run directory", "container",
    }


def test_each_no_says_why_and_what_helps(report: Report) -> None:
    for finding in report.findings:
        if finding.state == "no":
            assert finding.detail
            assert finding.remedy


def test_as_data_it_survives_json(report: Report) -> None:
    data = json.loads(json.dumps(report.to_dict()))
    assert data["ok"] is report.ok
    assert Report(tuple(Finding(**finding) for finding in data["findings"])) == report


def test_as_text_it_is_a_table_whose_columns_are_aligned() -> None:
    report = Report((
        Finding("short", "yes", "it works", required=True),
        Finding("a longer name", "no", "first cause", "Do this"),
        Finding("another", "partly", "second cause", "Do this"),
        Finding("last", "no", "third cause", "Do that"),
    ))
    assert str(report).splitlines() == [
        "short          yes     it works",
        "a longer name  no      first cause",
        "another        partly  second cause",
        "                       -> Do this",
        "last           no      third cause",
        "                       -> Do that",
        "",
        "A container can be run here.",
    ]


def test_a_required_thing_that_is_missing_makes_it_not_ok() -> None:
    for state, ok in (("yes", True), ("partly", True), ("no", False)):
        report = Report((Finding("thing", state, "", "Do this", required=True),))  # type: ignore[arg-type]
        assert report.ok is ok
    assert "cannot be run" in str(report)


def test_the_function_is_not_hidden_by_a_module_of_its_name() -> None:
    program = "import pycontain, pycontain.preflight; pycontain.Report; print(callable(pycontain.doctor))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "True\n"


# ---- what it finds


def test_the_kernel_and_the_machine_are_named(report: Report) -> None:
    assert report["kernel"].detail == f"Linux {os.uname().release}"
    assert report["machine"].detail == os.uname().machine


@needs_root
def test_a_user_without_privileges_has_everything_in_a_user_namespace_only() -> None:
    report = examined("become_nobody()")
    assert not report.ok
    if report["namespace: user"].state == "no":
        pytest.skip(f"no user namespaces for users here: {report['namespace: user'].detail}")
    for name in ("mount", "pid", "network", "ipc", "uts", "cgroup"):
        finding = report[f"namespace: {name}"]
        assert (finding.state, finding.detail) == ("partly", "only with a user namespace of its own")
        assert finding.remedy == "Run as root, or with a user namespace of its own: with_userns()"
    for name in ("overlay", "tmpfs", "proc", "sysfs", "mqueue", "devpts"):
        assert report[f"mount: {name}"].state == "partly"
    assert report["container"].state == "no"
    assert report["container with a user namespace"].state == "yes"
    assert report["subuid"].state == "partly"
    assert "usermod --add-subuids" in (report["subuid"].remedy or "")


@needs_root
def test_the_report_and_the_error_of_a_start_have_the_same_texts() -> None:
    for preparation in ("become_nobody()", f"filter_calls(errno.EPERM, {CLONE3}, {UNSHARE})"):
        text = run(f"""
{preparation}
finding = pycontain.doctor()["container"]
print(failure_of(Container.from_host()) == f"{{finding.detail}}\\n{{finding.remedy}}")
""")
        assert text == "True"


def test_a_seccomp_filter_is_found_by_what_it_refuses() -> None:
    report = examined(f"filter_calls(errno.EPERM, {CLONE3}, {UNSHARE})")
    assert not report.ok
    for name in ("clone3", "unshare"):
        assert report[f"system call: {name}"].state == "no"
        assert "as only a seccomp filter does" in report[f"system call: {name}"].detail
    assert report["system call: openat2"].state == "yes"
    assert "the process has a seccomp filter" in report["unconfined"].detail
    assert report["may gain privileges"].state == "partly"
    assert "seccomp=unconfined" in (report["container"].remedy or "")


def test_a_system_call_that_does_not_exist_is_no() -> None:
    report = examined("filter_calls(errno.ENOSYS, 442)")  # mount_setattr, the same number on all machines
    assert report["system call: mount_setattr"].state == "no"
    assert "Linux 5.12" in (report["system call: mount_setattr"].remedy or "")


def test_root_of_a_user_namespace_can_run_containers() -> None:
    report = examined(under=in_user_namespace())
    assert report.ok, str(report)
    assert report["device nodes"].state == "partly"
    assert report["privileges"].detail == "user 0 in a user namespace"


def test_a_covered_proc_is_found() -> None:
    report = examined(under=in_user_namespace("mount --bind /dev/null /proc/version"))
    assert report["host's /proc"].detail == "parts of it are covered: /proc/version"
    assert report["container with a user namespace"].state == "no"
    assert "parts of /proc are covered here" in report["container with a user namespace"].detail


def test_the_setting_that_forbids_user_namespaces_is_found() -> None:
    report = examined(under=in_user_namespace("echo 0 > /proc/sys/user/max_user_namespaces"))
    assert report["unprivileged user namespaces"].detail == "the sysctl user.max_user_namespaces is 0"
    assert report["namespace: user"].state == "no"
    assert "sysctl -w user.max_user_namespaces=" in (report["namespace: user"].remedy or "")


def test_a_container_cannot_run_containers_and_says_why() -> None:
    """The default container of pycontain: no privileges, a filter, a covered /proc, no cgroups."""
    package = Path(pycontain.__file__).parent.parent
    outer = Container.from_host().with_bind(package, package, read_only=True)
    outer = outer.with_env(PYTHONPATH=os.pathsep.join(sys.path))
    if os.geteuid() != 0:
        outer = outer.with_userns()
    result = outer.run([sys.executable, "-c", PRELUDE + EXAMINE])
    assert result.stderr == b""
    report = _read(result.text)
    assert not report.ok
    assert report["cgroup hierarchy"].state == "no"
    assert report["limit: memory"].detail == "no cgroup hierarchy is mounted here"
    assert "without CAP_SYS_ADMIN" in report["privileges"].detail or "seccomp" in report["privileges"].detail
    assert "a seccomp filter of the process forbids unshare" in report["container"].detail


def test_few_descriptors_are_found() -> None:
    report = examined("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))")
    assert report["open files"].state == "partly"
    assert "RLIMIT_NOFILE" in (report["open files"].remedy or "")


@needs_root
def test_a_run_directory_of_others_is_refused(public_path: Path) -> None:
    directory = public_path / "pycontain"
    directory.mkdir(mode=0o755)
    report = examined("become_nobody(); os.environ['XDG_RUNTIME_DIR'] = sys.argv[1]", str(public_path))
    assert report["run directory"].state == "no"
    assert "must be a directory of user 65534 with mode 0700" in report["run directory"].detail
    assert "XDG_RUNTIME_DIR" in (report["run directory"].remedy or "")


def test_it_can_be_asked_from_several_threads_at_once() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda _: pycontain.doctor(), range(4)))
    assert len({report.ok for report in reports}) == 1
