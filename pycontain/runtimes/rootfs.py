"""The root of a container as steps: what it is made of, what is mounted in it, what is hidden.

Everything is mounted in the container's own mount namespace. A small tmpfs, the scratch mount, covers a directory that
exists everywhere (there, not on the host); the root is mounted in it, and for a copy-on-write root it also holds
the upper and work directories. When the old root is detached it is out of reach for all. Sources are opened before.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING

from attrs import define, field

from pycontain.errors import InvalidArgument, NotSupported, SpecError
from pycontain.linux import plan as steps
from pycontain.linux.mountinfo import MountInfo
from pycontain.linux.mounts import MountAttr, MountFlag, MountOptions, parse_options
from pycontain.linux.plan import Step
from pycontain.runtimes import cgroupmount
from pycontain.runtimes.features import stacks_under_overlay
from pycontain.runtimes.lower import Lower
from pycontain.runtimes.obstacles import in_user_namespace
from pycontain.spec import Device, Mount, Spec

if TYPE_CHECKING:
    from pycontain.snapshots.base import FileSystem, Overlay
    from pycontain.snapshots.base import Root as SnapshotRoot

COPY_ON_WRITE = "org.pycontain.root.copy-on-write"

# Devices that every container has, by the OCI ("Default Devices", config-linux.md): name, minor of major 1 or 5.
DEVICES = (
    ("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0),
)
DEVICE_LINKS = (
    ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx"),
)

# Those that are known to work as the lower layer of an overlay: for them it need not be tried.
PLAIN_FILE_SYSTEMS = frozenset(("btrfs", "ext4", "tmpfs", "xfs"))

# A directory with more entries and a mount in one of them is not put together from all of them in a user namespace:
# the entry with the mount is there read-only.
MANY_ENTRIES = 64

STAGES = ("/tmp", "/run", "/mnt", "/sys")


@define
class RootPlan:
    """Collects the steps of one root. `sources` must run before anything is covered, `steps` afterwards.

    `snapshot` is the root of an image's container, in place of the specification's; of what it names, the directory
    that is written to is left to the start. `lower` is what a copy-on-write root of a directory is made from.
    """

    spec: Spec
    user_namespace: bool
    tty_group: bool
    snapshot: SnapshotRoot | None = None
    sources: list[Step] = field(factory=list)
    steps: list[Step] = field(factory=list)
    lower: Lower | None = None
    _parts: list[str] = field(factory=list)  # the mounts that make up the root

    def build(self) -> None:
        self.user_namespace = self.user_namespace or in_user_namespace()
        if self.spec.root is None:
            raise SpecError("root: a container with a mount namespace of its own needs a root")
        path = os.path.abspath(self.spec.root.path)
        self._scratch()
        if self.snapshot is not None:
            self._snapshot(self.snapshot)
        elif self.spec.annotations.get(COPY_ON_WRITE) == "true":
            self._copy_on_write(path)
        else:
            self.sources.append(steps.tree(path, "root"))
            self.steps.append(steps.attach("root", "root", root="scratch"))
            self._parts.append("root")
        for index, mount in enumerate(self.spec.mounts):
            self._mount(mount, f"mount{index}")
        if self.spec.linux is not None:
            self._devices(self.spec.linux.devices)
            if self.spec.linux.masked_paths:
                self._null_device()

    def _null_device(self) -> None:
        """What covers masked files: a node of our own. The root's could be planted (CVE-2025-31133), and the host's
        would let root inside change its mode; in a user namespace, where it cannot, no node can be made."""
        if self.user_namespace:
            self.sources.append(steps.open_path("/dev/null", "null", null_device=True))
        else:
            device = os.makedev(1, 3)
            self.steps.append(steps.mknod("scratch", "null", stat.S_IFCHR | 0o666, device))
            self.steps.append(steps.open_path("null", "null", root="scratch", null_device=True))

    def finish(self) -> list[Step]:
        """What comes after all else was written below the root: it may be read-only from then on."""
        linux = self.spec.linux
        last: list[Step] = []
        if linux is not None and linux.masked_paths:
            last += [
                steps.mkdir("scratch", "empty", 0o555),
                steps.open_path("empty", "empty", root="scratch", directory=True),
            ]
            last += [steps.mask("root", path, null="null", empty="empty") for path in linux.masked_paths]
        if linux is not None:
            last += [steps.read_only("root", path) for path in linux.readonly_paths]
        if self.spec.root is not None and self.spec.root.readonly:
            last += [steps.setattr_mount(part, MountAttr.RDONLY) for part in self._parts]
        last.append(steps.pivot("root"))
        return last

    # ---- the root itself

    def _scratch(self) -> None:
        stage = next((path for path in STAGES if os.path.isdir(path)), None)
        if stage is None:
            raise NotSupported("none of the directories " + ", ".join(STAGES) + " exists to build a root on")
        self.steps += [
            steps.file_system("tmpfs", "scratch", [("source", "pycontain"), ("mode", "0755")]),
            steps.attach("scratch", stage, root=None),
            steps.mkdir("scratch", "root"),
        ]

    def _snapshot(self, root: SnapshotRoot) -> None:
        """What a snapshotter prepared. Its directory is filled in by each start: one plan serves all of an image."""
        from pycontain.snapshots.base import Directory, Overlay

        if isinstance(root, Overlay):
            self._layers(root)
        elif isinstance(root, Directory):
            self.sources.append(steps.tree(steps.LATER, "root", recursive=False))
            self.sources.append(steps.setattr_mount("root", MountAttr.NODEV, about="the root"))
        else:
            self._device(root)
        self.steps.append(steps.attach("root", "root", root="scratch"))
        self._parts.append("root")
        directory = self.spec.process.cwd.strip("/") if self.spec.process is not None else ""
        if directory:  # engines make the working directory that an image names
            self.steps.append(steps.mkdirs("root", directory))

    def _layers(self, root: Overlay) -> None:
        from pycontain.snapshots.base import Erofs

        names = [f"layer{index}" for index in range(len(root.lowers))]
        for name, lower in zip(names, root.lowers, strict=True):
            if isinstance(lower, Erofs):
                source = [("source", lower.path)]
                self.sources.append(steps.file_system("erofs", name, source, MountAttr.RDONLY | MountAttr.NODEV))
            else:
                self.sources.append(steps.open_path(lower, name, directory=True))
        self.sources.append(steps.open_path(steps.LATER, "snapshot", directory=True))
        self.steps.append(
            steps.overlay(
                "root", names, "snapshot", "fs", "work", MountAttr.NODEV, userxattr=root.userxattr, volatile=True
            )
        )

    def _device(self, root: FileSystem) -> None:
        options = [("source", root.source), *root.options]
        self.sources.append(steps.file_system(root.type, "root", options, MountAttr.NODEV))

    def _copy_on_write(self, path: str) -> None:
        lower = self.lower = Lower.of(path)
        if self.user_namespace and lower.has_mounts(lower.path):
            mode = f"{stat.S_IMODE(lower.info.st_mode):o}"
            self.steps.append(steps.file_system("tmpfs", "root", [("source", "pycontain"), ("mode", mode)]))
            self.steps.append(steps.attach("root", "root", root="scratch"))
            self._parts.append("root")
            self._assemble(lower.path, lower)
            return
        if lower.fs_type in PLAIN_FILE_SYSTEMS or stacks_under_overlay(lower.path, self.user_namespace):
            self._overlay(lower.path, "root", 0, lower.info)
        else:
            self._read_only(lower.path, "root")
        self.steps.append(steps.attach("root", "root", root="scratch"))
        for index, mount in enumerate(lower.file_mounts(), 1):
            self._submount(mount, lower.path, index)

    def _assemble(self, directory: str, lower: Lower) -> None:
        """Puts a directory together from its entries, in a user namespace: there the mounts that were inherited are
        locked (mount_namespaces(7)), and overlayfs takes no directory with such a mount in it as a layer.

        What the copy does not have is the owner of `directory`, and its sockets, fifos and devices.
        """
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except PermissionError:
            return
        below = os.path.relpath(directory, lower.path)
        parent = "root" if below == "." else f"directory{len(self.steps)}"
        if below != ".":
            self.steps.append(steps.mkdirs("root", below, stat.S_IMODE(os.stat(directory).st_mode)))
            self.steps.append(steps.open_path(below, parent, root="root", directory=True))
        for entry in entries:
            if lower.has_own(entry.path) or lower.is_of_kernel(entry.path):
                continue
            if entry.is_symlink():
                self.steps.append(steps.symlink(parent, entry.name, os.readlink(entry.path)))
            elif entry.is_dir() and lower.has_mounts(entry.path) and len(entries) <= MANY_ENTRIES:
                self._assemble(entry.path, lower)
            elif entry.is_dir() or entry.is_file():
                self._entry(entry, os.path.relpath(entry.path, lower.path), lower.mounts.get(entry.path))

    def _entry(self, entry: os.DirEntry[str], target: str, mount: MountInfo | None) -> None:
        index = len(self._parts)
        out = f"part{index}"
        read_only = mount is not None and ("ro" in mount.options or "ro" in mount.super_options)
        if entry.is_dir() and not read_only and stacks_under_overlay(entry.path, user_namespace=True):
            self._overlay(entry.path, out, index, entry.stat())
        else:
            self.sources += [
                steps.tree(entry.path, out),
                steps.setattr_mount(out, MountAttr.RDONLY | MountAttr.NODEV, recursive=True, about=entry.path),
            ]
            self._parts.append(out)
        self.steps.append(steps.attach(out, target, root="root"))

    def _overlay(self, lower: str, out: str, index: int, info: os.stat_result) -> None:
        """An overlay with `lower` below and its upper and work directories in the scratch mount."""
        name = f"lower{index}"
        self._parts.append(out)
        self.sources.append(steps.open_path(lower, name, directory=True))
        self.steps += [
            # the upper directory is what one sees as the top of the merged tree
            steps.mkdir("scratch", f"u{index}", stat.S_IMODE(info.st_mode)),
            steps.mkdir("scratch", f"w{index}", 0o700),
            steps.overlay(
                out, [name], "scratch", f"u{index}", f"w{index}", MountAttr.NODEV, userxattr=self.user_namespace
            ),
        ]

    def _submount(self, mount: MountInfo, root: str, index: int) -> None:
        """A file system mounted below the root's: copied on write too, or read-only where overlay cannot do that."""
        target = os.path.relpath(mount.mount_point, root)
        out = f"submount{index}"
        try:
            info = os.stat(mount.mount_point)
        except OSError:  # a mount of another user (FUSE), or one that is covered: it is not there for us
            return
        read_only = "ro" in mount.options or "ro" in mount.super_options
        if stat.S_ISDIR(info.st_mode) and not read_only and stacks_under_overlay(mount.mount_point):
            self._overlay(mount.mount_point, out, index, info)
        else:
            self._read_only(mount.mount_point, out)
        self.steps.append(steps.attach(out, target, root="root"))

    def _read_only(self, path: str, out: str) -> None:
        self.sources += [
            steps.tree(path, out, recursive=False),
            steps.setattr_mount(out, MountAttr.RDONLY | MountAttr.NODEV, about=path),
        ]

    # ---- the mounts of the specification

    def _mount(self, mount: Mount, name: str) -> None:
        options = parse_options(mount.options)
        if not os.path.normpath(mount.destination).strip("/"):
            raise InvalidArgument("a mount on / would hide the root")
        if mount.uid_mappings or mount.gid_mappings:
            raise NotSupported(f"id-mapped mounts ({mount.destination}) are not supported yet")
        if options.remount:
            raise NotSupported(f"remount ({mount.destination}) is not supported: give the options with the mount")
        if options.bind or mount.type == "bind":
            self._bind(mount, options, name)
        else:
            self._file_system(mount, options, name)
        if options.propagation:
            self.steps.append(
                steps.setattr_mount(
                    name, propagation=int(options.propagation & ~MountFlag.REC),
                    recursive=bool(options.propagation & MountFlag.REC), about=mount.destination,
                )
            )
        if os.path.normpath(mount.destination) == "/dev" and mount.type == "tmpfs":
            self._default_devices(name)

    def _bind(self, mount: Mount, options: MountOptions, name: str) -> None:
        if not mount.source:
            raise SpecError(f"mounts: the bind mount on {mount.destination} has no source")
        if options.data:
            raise InvalidArgument(f"the bind mount on {mount.destination} cannot have the options {options.data}")
        self.sources.append(
            steps.tree(os.path.abspath(mount.source), name, recursive=options.bind != "bind")
        )
        self._attributes(options, name, mount.destination)
        self.steps.append(steps.attach(name, mount.destination, root="root"))

    def _attributes(self, options: MountOptions, name: str, about: str) -> None:
        if options.attr_set or options.attr_clr:
            self.steps.append(steps.setattr_mount(name, options.attr_set, options.attr_clr, about=about))
        if options.recursive_set or options.recursive_clr:
            self.steps.append(
                steps.setattr_mount(name, options.recursive_set, options.recursive_clr, recursive=True, about=about)
            )

    def _file_system(self, mount: Mount, options: MountOptions, name: str) -> None:
        kind = mount.type or ""
        if kind in cgroupmount.KINDS:
            self.steps += cgroupmount.cgroup_mount(self.spec, mount, options.attr_set, name)
            return
        data = [("source", mount.source or kind)]
        data += [(key, value) for key, _, value in (option.partition("=") for option in options.data)]
        if kind == "devpts" and self.user_namespace and not self.tty_group:
            data = [pair for pair in data if pair[0] != "gid"]
        if kind == "":
            raise SpecError(f"mounts: the mount on {mount.destination} has no type")
        self.steps.append(steps.file_system(kind, name, data, options.attr_set))
        self.steps.append(steps.attach(name, mount.destination, root="root"))

    def _devices(self, devices: Iterable[Device]) -> None:
        """The devices that the specification names, in the order of the list; those that are there already are left."""
        parents: dict[str, str] = {}  # a descriptor for each directory, of which there may be few
        for index, device in enumerate(devices):
            if self._has_default(device):
                continue
            parent, name = os.path.split(os.path.normpath(device.path))
            if self.user_namespace:  # where only nodes of the host can be used, by their path
                if not os.path.exists(device.path):
                    raise NotSupported(
                        f"there is no {device.path} on the host to bind", remedy="Give the device its own path inside"
                    )
                self.sources.append(steps.tree(device.path, f"own{index}", recursive=False))
                self.steps.append(steps.attach(f"own{index}", device.path, root="root"))
                continue
            if parent not in parents:
                parents[parent] = f"parent{index}"
                self.steps += [
                    steps.mkdirs("root", parent),
                    steps.open_path(parent, parents[parent], root="root", directory=True),
                ]
            self.steps.append(steps.mknod(parents[parent], name, *_node(device)))

    def _has_default(self, device: Device) -> bool:
        path = os.path.normpath(device.path)
        named = any((f"/dev/{name}", *numbers) == (path, device.major, device.minor) for name, *numbers in DEVICES)
        return named and any(os.path.normpath(m.destination) == "/dev" and m.type == "tmpfs" for m in self.spec.mounts)

    def _default_devices(self, directory: str) -> None:
        for name, major, minor in DEVICES:
            if self.user_namespace:  # mknod is not allowed there: the host's nodes are bound
                self.sources.append(steps.tree(f"/dev/{name}", f"device-{name}", recursive=False))
                self.steps.append(steps.attach(f"device-{name}", f"/dev/{name}", root="root"))
            else:
                device = os.makedev(major, minor)
                self.steps.append(steps.mknod(directory, name, stat.S_IFCHR | 0o666, device))
        for name, target in DEVICE_LINKS:
            self.steps.append(steps.symlink(directory, name, target))


def _node(device: Device) -> tuple[int, int]:
    """Mode and number for mknod(2)."""
    if device.uid or device.gid:
        raise NotSupported(f"the device {device.path} cannot be given another owner than root yet")
    kind = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}[device.type]
    mode = 0o666 if device.file_mode is None else stat.S_IMODE(device.file_mode)
    return kind | mode, 0 if device.type == "p" else os.makedev(device.major or 0, device.minor or 0)
