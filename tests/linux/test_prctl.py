"""Attributes of a process are set in a process of its own, and seen in /proc."""

from __future__ import annotations

from isolated import needs_root, run_python

IMPORTS = """
import os, signal
from pycontain.linux.prctl import *
def status(name):
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith(name + ":"))
"""


def test_an_orphan_goes_to_the_subreaper() -> None:
    code = """
assert not get_child_subreaper()
set_child_subreaper(True)
assert get_child_subreaper()
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    if os.fork() == 0:
        os.read(reader, 1)
        os._exit(5)
    os._exit(0)
os.waitpid(child, 0)
os.write(writer, b"x")
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert run_python(IMPORTS + code) == "5"


def test_a_process_that_is_not_dumpable_says_so() -> None:
    assert run_python(IMPORTS + "a = get_dumpable(); set_dumpable(False); print(a, get_dumpable())") == "True False"


def test_no_new_privs_is_seen_by_the_kernel() -> None:
    code = "a = get_no_new_privs(); set_no_new_privs(); print(a, get_no_new_privs(), status('NoNewPrivs'))"
    assert run_python(IMPORTS + code) == "False True 1"


def test_the_death_of_the_parent_is_signalled() -> None:
    code = """
ready, ready_end = os.pipe()
alive, alive_end = os.pipe()
parent = os.fork()
if parent == 0:
    if os.fork() == 0:
        os.close(alive)
        set_pdeathsig(signal.SIGKILL)
        os.write(ready_end, b"x")
        signal.pause()
    os.close(alive_end)
    os.read(ready, 1)
    os._exit(0)
os.close(alive_end)
os.waitpid(parent, 0)
print(os.read(alive, 1))
"""
    assert run_python(IMPORTS + code) == "b''"


@needs_root
def test_securebits_are_set() -> None:
    code = "set_securebits(SecureBit.NOROOT | SecureBit.NO_SETUID_FIXUP); print(int(get_securebits()))"
    assert run_python(IMPORTS + code) == "5"


def test_a_new_session_keyring_replaces_the_old_one() -> None:
    code = """
first = join_session_keyring()
second = join_session_keyring()
print(first != second and first > 0 and second > 0)
"""
    assert run_python(IMPORTS + code) == "True"
