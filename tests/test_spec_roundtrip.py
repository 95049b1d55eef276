"""A container is an OCI runtime specification: there and back, and a real runtime runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from inside import LIMIT, sh

from pycontain import Container, NotSupported, SpecError
from pycontain.runtimes.compile import compile_spec
from pycontain.spec import FrozenMap, Mount, Spec

Change = Callable[[Container], Container]

names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12)
paths = st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
sizes = st.integers(1, 2**40)


def changes() -> st.SearchStrategy[Change]:
    """One call of a `with_*` method with arguments that it takes."""
    return st.one_of(
        st.builds(lambda name: lambda box: box.with_hostname(name), names),
        st.builds(lambda name, domain: lambda box: box.with_hostname(name, domain), names, names),
        st.builds(
            lambda env: lambda box: box.with_env(env),
            st.dictionaries(names, st.text("aä=$ \n", max_size=5), max_size=3),
        ),
        st.builds(lambda path: lambda box: box.with_workdir(path), paths),
        st.builds(lambda uid: lambda box: box.with_user(uid), st.integers(0, 2**32 - 2)),
        st.builds(
            lambda source, target, read_only: lambda box: box.with_bind(source, target, read_only=read_only),
            paths, paths, st.booleans(),
        ),
        st.builds(lambda target, size: lambda box: box.with_tmpfs(target, size=size), paths, sizes),
        st.builds(
            lambda target, option: lambda box: box.with_mount(Mount(target, "tmpfs", "tmpfs", (option,))),
            paths, st.sampled_from(["ro", "nosuid", "noexec", "mode=700", "rprivate"]),
        ),
        st.builds(lambda on: lambda box: box.with_read_only(on), st.booleans()),
        st.builds(lambda on: lambda box: box.with_init(on), st.booleans()),
        st.builds(lambda value: lambda box: box.with_sysctl("net.ipv4.ip_forward", value), st.integers(0, 1)),
        st.builds(
            lambda soft, more: lambda box: box.with_rlimit("RLIMIT_NOFILE", soft, soft + more),
            st.integers(0, 2**20), st.integers(0, 2**20),
        ),
        st.builds(
            lambda memory, cpus, shares, pids: lambda box: box.with_limits(
                memory=memory, cpus=cpus, cpu_shares=shares, pids=pids
            ),
            st.none() | sizes, st.none() | st.floats(0.01, 64), st.none() | st.integers(2, 262_144),
            st.none() | st.integers(1, 2**20),
        ),
        st.just(lambda box: box.with_network("host")),
        st.just(lambda box: box.with_userns([(0, 100_000, 65_536)], [(0, 100_000, 65_536)])),
        st.builds(
            lambda one, two: lambda box: box.with_time_offset(monotonic=one, boottime=two),
            st.floats(-1e6, 1e9), st.floats(-1e6, 1e9),
        ),
        st.builds(
            lambda kind: lambda box: box.with_namespace(kind, "new"), st.sampled_from(["pid", "ipc", "uts", "cgroup"])
        ),
    )  # fmt: skip


@st.composite
def containers(draw: st.DrawFn) -> Container:
    container = draw(st.sampled_from([Container.from_host(), Container.from_rootfs("/var/tmp")]))
    for change in draw(st.lists(changes(), max_size=6)):
        container = change(container)
    return container


slow = settings(max_examples=40)


@slow
@given(containers(), st.lists(st.text("a -ä", min_size=1), max_size=3))
def test_a_specification_goes_to_a_container_and_back(container: Container, argv: list[str]) -> None:
    spec = container.spec(argv)
    again = Container.from_spec(spec.to_json())
    assert again.spec(argv) == spec
    assert again.spec() == evolve(spec, process=again.spec().process)
    assert Container.from_spec(spec) == again
    assert hash(Container.from_spec(spec)) == hash(again)
    assert Spec.from_json(json.dumps(json.loads(spec.to_json()))) == spec


@slow
@given(containers())
def test_the_specification_says_all_that_the_plan_does(container: Container) -> None:
    """The same steps come of it, but for the seccomp filter, which is compiled from the profile."""
    again = Container.from_spec(container.spec())
    try:
        ours = container._compile()
    except NotSupported:  # a sysctl without a network of its own
        reject()
    theirs = again._compile()
    assert [step.text for step in ours.plan.steps if "seccomp" not in step.text] == [
        step.text for step in theirs.plan.steps if "seccomp" not in step.text
    ]
    assert evolve(ours, plan=theirs.plan) != ours  # compared by identity: each field has to be looked at
    for name in ("clone_flags", "joins", "helper", "uid_map", "resources", "init", "env", "search"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert sum("seccomp filter" in step.text for step in theirs.plan.steps) == 1


def test_the_command_is_in_the_specification(box: Container) -> None:
    process = box.spec(["echo", "hello"]).process
    assert process is not None
    assert process.args == ("echo", "hello")


def test_a_document_gets_what_it_says_and_no_defaults() -> None:
    document = {
        "ociVersion": "1.2.0",
        "process": {"cwd": "/", "args": ["true"]},
        "root": {"path": "/srv"},
        "linux": {"namespaces": [{"type": "mount"}]},
    }
    minimal = Container.from_spec(json.dumps(document))
    texts = [step.text for step in minimal.plan().steps]
    assert not any("seccomp" in text or "no_new_privs" in text or "capset" in text for text in texts)
    assert minimal.spec().process == minimal._spec.process


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hooks": {"prestart": [{"path": "/bin/true"}]}}, "hooks"),
        ({"linux": {"cgroupsPath": "/x"}}, "linux.cgroupsPath"),
        ({"linux": {"personality": {"domain": "LINUX32"}}}, "linux.personality"),
        ({"linux": {"mountLabel": "x"}}, "linux.mountLabel"),
        ({"linux": {"timeOffsets": {"boottime": {"secs": 1}}}}, "linux.timeOffsets"),
        ({"linux": {"uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]}}, "linux.uidMappings"),
    ],
)
def test_what_is_not_acted_on_is_refused_by_its_field_and_not_passed_over(
    change: dict[str, object], message: str
) -> None:
    document = {"ociVersion": "1.2.0", "process": {"cwd": "/", "args": ["true"]}, **change}
    with pytest.raises(Exception, match=message) as caught:
        Container.from_spec(json.dumps(document)).run(["true"])
    assert type(caught.value).__module__ == "pycontain.errors"


def test_a_specification_without_a_process_has_none_to_compile() -> None:
    with pytest.raises(SpecError, match="process: there is none to run"):
        compile_spec(Spec())


@pytest.mark.usefixtures("root_user")
def test_a_container_of_its_own_specification_behaves_the_same(box: Container) -> None:
    container = (
        box.with_hostname("box").with_user("alice").with_env(A="1").with_workdir("/tmp")
        .with_limits(memory="64M", pids=20).with_tmpfs("/scratch", size="1M").with_read_only().with_init()
    )  # fmt: skip
    script = """
        hostname; id; env | sort; pwd; touch /file /scratch/file; ls /dev /scratch; cat /proc/self/cgroup
        grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; cut -d' ' -f4- /proc/self/mountinfo | grep -v overlay
    """
    again = Container.from_spec(container.spec().to_json())
    assert sh(again, script) == sh(container, script)


# crun does not start where version 2 of cgroups is mounted beside version 1 and has controllers.
HIDE_HYBRID = ["unshare", "--mount", "sh", "-c", 'umount -q /sys/fs/cgroup/unified; exec "$@"', "sh"]


@pytest.mark.usefixtures("root_user")
@pytest.mark.parametrize(("runtime", "prefix"), [("runc", []), ("crun", HIDE_HYBRID)], ids=["runc", "crun"])
@pytest.mark.parametrize("kind", ["plain", "limits", "user", "userns"])
def test_a_real_runtime_runs_it(runtime: str, prefix: list[str], kind: str, busybox_root: Path, tmp_path: Path) -> None:
    if shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    # a copy, since they write the mount points into the root; where a mapped root reaches it
    bundle = Path("/var/tmp", f"pycontain-test-{os.getpid()}-{runtime}-{kind}")
    root = Path(shutil.copytree(busybox_root, bundle / "rootfs", symlinks=True))
    try:
        box = Container.from_rootfs(root).with_hostname("box").with_env(A="1").with_workdir("/tmp")
        container = {
            "plain": lambda: box.with_bind(tmp_path, "/data", read_only=True),
            "limits": lambda: box.with_limits(memory="64M", pids=50, cpus=1).with_tmpfs("/scratch", size="1M"),
            "user": lambda: box.with_user("alice").with_read_only(),
            "userns": lambda: box.with_userns([(0, 100_000, 65_536)], [(0, 100_000, 65_536)]),
        }[kind]()
        script = """
            hostname; id -u; id -g; echo $A $HOME $PATH; pwd; ls /sys/class/net; ls /dev | grep -v core | tr '\\n' ' '
            grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; cat /proc/keys /proc/self/uid_map; exit 3
        """
        spec = container.spec(["sh", "-c", script])
        older = evolve(spec, oci_version="1.0.2", annotations=FrozenMap())  # crun 1.8 takes no newer one
        bundle.joinpath("config.json").write_text(older.to_json())
        ours = container.run(["sh", "-c", script], timeout=LIMIT)
        name = f"pycontain-test-{os.getpid()}-{runtime}-{kind}"
        command = [*prefix, runtime, "--root", str(tmp_path / "state"), "run", "--bundle", str(bundle), name]
        theirs = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    finally:
        shutil.rmtree(bundle)
    assert (theirs.returncode, theirs.stdout) == (3, ours.text), theirs.stderr
    assert ours.exit_code == 3
