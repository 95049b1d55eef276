"""`pycontain doctor`: for people, and for programs."""

from __future__ import annotations

import json

from commandline import run_cli

import pycontain


def test_the_doctor_says_in_lines_what_the_library_found() -> None:
    report = pycontain.doctor()
    done = run_cli("doctor")
    assert done.returncode == (0 if report.ok else 1)
    assert done.stderr == b""
    lines = done.stdout.decode().splitlines()
    for finding in report.findings:
        assert any(line.startswith(f"{finding.name} ") and f" {finding.state} " in f"{line} " for line in lines)


def test_the_doctor_gives_json_to_programs() -> None:
    done = run_cli("doctor", "--json")
    document = json.loads(done.stdout)
    report = pycontain.doctor()
    assert document["ok"] is report.ok
    assert done.returncode == (0 if report.ok else 1)
    assert [finding["name"] for finding in document["findings"]] == [finding.name for finding in report.findings]
