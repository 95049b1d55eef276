"""Applies a layer to a directory: its entries are created, its whiteouts take effect. See the OCI's layer.md.

Nothing outside of the directory is touched, whatever the layer holds: a parent is resolved by openat2(2) within it, and
the last component is created anew, never followed. What an image has no business with is refused by `LayerError`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

from attrs import frozen

from pycontain._native._core import ffi, lib
from pycontain.layers import tar
from pycontain.layers.tar import Archive, Entry
from pycontain.layers.whiteouts import AUFS_OWN, OPAQUE, PREFIX, Whiteouts, is_overlay_xattr
from pycontain.linux.paths import open_in_root
from pycontain.linux.trees import remove_tree

SMALL = 1 << 20  # bytes of a file that is created by one call
LARGEST_ID = 2**32 - 2  # 2^32-1 means "unchanged" to chown(2)
MOST_ENTRIES = 10_000_000
PARENTS = 64  # directories that are kept open, since entries come directory by directory
LATEST = 2**40  # seconds; what a file system holds is less

_OTHER_XATTRS = (b"system.posix_acl_access", b"system.posix_acl_default", b"security.capability")


@frozen
class Applied:
    """How many entries a layer had, and how many bytes of data."""

    entries: int
    size: int


def apply_layer(read: Callable[[int], bytes], root: int, whiteouts: Whiteouts, *, name: str) -> Applied:
    """Applies an uncompressed tar to the directory `root`, a descriptor. The tar is read to its end.

    `read(n)` gives about n bytes, and none at the end. `name` is the layer's in errors. Nobody else may change the
    directory meanwhile. Extended attributes other than `user.*`, ACLs and file capabilities are the host's business
    and left out.

    Raises:
        LayerError: the layer is broken, or hostile. What has been applied until then is there.
        OSError: the directory cannot be written, for example because the disk is full.
    """
    archive = Archive(read, name)
    applier = _Applier(root, whiteouts, archive)
    entries = size = 0
    try:
        for entry in archive:
            entries += 1
            size += entry.size
            if entries > MOST_ENTRIES:
                raise archive.refusal(f"it is one of more than {MOST_ENTRIES} entries")
            applier.apply(entry)
        applier.finish()
    finally:
        applier.close()
    return Applied(entries, size)


class _Applier:
    def __init__(self, root: int, whiteouts: Whiteouts, archive: Archive) -> None:
        self.root = root
        self.whiteouts = whiteouts
        self.archive = archive
        self._parents: dict[bytes, int] = {}
        self._directories: dict[bytes, Any] = {}  # whose times are set in the end
        self._own: set[bytes] = set()  # what this layer has made, with the directories above: its whiteouts spare it
        self._hidden: set[bytes] = set()  # what a whiteout of this layer named
        self._data = b""  # of a small file
        self._outcome = ffi.new("struct pc_outcome *")

    def apply(self, entry: Entry) -> None:
        path = self._normal(entry.name)
        if not path:
            self._top(entry)
            return
        parent_path, _, base = path.rpartition(b"/")
        if path.split(b"/", 1)[0] in AUFS_OWN:
            return
        if parent_path.startswith(PREFIX) or b"/" + PREFIX in parent_path:
            raise self._refusal("a whiteout that is a directory")
        if base.startswith(PREFIX):
            self._whiteout(parent_path, base)
            return
        self._check(entry)
        self._create(entry, path, parent_path, base)
        if self.whiteouts is Whiteouts.REMOVE:
            self._own.update(_with_parents(path))

    def finish(self) -> None:
        """The times of directories, which change while entries are made in them."""
        for path, attributes in self._directories.items():
            fd = self._open_directory(path)
            if fd is None:
                continue
            try:
                self._call(lib.pc_set_attributes, fd, attributes)
            finally:
                os.close(fd)

    def close(self) -> None:
        for fd in self._parents.values():
            os.close(fd)
        self._parents.clear()

    # ---- what is allowed

    def _normal(self, name: bytes) -> bytes:
        """The path without empty and "." components, relative to the root."""
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise self._refusal("a name with '..' could lead outside")
        return b"/".join(parts)

    def _check(self, entry: Entry) -> None:
        if not (0 <= entry.uid <= LARGEST_ID and 0 <= entry.gid <= LARGEST_ID):
            raise self._refusal(f"its owner {entry.uid}:{entry.gid} is not from 0 to {LARGEST_ID}")
        if not -LATEST < entry.mtime_ns // 10**9 < LATEST:
            raise self._refusal("its time is beyond what a file system can hold")
        if entry.type in (tar.CHARACTER, tar.BLOCK_DEVICE):
            if not (0 <= entry.major < 2**12 and 0 <= entry.minor < 2**20):
                raise self._refusal("its device number is out of range")
            if entry.type == tar.CHARACTER and entry.major == entry.minor == 0:
                raise self._refusal("a character device 0:0 is a whiteout of overlayfs")
        for xattr in entry.xattrs:
            if is_overlay_xattr(xattr):
                raise self._refusal(f"the attribute {os.fsdecode(xattr)} is overlayfs's own")

    def _refusal(self, rule: str) -> Exception:
        return self.archive.refusal(rule)

    # ---- whiteouts

    def _whiteout(self, parent_path: bytes, base: bytes) -> None:
        if base == OPAQUE:
            self._opaque(parent_path)
            return
        target = base[len(PREFIX) :]
        if target in (b"", b".", b"..") or target.startswith(PREFIX):
            raise self._refusal("a whiteout that names no entry")
        path = parent_path + b"/" + target if parent_path else target
        if self.whiteouts is Whiteouts.REMOVE:
            self._remove_lower(path)
        else:
            self._hide(path, parent_path, target)

    def _hide(self, path: bytes, parent_path: bytes, target: bytes) -> None:
        """Makes overlayfs hide what lower layers have; what this one has stays."""
        parent = self._parent(parent_path)
        self._hidden.add(path)
        try:
            os.mknod(target, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            fd = self._open_directory(path)
            if fd is not None:
                try:
                    self._mark_opaque(fd)
                finally:
                    os.close(fd)

    def _opaque(self, path: bytes) -> None:
        parent = self._parent(path)
        if self.whiteouts is not Whiteouts.REMOVE:
            self._mark_opaque(parent)
            return
        for name in os.listdir(f"/proc/self/fd/{parent}"):
            encoded = os.fsencode(name)
            self._remove_lower(path + b"/" + encoded if path else encoded)

    def _mark_opaque(self, directory: int) -> None:
        os.setxattr(f"/proc/self/fd/{directory}", self.whiteouts.opaque_xattr, b"y")

    def _remove_lower(self, path: bytes) -> None:
        """Removes what lower layers have left at a path, and in the directories there that this layer has as well."""
        pending = [path]
        while pending:
            path = pending.pop()
            parent_path, _, base = path.rpartition(b"/")
            parent = self._existing_parent(parent_path)
            if parent is None:
                continue
            try:
                info = os.stat(base, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if path in self._own:
                if stat.S_ISDIR(info.st_mode):
                    names = os.listdir(f"/proc/self/fd/{parent}/{os.fsdecode(base)}")
                    pending += [path + b"/" + os.fsencode(name) for name in names]
            elif stat.S_ISDIR(info.st_mode):
                self._remove_directory(path, parent, base)
            else:
                os.unlink(base, dir_fd=parent)

    # ---- creating

    def _top(self, entry: Entry) -> None:
        """The root directory itself."""
        if entry.type != tar.DIRECTORY:
            raise self._refusal("the root can only be a directory")
        self._check(entry)
        self._set_xattrs(self.root, entry)
        self._directories[b""] = _attributes(entry)

    def _create(self, entry: Entry, path: bytes, parent_path: bytes, base: bytes) -> None:
        parent = self._parent(parent_path)
        if entry.type == tar.DIRECTORY:
            self._directory(entry, path, parent, base)
            return
        self._directories.pop(path, None)
        if _is_small(entry):
            self._data = b"".join(self.archive.data())
        make = {
            tar.REGULAR: self._regular, tar.HARD_LINK: self._hard_link, tar.SYMLINK: self._symlink,
        }.get(entry.type, self._node)
        try:
            make(entry, parent, base)
        except IsADirectoryError:  # a directory of a lower layer, or of this one, makes way
            self._remove_directory(path, parent, base)
            make(entry, self._parent(parent_path), base)

    def _directory(self, entry: Entry, path: bytes, parent: int, base: bytes) -> None:
        fd = self._call(lib.pc_open_directory, parent, base)
        try:
            attributes = self._directories[path] = _attributes(entry)
            self._call(lib.pc_set_attributes, fd, attributes)
            self._set_xattrs(fd, entry)
            if path in self._hidden:  # what lower layers have there must not be merged into it
                self._mark_opaque(fd)
        finally:
            os.close(fd)

    def _regular(self, entry: Entry, parent: int, base: bytes) -> None:
        attributes = _attributes(entry)
        if _is_small(entry):
            self._call(lib.pc_create_file, parent, base, attributes, self._data, len(self._data))
            return
        fd = self._call(lib.pc_open_new, parent, base)
        try:
            self._fill(fd, entry)
            self._call(lib.pc_set_attributes, fd, attributes)
            self._set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _fill(self, fd: int, entry: Entry) -> None:
        if entry.segments is None:
            for piece in self.archive.data():
                _write(fd, piece)
            return
        os.ftruncate(fd, entry.size)
        pieces = self.archive.data()
        piece = memoryview(b"")
        for offset, length in entry.segments:
            os.lseek(fd, offset, os.SEEK_SET)
            while length:
                if not piece:
                    piece = next(pieces)
                part = piece[:length]
                _write(fd, part)
                length -= len(part)
                piece = piece[len(part) :]

    def _hard_link(self, entry: Entry, parent: int, base: bytes) -> None:
        target = self._normal(entry.link)
        target_parent_path, _, target_base = target.rpartition(b"/")
        target_parent = self._existing_parent(target_parent_path)
        if not target_base or target_parent is None:
            raise self._refusal(f"it is a hard link to {os.fsdecode(entry.link)!r}, which is not there")
        try:
            info = os.stat(target_base, dir_fd=target_parent, follow_symlinks=False)
        except OSError:
            raise self._refusal(f"it is a hard link to {os.fsdecode(entry.link)!r}, which is not there") from None
        if stat.S_ISDIR(info.st_mode):
            raise self._refusal("it is a hard link to a directory")
        if (target_parent, target_base) == (parent, base):
            raise self._refusal("it is a hard link to itself")
        self._call(lib.pc_create_link, parent, base, target_parent, target_base)

    def _symlink(self, entry: Entry, parent: int, base: bytes) -> None:
        if not entry.link:
            raise self._refusal("it is a symbolic link to nowhere")
        self._call(lib.pc_create_symlink, parent, base, _attributes(entry), entry.link)

    def _node(self, entry: Entry, parent: int, base: bytes) -> None:
        kind = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}[entry.type]
        attributes = _attributes(entry, kind)
        major, minor = (0, 0) if kind == stat.S_IFIFO else (entry.major, entry.minor)
        self._call(lib.pc_create_node, parent, base, attributes, major, minor)

    def _set_xattrs(self, fd: int, entry: Entry) -> None:
        for name, value in entry.xattrs.items():
            if name.startswith(b"user.") or name in _OTHER_XATTRS:
                os.setxattr(f"/proc/self/fd/{fd}", name, value)

    # ---- directories

    def _parent(self, path: bytes) -> int:
        """The directory at a path, whose missing parts are made with the mode 0755. Open until `close`."""
        if not path:
            return self.root
        fd = self._existing_parent(path)
        if fd is None:
            fd = self._parents[path] = self._make_directories(path)
        return fd

    def _existing_parent(self, path: bytes) -> int | None:
        """The same, None when it is not there. The one that was used last is the last to be closed."""
        if not path:
            return self.root
        fd = self._parents.pop(path, None)
        if fd is None:
            fd = self._open_directory(path)
        if fd is not None:
            self._parents[path] = fd
        if len(self._parents) > PARENTS:
            os.close(self._parents.pop(next(iter(self._parents))))
        return fd

    def _open_directory(self, path: bytes) -> int | None:
        """A directory as a process with this root would find it; None when there is none."""
        try:
            return open_in_root(self.root, path or b".", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise self._failure(error) from None

    def _make_directories(self, path: bytes) -> int:
        fd = os.dup(self.root)
        at = b""
        try:
            for part in path.split(b"/"):
                at = at + b"/" + part if at else part
                following = self._open_directory(at)
                if following is None:
                    following = self._make_directory(fd, part)
                os.close(fd)
                fd = following
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _make_directory(self, parent: int, name: bytes) -> int:
        try:
            os.mkdir(name, dir_fd=parent)
        except FileExistsError:
            raise self._refusal("what should be a directory above it is none, or a link to nowhere") from None
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        os.fchmod(fd, 0o755)
        return fd

    def _remove_directory(self, path: bytes, parent: int, base: bytes) -> None:
        remove_tree(f"/proc/self/fd/{parent}/{os.fsdecode(base)}")
        self.close()  # some of the parents were in it
        for directory in [known for known in self._directories if known.startswith(path + b"/")]:
            del self._directories[directory]

    def _call(self, function: Any, *arguments: Any) -> int:
        """A function of layers.c, whose failure becomes an error."""
        result: int = function(*arguments, self._outcome)
        if result >= 0:
            return result
        call = ffi.string(self._outcome.call).decode()
        raise self._failure(OSError(-result, os.strerror(-result), call))

    def _failure(self, error: OSError) -> Exception:
        """What the layer itself brings about is its fault; the rest is the machine's."""
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EXDEV, errno.EINVAL, errno.EEXIST, errno.EMLINK):
            return self._refusal(f"the kernel refuses it: {error.strerror}")
        return error


def _attributes(entry: Entry, kind: int = 0) -> Any:
    seconds, nanoseconds = divmod(entry.mtime_ns, 10**9)
    return ffi.new(
        "struct pc_attributes *", (entry.mode | kind, entry.uid, entry.gid, os.geteuid() == 0, seconds, nanoseconds)
    )


def _is_small(entry: Entry) -> bool:
    """Whether it is a file that one call creates."""
    return entry.type == tar.REGULAR and entry.size <= SMALL and entry.segments is None and not entry.xattrs


def _with_parents(path: bytes) -> Iterator[bytes]:
    while path:
        yield path
        path = path.rpartition(b"/")[0]


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]
