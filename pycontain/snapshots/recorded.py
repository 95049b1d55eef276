"""What all snapshotters share: the rules of the protocol, kept with the records of the database; and the directories.

Each snapshot has a number, never used twice, and a directory named by it. The record is written before the directory is
made and removed before the directory is: a directory without a record is garbage, whoever made it and however that
process ended. What a snapshotter does with the directory is in the methods that are abstract here.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

from pycontain.errors import SnapshotError
from pycontain.layers.whiteouts import Whiteouts
from pycontain.linux.syncfs import syncfs
from pycontain.linux.trees import remove_tree
from pycontain.metadata import Database, SnapshotRecord, SnapshotRecords
from pycontain.metadata.snapshots import Kind
from pycontain.snapshots.base import Info, Root, Usage
from pycontain.snapshots.files import usage_of

GARBAGE = "garbage-"  # the beginning of the name of a directory that is about to be removed
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class RecordedSnapshotter(ABC):
    """A snapshotter in `directory`, which `create` has made, with its records in `database`.

    `parents` are the numbers of the snapshots that one is built upon, the topmost first.
    """

    name: ClassVar[str]
    rebase: ClassVar[bool] = False
    seals_durably: ClassVar[bool] = False  # whether a sealed snapshot is on the disk
    whiteouts: Whiteouts

    def __init__(self, directory: str, database: Database) -> None:
        self.directory = directory
        self._database = database
        self._records = SnapshotRecords(database, self.name)

    @classmethod
    @abstractmethod
    def probe(cls, directory: str) -> str | None:
        """Why snapshots cannot be kept below a directory that can be written, as a clause; None when they can."""

    @classmethod  # noqa: B027
    def create(cls, directory: str) -> None:
        """Makes what the snapshotter needs in its own empty directory, before it is used for the first time."""

    # ---- what differs

    @abstractmethod
    def _make(self, path: str, kind: Kind, parents: Sequence[int]) -> None:
        """Fills the directory of a new snapshot."""

    @abstractmethod
    def _root(self, number: int, kind: Kind, parents: Sequence[int]) -> Root:
        """What a container's root is made of; of a committed snapshot a read-only one."""

    def _seal(self, number: int, parents: Sequence[int]) -> Usage | None:
        """Makes an active snapshot ready to be committed, and says what it takes then if that is not what `_measure`
        says. It may stay active after all, or be sealed again."""
        return None

    def _settle(self, number: int) -> None:  # noqa: B027
        """What is left to do once it is committed; done again by `cleanup` if the process has died before."""

    def _measure(self, number: int, parents: Sequence[int]) -> Usage:
        return usage_of(self._files(number))

    @abstractmethod
    def _open_changes(self, number: int, kind: Kind) -> int:
        """The descriptor for `changes_directory`."""

    @abstractmethod
    def _open_tree(self, number: int, kind: Kind, parents: Sequence[int]) -> int:
        """The descriptor for `tree`."""

    def _destroy(self, path: str) -> None:
        """Removes the directory of a snapshot, which may be incomplete or not there."""
        remove_tree(path)

    def _set_aside(self, name: str) -> None:
        """Gives a directory without a record a name that no snapshot can have, as long as nobody can add records."""
        os.rename(self._join(name), self._join(GARBAGE + name + os.urandom(4).hex()))

    # ---- the protocol

    def prepare(self, key: str, parent: str | None = None, *, labels: Mapping[str, str] | None = None) -> Root:
        return self._add(key, "active", parent, labels)

    def view(self, key: str, parent: str, *, labels: Mapping[str, str] | None = None) -> Root:
        return self._add(key, "view", parent, labels)

    def root(self, key: str) -> Root:
        record, parents = self._find(key)
        return self._root(record.id, record.kind, parents)

    def commit(
        self, name: str, key: str, *, parent: str | None = None, usage: Usage | None = None, flushed: bool = False
    ) -> None:
        with self._database.read():
            record, parents = self._find(key)
            if record.kind != "active":
                raise SnapshotError(f"the snapshot {key!r} is {record.kind}, and only an active one can be committed")
            if self._records.find(name) is not None:
                raise SnapshotError(f"the snapshot {name!r} exists already in {self.name}")
            if parent is not None and record.parent is None:
                if not self.rebase:
                    raise SnapshotError(f"the snapshot {key!r} has no parent, and {self.name} keeps to that")
                parents = self._records.chain(parent)
        with self._described("committed", key):
            usage = self._seal(record.id, parents) or usage or self._measure(record.id, parents)
            if not (flushed or self.seals_durably):
                self.flush()
        self._records.commit(name, key, size=usage.size, inodes=usage.inodes, parent=parent, durable=True)
        with self._described("committed", name):
            self._settle(record.id)

    def remove(self, key: str) -> None:
        record = self._records.remove(key)
        with self._described("removed", key):
            self._destroy(self._path(record.id))

    def stat(self, key: str) -> Info:
        return _info(self._records.get(key))

    def usage(self, key: str) -> Usage:
        record, parents = self._find(key)
        if record.kind == "active":
            with self._described("measured", key):
                return self._measure(record.id, parents)
        return Usage(record.size, record.inodes)

    def walk(self) -> Iterator[Info]:
        return map(_info, _ordered(self._records.list()))

    @contextmanager
    def changes_directory(self, key: str) -> Iterator[int]:
        record = self._records.get(key)
        if record.kind == "view":
            raise SnapshotError(f"the snapshot {key!r} is a view, which has no changes")
        with self._described("opened", key):
            fd = self._open_changes(record.id, record.kind)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def tree(self, key: str) -> Iterator[int]:
        record, parents = self._find(key)
        with self._described("opened", key):
            fd = self._open_tree(record.id, record.kind, parents)
        try:
            yield fd
        finally:
            os.close(fd)

    def flush(self) -> None:
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs(fd)
        finally:
            os.close(fd)

    def close(self) -> None:  # noqa: B027
        pass

    def cleanup(self) -> None:
        """As the protocol has it. Directories are renamed while no other process can add a record."""
        with self._database.write():
            for abandoned in self._records.abandoned():
                self._records.remove(abandoned.key)
            records = {_name(record.id): record for record in self._records.list()}
            for name in self._directories():
                if name not in records and not name.startswith(GARBAGE):
                    self._set_aside(name)
        for record in records.values():
            if record.kind == "committed":
                try:
                    self._settle(record.id)
                except FileNotFoundError:  # another process removes it
                    continue
        for name in self._directories():
            if name.startswith(GARBAGE):
                self._destroy(self._join(name))

    # ---- directories

    def _join(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def _path(self, number: int) -> str:
        return f"{self.directory}/{_name(number)}"

    def _files(self, number: int) -> str:
        """The directory with the files of a snapshot."""
        return f"{self.directory}/{_name(number)}/fs"

    def _directories(self) -> list[str]:
        """Of snapshots and garbage. Others, like `empty`, have names with more than letters and digits."""
        return [name for name in os.listdir(self.directory) if name.isalnum() or name.startswith(GARBAGE)]

    # ---- helpers

    def _add(self, key: str, kind: Kind, parent: str | None, labels: Mapping[str, str] | None) -> Root:
        with self._database.write():
            record = self._records.add(key, kind, parent, labels=labels)
            parents = [] if parent is None else self._records.chain(parent)
        path = self._path(record.id)
        try:
            with self._described("prepared", key):
                if os.path.lexists(path):  # after a loss of power files can be there whose record is not
                    self._destroy(path)
                self._make(path, kind, parents)
                return self._root(record.id, kind, parents)
        except BaseException:
            self._records.remove(key)
            self._destroy(path)
            raise

    def _find(self, key: str) -> tuple[SnapshotRecord, list[int]]:
        with self._database.read():
            record = self._records.get(key)
            return record, self._records.chain(key)[1:]

    @contextmanager
    def _described(self, what: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SnapshotError(
                f"the snapshot {key!r} cannot be {what} by {self.name} ({error})", errno=error.errno,
                remedy="Free space in the file system of the store" if error.errno in _FULL else None,
            ) from error


def _info(record: SnapshotRecord) -> Info:
    return Info(record.key, record.parent, record.kind, record.created, record.labels)


def _ordered(records: Iterable[SnapshotRecord]) -> list[SnapshotRecord]:
    """Parents first: a layer that was unpacked beside its parent may have the lower number of the two."""
    children: dict[str | None, list[SnapshotRecord]] = {}
    for record in records:
        children.setdefault(record.parent, []).append(record)
    ordered = children.pop(None, [])
    for record in ordered:  # grows meanwhile
        ordered += children.pop(record.key, [])
    return ordered


def _name(number: int) -> str:
    """Short, since an overlay's layers are named one by one: 500 of them, at 36 digits."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits
