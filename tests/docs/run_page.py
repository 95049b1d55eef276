"""Executes the examples of one page and compares what they print with what the page shows.

python run_page.py PAGE, in a mount namespace of its own, where the test has made /srv/busybox, /srv/data and /srv/out.

- `python`: executed, all blocks of a page in one namespace; a `text` block right after it is what it prints.
- `pycon`: an interactive session, as doctest knows it, in the same namespace.
- `console`: lines that begin with `$ ` are given to a shell, the others are what it prints.
- all other languages (`sh` for what changes the machine) are text.

`...` stands for anything, and figures that were measured may differ.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
import traceback
from pathlib import Path

from attrs import frozen

FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
# seconds, times, sizes, the numbers of processes and of the lines of a plan
MEASURED = re.compile(r"\d+\.\d+|\d+(?= (?:ms|s|MiB|KiB|bytes)\b)|(?<=pid )\d+|^ *\d+(?=  \S)", re.MULTILINE)
FLAGS = doctest.ELLIPSIS


@frozen
class Block:
    """One fenced block of a page; `line` is that of its first line."""

    language: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [
        Block(match["language"].strip(), match["text"], page.count("\n", 0, match.start("text")) + 1)
        for match in FENCE.finditer(page)
    ]


class Checker(doctest.OutputChecker):
    """Compares without the figures that no two runs have in common."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        want, got = (MEASURED.sub("#", text) for text in (want, got))
        return super().check_output(want, got, optionflags)


class Page:
    """The state that the examples of a page share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.namespace: dict[str, object] = {"__name__": "__main__"}
        self.failures: list[str] = []

    def run(self) -> None:
        found = blocks(self.path.read_text())
        for block, following in zip(found, [*found[1:], None], strict=True):
            if block.language == "python":
                self._python(block, following.text if following and following.language == "text" else "")
            elif block.language == "pycon":
                self._session(block)
            elif block.language == "console":
                self._console(block)

    def _python(self, block: Block, want: str) -> None:
        printed = io.StringIO()
        source = "\n" * (block.line - 1) + block.text
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(source, str(self.path), "exec"), self.namespace)
        except BaseException:
            self._fail(block, traceback.format_exc())
        self._compare(block, want, printed.getvalue())

    def _session(self, block: Block) -> None:
        name = f"{self.path.name}, line {block.line}"
        test = doctest.DocTestParser().get_doctest(block.text, self.namespace, name, str(self.path), block.line - 1)
        report = io.StringIO()
        runner = doctest.DocTestRunner(Checker(), optionflags=FLAGS)
        runner.run(test, out=report.write, clear_globs=False)
        self.namespace.update(test.globs)
        if runner.failures:
            self.failures.append(report.getvalue())

    def _console(self, block: Block) -> None:
        commands: list[str] = []
        wanted: list[str] = []
        for line in block.text.splitlines():
            if line.startswith("$ "):
                commands.append(line[2:])
                wanted.append("")
            else:
                wanted[-1] += line + "\n"
        # each command leaves its status for the next one's `$?`
        mark = "status=$?; printf '\\0'; (exit $status)"
        main = f"{shlex.quote(sys.executable)} -m pycontain"
        function = f'pycontain() {{ {main} "$@"; }}'
        script = "\n".join([function, *(f"{command}\n{mark}" for command in commands)])
        done = subprocess.run(
            ["bash", "-c", script],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
        )
        printed = done.stdout.decode().split("\0")
        for command, want, got in zip(commands, wanted, printed, strict=False):
            self._compare(block, want, got, f"$ {command}\n")

    def _compare(self, block: Block, want: str, got: str, what: str = "") -> None:
        if not Checker().check_output(want, got, FLAGS):
            self._fail(block, f"{what}The page shows:\n{want}\nIt printed:\n{got}")

    def _fail(self, block: Block, text: str) -> None:
        self.failures.append(f"{self.path}, line {block.line}\n{text}")


def main() -> None:
    page = Page(Path(sys.argv[1]))
    os.chdir("/srv")
    page.run()
    if page.failures:
        sys.exit("\n".join(page.failures))


if __name__ == "__main__":
    main()
