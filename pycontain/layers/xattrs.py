"""Which extended attributes a layer carries: those of the files themselves, and not what concerns the host alone."""

from __future__ import annotations

import errno
import os

_CARRIED = (b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default")
_OVERLAY = (b"trusted.overlay.", b"user.overlay.")


def is_overlay(name: bytes) -> bool:
    """Whether overlayfs would act on this attribute: one that comes with a layer could show what other layers hide."""
    return name.startswith(_OVERLAY)


def is_carried(name: bytes) -> bool:
    """Whether it is applied, and written: `user.*`, ACLs and file capabilities. The labels and hashes of security
    modules belong to the host's policy, `trusted.*` to its administrator."""
    return name in _CARRIED or (name.startswith(b"user.") and not is_overlay(name))


def xattr_names(place: str | int, *, follow: bool = False) -> list[str]:
    """The names of all attributes; none when the file system knows no attributes."""
    try:
        return os.listxattr(place, follow_symlinks=follow or isinstance(place, int))
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise


def carried_xattrs(path: str, *, follow: bool = False) -> dict[bytes, bytes]:
    """The carried attributes of what is at a path, whose last component is not followed unless that is asked for."""
    return {
        name: os.getxattr(path, name, follow_symlinks=follow)
        for name in map(os.fsencode, xattr_names(path, follow=follow)) if is_carried(name)
    }
