"""Creates one entry, or many small files, in an open directory: the typed side of pycontain/_native/layers.c.

Whatever has the name makes way, but for a directory: that is `IsADirectoryError`. Nothing is ever followed.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from pycontain._native._core import ffi, lib

_NS = 1_000_000_000


class Attributes(NamedTuple):
    """Of an entry; for devices and fifos the mode has the type."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int


class Creator:
    """Creates entries, with their owners when the user may give files away. Not for several threads at once."""

    def __init__(self) -> None:
        self._outcome: Any = ffi.new("struct pc_outcome *")
        self._attributes: Any = ffi.new("struct pc_attributes *")
        self._attributes.keep_owner = os.geteuid() == 0
        self._files: Any = ffi.new("struct pc_files *")
        self._files.keep_owner = self._attributes.keep_owner

    def file(self, parent: int, name: bytes, attributes: Attributes, data: bytes) -> None:
        """A regular file with all its data."""
        self._call(lib.pc_create_file, parent, name, self._filled(attributes), data, len(data))

    def open_file(self, parent: int, name: bytes) -> int:
        """An empty regular file, whose attributes are set by `set_attributes` when it has its data."""
        return self._call(lib.pc_open_new, parent, name)

    def symlink(self, parent: int, name: bytes, attributes: Attributes, target: bytes) -> None:
        self._call(lib.pc_create_symlink, parent, name, self._filled(attributes), target)

    def hard_link(self, parent: int, name: bytes, target_parent: int, target: bytes) -> None:
        self._call(lib.pc_create_link, parent, name, target_parent, target)

    def node(self, parent: int, name: bytes, attributes: Attributes, major: int, minor: int) -> None:
        """A device or a fifo."""
        self._call(lib.pc_create_node, parent, name, self._filled(attributes), major, minor)

    def directory(self, parent: int, name: bytes) -> tuple[int, bool]:
        """The descriptor of a directory, and whether it was there; its attributes are set by `set_attributes`."""
        fd = self._call(lib.pc_open_directory, parent, name)
        return fd, bool(self._outcome.existed)

    def set_attributes(self, fd: int, attributes: Attributes) -> None:
        """Owner, mode and times, in this order, as a change of the owner clears set-user-ID."""
        self._call(lib.pc_set_attributes, fd, self._filled(attributes))

    def plain_files(
        self, parent: int, prefix: bytes, tar: memoryview, most: int, names: bytearray | None
    ) -> tuple[int, int, int]:
        """Creates the files with which `tar` begins, as long as nothing about them needs thought: they are new, have
        all their data there, and are named `prefix` and one more component. At most `most`.

        Their names are written to `names`, with a NUL after each, and no more files are made than it has room for; it
        is cut to what was used. Returns how many bytes were used, how many files they were, and the size of their data.
        """
        files = self._files
        files.prefix, files.prefix_length, files.most = (kept := ffi.from_buffer(prefix)), len(prefix), most
        room = None if names is None else ffi.from_buffer(names, require_writable=True)
        files.names, files.names_size = ffi.NULL if room is None else room, 0 if names is None else len(names)
        used: int = lib.pc_create_files(parent, ffi.from_buffer(tar), len(tar), files)
        if names is not None:
            ffi.release(room)
            del names[files.names_used :]
        del kept
        return used, files.count, files.bytes

    def _filled(self, attributes: Attributes) -> Any:
        filled = self._attributes
        filled.mode, filled.uid, filled.gid, _ = attributes
        filled.seconds, filled.nanoseconds = divmod(attributes.mtime_ns, _NS)
        return filled

    def _call(self, function: Any, *arguments: Any) -> int:
        result: int = function(*arguments, self._outcome)
        if result < 0:
            raise OSError(-result, f"{ffi.string(self._outcome.call).decode()}: {os.strerror(-result)}")
        return result
