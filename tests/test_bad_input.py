"""What can never work: each gives a clear error of our own, and (by the check after every test) leaves nothing."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import programs
import pytest

from pycontain import (
    CommandNotExecutable,
    CommandNotFound,
    Container,
    InvalidArgument,
    NotSupported,
    PycontainError,
    SpecError,
    StartFailed,
)

Start = Callable[[Container, list[str]], Any]


@pytest.fixture(params=["run", "start", "terminal", "init"])
def start(request: pytest.FixtureRequest) -> Start:
    """Each way to start a command; what they refuse, all refuse."""
    if request.param == "init":
        return lambda container, argv: container.with_init().run(argv)
    name = {"terminal": "start_terminal"}.get(request.param, request.param)
    return lambda container, argv: getattr(container, name)(argv)


# ---- the description


def test_an_empty_path_is_not_the_working_directory(box: Container) -> None:
    with pytest.raises(InvalidArgument, match="the root cannot be an empty path"):
        Container.from_rootfs("")
    with pytest.raises(InvalidArgument, match="the source of a bind cannot be an empty path"):
        box.with_bind("", "/data")


@pytest.mark.parametrize("value", [None, 1, True, b"bytes"])
def test_the_value_of_a_variable_is_a_string(box: Container, value: Any) -> None:
    with pytest.raises(InvalidArgument, match="the value of the environment variable NAME must be a string"):
        box.with_env(NAME=value)


def test_a_device_is_given_for_something(box: Container) -> None:
    with pytest.raises(InvalidArgument, match="`access` is empty"):
        box.with_device("/dev/zero", access="")


# ---- the command


def test_a_command_that_is_nowhere_is_not_found_and_the_search_path_is_named(box: Container, start: Start) -> None:
    with pytest.raises(CommandNotFound, match="'no-such-command' was not found in") as failure:
        start(box.with_env(PATH="/bin:/opt/tools"), ["no-such-command", "argument"])
    assert "/bin:/opt/tools" in str(failure.value)
    assert failure.value.errno == errno.ENOENT


def test_a_path_at_which_nothing_is_is_not_found(box: Container, start: Start) -> None:
    with pytest.raises(CommandNotFound, match=r"'/bin/nothing' was not found$"):
        start(box, ["/bin/nothing"])


@pytest.mark.parametrize(
    "path", ["/etc/passwd/x", "./nothing", "../../nothing", "/bin/" + "x" * 300, "/proc/self/fd/99"]
)
def test_a_path_that_cannot_be_is_not_found(box: Container, path: str) -> None:
    with pytest.raises(CommandNotFound):
        box.run([path])


def test_a_search_path_that_is_empty_finds_nothing_but_the_working_directory_s(box: Container) -> None:
    with pytest.raises(CommandNotFound):
        box.with_env(PATH="").run(["sh"])
    assert box.with_env(PATH="").with_workdir("/bin").run(["sh", "-c", "echo found"]).text == "found\n"


def _file(content: bytes, mode: int = 0o755) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(content)
        path.chmod(mode)

    return make


def _other_architecture(path: Path) -> None:
    """busybox's own header, with the number of a machine that this kernel cannot be (EM_S390)."""
    header = bytearray(Path("/proc/self/exe").read_bytes()[:4096])
    header[18:20] = (22).to_bytes(2, "little")
    path.write_bytes(header)
    path.chmod(0o755)


def _fifo(path: Path) -> None:
    os.mkfifo(path, 0o755)


NOT_EXECUTABLE: list[tuple[str, Callable[[Path], None], int, str]] = [
    ("a file without the executable bit", _file(b"#!/bin/sh\n", 0o644), errno.EACCES, "not executable"),
    ("a directory", Path.mkdir, errno.EACCES, "not executable"),
    ("a fifo", _fifo, errno.EACCES, "not executable"),
    ("an empty file", _file(b""), errno.ENOEXEC, "no format"),
    ("a script without #!", _file(b"echo hello\n"), errno.ENOEXEC, "no format"),
    ("a torn ELF header", _file(b"\x7fELF\x02\x01\x01"), errno.ENOEXEC, "no format"),
    ("another architecture", _other_architecture, errno.ENOEXEC, "no format|architecture"),
    ("a damaged ELF header", _file(b"\x7fELF" + b"\xff" * 200), errno.ENOEXEC, "no format"),
    ("an interpreter that is not executable", _file(b"#!/etc/passwd\n"), errno.EACCES, "not executable"),
]


