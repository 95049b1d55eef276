"""CPU time that `import pycontain` adds to bare Python, and the modules that it goes to.

python benchmarks/import_time.py [--rounds 40]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from harness import markdown, median_us

BARE, IMPORT = "pass", "import pycontain"
# The public names may be loaded when they are first used: the second line says what a user of Container pays in all.
CASES = (BARE, IMPORT, "from pycontain import Container")
LONGEST = 15


def cpu_time(code: str) -> int:
    """Nanoseconds of user and system time of a new interpreter that runs `code`."""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"python -c {code!r} ended with status {os.waitstatus_to_exitcode(status)}")
    return round((usage.ru_utime + usage.ru_stime) * 1e9)


def slowest_modules(code: str) -> list[list[str]]:
    """[module, microseconds of its own, with what it imports], of those that bare Python does not import."""
    own: dict[str, tuple[int, int]] = {}
    for program in (code, BARE):
        run = [sys.executable, "-X", "importtime", "-c", program]
        for line in subprocess.run(run, check=True, capture_output=True, text=True).stderr.splitlines()[1:]:
            itself, total, module = (part.strip() for part in line.removeprefix("import time:").split("|"))
            if program == BARE:
                own.pop(module, None)
            else:
                own[module] = (int(itself), int(total))
    slowest = sorted(own.items(), key=lambda item: -item[1][0])[:LONGEST]
    return [[module, f"{itself:,}", f"{total:,}"] for module, (itself, total) in slowest]


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of importing pycontain.")
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    times: dict[str, list[int]] = {code: [] for code in CASES}
    for code in CASES:
        cpu_time(code)  # writes the byte code
    for _ in range(rounds):
        for code, samples in times.items():
            samples.append(cpu_time(code))
    bare = median_us(times[BARE])
    rows = [[code, f"{median_us(s) / 1000:.1f}", f"{(median_us(s) - bare) / 1000:.1f}"] for code, s in times.items()]
    print(markdown(["python -c", "CPU time, ms", "above bare Python, ms"], rows))
    print()
    print(markdown(["module", "itself, µs", "with its imports, µs"], slowest_modules(CASES[-1])))


if __name__ == "__main__":
    main()
