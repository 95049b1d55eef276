"""The C core as it is compiled: what the child of a start may run, other architectures, and damaged plans."""

from __future__ import annotations

import os
import shlex
import shutil
import struct
import subprocess
import sysconfig
from pathlib import Path

import pytest

from pycontain import Container
from pycontain.linux.plan import Plan, encode_command

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parents[1] / "pycontain" / "_native"
COMPILER = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
ARM64 = "aarch64-linux-gnu-gcc"
HELPER = (str(NATIVE / "helper.c"), str(NATIVE / "plan.c"))
WARNINGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wno-sign-conversion", "-I", str(NATIVE))
FREESTANDING = ("-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FUZZER = (str(HERE / "fuzz_plan.c"), str(NATIVE / "plan.c"), "-DPC_FAKE_SYSCALLS", "-g", "-O1", *WARNINGS)
DAMAGED_PLANS = 200_000
CHILD_STACK = 65536  # STACK_SIZE in spawn.c


def compiles(compiler: str, target: Path, *arguments: str) -> Path:
    """Compiles `target`; skips the test where the compiler is not there."""
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no compiler {compiler}")
    subprocess.run([compiler, *arguments, "-o", str(target)], check=True)
    return target


def output_of(*command: str | Path) -> str:
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.mark.parametrize("optimisation", ["-O0", "-O1", "-O2", "-O3", "-Os"])
def test_the_executor_calls_nothing_but_the_kernel(tmp_path: Path, optimisation: str) -> None:
    """A call of libc between clone and exec could take a lock, or run the dynamic linker, in the memory of Python."""
    target = compiles(COMPILER, tmp_path / "plan.o", str(NATIVE / "plan.c"), "-c", "-fPIC", optimisation, *WARNINGS)
    undefined = [line.split()[-1] for line in output_of("nm", "-u", target).splitlines()]
    assert [name for name in undefined if name not in ("_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail")] == []


@pytest.mark.parametrize("optimisation", ["-O0", "-O2", "-Os"])
def test_all_functions_of_the_executor_together_fit_into_half_of_its_stack(tmp_path: Path, optimisation: str) -> None:
    """None calls itself, so that their sum is a bound of the depth."""
    target = tmp_path / "plan.o"
    compiles(COMPILER, target, str(NATIVE / "plan.c"), "-c", "-fPIC", "-fstack-usage", optimisation, *WARNINGS)
    usage = [line.split("\t") for line in target.with_suffix(".su").read_text().splitlines()]
    assert all(kind in ("static", "dynamic,bounded") for _, _, kind in usage)
    assert 4096 < sum(int(size) for _, size, _ in usage) < CHILD_STACK // 2


@pytest.mark.parametrize("optimisation", ["-O0", "-O2", "-Os"])
def test_the_core_compiles_for_arm64(tmp_path: Path, optimisation: str) -> None:
    helper = compiles(ARM64, tmp_path / "helper", *HELPER, *WARNINGS, *FREESTANDING, optimisation)
    include = f'-DPC_HELPER_PATH="{helper}"'
    compiles(ARM64, tmp_path / "spawn.o", str(NATIVE / "spawn.c"), "-c", "-fPIC", include, *WARNINGS, optimisation)


@pytest.mark.parametrize(
    ("candidate", "reports", "status"),
    [
        ("/bin/sh", [(1, 0, 0, 0), (3, 0, 7 << 8, 0)], 7),
        ("/nonexistent/sh", [(2, 2, -1, 221)], 127),  # ENOENT, no candidate, execve's number on arm64
    ],
)
def test_the_init_of_arm64_runs_a_command(
    tmp_path: Path, candidate: str, reports: list[tuple[int, ...]], status: int
) -> None:
    emulator = shutil.which("qemu-aarch64")
    if emulator is None:
        pytest.skip("there is no qemu-aarch64 to run it with")
    helper = compiles(ARM64, tmp_path / "helper", *HELPER, *WARNINGS, *FREESTANDING)
    ours, theirs = os.pipe()
    with open(ours, "rb") as report:
        argv = [emulator, "-0", "pycontain-init", str(helper), str(theirs), "1", candidate, "sh", "-c", "exit 7"]
        process = subprocess.Popen(argv, pass_fds=[theirs])
        os.close(theirs)
        assert list(struct.iter_unpack("=iiii", report.read())) == reports
        assert process.wait() == status


def plans(root: Path) -> list[Plan]:
    """Plans that together have most operations."""
    box = Container.from_rootfs(root)
    user = box.with_user("1000:1000").with_workdir("/tmp").with_bind("/", "/host").with_tmpfs("/a/b/c")
    return [box.plan(), box.with_init().plan(), user.plan(), Container.from_host().plan()]


@pytest.fixture
def inputs(busybox_root: Path, tmp_path: Path) -> list[str]:
    """Files for fuzz_plan.c."""
    command = encode_command([b"sh", b"-c", b"true"], [b"PATH=/bin", b"A="], [b"/bin/sh", b"/usr/bin/sh"])
    paths = []
    for number, plan in enumerate(plans(busybox_root)):
        path = tmp_path / f"plan{number}"
        path.write_bytes(struct.pack("=I", len(plan.encoded)) + plan.encoded + command)
        paths.append(str(path))
    return paths


def test_damaged_plans_are_refused_or_executed_without_a_memory_error(inputs: list[str], tmp_path: Path) -> None:
    fuzzer = compiles(COMPILER, tmp_path / "fuzz_plan", *FUZZER, *SANITIZERS)
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    result = subprocess.run(
        [str(fuzzer), "-n", str(DAMAGED_PLANS), *inputs], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    assert result.returncode == 0, result.stdout
    print(result.stdout)


def test_the_fuzzer_is_a_target_for_libfuzzer(inputs: list[str], tmp_path: Path) -> None:
    clang = shutil.which("clang")
    if clang is None or not list(Path(output_of(clang, "-print-runtime-dir").strip()).glob("*fuzzer-*")):
        pytest.skip("there is no clang with libFuzzer")
    sanitizers = "-fsanitize=fuzzer,address,undefined"
    fuzzer = compiles(clang, tmp_path / "fuzz_plan", *FUZZER, "-DPC_LIBFUZZER", sanitizers)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for path in inputs:
        shutil.move(path, corpus)
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    result = subprocess.run(
        [str(fuzzer), "-runs=2000", f"-artifact_prefix={tmp_path}/", str(corpus)], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    assert result.returncode == 0, result.stdout