@pytest.mark.parametrize("case", NOT_EXECUTABLE, ids=[case[0] for case in NOT_EXECUTABLE])
@pytest.mark.parametrize("by", ["path", "search"])
def test_what_cannot_be_executed_is_said_to_be_so(
    box: Container, start: Start, tmp_path: Path, case: tuple[str, Callable[[Path], None], int, str], by: str
) -> None:
    _, make, code, message = case
    make(tmp_path / "program")
    tmp_path.chmod(0o755)
    container = box.with_bind(tmp_path, "/opt").with_env(PATH="/bin:/opt")
    with pytest.raises(CommandNotExecutable, match=message) as failure:
        start(container, ["/opt/program" if by == "path" else "program"])
    assert failure.value.errno == code
    assert "/opt/program" in str(failure.value)


@pytest.mark.parametrize(
    "content", [b"#!/no/such/interpreter\n", b"#!relative-interpreter\n"], ids=["absolute", "relative"]
)
def test_a_script_whose_interpreter_is_missing_says_so(
    box: Container, start: Start, tmp_path: Path, content: bytes
) -> None:
    _file(content)(tmp_path / "script")
    with pytest.raises(CommandNotFound, match="'/opt/script' is there, but its interpreter or loader is not"):
        start(box.with_bind(tmp_path, "/opt"), ["/opt/script"])


def test_a_program_whose_loader_is_missing_says_so(box: Container) -> None:
    with pytest.raises(CommandNotFound, match="interpreter or loader"):
        box.with_bind(os.path.realpath("/bin/bash"), "/opt/bash").run(["/opt/bash"])


def test_a_user_who_may_not_execute_the_command_is_told(box: Container, start: Start, tmp_path: Path) -> None:
    _file(b"#!/bin/sh\n", 0o700)(tmp_path / "private")
    with pytest.raises(CommandNotExecutable, match="not executable for this user"):
        start(box.with_bind(tmp_path, "/opt").with_user("nobody"), ["/opt/private"])


def test_a_command_on_a_file_system_without_execution_is_not_executable(box: Container, tmp_path: Path) -> None:
    from pycontain.spec import Mount

    _file(b"#!/bin/sh\n")(tmp_path / "script")
    mount = Mount("/opt", "bind", str(tmp_path), ("bind", "noexec"))
    with pytest.raises(CommandNotExecutable, match="noexec"):
        box.with_mount(mount).run(["/opt/script"])


@pytest.mark.parametrize("argv", [[], [""], (), ["", "argument"]], ids=repr)
def test_an_empty_command_is_refused(box: Container, start: Start, argv: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="command is empty"):
        start(box, argv)


@pytest.mark.parametrize("argv", ["ls -l", b"ls", "true"])
def test_a_text_instead_of_a_list_is_refused(box: Container, start: Start, argv: Any) -> None:
    with pytest.raises(InvalidArgument, match="must be a list of strings"):
        start(box, argv)


@pytest.mark.parametrize("argv", [["echo", 1], [None], ["echo", None], [["true"]], 7], ids=repr)
def test_words_that_are_no_strings_are_refused(box: Container, argv: Any) -> None:
    with pytest.raises(InvalidArgument, match="must be a list of strings"):
        box.run(argv)


def test_words_may_be_bytes_and_paths_and_any_text(box: Container) -> None:
    argv: Any = ["printf", "%s,%s,%s", b"\xff", Path("/a b"), "\udcfe ä"]
    assert box.run(argv).stdout == b"\xff,/a b,\xfe \xc3\xa4"


# ---- NUL bytes, and texts that are too long


