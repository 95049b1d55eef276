"""Full-screen programs in a real terminal emulator, looked at as a person would."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commandline import COMMAND, environment, marker

PATIENCE = 30.0  # seconds; only a test that fails takes so long


class Pane:
    """The one pane of a tmux server of our own, with a shell in it."""

    def __init__(self) -> None:
        self._server = marker()
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "sh")

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-L", self._server, *words]
        return subprocess.run(command, env=environment(PS1="$ "), check=True, capture_output=True, text=True).stdout

    def command(self, *args: object) -> None:
        """Types `pycontain ARGS`, and what shows its exit status afterwards."""
        self.type(f"clear; {shlex.join([*COMMAND, *map(str, args)])}; echo status: $?\n")

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def key(self, name: str) -> None:
        self._tmux("send-keys", name)

    def resize(self, rows: int, columns: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def lines(self) -> list[str]:
        return self._tmux("capture-pane", "-p").splitlines()

    def wait(self, condition: Callable[[list[str]], bool]) -> list[str]:
        """The lines of the screen, once they are as they should be."""
        deadline = time.monotonic() + PATIENCE
        while not condition(lines := self.lines()):
            assert time.monotonic() < deadline, "\n".join(lines)
            time.sleep(0.02)
        return lines

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.fixture
def pane() -> Iterator[Pane]:
    if shutil.which("tmux") is None:
        pytest.skip("there is no tmux")
    pane = Pane()
    yield pane
    pane.close()


def test_an_editor_fills_the_screen_and_follows_its_size(pane: Pane, busybox_root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one\ntwo\n")
    pane.command("run", "-it", "--rootfs", busybox_root, "-v", f"{tmp_path}:/data", "vi", "/data/file")
    lines = pane.wait(lambda lines: lines[-1].startswith("- /data/file"))
    assert lines[:3] == ["one", "two", "~"]
    assert len(lines) == 24
    pane.resize(12, 60)
    pane.wait(lambda lines: len(lines) == 12 and lines[-1].startswith("- /data/file"))
    pane.type("ihello ")
    pane.key("Escape")
    pane.wait(lambda lines: lines[0] == "hello one" and lines[-1].startswith("- /data/file"))
    pane.type(":wq\n")
    pane.wait(lambda lines: "status: 0" in lines)
    assert (tmp_path / "file").read_text() == "hello one\ntwo\n"


def test_top_shows_the_processes_of_the_container_only(pane: Pane, busybox_root: Path) -> None:
    pane.command("run", "-it", "--rootfs", busybox_root, "top")
    lines = pane.wait(lambda lines: any("COMMAND" in line for line in lines))
    after = [line for line in lines[next(i for i, line in enumerate(lines) if "COMMAND" in line) + 1 :] if line.strip()]
    assert [line.split()[-1] for line in after] == ["top"]
    pane.type("q")
    pane.wait(lambda lines: "status: 0" in lines)


def test_the_shell_of_the_caller_works_as_before_afterwards(pane: Pane, busybox_root: Path) -> None:
    pane.command("run", "-it", "--rootfs", busybox_root, "sh", "-c", "stty raw -echo; exit 3")
    pane.wait(lambda lines: "status: 3" in lines)
    pane.type("clear; echo on''e; sleep 100; echo tw''o\n")
    pane.wait(lambda lines: lines[0] == "one")
    pane.key("C-c")
    pane.type("echo thr''ee\n")
    lines = pane.wait(lambda lines: any("three" in line for line in lines))  # maybe after a prompt that came late
    assert "two" not in lines
    assert any("echo thr''ee" in line for line in lines)
