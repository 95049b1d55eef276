"""Whiteouts: how a layer says that something of the layers below is gone. See the OCI image specification, layer.md.

In a tar these are names (`.wh.NAME`, and `.wh..wh..opq` for all that a directory had). On disk they are what overlayfs
takes for it (the kernel's Documentation/filesystems/overlayfs.rst), or the removal itself.
"""

from __future__ import annotations

import enum

PREFIX = b".wh."
OPAQUE = b".wh..wh..opq"
AUFS_OWN = (b".wh..wh.aufs", b".wh..wh.orph", b".wh..wh.plnk")  # what AUFS keeps for itself at the top of a branch


class Whiteouts(enum.Enum):
    """What becomes of the whiteouts of a layer that is applied.

    OVERLAY: character devices 0:0, and `trusted.overlay.opaque`: for a directory that overlayfs mounts as a layer.
    OVERLAY_USER: the same with `user.overlay.opaque`, for mounts with `userxattr` in a user namespace.
    REMOVE: what they name is removed, for a directory that holds the tree of the layers below.
    """

    OVERLAY = "trusted.overlay."
    OVERLAY_USER = "user.overlay."
    REMOVE = ""

    @property
    def opaque_xattr(self) -> str:
        """The extended attribute of an opaque directory."""
        return self.value + "opaque"
