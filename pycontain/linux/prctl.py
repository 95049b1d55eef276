"""Attributes of the calling thread or process that prctl(2) and keyctl(2) set."""

from __future__ import annotations

import enum

from pycontain._native._core import ffi, lib
from pycontain.linux.syscalls import check, encode

# linux/prctl.h
_SET_PDEATHSIG = 1
_GET_DUMPABLE = 3
_SET_DUMPABLE = 4
_GET_SECUREBITS = 27
_SET_SECUREBITS = 28
_SET_CHILD_SUBREAPER = 36
_GET_CHILD_SUBREAPER = 37
_SET_NO_NEW_PRIVS = 38
_GET_NO_NEW_PRIVS = 39


class SecureBit(enum.IntFlag):
    """The securebits of capabilities(7); a `*_LOCKED` bit makes its neighbour unchangeable."""

    NOROOT = 1 << 0
    NOROOT_LOCKED = 1 << 1
    NO_SETUID_FIXUP = 1 << 2
    NO_SETUID_FIXUP_LOCKED = 1 << 3
    KEEP_CAPS = 1 << 4
    KEEP_CAPS_LOCKED = 1 << 5
    NO_CAP_AMBIENT_RAISE = 1 << 6
    NO_CAP_AMBIENT_RAISE_LOCKED = 1 << 7


def set_child_subreaper(enabled: bool) -> None:
    """Makes the process (all its threads) the parent of orphaned descendants, in place of init."""
    _prctl("PR_SET_CHILD_SUBREAPER", _SET_CHILD_SUBREAPER, enabled)


def get_child_subreaper() -> bool:
    value = ffi.new("int *")
    _prctl("PR_GET_CHILD_SUBREAPER", _GET_CHILD_SUBREAPER, int(ffi.cast("uintptr_t", value)))
    return bool(value[0])


def set_dumpable(enabled: bool) -> None:
    """False: no core dumps, and /proc/PID is closed to other processes of the same user. Reset by exec."""
    _prctl("PR_SET_DUMPABLE", _SET_DUMPABLE, enabled)


def get_dumpable() -> bool:
    return _prctl("PR_GET_DUMPABLE", _GET_DUMPABLE) == 1


def set_pdeathsig(signal: int) -> None:
    """The signal that the calling process gets when the *thread* that started it ends; 0 for none."""
    _prctl("PR_SET_PDEATHSIG", _SET_PDEATHSIG, signal)


def set_no_new_privs() -> None:
    """exec gives the calling thread no more privileges (set-user-id, file capabilities). Cannot be taken back."""
    _prctl("PR_SET_NO_NEW_PRIVS", _SET_NO_NEW_PRIVS, 1)


def get_no_new_privs() -> bool:
    return bool(_prctl("PR_GET_NO_NEW_PRIVS", _GET_NO_NEW_PRIVS))


def set_securebits(bits: SecureBit) -> None:
    """Sets the securebits of the calling thread. Needs CAP_SETPCAP."""
    _prctl("PR_SET_SECUREBITS", _SET_SECUREBITS, bits)


def get_securebits() -> SecureBit:
    return SecureBit(_prctl("PR_GET_SECUREBITS", _GET_SECUREBITS))


def join_session_keyring(name: str | None = None) -> int:
    """Gives the calling thread the session keyring `name`, a new one without name for None. Returns its serial number.

    See keyctl_join_session_keyring(3). A container must not see the keys of who started it.
    """
    return check(
        lib.pc_join_session_keyring(ffi.NULL if name is None else encode(name)), "keyctl", "JOIN_SESSION_KEYRING", name
    )


def _prctl(name: str, option: int, argument: int = 0) -> int:
    return check(lib.pc_prctl(option, argument, 0, 0, 0), "prctl", name, argument)
