"""What the systemd driver does while the bus is away. Each test in a process of its own: that of the tests has a
connection too, which it would notice to be another one afterwards. The last file of its folder for the same reason."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.serial,
    pytest.mark.skipif(not os.path.isdir("/run/systemd/system"), reason="this machine does not run systemd"),
    pytest.mark.skipif(os.geteuid() != 0, reason="restarting the system bus needs root"),
]

RESTART = """
import os, subprocess, sys, time
from pycontain.cgroups import detect
from pycontain.errors import PycontainError

def systemctl(*arguments):
    subprocess.run(["systemctl", *arguments], check=True)

def await_bus():
    deadline = time.monotonic() + 60
    while True:
        try:
            return driver.names()
        except PycontainError as error:
            assert error.remedy and time.monotonic() < deadline, error
            time.sleep(0.05)

driver, name = detect("systemd"), sys.argv[1]
group = driver.create(name, None)
"""


def run_python(program, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, timeout=180,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_bus_may_be_restarted_in_the_middle():
    run_python(RESTART + """
systemctl("restart", "dbus.service")
assert name in await_bus()
group.remove()
assert name not in driver.names()
driver.create(name, None).remove()
""", f"test-{os.getpid()}-restart")


def test_a_group_is_removed_while_there_is_no_bus():
    output = run_python(RESTART + """
systemctl("stop", "dbus.socket", "dbus.service")
try:
    try:
        driver.create(name + "-other", None)
    except PycontainError as error:
        print(type(error).__name__, error)
    group.remove()
    assert not any(map(os.path.exists, group.scope.paths))
finally:
    systemctl("start", "dbus.socket", "dbus.service")
await_bus()
""", f"test-{os.getpid()}-stop")
    assert "Start the D-Bus daemon, or use driver cgroupfs" in output
