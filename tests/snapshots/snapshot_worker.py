"""A process that uses a store until it is killed: `python snapshot_worker.py WHAT NAME DIRECTORY DATABASE`.

It writes a line when it begins, and one for each snapshot that it has committed, with the name."""

from __future__ import annotations

import os
import sys
import time

from pycontain.metadata import Database
from pycontain.snapshots.choose import snapshotter
from pycontain.snapshots.recorded import RecordedSnapshotter

FILES = 20


def fill(snapshots: RecordedSnapshotter, key: str, name: str) -> None:
    with snapshots.changes_directory(key) as fd:
        for number in range(FILES):
            with open(os.open(f"{name}-{number}", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd), "w") as file:
                file.write(name)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def work(snapshots: RecordedSnapshotter) -> None:
    """Makes chains of three layers, a container and a view upon them, and removes all but the first layer again."""
    for turn in range(10_000):
        parent = None
        mine = f"{os.getpid()}.{turn}"
        names = [f"{mine}.{level}" for level in range(3)]
        for name in names:
            snapshots.prepare(f"making {name}", parent)
            fill(snapshots, f"making {name}", name)
            snapshots.commit(name, f"making {name}")
            say(name)
            parent = name
        snapshots.prepare(f"{mine} box", parent)
        fill(snapshots, f"{mine} box", "box")
        snapshots.view(f"{mine} view", names[-1])
        for key in (f"{mine} box", f"{mine} view", *reversed(names[1:])):
            snapshots.remove(key)


def hold(snapshots: RecordedSnapshotter) -> None:
    """Has a container and a view."""
    snapshots.prepare("box", "base")
    fill(snapshots, "box", "box")
    snapshots.view("view", "base")
    say("holding")
    time.sleep(60)


def main() -> None:
    what, name, directory, database = sys.argv[1:]
    snapshots = snapshotter(name, directory, Database(database))
    say("begun")
    {"work": work, "hold": hold}[what](snapshots)


if __name__ == "__main__":
    main()
