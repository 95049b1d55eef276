"""The plan: the steps that turn a fresh child into the container's process, as data.

A `Step` is one operation of the C core, made by the function of its name below; a `Plan` is a tuple of steps that can
be printed, and that is encoded once into the flat buffer which `pycontain/_native/api.h` describes. Descriptors have
names here and become slots of a table when encoded. Nothing in this module decides policy.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable, Sequence

from attrs import field, frozen

from pycontain._native._core import lib
from pycontain.errors import InvalidArgument
from pycontain.linux.mounts import MountAttr

STEP = struct.Struct("=IIiiiIIIQQQ")
PLAN_HEADER = struct.Struct("=IIII")
COMMAND_HEADER = struct.Struct("=IIIIII")

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10
# The path of a directory that each start has another one of (`Plan.with_path`). It is as long as such a path can be.
LATER = b"/later".ljust(1024, b"\1")

INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS


@frozen
class Step:
    """One operation. `text` is the line that a person reads; the rest is what the C core gets."""

    text: str
    op: int
    fd: str | None = None
    fd2: str | None = None
    out: str | None = None
    s1: bytes = b""
    data: bytes = b""
    n1: int = 0
    n2: int = 0
    n3: int = 0
    flags: int = 0
    slots: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text


@frozen(eq=False)
class Plan:
    """Steps in the order of their execution, and their encoded form.

    Attributes:
        steps: the steps.
        encoded: the buffer for the C core.
        slots: the index of each named descriptor in the table of a start.
    """

    steps: tuple[Step, ...]
    encoded: bytes = field(init=False, repr=False)
    slots: dict[str, int] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        encoded, slots = _encode(self.steps)
        object.__setattr__(self, "encoded", encoded)
        object.__setattr__(self, "slots", slots)

    def with_path(self, path: bytes) -> Plan:
        """The same plan, with `path` in place of `LATER`. Raises `InvalidArgument` for one that is too long."""
        if len(path) > len(LATER):
            raise InvalidArgument(f"the path {path!r:.100} is longer than {len(LATER)} bytes")
        plan: Plan = object.__new__(Plan)
        object.__setattr__(plan, "steps", self.steps)
        object.__setattr__(plan, "slots", self.slots)
        object.__setattr__(plan, "encoded", self.encoded.replace(LATER, path.ljust(len(LATER), b"/")))
        return plan

    def __str__(self) -> str:
        return "\n".join(f"{index:3}  {step.text}" for index, step in enumerate(self.steps))


def _encode(steps: Sequence[Step]) -> tuple[bytes, dict[str, int]]:
    slots: dict[str, int] = {}

    def slot(name: str | None) -> int:
        return -1 if name is None else slots.setdefault(name, len(slots))

    records = []
    blob = bytearray()
    start = PLAN_HEADER.size + len(steps) * STEP.size

    def place(data: bytes) -> int:
        if not data:
            return 0
        offset = start + len(blob)
        blob.extend(data)
        blob.append(0)
        return offset

    for step in steps:
        n1, n2, n3, fd2 = step.n1, step.n2, step.n3, slot(step.fd2)
        if step.op in (lib.PC_OVERLAY, lib.PC_ENTER):  # a range of slots
            indices = [slot(name) for name in step.slots]
            if indices != list(range(indices[0], indices[0] + len(indices))):
                raise AssertionError(f"the descriptors of {step.text!r} must be named one after the other")
            fd2, n2 = indices[0], len(indices)
        elif step.op == lib.PC_STDIO:
            n1, n2, n3 = (slot(name) for name in step.slots)
        records.append(
            STEP.pack(
                step.op, step.flags, slot(step.fd), fd2, slot(step.out),
                place(step.s1), place(step.data), len(step.data), n1, n2, n3,
            )
        )
    if len(slots) > lib.PC_SLOTS:
        raise InvalidArgument(f"{len(slots)} mounts and descriptors are too many: at most {lib.PC_SLOTS}")
    blob.append(0)
    size = start + len(blob)
    return PLAN_HEADER.pack(lib.PC_PLAN_MAGIC, size, len(steps), 0) + b"".join(records) + bytes(blob), slots


def encode_command(argv: Sequence[bytes], env: Sequence[bytes], candidates: Sequence[bytes]) -> bytes:
    """The command of one start: argument and environment vectors, and the paths to try in turn."""
    strings = b"\0".join([*argv, *env, *candidates, b""]) + b"\0"
    size = COMMAND_HEADER.size + len(strings)
    header = COMMAND_HEADER.pack(lib.PC_COMMAND_MAGIC, size, len(argv), len(env), len(candidates), 0)
    return header + strings


def _path(path: str | bytes) -> bytes:
    return path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape")


def _show(path: str | bytes) -> str:
    if path == LATER:
        return "the snapshot"
    return path.decode("utf-8", "backslashreplace") if isinstance(path, bytes) else path


# ---- life cycle ---------------------------------------------------------------------------------------------------


def await_release(owner: str) -> Step:
    return Step("wait for the parent's word", lib.PC_AWAIT, fd=owner)


def pdeathsig(signal: int) -> Step:
    return Step(f"prctl PR_SET_PDEATHSIG {signal}", lib.PC_PDEATHSIG, n1=signal)


def fork(*, held: bool = False) -> Step:
    """With `held`, the process waits there until the caller has recorded it."""
    return Step("fork into the joined pid namespace", lib.PC_FORK, n1=int(held))


def keep(fd: str) -> Step:
    return Step(f"keep descriptor {fd!r} open", lib.PC_KEEP, fd=fd)


def execute(fd: str | None = None) -> Step:
    return Step("execute the command" if fd is None else f"execute {fd!r}", lib.PC_EXEC, fd=fd)


# ---- namespaces and cgroups ---------------------------------------------------------------------------------------


def join(fd: str, flag: int, name: str) -> Step:
    return Step(f"setns {name} namespace", lib.PC_JOIN, fd=fd, n1=flag)


def unshare(flags: int, names: str) -> Step:
    return Step(f"unshare {names}", lib.PC_UNSHARE, n1=flags)


def enter_cgroups(fds: Sequence[str]) -> Step:
    """Moves the process into v1 groups: `fds` are their `tasks` files, those that are not there are passed over."""
    return Step("enter the cgroups", lib.PC_ENTER, slots=tuple(fds))


def write_file(path: str, data: str, *, root: str | None = None, resolve: int = 0) -> Step:
    return Step(
        f"write {data!r} to {path}", lib.PC_WRITE_FILE, fd=root, s1=_path(path), data=data.encode(), n1=os.O_WRONLY,
        n2=resolve,
    )


# ---- mounts -------------------------------------------------------------------------------------------------------


def propagation(flag: int, name: str) -> Step:
    return Step(f"make / {name}", lib.PC_PROPAGATION, n1=flag)


def open_path(
    path: str | bytes, out: str, *, root: str | None = None, directory: bool = False, null_device: bool = False
) -> Step:
    """With `null_device`, refuses (ENODEV) what is not the null device."""
    how = os.O_PATH | (os.O_DIRECTORY if directory else 0)  # whose values are not the same on all architectures
    return Step(
        f"open {_show(path)}", lib.PC_OPEN, fd=root, s1=_path(path), out=out, n1=how, n2=INSIDE if root else 0,
        flags=lib.PC_NULL_DEVICE if null_device else 0,
    )


def tree(path: str | bytes, out: str, *, recursive: bool = True, directory: str | None = None) -> Step:
    """A detached clone of what is mounted at `path`; with an empty path, of the descriptor `directory`."""
    flags = lib.PC_RECURSIVE if recursive else 0
    text = f"open_tree {_show(path) or directory}"
    return Step(text, lib.PC_TREE, fd=directory, s1=_path(path), out=out, flags=flags)


def file_system(kind: str, out: str, options: Iterable[tuple[str, str]] = (), attr: MountAttr = MountAttr(0)) -> Step:
    options = list(options)
    data = b"\0".join(_path(word) for pair in options for word in pair) + (b"\0" if options else b"")
    shown = ",".join(f"{key}={value}" if value else key for key, value in options)
    return Step(
        f"fsopen {kind}{' ' + shown if shown else ''}{_attributes(attr)}", lib.PC_FSMOUNT,
        out=out, s1=kind.encode(), data=data, n1=int(attr), n3=len(options),
    )


def overlay(
    out: str, lowers: Sequence[str], scratch: str, upper: str, work: str, attr: MountAttr, *, userxattr: bool = False,
    volatile: bool = False,
) -> Step:
    """`lowers` are descriptors, the topmost first; `upper` and `work` are names in the directory `scratch`.

    `volatile` leaves out every sync of the upper directory, which must not be used again after a crash of the machine.
    """
    return Step(
        f"fsopen overlay lowerdir={':'.join(lowers)},upperdir={upper},workdir={work}{_attributes(attr)}",
        lib.PC_OVERLAY, n1=int(attr), fd=scratch, out=out, s1=upper.encode(), data=work.encode(), slots=tuple(lowers),
        flags=(lib.PC_USERXATTR if userxattr else 0) | (lib.PC_VOLATILE if volatile else 0),
    )


def setattr_mount(
    fd: str, set_: MountAttr = MountAttr(0), clear: MountAttr = MountAttr(0), *, propagation: int = 0,
    recursive: bool = False, about: str = "",
) -> Step:
    return Step(
        f"mount_setattr {about or fd}{' recursively' if recursive else ''}{_attributes(set_)}", lib.PC_SETATTR,
        fd=fd, n1=int(set_), n2=int(clear), n3=propagation, flags=lib.PC_RECURSIVE if recursive else 0,
    )


def attach(mount: str, target: str | bytes, *, root: str | None) -> Step:
    """Moves the detached mount onto `target`: inside `root`, where it is created if missing, or a path of this process.
    """
    return Step(f"mount {mount} on {_show(target)}", lib.PC_ATTACH, fd=mount, fd2=root, s1=_path(target))


def mkdir(directory: str, name: str, mode: int = 0o755) -> Step:
    return Step(f"mkdir {name} in {directory}", lib.PC_MKDIR, fd=directory, s1=_path(name), n1=mode)


def mkdirs(root: str, path: str, mode: int = 0o755) -> Step:
    return Step(f"mkdir -p {path}", lib.PC_MKDIRS, fd=root, s1=_path(path), n1=mode)


def symlink(directory: str, name: str, target: str) -> Step:
    return Step(f"symlink {name} -> {target}", lib.PC_SYMLINK, fd=directory, s1=_path(name), data=_path(target))


def mknod(directory: str, name: str, mode: int, device: int) -> Step:
    kind = "c" if stat.S_ISCHR(mode) else "b" if stat.S_ISBLK(mode) else "p"
    return Step(f"mknod {name} {kind}", lib.PC_MKNOD, fd=directory, s1=_path(name), n1=mode, n2=device)


def mask(root: str, path: str, *, null: str, empty: str) -> Step:
    return Step(f"mask {path}", lib.PC_MASK, fd=root, fd2=null, out=empty, s1=_path(path))


def read_only(root: str, path: str) -> Step:
    return Step(f"make {path} read-only", lib.PC_READONLY, fd=root, s1=_path(path))


def pivot(root: str) -> Step:
    return Step("pivot_root, detach the old root", lib.PC_PIVOT, fd=root)


# ---- identity -----------------------------------------------------------------------------------------------------


def hostname(name: str) -> Step:
    return Step(f"sethostname {name}", lib.PC_HOSTNAME, data=name.encode())


def domainname(name: str) -> Step:
    return Step(f"setdomainname {name}", lib.PC_DOMAINNAME, data=name.encode())


def loopback() -> Step:
    return Step("bring lo up", lib.PC_LOOPBACK)


def rlimit(resource: int, soft: int, hard: int, name: str) -> Step:
    return Step(f"prlimit {name} {soft}:{hard}", lib.PC_RLIMIT, n1=resource, n2=soft, n3=hard)


def io_priority(class_: int, level: int, name: str) -> Step:
    """Of the numbers of ioprio_set(2): class 1 to 3, level 0 (the highest) to 7."""
    return Step(f"{name}, level {level}", lib.PC_IO_PRIORITY, n1=class_ << 13 | level)


def default_soft_limits() -> Step:
    return Step("give the soft resource limits their defaults", lib.PC_SOFT_LIMITS)


def setsid() -> Step:
    return Step("setsid", lib.PC_SETSID)


def session_keyring() -> Step:
    return Step("join a new session keyring", lib.PC_KEYRING)


def umask(mask: int) -> Step:
    return Step(f"umask {mask:03o}", lib.PC_UMASK, n1=mask)


def bounding(mask: int) -> Step:
    return Step(f"capability bounding set {mask:#x}", lib.PC_BOUNDING, n1=mask)


def identity(uid: int, gid: int, groups: Sequence[int], *, keep_caps: bool = False, keep_groups: bool = False) -> Step:
    flags = (lib.PC_KEEP_CAPS if keep_caps else 0) | (lib.PC_KEEP_GROUPS if keep_groups else 0)
    return Step(
        f"become uid {uid}, gid {gid}, groups {list(groups)}", lib.PC_IDENTITY,
        n1=uid, n2=gid, data=struct.pack(f"={len(groups)}I", *groups), flags=flags,
    )


def capset(effective: int, permitted: int, inheritable: int) -> Step:
    text = f"capset effective {effective:#x}, permitted {permitted:#x}, inheritable {inheritable:#x}"
    return Step(text, lib.PC_CAPSET, n1=effective, n2=permitted, n3=inheritable)


def ambient(mask: int) -> Step:
    return Step(f"ambient capabilities {mask:#x}", lib.PC_AMBIENT, n1=mask)


def no_new_privs() -> Step:
    return Step("no_new_privs", lib.PC_NO_NEW_PRIVS)


def seccomp(program: bytes, flags: int = 0) -> Step:
    return Step(f"seccomp filter of {len(program) // 8} instructions", lib.PC_SECCOMP, data=program, n1=flags)


def chdir(path: str) -> Step:
    return Step(f"chdir {path}", lib.PC_CHDIR, s1=_path(path))


# ---- streams and descriptors --------------------------------------------------------------------------------------


def terminal(root: str, out: str, socket: str, rows: int, columns: int) -> Step:
    text, ptmx = "open a terminal at dev/pts/ptmx", b"dev/pts/ptmx"
    return Step(text, lib.PC_TERMINAL, fd=root, fd2=socket, out=out, s1=ptmx, n1=rows, n2=columns)


def controlling_terminal(fd: str) -> Step:
    return Step("make it the controlling terminal", lib.PC_CONTROL, fd=fd)


def default_signals() -> Step:
    return Step("reset all signals", lib.PC_SIGNALS)


def stdio(stdin: str, stdout: str, stderr: str) -> Step:
    return Step("set standard input, output and error", lib.PC_STDIO, slots=(stdin, stdout, stderr))


def close_descriptors() -> Step:
    return Step("close descriptors from 3 on at exec", lib.PC_CLOSE_FDS, n1=3)


def _attributes(attr: MountAttr) -> str:
    if not attr:
        return ""
    return " (" + ",".join(str(flag.name).lower() for flag in MountAttr if flag and flag in attr) + ")"
