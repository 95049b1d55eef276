"""Mounts: both interfaces of the kernel, mount(2) and the one by descriptors, and the mount options of the OCI.

Every function changes the mount namespace of the calling thread, or a mount that is attached nowhere yet.
"""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Iterable

from attrs import frozen

from pycontain._native._core import ffi, lib
from pycontain.errors import InvalidArgument, NotSupported
from pycontain.linux.syscalls import PathArgument, check, encode, error

AT_FDCWD = -100


class MountFlag(enum.IntFlag):
    """`MS_*` of mount(2)."""

    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    SYNCHRONOUS = 16
    REMOUNT = 32
    MANDLOCK = 64
    DIRSYNC = 128
    NOSYMFOLLOW = 256
    NOATIME = 1024
    NODIRATIME = 2048
    BIND = 4096
    MOVE = 8192
    REC = 16384
    SILENT = 32768
    UNBINDABLE = 1 << 17
    PRIVATE = 1 << 18
    SLAVE = 1 << 19
    SHARED = 1 << 20
    RELATIME = 1 << 21
    STRICTATIME = 1 << 24
    LAZYTIME = 1 << 25


_NO_FLAG = MountFlag(0)


class UmountFlag(enum.IntFlag):
    """`MNT_*` and `UMOUNT_*` of umount2(2)."""

    FORCE = 1
    DETACH = 2
    EXPIRE = 4
    NOFOLLOW = 8


_NO_UMOUNT_FLAG = UmountFlag(0)


class MountAttr(enum.IntFlag):
    """`MOUNT_ATTR_*` of mount_setattr(2). `ATIME` is the mask of the mode of access times, in which 0 is relatime."""

    RDONLY = 0x1
    NOSUID = 0x2
    NODEV = 0x4
    NOEXEC = 0x8
    NOATIME = 0x10
    STRICTATIME = 0x20
    ATIME = 0x70
    NODIRATIME = 0x80
    IDMAP = 0x100000
    NOSYMFOLLOW = 0x200000


_NO_ATTR = MountAttr(0)


class TreeFlag(enum.IntFlag):
    """Flags of open_tree(2) (`OPEN_TREE_*` and `AT_*`); the `AT_*` ones serve mount_setattr(2) too."""

    CLONE = 0x1
    SYMLINK_NOFOLLOW = 0x100
    NO_AUTOMOUNT = 0x800
    EMPTY_PATH = 0x1000
    RECURSIVE = 0x8000


_NO_TREE_FLAG = TreeFlag(0)


class MoveFlag(enum.IntFlag):
    """`MOVE_MOUNT_*` of move_mount(2): F is about the mount that moves, T about its target."""

    F_SYMLINKS = 0x1
    F_AUTOMOUNTS = 0x2
    F_EMPTY_PATH = 0x4
    T_SYMLINKS = 0x10
    T_AUTOMOUNTS = 0x20
    T_EMPTY_PATH = 0x40
    SET_GROUP = 0x100
    BENEATH = 0x200


def mount(
    source: PathArgument | None,
    target: PathArgument,
    fs_type: str | None = None,
    flags: MountFlag = _NO_FLAG,
    data: str | bytes | None = None,
) -> None:
    """mount(2): mounts, binds, moves, remounts or changes propagation, as `flags` say."""
    result = lib.pc_mount(_optional(source), encode(target), _optional(fs_type), flags, _optional(data))
    check(result, "mount", source, target, fs_type, flags, data)


def umount(target: PathArgument, flags: UmountFlag = _NO_UMOUNT_FLAG) -> None:
    """umount2(2)."""
    check(lib.pc_umount2(encode(target), flags), "umount2", target, flags)


def pivot_root(new_root: PathArgument, put_old: PathArgument) -> None:
    """pivot_root(2): the mount `new_root` becomes the root of the mount namespace, the old one moves to `put_old`."""
    check(lib.pc_pivot_root(encode(new_root), encode(put_old)), "pivot_root", new_root, put_old)


def open_tree(dirfd: int, path: PathArgument, flags: TreeFlag = _NO_TREE_FLAG) -> int:
    """open_tree(2): a descriptor (O_PATH, close-on-exec) of a mount; with `CLONE` of a detached copy of it.

    The copy is unmounted when its last descriptor is closed, unless `move_mount` has attached it.
    """
    result = lib.pc_open_tree(dirfd, encode(path), flags | os.O_CLOEXEC)
    return check(result, "open_tree", dirfd, path, flags)


def move_mount(from_dirfd: int, from_path: PathArgument, to_dirfd: int, to_path: PathArgument, flags: MoveFlag) -> None:
    """move_mount(2): attaches a mount, detached or not, at a target. With `F_EMPTY_PATH` and "" the descriptor."""
    result = lib.pc_move_mount(from_dirfd, encode(from_path), to_dirfd, encode(to_path), flags)
    check(result, "move_mount", from_dirfd, from_path, to_dirfd, to_path, flags)


