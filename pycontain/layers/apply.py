"""Applies a layer to a directory: its entries are created, its whiteouts take effect. See the OCI's layer.md.

Nothing outside of the directory is touched, whatever the layer holds: a parent is resolved by openat2(2) within it, and
the last component is created anew, never followed. What an image has no business with is refused by `LayerError`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from attrs import frozen

from pycontain.layers import tar
from pycontain.layers.creating import Attributes, Creator
from pycontain.layers.deletions import Deletions, deletions
from pycontain.layers.directories import Directories
from pycontain.layers.pax import Malformed
from pycontain.layers.tar import Archive, Entry
from pycontain.layers.whiteouts import AUFS_OWN, OPAQUE, PREFIX, Whiteouts
from pycontain.layers.xattrs import carried_xattrs, is_carried, is_overlay
from pycontain.linux.trees import remove_tree

LARGEST_ID = 2**32 - 2  # 2^32-1 means "unchanged" to chown(2)
MOST_ENTRIES = 2_000_000  # of a layer; the largest images have some 500,000
MOST_BYTES = 2**40  # of all files, holes of sparse files included
LONGEST_PATH = 4000  # bytes; PATH_MAX is 4096, and paths begin with /proc/self/fd/N at times
LATEST = 2**40  # seconds; what a file system holds is less
SMALL = 1 << 18  # bytes of a file that is created by one call

_TYPES = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
# What the kernel answers when it is the layer that asks for the impossible, and not the machine that fails
_ITS_FAULT = frozenset((
    errno.ENAMETOOLONG, errno.ELOOP, errno.EXDEV, errno.EINVAL, errno.EEXIST, errno.EMLINK, errno.ENOTDIR, errno.EFBIG,
    errno.EOVERFLOW, errno.ERANGE, errno.E2BIG,
))


@frozen
class Applied:
    """What a layer was.

    Attributes:
        entries: how many it had.
        size: bytes of its files.
        implied: directories that it has no entry for, but entries in, and that were not there. They belong to root and
            have the mode 0755. When the layer was applied without those below it, and these have the same directories,
            `adopt` gives them the right attributes.
        skipped: what this user or file system cannot have, one sentence each: devices in a user namespace, attributes.
    """

    entries: int
    size: int
    implied: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


def apply_layer(read: Callable[[int], bytes], root: int, whiteouts: Whiteouts, *, name: str) -> Applied:
    """Applies an uncompressed tar to the directory `root`, a descriptor. The tar is read to its end.

    `read(n)` gives about n bytes, and none at the end. `name` is the layer's in errors. Nobody else may change the
    directory meanwhile. With `Whiteouts.REMOVE` the directory has the tree of the layers below; otherwise it is empty.
    Extended attributes other than `user.*`, ACLs and file capabilities are the host's business and left out.

    Raises:
        LayerError: the layer is broken, or hostile. What has been applied until then is there.
        OSError: the directory cannot be written, for example because the disk is full.
    """
    archive = Archive(read, name)
    applier = _Applier(root, whiteouts, archive)
    try:
        return applier.run()
    except Malformed as error:
        raise archive.refusal(str(error)) from None
    except OSError as error:
        if error.errno in _ITS_FAULT:
            raise archive.refusal(f"the kernel refuses it ({error.strerror})") from None
        raise
    finally:
        applier.close()


class _Applier:
    def __init__(self, root: int, whiteouts: Whiteouts, archive: Archive) -> None:
        self._root = root
        self._archive = archive
        self._creator = Creator()
        self._directories = Directories(root, self._creator, MOST_ENTRIES)
        self._deletions: Deletions = deletions(whiteouts, self._directories)
        self._entries = 0
        self._size = 0
        self._skipped: list[str] = []

    def run(self) -> Applied:
        for entry in self._archive:
            self._count(1, entry.size)
            path = _normal(entry.name)
            parent, _, name = path.rpartition(b"/")
            if not path:
                self._top(entry)
            elif name.startswith(PREFIX):
                self._whiteout(parent, name, entry.mtime_ns)
            elif not parent.startswith(AUFS_OWN):
                self._entry(entry, path, parent, name)
                if entry.type == tar.REGULAR:
                    self._more_files(entry.name[: entry.name.rfind(b"/") + 1])
        self._deletions.finish()
        self._directories.finish()
        implied = tuple(map(os.fsdecode, self._directories.implied))
        return Applied(self._entries, self._size, implied, tuple(self._skipped))

    def close(self) -> None:
        self._directories.close()

    def _count(self, entries: int, size: int) -> None:
        self._entries += entries
        self._size += size
        if self._entries > MOST_ENTRIES:
            raise Malformed(f"it is one of more than {MOST_ENTRIES} entries")
        if self._size > MOST_BYTES:
            raise Malformed(f"the files have more than {MOST_BYTES} bytes")

    # ---- entries

    def _top(self, entry: Entry) -> None:
        """The root directory itself."""
        if entry.type != tar.DIRECTORY:
            raise Malformed("the root can only be a directory")
        _check(entry)
        self._replace_xattrs(self._root, entry)
        self._directories.describe(b"", self._root, _attributes(entry))

    def _whiteout(self, parent: bytes, name: bytes, mtime_ns: int) -> None:
        if name in AUFS_OWN and not parent:
            return
        if name == OPAQUE:
            self._deletions.opaque(parent, mtime_ns)
            return
        target = name[len(PREFIX) :]
        if target in (b"", b".", b"..") or target.startswith(PREFIX):
            raise Malformed("a whiteout that names no entry")
        self._deletions.whiteout(parent, target, mtime_ns)

    def _entry(self, entry: Entry, path: bytes, parent_path: bytes, name: bytes) -> None:
        _check(entry)
        parent = self._directories.open(parent_path, entry.mtime_ns)
        try:
            self._create(entry, path, parent, name)
        except IsADirectoryError:  # one of a layer below, or of this one, makes way
            remove_tree(f"/proc/self/fd/{parent}/{os.fsdecode(name)}")
            self._create(entry, path, parent, name)
        self._deletions.made(self._directories.inode, name)

    def _create(self, entry: Entry, path: bytes, parent: int, name: bytes) -> None:
        if entry.type == tar.REGULAR:
            self._regular(entry, parent, name)
        elif entry.type == tar.DIRECTORY:
            self._directory(entry, path, parent, name)
        elif entry.type == tar.HARD_LINK:
            self._hard_link(entry, parent, name)
        elif entry.type == tar.SYMLINK:
            self._creator.symlink(parent, name, _attributes(entry), entry.link)
            self._set_xattrs(f"/proc/self/fd/{parent}/{os.fsdecode(name)}", entry)
        else:
            self._node(entry, parent, name)

    def _regular(self, entry: Entry, parent: int, name: bytes) -> None:
        if entry.stored <= SMALL and entry.segments is None and not entry.xattrs:
            self._creator.file(parent, name, _attributes(entry), self._archive.peek(entry.stored))
            return
        fd = self._creator.open_file(parent, name)
        try:
            _write(fd, entry, self._archive)
            self._creator.set_attributes(fd, _attributes(entry))
            self._set_xattrs(fd, entry)
        finally:
            os.close(fd)

    def _directory(self, entry: Entry, path: bytes, parent: int, name: bytes) -> None:
        fd, existed = self._creator.directory(parent, name)
        try:
            if existed:
                self._replace_xattrs(fd, entry)
            else:
                self._set_xattrs(fd, entry)
            self._directories.describe(path, fd, _attributes(entry))
        finally:
            os.close(fd)

    def _hard_link(self, entry: Entry, parent: int, name: bytes) -> None:
        target_parent_path, _, target = _normal(entry.link).rpartition(b"/")
        missing = f"it is a hard link to {os.fsdecode(entry.link)!r}, which is no file of the layers so far"
        with self._directories.other(target_parent_path) as target_parent:
            if not target or target_parent is None or target.startswith(PREFIX):
                raise Malformed(missing)
            try:
                info = os.stat(target, dir_fd=target_parent, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                raise Malformed(missing) from None
            if stat.S_ISDIR(info.st_mode):
                raise Malformed("it is a hard link to a directory")
            if _is_same(target_parent, target, parent, name):
                raise Malformed("it is a hard link to itself")
            self._creator.hard_link(parent, name, target_parent, target)

    def _node(self, entry: Entry, parent: int, name: bytes) -> None:
        attributes = _attributes(entry)._replace(mode=entry.mode | _TYPES[entry.type])
        try:
            self._creator.node(parent, name, attributes, entry.major, entry.minor)
        except PermissionError:
            if entry.type == tar.FIFO or not _in_user_namespace():
                raise
            self._skip(entry, "a device, which a user namespace cannot have")
            return
        self._set_xattrs(f"/proc/self/fd/{parent}/{os.fsdecode(name)}", entry)

    def _more_files(self, prefix: bytes) -> None:
        """The small files that follow in the same directory: the bulk of any layer."""
        parent, most, names = self._directories.last, MOST_ENTRIES - self._entries, self._deletions.room()

        def create(data: memoryview) -> tuple[int, int, int]:
            return self._creator.plain_files(parent, prefix, data, most, names)

        self._count(*self._archive.plain_files(create))
        if names:
            self._deletions.made(self._directories.inode, bytes(names))

    # ---- extended attributes

    def _replace_xattrs(self, directory: int, entry: Entry) -> None:
        """Of a directory that was there: the entry's instead of its own."""
        for name in carried_xattrs(f"/proc/self/fd/{directory}/"):
            os.removexattr(directory, name)
        self._set_xattrs(directory, entry)

    def _set_xattrs(self, place: int | str, entry: Entry) -> None:
        for name, value in entry.xattrs.items():
            if not is_carried(name):
                continue
            try:
                os.setxattr(place, name, value, follow_symlinks=isinstance(place, int))
            except OSError as error:
                if error.errno != errno.ENOTSUP and not (error.errno == errno.EPERM and _in_user_namespace()):
                    raise
                self._skip(entry, f"the attribute {os.fsdecode(name)}: {error.strerror}")

    def _skip(self, entry: Entry, what: str) -> None:
        self._skipped.append(f"{os.fsdecode(entry.name)}: {what}")


