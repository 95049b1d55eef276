"""What the benchmarks share: a workspace that leaves nothing behind, subjects driven in lock step, and tables.

A subject is a process that answers a line with a count by a line with the nanoseconds of so many starts. All subjects
wait idle while one is measured, so they can be interleaved start by start and share the machine's noise.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from pycontain import defaults
from pycontain.cgroups.device_bpf import program
from pycontain.cgroups.devices import read_rules, with_defaults
from pycontain.linux.seccomp import default_filter

HERE = Path(__file__).parent
CGROUPS = Path("/sys/fs/cgroup")
MEMORY_LIMIT = 256 * 2**20
PIDS_LIMIT = 64
CAPABILITIES = list(defaults.CAPABILITIES)  # also in floor.c
APPLETS = ("true", "sh", "cat", "ls", "sleep", "grep", "readlink", "wc", "hostname")
# A program without libc: what is left of a start when the program itself costs nothing. The start of libc executes
# about 30 CPUID instructions, which a hypervisor traps: half a millisecond in some virtual machines.
EXIT_PROGRAM = 'void _start(void) { __asm__ volatile("mov $60, %eax; xor %edi, %edi; syscall"); }'


class UnavailableError(Exception):
    """A subject that this machine cannot run; the text is the reason."""


class Workspace:
    """A temporary directory with the compiled floor, the busybox root, the seccomp filter and the device program.

    `base/root` is the root, `base/run` an empty directory for mounting, `base/devices` the program. `cgroup` is the
    name of the parent cgroup that every subject uses, in all hierarchies; leaving the workspace removes it with all
    that is below.
    """

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="pycontain-bench-"))
        self.root = self.base / "root"
        self.cgroup = f"pycontain-bench-{os.getpid()}"
        self.floor = HERE / "build" / "floor"
        self.filter = self.base / "filter"

    def __enter__(self) -> Workspace:
        try:
            compile_c(HERE / "floor.c", self.floor)
            (self.base / "run").mkdir()
            make_root(self.root)
            self.filter.write_bytes(default_filter())
            devices = program(read_rules(with_defaults(())))
            (self.base / "devices").write_bytes(b"".join(instruction.encode() for instruction in devices))
        except BaseException:
            shutil.rmtree(self.base)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for hierarchy in (CGROUPS, *sorted(CGROUPS.iterdir())):
            remove_cgroup(hierarchy / self.cgroup)
        shutil.rmtree(self.base)


class Subject:
    """A process that starts something on demand and says how long each start took.

    Raises UnavailableError, with the last line of its standard error, when the first start fails.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by close)
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True)
        self.times(1)

    def times(self, count: int, ballast_mib: int = 0) -> list[int]:
        """Nanoseconds of each of `count` starts; a Python subject first touches `ballast_mib` of memory."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        answer = ""
        try:
            self._process.stdin.write(f"{count} {ballast_mib}\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            pass
        if not answer:
            self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines()
            raise UnavailableError(lines[-1] if lines else f"ended with status {self._process.returncode}")
        return [int(word) for word in answer.split()]

    def close(self) -> None:
        """End of input is the order to clean up and end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def compile_c(source: Path, target: Path, *options: str) -> None:
    target.parent.mkdir(exist_ok=True)
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", *options, "-o", target, source], check=True)


def make_root(root: Path) -> None:
    """A root of one static busybox, with every directory on which a subject mounts something."""
    for name in ("bin", "dev", "etc", "proc", "run", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise SystemExit("busybox is missing: apt-get install busybox-static")
    shutil.copy(busybox, root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    source = root.parent / "exit.c"
    source.write_text(EXIT_PROGRAM)
    compile_c(source, root / "bin/exit", "-static", "-nostdlib")


def remove_cgroup(cgroup: Path) -> None:
    """Removes a cgroup and those below it; that no process is in them any more is what a benchmark has to reach."""
    if cgroup.is_dir():
        for below in cgroup.iterdir():
            if below.is_dir():
                remove_cgroup(below)
        cgroup.rmdir()


def median_us(nanoseconds: Iterable[int]) -> float:
    return statistics.median(nanoseconds) / 1000


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> dict[str, str]:
    """What the figures depend on."""
    processors = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in processors if line.startswith("model name")]
    return {
        "kernel": platform.release(),
        "processor": f"{len(models)} x {models[0] if models else platform.machine()}",
        "python": platform.python_version(),
        "cgroups": "v2" if (CGROUPS / "cgroup.controllers").exists() else "v1",
    }