def mount_setattr(
    dirfd: int,
    path: PathArgument,
    flags: TreeFlag = _NO_TREE_FLAG,
    attr_set: MountAttr = _NO_ATTR,
    attr_clr: MountAttr = _NO_ATTR,
    propagation: MountFlag = _NO_FLAG,
    userns_fd: int = 0,
) -> None:
    """mount_setattr(2): clears, then sets attributes of a mount, with `RECURSIVE` of all below it or of none.

    Raises EINVAL when `attr_set` holds a mode of access times but `attr_clr` not all of `MountAttr.ATIME`.
    """
    result = lib.pc_mount_setattr(dirfd, encode(path), flags, attr_set, attr_clr, propagation, userns_fd)
    check(result, "mount_setattr", dirfd, path, flags, attr_set, attr_clr, propagation)


# A file system of its own is made in a context: fsopen, fsconfig_set for each parameter, fsconfig_create, fsmount.

_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_SET_FD = 0, 1, 5
_FSCONFIG_CREATE, _FSCONFIG_RECONFIGURE = 6, 7
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSPICK_CLOEXEC, FSMOUNT_CLOEXEC


def fsopen(fs_type: str) -> int:
    """fsopen(2): a context (descriptor, close-on-exec) for a new file system. ENODEV when the type is not known."""
    return check(lib.pc_fsopen(encode(fs_type), _CLOEXEC), "fsopen", fs_type)


def fspick(dirfd: int, path: PathArgument) -> int:
    """fspick(2): a context (descriptor, close-on-exec) to reconfigure the file system mounted at `path`."""
    return check(lib.pc_fspick(dirfd, encode(path), _CLOEXEC), "fspick", dirfd, path)


def fsconfig_set(context: int, key: str, value: str | bytes | int | None = None) -> None:
    """fsconfig(2): sets a parameter: None for a flag, a string, or a descriptor as an int.

    What the file system says about the reason is part of the error's message, as it is for `fsconfig_create`.
    """
    command = _FSCONFIG_SET_STRING
    if value is None:
        command = _FSCONFIG_SET_FLAG
    elif isinstance(value, int):
        command = _FSCONFIG_SET_FD
    text, aux = (ffi.NULL, value) if isinstance(value, int) else (_optional(value), 0)
    result = lib.pc_fsconfig(context, command, encode(key), text, aux)
    _check_context(context, result, "fsconfig", key, value)


def fsconfig_create(context: int) -> None:
    """fsconfig(2), FSCONFIG_CMD_CREATE: makes the file system that the parameters describe."""
    result = lib.pc_fsconfig(context, _FSCONFIG_CREATE, ffi.NULL, ffi.NULL, 0)
    _check_context(context, result, "fsconfig", "FSCONFIG_CMD_CREATE")


def fsconfig_reconfigure(context: int) -> None:
    """fsconfig(2), FSCONFIG_CMD_RECONFIGURE: applies the parameters to a file system from `fspick`."""
    result = lib.pc_fsconfig(context, _FSCONFIG_RECONFIGURE, ffi.NULL, ffi.NULL, 0)
    _check_context(context, result, "fsconfig", "FSCONFIG_CMD_RECONFIGURE")


def fsmount(context: int, attributes: MountAttr = _NO_ATTR) -> int:
    """fsmount(2): a descriptor (close-on-exec) of a detached mount of the file system, for `move_mount`."""
    return _check_context(context, lib.pc_fsmount(context, _CLOEXEC, attributes), "fsmount", attributes)


def _check_context(context: int, result: int, call: str, *arguments: object) -> int:
    if result < 0:
        raise error(-result, call, *arguments, detail="; ".join(_messages(context)))
    return result


def _messages(context: int) -> list[str]:
    """What the kernel wrote into the log of a context: the last 8 messages at most, one a read, then ENODATA."""
    messages: list[str] = []
    try:
        if os.readlink(f"/proc/self/fd/{context}") == "anon_inode:[fscontext]":
            for _ in range(8):
                messages.append(os.read(context, 1024).decode("utf-8", "backslashreplace").strip())
    except OSError as problem:
        if problem.errno not in (errno.ENODATA, errno.ENOENT):  # ENOENT: there is no such descriptor
            raise
    return messages


def _optional(argument: PathArgument | None) -> bytes:
    return ffi.NULL if argument is None else encode(argument)


@frozen
class MountOptions:
    """What a list of mount options asks for.

    Attributes:
        attr_set, attr_clr: attributes of the mount itself, for `mount_setattr` (and `attr_set` for `fsmount`).
        recursive_set, recursive_clr: the same for the mount with all those below it ("rro", "rnosuid", ...).
        propagation: `PRIVATE`, `SLAVE`, `SHARED` or `UNBINDABLE`, with `REC` for the recursive form; 0 when not named.
        bind: "bind", "rbind", or "" when it is not a bind mount.
        remount: whether an existing mount is to be changed.
        data: parameters of the file system in their order ("size=64m", "sync"), for `fsconfig_set`.
    """

    attr_set: MountAttr = _NO_ATTR
    attr_clr: MountAttr = _NO_ATTR
    recursive_set: MountAttr = _NO_ATTR
    recursive_clr: MountAttr = _NO_ATTR
    propagation: MountFlag = _NO_FLAG
    bind: str = ""
    remount: bool = False
    data: tuple[str, ...] = ()