NUL: list[tuple[str, Callable[[Container], Container], list[str]]] = [
    ("the command", lambda box: box, ["tr\0ue"]),
    ("an argument", lambda box: box, ["echo", "a\0b"]),
    ("the value of a variable", lambda box: box.with_env(A="a\0b"), ["true"]),
    ("the name of a variable", lambda box: box.with_env({"A\0B": "x"}), ["true"]),
    ("the host name", lambda box: box.with_hostname("a\0b"), ["true"]),
    ("the domain name", lambda box: box.with_hostname("a", "a\0b"), ["true"]),
    ("the working directory", lambda box: box.with_workdir("/tmp\0/x"), ["true"]),
    ("a bind source", lambda box: box.with_bind("/tmp\0", "/data"), ["true"]),
    ("a bind target", lambda box: box.with_bind("/usr", "/da\0ta"), ["true"]),
    ("a tmpfs target", lambda box: box.with_tmpfs("/da\0ta"), ["true"]),
    ("a sysctl", lambda box: box.with_sysctl("net.ipv4.ip_forward", "1\0"), ["true"]),
    ("a namespace", lambda box: box.with_network("/run/netns/a\0b"), ["true"]),
    ("the root", lambda box: Container.from_rootfs("/srv\0/x"), ["true"]),
]


@pytest.mark.parametrize("case", NUL, ids=[case[0] for case in NUL])
def test_a_nul_byte_is_refused(
    box: Container, case: tuple[str, Callable[[Container], Container], list[str]]
) -> None:
    _, make, argv = case
    with pytest.raises(InvalidArgument, match="NUL"):
        make(box).run(argv)


def test_an_argument_of_a_mebibyte_is_too_long(box: Container, start: Start) -> None:
    with pytest.raises(CommandNotExecutable, match="too long") as failure:
        start(box, ["true", "x" * (1 << 20)])
    assert failure.value.errno == errno.E2BIG
    assert "standard input or a file" in str(failure.value)
    assert len(str(failure.value)) < 1000


def test_an_argument_just_below_the_kernel_s_limit_works(box: Container) -> None:
    size = 32 * resource.getpagesize() - 1  # MAX_ARG_STRLEN, with the NUL byte
    assert box.run(["sh", "-c", "echo ${#1}", "sh", "x" * size]).text == f"{size}\n"
    with pytest.raises(CommandNotExecutable, match="too long"):
        box.run(["true", "x" * (size + 1)])


def test_ten_thousand_arguments_work(box: Container, start: Start) -> None:
    assert box.run(["sh", "-c", "echo $#", "sh", *map(str, range(10_000))]).text == "10000\n"


def test_ten_thousand_environment_variables_work(box: Container) -> None:
    container = box.with_env({f"VARIABLE_{number}": str(number) for number in range(10_000)})
    for variant in (container, container.with_init()):
        lines = variant.run(["env"]).check().text.splitlines()
        assert sum(line.startswith("VARIABLE_") for line in lines) == 10_000
        assert "VARIABLE_9999=9999" in lines


def test_a_million_variables_are_too_many(box: Container) -> None:
    container = box.with_env({f"V{number}": "x" * 20 for number in range(200_000)})
    with pytest.raises(CommandNotExecutable, match="too long"):
        container.run(["true"])


@pytest.mark.parametrize("name", ["", "A=B", "="])
def test_a_name_that_no_variable_has_is_refused(box: Container, name: str) -> None:
    with pytest.raises(InvalidArgument, match="name of an environment variable"):
        box.with_env({name: "x"})


@pytest.mark.parametrize("size", [65, 1000, 1 << 20])
def test_a_host_name_that_is_too_long_is_refused(box: Container, size: int) -> None:
    with pytest.raises((InvalidArgument, StartFailed), match="host"):
        box.with_hostname("h" * size).run(["true"])


def test_a_host_name_of_64_bytes_works(box: Container) -> None:
    assert box.with_hostname("h" * 64).run(["hostname"]).text == "h" * 64 + "\n"


# ---- the root


def test_a_root_that_does_not_exist_is_named(start: Start, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"no-such-root.*No such file"):
        start(Container.from_rootfs(tmp_path / "no-such-root"), ["true"])


def test_a_root_that_is_a_file_is_no_directory(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument, match="file' is not a directory"):
        start(Container.from_rootfs(tmp_path / "file"), ["true"])


@pytest.mark.parametrize("user", ["root", "nobody", "1:1"])
def test_a_root_that_does_not_exist_has_no_users(tmp_path: Path, user: str) -> None:
    with pytest.raises(InvalidArgument, match="no-such-root"):
        Container.from_rootfs(tmp_path / "no-such-root").with_user(user).run(["true"])


