"""Which signals reach a process."""

from __future__ import annotations

import os
import signal

import pytest

from pycontain import Container
from pycontain.linux.signals import would_arrive


@pytest.mark.parametrize(
    ("script", "handled", "ignored"),
    [("trap : TERM; ", True, True), ("trap '' TERM; ", False, True), ("", False, False)],
)
def test_process_1_gets_what_it_handles(box: Container, script: str, handled: bool, ignored: bool) -> None:
    read_end, write_end = os.pipe()
    command = ["sh", "-c", script + "echo ready; while :; do sleep 0.05; done"]
    with open(read_end, "rb") as output, box.start(command, stdout=write_end) as task:
        os.close(write_end)
        assert output.readline() == b"ready\n"
        assert would_arrive(task.pid, signal.SIGTERM) is handled
        assert would_arrive(task.pid, signal.SIGTERM, ignored=True) is ignored


def test_any_other_process_gets_all(box: Container) -> None:
    with box.with_namespace("pid", "host").start(["sleep", "60"]) as task:
        assert would_arrive(task.pid, signal.SIGTERM)