def _normal(name: bytes) -> bytes:
    """The path without empty and "." components, relative to the root."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise Malformed("a name with '..' could lead outside")
    if any(part.startswith(PREFIX) for part in parts[:-1]) and parts[0] not in AUFS_OWN:
        raise Malformed("a name below that of a whiteout")
    path = b"/".join(parts)
    if len(path) > LONGEST_PATH:
        raise Malformed(f"a path of {len(path)} bytes; {LONGEST_PATH} are the most")
    return path


def _check(entry: Entry) -> None:
    if not (0 <= entry.uid <= LARGEST_ID and 0 <= entry.gid <= LARGEST_ID):
        raise Malformed(f"its owner {entry.uid}:{entry.gid} is not from 0 to {LARGEST_ID}")
    if not -LATEST < entry.mtime_ns // 10**9 < LATEST:
        raise Malformed("its time is beyond what a file system can hold")
    if entry.type in (tar.CHARACTER, tar.BLOCK_DEVICE):
        if not (0 <= entry.major < 2**12 and 0 <= entry.minor < 2**20):
            raise Malformed("its device number is out of range")
        if entry.type == tar.CHARACTER and entry.major == entry.minor == 0:
            raise Malformed("a character device 0:0 is a whiteout of overlayfs")
    if entry.type == tar.SYMLINK and not entry.link:
        raise Malformed("it is a symbolic link to nowhere")
    for name in entry.xattrs:
        if is_overlay(name):
            raise Malformed(f"the attribute {os.fsdecode(name)} is overlayfs's own")
        if b"\0" in name:
            raise Malformed("an attribute with a NUL byte in its name")


def _attributes(entry: Entry) -> Attributes:
    return Attributes(entry.mode, entry.uid, entry.gid, entry.mtime_ns)


def _is_same(a: int, name_a: bytes, b: int, name_b: bytes) -> bool:
    return name_a == name_b and os.fstat(a).st_ino == os.fstat(b).st_ino


def _in_user_namespace() -> bool:
    """Whether the user is not the machine's root, who may do everything."""
    with open("/proc/self/uid_map") as file:
        return os.geteuid() != 0 or file.read().split() != ["0", "0", "4294967295"]


def _write(fd: int, entry: Entry, archive: Archive) -> None:
    """The data of the current entry, each part at its place."""
    pieces = archive.data()
    piece = memoryview(b"")
    for offset, length in ((0, entry.size),) if entry.segments is None else entry.segments:
        while length:
            piece = piece or next(pieces)
            count = os.pwrite(fd, piece[:length], offset)
            offset, length, piece = offset + count, length - count, piece[count:]
    os.ftruncate(fd, entry.size)
