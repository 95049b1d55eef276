"""The sqlite database of a store: transactions, for all threads and processes that use it.

    with database.write(durable=True) as connection:   # also `read()`
        connection.execute(...)

Readers never wait. Writers wait for each other: the threads of a process at a lock, processes at sqlite's (WAL mode).
What was committed survives the end of the process by any means, and with `durable` the loss of power. The log
is sequential: what was committed before a durable transaction is durable with it.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakSet

from pycontain.errors import StoreError
from pycontain.metadata.failures import BUSY_LIMIT, translated
from pycontain.metadata.owners import Owners
from pycontain.metadata.session import Session

if TYPE_CHECKING:
    import sqlite3


class Database:
    """The database of a store. All threads may use it, and after a fork both processes.

    A fork closes the connections first, since sqlite's locks do not survive it, and so waits for the transactions of
    other threads. One of the forking thread itself is rolled back, and its block raises `StoreError`.

    Attributes:
        path: the file.
        owners: the processes that use the store; their files are in `owners` beside it.
    """

    def __init__(self, path: str) -> None:
        """Opens nothing: the first transaction makes the file, or checks its version."""
        self.path = os.path.abspath(path)
        self.owners = Owners(os.path.join(os.path.dirname(self.path), "owners"))
        self._refusal = ""
        self._writing = threading.Lock()
        self._local = threading.local()
        self._sessions: WeakSet[Session] = WeakSet()
        with _lock:
            _databases.add(self)

    def read(self) -> Transaction:
        """A block that sees one state of the database. In another block of the same thread it is a part of that."""
        return Transaction(self, write=False, durable=False)

    def write(self, *, durable: bool = False) -> Transaction:
        """A block that changes everything or, left by an exception, nothing. In another block that writes it is a part
        of that, which can go on after an exception in this one. `durable`: also after a loss of power.

        Raises `StoreError`: a full disk, a directory that cannot be written, a newer version's database, others that
        write for a minute. `RuntimeError`: within a block that reads, or durable within one that is not.
        """
        return Transaction(self, write=True, durable=durable)

    def close(self) -> None:
        """Closes the connections of all threads, after their transactions."""
        self._refuse(f"the database {self.path} is closed")
        with _lock:
            sessions = list(self._sessions)
        for session in sessions:
            with session.lock:
                session.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _session(self) -> Session:
        """The calling thread's."""
        session: Session | None = getattr(self._local, "session", None)
        if session is None:
            if self._refusal:
                raise StoreError(self._refusal)
            session = Session(self.path)
            with _lock:
                self._sessions.add(session)
            self._local.session = session
        return session

    def _refuse(self, why: str) -> None:
        self._refusal = why
        self._local = threading.local()


class Transaction:
    """What `Database.read` and `Database.write` return: a block with sqlite's connection, used once."""

    __slots__ = ("_database", "_durable", "_session", "_write", "_writing")

    def __init__(self, database: Database, *, write: bool, durable: bool) -> None:
        self._database = database
        self._write = write
        self._durable = durable
        self._writing: threading.Lock | None = None

    def __enter__(self) -> sqlite3.Connection:
        database = self._database
        session = self._session = database._session()
        try:
            if self._write and not session.depth:  # before the other lock: a fork waits for that one
                if not database._writing.acquire(timeout=BUSY_LIMIT):
                    raise StoreError(f"another thread has been writing to {database.path} for {BUSY_LIMIT:.0f} seconds")
                self._writing = database._writing
            session.lock.acquire()
            try:
                return session.begin(self._write, self._durable)
            except BaseException:
                session.lock.release()
                raise
        except BaseException as error:
            self._release()
            raise translated(error, database.path) from None

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._session.end(self._write, value is None)
        except BaseException as error:
            raise translated(error, self._database.path) from value
        finally:
            self._session.lock.release()
            self._release()
        if value is not None:
            meaning = translated(value, self._database.path)
            if meaning is not value:
                raise meaning from value

    def _release(self) -> None:
        if self._writing is not None:
            self._writing.release()
            self._writing = None


# ---- fork. "Do not open an SQLite database connection, then fork(), then try to use that database connection in the
# child process": https://sqlite.org/howtocorrupt.html, 2.6. Nor may the child open another one, while sqlite believes
# there that it holds the parent's locks. So no connection is open across a fork.

_databases: WeakSet[Database] = WeakSet()
_lock = threading.Lock()
_held: list[Session] = []
_busy: list[Database] = []


def _before_fork() -> None:
    _lock.acquire()
    for database in list(_databases):
        for session in list(database._sessions):
            if session.lock.acquire(timeout=BUSY_LIMIT):
                _held.append(session)
                session.close()
            else:
                _busy.append(database)


def _after_fork() -> None:
    while _held:
        _held.pop().lock.release()
    _busy.clear()
    _lock.release()


def _after_fork_in_child() -> None:
    for database in list(_databases):
        database._writing = threading.Lock()
    for database in _busy:
        database._refuse(f"this process was forked while another thread used {database.path}, and did not stop")
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