def test_an_empty_directory_as_root_has_no_commands(tmp_path: Path, start: Start) -> None:
    with pytest.raises(CommandNotFound):
        start(Container.from_rootfs(tmp_path), ["true"])
    assert list(tmp_path.iterdir()) == []


def test_a_root_may_be_a_relative_path_and_a_symbolic_link(
    busybox_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(busybox_root)
    monkeypatch.chdir(tmp_path)
    container = Container.from_rootfs("link")
    monkeypatch.chdir("/")
    assert container.run(["echo", "there"]).text == "there\n"


@pytest.mark.parametrize("name", ["a:b", "a,b", "a\\b", "a\nb", "ä ö", "-x", "a=b", "%s"])
def test_a_root_may_have_any_name(busybox_root: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(busybox_root)
    copy = tmp_path / "real" / name
    (copy / "bin").mkdir(parents=True)
    os.link(busybox_root / "bin/busybox", copy / "bin/busybox")
    assert Container.from_rootfs(tmp_path / name).run(["echo", "there"]).text == "there\n"
    assert Container.from_rootfs(copy).run(["busybox", "echo", "there"]).text == "there\n"


# ---- mounts


def test_a_bind_source_that_is_missing_is_named(box: Container, start: Start) -> None:
    with pytest.raises((InvalidArgument, StartFailed), match=r"/no/such/source.*(No such file|does not exist)"):
        start(box.with_bind("/no/such/source", "/data"), ["true"])


@pytest.mark.parametrize("target", ["data", "", "./data", "../data"])
def test_a_mount_target_that_is_not_absolute_is_refused(box: Container, target: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="not an absolute path"):
        box.with_bind(tmp_path, target)
    with pytest.raises(InvalidArgument, match="not an absolute path"):
        box.with_tmpfs(target)


@pytest.mark.parametrize("target", ["/", "//", "/.", "/tmp/.."])
def test_a_mount_on_the_root_is_refused(box: Container, target: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="root"):
        box.with_bind(tmp_path, target).run(["true"])


def test_a_directory_on_a_file_and_a_file_on_a_directory_are_refused(box: Container, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartFailed, match=r"/etc/passwd.*a directory cannot be mounted on a file"):
        box.with_bind(tmp_path, "/etc/passwd").run(["true"])
    with pytest.raises(StartFailed, match=r"/home.*nor a file on a directory"):
        box.with_bind(tmp_path / "file", "/home").run(["true"])


def test_a_target_below_a_file_is_refused(box: Container, tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"/etc/passwd/below.*ENOTDIR"):
        box.with_bind(tmp_path, "/etc/passwd/below").run(["true"])


def _tiny_root(path: Path, busybox_root: Path) -> Container:
    """A root of its own for one test, with busybox as its only file."""
    (path / "bin").mkdir(parents=True)
    os.link(busybox_root / "bin/busybox", path / "bin/busybox")
    return Container.from_rootfs(path)


@pytest.mark.parametrize("link", ["/outside", "../../../../../../../../outside", "./../outside"])
def test_a_target_outside_through_a_symbolic_link_stays_inside(tmp_path: Path, busybox_root: Path, link: str) -> None:
    """A link is followed from the container's own root, and `..` does not leave it: nothing is made on the host."""
    root, source = tmp_path / "root", tmp_path / "source"
    container = _tiny_root(root, busybox_root)
    source.mkdir()
    (source / "mark").touch()
    (root / "link").symlink_to(link)
    (root / "outside").mkdir()
    before = sorted(os.walk(tmp_path)), os.listdir("/")
    for target in ("/link/created/deep", "/link/..//link/new"):
        mounted = container.with_bind(source, target)
        assert "/mark" in mounted.run(["busybox", "find", "/outside"]).check().text
    result = container.with_tmpfs("/link/created").run(["busybox", "mount"])
    assert " on /outside/created type tmpfs" in result.text
    assert (sorted(os.walk(tmp_path)), os.listdir("/")) == before


def test_a_target_outside_that_is_nowhere_inside_is_refused(tmp_path: Path, busybox_root: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    container = _tiny_root(root, busybox_root)
    outside.mkdir()
    (root / "link").symlink_to(outside)
    before = sorted(os.walk(tmp_path))
    for mounted in (container.with_bind("/usr", "/link/created"), container.with_tmpfs("/link/created")):
        with pytest.raises(StartFailed, match=r"/link/created.*does not exist"):
            mounted.run(["busybox", "true"])
    assert sorted(os.walk(tmp_path)) == before


def test_a_target_through_a_magic_link_of_proc_is_refused(tmp_path: Path, busybox_root: Path) -> None:
    root = tmp_path / "root"
    container = _tiny_root(root, busybox_root)
    (root / "magic").symlink_to("/proc/1/root")
    before = sorted(os.listdir("/"))
    with pytest.raises(StartFailed, match="magic"):
        container.with_tmpfs("/magic/created").run(["busybox", "true"])
    assert sorted(os.listdir("/")) == before


def test_links_in_a_circle_as_a_target_are_refused(tmp_path: Path, busybox_root: Path) -> None:
    root = tmp_path / "root"
    container = _tiny_root(root, busybox_root)
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(StartFailed, match="ELOOP"):
        container.with_tmpfs("/a/x").run(["busybox", "true"])


@pytest.mark.parametrize("link", ["/dev", "/proc", "/sys"])
def test_a_root_whose_own_directories_are_links_makes_nothing_on_the_host(
    tmp_path: Path, busybox_root: Path, link: str
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    container = _tiny_root(root, busybox_root)
    outside.mkdir()
    (root / link[1:]).symlink_to(outside)
    try:
        container.run(["busybox", "ls", link])
    except StartFailed as failure:
        assert link in str(failure)  # noqa: PT017 (it may be refused, or go on inside)
    assert list(outside.iterdir()) == []
    assert sorted(path.name for path in root.iterdir()) == sorted(["bin", link[1:]])


# ---- users


@pytest.mark.parametrize(
    "user", ["no-such-user", "alice:no-such-group", "0:no-such-group", "a:b:c", " ", "no\0body"]
)
def test_an_unknown_user_or_group_is_named(box: Container, user: str) -> None:
    with pytest.raises(InvalidArgument, match=r"user|group"):
        box.with_user(user).run(["true"])


@pytest.mark.parametrize(
    "user", [-1, "-1", 2**32 - 1, 2**32, "4294967295", "4294967296", "0:-1", "0:4294967295", 10**30]
)
def test_an_id_out_of_range_is_refused(box: Container, user: int | str) -> None:
    with pytest.raises(InvalidArgument, match=r"4294967294|user|id"):
        box.with_user(user).run(["true"])


@pytest.mark.parametrize("user", ["", True, None, 1.5, b"root", ["root"]], ids=repr)
def test_what_is_no_user_is_refused(box: Container, user: Any) -> None:
    with pytest.raises(InvalidArgument, match="not a user"):
        box.with_user(user)


def test_a_working_directory_that_does_not_exist_is_named(box: Container, start: Start) -> None:
    with pytest.raises((InvalidArgument, StartFailed), match="/no/such/directory"):
        start(box.with_workdir("/no/such/directory"), ["true"])


@pytest.mark.parametrize("path", ["tmp", "", "."])
def test_a_working_directory_that_is_not_absolute_is_refused(box: Container, path: str) -> None:
    with pytest.raises(InvalidArgument, match="absolute"):
        box.with_workdir(path).run(["true"])


def test_a_working_directory_that_the_user_may_not_enter_is_named(box: Container) -> None:
    with pytest.raises(StartFailed, match=r"/closed.*(EACCES|Permission)"):
        box.with_tmpfs("/closed", mode=0o700).with_workdir("/closed").with_user("nobody").run(["true"])


# ---- sizes and limits


BAD_SIZES: list[Any] = [
    "", " ", "M", "256X", "12 34M", "-1", "-256M", "0", 0, -1, "0x10", "1e9", "1M1", "inf", "nan", "1..5M",
    ".5M", "256M\n5",
    "9" * 40, 2**63, True, 1.5, b"1M", ["1M"],
]


@pytest.mark.parametrize("size", BAD_SIZES, ids=repr)
def test_a_size_that_is_none_is_refused(box: Container, size: Any) -> None:
    with pytest.raises(InvalidArgument, match="memory limit"):
        box.with_limits(memory=size)
    with pytest.raises(InvalidArgument, match="size of a tmpfs"):
        box.with_tmpfs("/scratch", size=size)


@pytest.mark.parametrize("limits", [
    {"pids": 0}, {"pids": -1}, {"pids": 1.5}, {"pids": "10"}, {"pids": True}, {"cpus": 0}, {"cpus": -1}, {"cpus": "1"},
    {"cpus": float("nan")}, {"cpus": float("inf")}, {"cpus": True}, {"cpu_shares": 0}, {"cpu_shares": -1},
    {"cpu_shares": 1}, {"cpu_shares": 262145}, {"cpu_shares": 1.5},
], ids=repr)
def test_a_limit_that_can_never_hold_is_refused(box: Container, limits: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"number|processes|cpu"):
        box.with_limits(**limits)


def test_a_memory_limit_in_which_nothing_can_run_is_an_error_or_out_of_memory(box: Container) -> None:
    from pycontain.runtimes.drivers import cgroup_driver

    if cgroup_driver().reason("memory") is not None:
        pytest.skip("no memory controller")
    try:
        assert box.with_limits(memory=4096).run(["true"], timeout=60).reason == "oom"
    except PycontainError as error:
        assert "memory" in str(error)  # noqa: PT017 (which of the two depends on when the kernel charges)


@pytest.mark.parametrize("mode", [-1, 0o10000, 1.5, "755"], ids=repr)
def test_a_mode_that_is_none_is_refused(box: Container, mode: Any) -> None:
    with pytest.raises(InvalidArgument, match="mode"):
        box.with_tmpfs("/scratch", mode=mode).run(["true"])


@pytest.mark.parametrize("limit", [("RLIMIT_NOFILE", -2), ("RLIMIT_NOFILE", 2, 1), ("RLIMIT_NOTHING", 1)])
def test_a_resource_limit_that_is_none_is_refused(box: Container, limit: Any) -> None:
    with pytest.raises((InvalidArgument, NotSupported, StartFailed), match=r"(?i)limit"):
        box.with_rlimit(*limit).run(["true"])


@pytest.mark.parametrize(
    "name", ["kernel.panic", "vm.swappiness", "no.such.sysctl", "net/../../kernel/panic", "", "net.ipv4.no_such"]
)
def test_a_sysctl_that_is_not_the_container_s_own_is_refused(box: Container, name: str) -> None:
    with pytest.raises(PycontainError, match=r"(?i)sysctl|proc/sys"):
        box.with_sysctl(name, 1).run(["true"])


# ---- namespaces and specifications


@pytest.mark.parametrize("kind", ["nonsense", "", "Network", None])
def test_a_namespace_of_no_known_kind_is_refused(box: Container, kind: Any) -> None:
    with pytest.raises(InvalidArgument):
        box.with_namespace(kind, "new")


def test_a_namespace_file_that_is_none_is_named(box: Container, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument, match="file is not a namespace"):
        box.with_network(tmp_path / "file").run(["true"])
    with pytest.raises(InvalidArgument, match="null is not a namespace"):
        box.with_network("/dev/null").run(["true"])
    with pytest.raises(StartFailed, match=r"no-such-file.*cannot be joined"):
        box.with_network(tmp_path / "no-such-file").run(["true"])
    with pytest.raises(InvalidArgument, match="uts is a uts namespace: it cannot be the container's network namespace"):
        box.with_network("/proc/self/ns/uts").run(["true"])
    with pytest.raises(InvalidArgument, match="not a network namespace"):
        box.with_network("bridge-that-is-none")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '{"ociVersion": 3}', '{"process": {"args": "ls"}}', b"\xff"]
)
def test_a_text_that_is_no_specification_is_refused(text: str | bytes) -> None:
    with pytest.raises(SpecError):
        Container.from_spec(text)


# ---- what the caller's process lacks


@contextmanager
def few_descriptors(free: int) -> Iterator[None]:
    """Leaves this process so many free descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    numbers = (number for number in range(100_000) if number not in used)
    limit = [next(numbers) for _ in range(free + 1)][-1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_without_free_descriptors_the_error_says_so_and_all_works_afterwards(box: Container) -> None:
    """With every number of free descriptors, so that each place that opens one fails in turn."""
    containers = [box, box.with_init(), box.with_namespace("pid", "host"), box.with_network("/proc/self/ns/net")]
    outcomes = []
    for free in range(30):
        for container in containers:
            for start in ("run", "start"):
                try:
                    with few_descriptors(free):
                        ended = getattr(container, start)(["echo", "fine"], stdin=-3)
                        result = ended if start == "run" else ended.wait(60)
                    assert result.stdout == b"fine\n"
                    outcomes.append(True)
                except PycontainError as error:
                    assert "descriptor" in str(error) or "open files" in str(error), error  # noqa: PT017
                    outcomes.append(False)
    assert not any(outcomes[:8])
    assert all(outcomes[-8:])
    assert box.run(["echo", "fine"]).text == "fine\n"


def test_the_first_use_without_free_descriptors_says_so_and_the_next_works(busybox_root: Path) -> None:
    programs.run(FIRST_USE, busybox_root)


FIRST_USE = """
import os, resource, sys
from pycontain import Container, PycontainError
import pycontain.monitor, pycontain.runtimes.native, pycontain.linux.seccomp
box = Container.from_rootfs(sys.argv[1])
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
base = len(os.listdir("/proc/self/fd")) - 1
for free in range(40):
    resource.setrlimit(resource.RLIMIT_NOFILE, (base + free, hard))
    try:
        result = box.run(["echo", "fine"])
        break
    except PycontainError as error:
        assert "descriptor" in str(error) or "open files" in str(error), error
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
assert result.text == "fine\\n", result
assert free > 3, free
from pycontain.cgroups import detect
from pycontain.runtimes.drivers import cgroup_driver
assert cgroup_driver().controllers == detect().controllers
box.run(["true"])
before = len(os.listdir("/proc/self/fd"))
box.run(["true"])
assert len(os.listdir("/proc/self/fd")) == before < 20
"""


def test_a_user_without_privileges_is_told_what_helps(busybox_root: Path, root_user: None) -> None:
    done = programs.run(UNPRIVILEGED, busybox_root, as_nobody=True)
    assert "root" in done.stdout
    assert "user namespace" in done.stdout


UNPRIVILEGED = """
import os, sys
os.environ.pop("XDG_RUNTIME_DIR", None)
from pycontain import Container, PycontainError
for attempt in range(2):
    for container in (Container.from_rootfs(sys.argv[1]), Container.from_host()):
        try:
            container.run(["true"])
        except PycontainError as error:
            assert error.remedy, error
            print(type(error).__name__, error)
        else:
            raise AssertionError("it ran")
children = open(f"/proc/self/task/{os.getpid()}/children").read()
assert not children, children
"""


def test_a_run_directory_that_others_can_write_to_is_refused(
    busybox_root: Path, tmp_path: Path, root_user: None
) -> None:
    tmp_path.chmod(0o755)
    for mode in (0o755, 0o777):
        directory = tmp_path / f"runtime-{mode:o}"
        (directory / "pycontain").mkdir(parents=True)
        (directory / "pycontain").chmod(mode)
        os.chown(directory, 65534, 65534)
        os.chown(directory / "pycontain", 65534, 65534)
        done = programs.run(RUN_DIRECTORY, busybox_root, directory, as_nobody=True)
        assert "mode 0700" in done.stdout


RUN_DIRECTORY = """
import os, sys
os.environ["XDG_RUNTIME_DIR"] = sys.argv[2]
from pycontain import Container, NotSupported
try:
    Container.from_rootfs(sys.argv[1]).with_userns().run(["true"])
except NotSupported as error:
    print(error)
"""


def test_a_failed_start_leaves_the_next_one_unharmed(box: Container) -> None:
    for _ in range(50):
        with pytest.raises(CommandNotFound):
            box.run(["no-such-command"])
        with pytest.raises(StartFailed):
            box.with_workdir("/no/such/directory").run(["true"])
    assert box.run(["echo", "fine"]).text == "fine\n"


def test_every_error_is_one_of_ours_and_names_the_step(box: Container) -> None:
    with pytest.raises(StartFailed) as failure:
        box.with_workdir("/no/such/directory").run(["true"])
    error = failure.value
    assert isinstance(error, PycontainError)
    assert error.step is not None
    assert "chdir" in error.step
    assert error.syscall
    assert error.errno == errno.ENOENT


