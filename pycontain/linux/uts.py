"""The names that a uts namespace holds: host name and (NIS) domain name."""

from __future__ import annotations

from pycontain._native._core import lib
from pycontain.linux.syscalls import check, encode


def sethostname(name: str) -> None:
    """Sets the host name of the calling thread's uts namespace: at most 64 bytes; see sethostname(2)."""
    encoded = encode(name)
    check(lib.pc_sethostname(encoded, len(encoded)), "sethostname", name)


def setdomainname(name: str) -> None:
    """Sets the NIS domain name of the calling thread's uts namespace: at most 64 bytes; see setdomainname(2)."""
    encoded = encode(name)
    check(lib.pc_setdomainname(encoded, len(encoded)), "setdomainname", name)