def parse_options(options: Iterable[str]) -> MountOptions:
    """Reads mount options by the words of the OCI runtime specification ("Linux mount options" in config.md).

    Of words that contradict each other the last one counts. Words that the specification does not list belong to the
    file system and go to `data`; "sync", "dirsync", "lazytime" and "mand" do too, for fsconfig(2) takes them so.
    Accepted without effect are "silent", "loud", "iversion" and "noiversion", which the interface by descriptors does
    not have, and "defaults". Raises `NotSupported` for idmap, ridmap and tmpcopyup, `InvalidArgument` for
    an empty option or a NUL byte.
    """
    own, recursive = _Attributes(), _Attributes()
    propagation, bind, remount = _NO_FLAG, "", False
    data: list[str] = []
    for option in options:
        if not option or "\0" in option:
            raise InvalidArgument(f"{option!r} is not a mount option")
        if option.split("=", 1)[0] in _REFUSED:
            raise NotSupported(f"The mount option {option!r} is not supported")
        if option in _PROPAGATION:
            propagation = _PROPAGATION[option]
        elif option in ("bind", "rbind"):
            bind = option
        elif option == "remount":
            remount = True
        elif not own.apply(option) and not (option[0] == "r" and recursive.apply(option[1:])):
            _add_parameter(data, option)
    return MountOptions(
        attr_set=own.set,
        attr_clr=own.clear,
        recursive_set=recursive.set,
        recursive_clr=recursive.clear,
        propagation=propagation,
        bind=bind,
        remount=remount,
        data=tuple(data),
    )


_REFUSED = ("idmap", "ridmap", "tmpcopyup")
_WITHOUT_EFFECT = ("defaults", "silent", "loud", "iversion", "noiversion")
_OPPOSITE = {"sync": "async", "lazytime": "nolazytime", "mand": "nomand"}
_OPPOSITE.update({off: on for on, off in _OPPOSITE.items()})
_PROPAGATION = {
    prefix + name: flag | extra
    for name, flag in (
        ("private", MountFlag.PRIVATE),
        ("slave", MountFlag.SLAVE),
        ("shared", MountFlag.SHARED),
        ("unbindable", MountFlag.UNBINDABLE),
    )
    for prefix, extra in (("", _NO_FLAG), ("r", MountFlag.REC))
}
_SET = {
    "ro": MountAttr.RDONLY,
    "nosuid": MountAttr.NOSUID,
    "nodev": MountAttr.NODEV,
    "noexec": MountAttr.NOEXEC,
    "nodiratime": MountAttr.NODIRATIME,
    "nosymfollow": MountAttr.NOSYMFOLLOW,
}
_CLEAR = {
    "rw": MountAttr.RDONLY,
    "suid": MountAttr.NOSUID,
    "dev": MountAttr.NODEV,
    "exec": MountAttr.NOEXEC,
    "diratime": MountAttr.NODIRATIME,
    "symfollow": MountAttr.NOSYMFOLLOW,
}
_RELATIME = _NO_ATTR
_ATIME_MODE = {"relatime": _RELATIME, "noatime": MountAttr.NOATIME, "strictatime": MountAttr.STRICTATIME}
_NOT_ATIME_MODE = {"norelatime": _RELATIME, "atime": MountAttr.NOATIME, "nostrictatime": MountAttr.STRICTATIME}


class _Attributes:
    """Attributes to set and to clear, as words are applied to them one after the other."""

    def __init__(self) -> None:
        self.set = self.clear = _NO_ATTR

    def apply(self, word: str) -> bool:
        """False when the word is not about attributes."""
        if word in _SET:
            self._change(_SET[word], clear=_NO_ATTR)
        elif word in _CLEAR:
            self._change(_NO_ATTR, clear=_CLEAR[word])
        elif word in _ATIME_MODE:
            self._set_atime(_ATIME_MODE[word])
        elif word in _NOT_ATIME_MODE:
            # leaves another mode that was named before; otherwise what is left is the kernel's default, relatime
            named = self.clear & MountAttr.ATIME
            if not named or self.set & MountAttr.ATIME == _NOT_ATIME_MODE[word]:
                self._set_atime(_RELATIME)
        else:
            return False
        return True

    def _change(self, set: MountAttr, clear: MountAttr) -> None:  # noqa: A002
        self.set = self.set & ~clear | set
        self.clear = self.clear & ~set | clear

    def _set_atime(self, mode: MountAttr) -> None:
        """The whole field is cleared with every change of it, as the kernel requires."""
        self.set = self.set & ~MountAttr.ATIME | mode
        self.clear |= MountAttr.ATIME


def _add_parameter(data: list[str], option: str) -> None:
    if option in _WITHOUT_EFFECT:
        return
    opposite = _OPPOSITE.get(option)
    if opposite in data:
        data.remove(opposite)
    if option not in _OPPOSITE or option not in data:
        data.append(option)
