"""The tables of the metadata, as the steps by which one version becomes the next. A step that was released never
changes: what changes is added as a new one."""

from __future__ import annotations

# Times are seconds since the epoch, labels are JSON objects of strings. An owner is the name of a file in `owners/`.
_VERSION_1 = (
    """CREATE TABLE images (
        name TEXT PRIMARY KEY,
        media_type TEXT NOT NULL,
        digest TEXT NOT NULL,
        size INTEGER NOT NULL CHECK (size >= 0),
        created REAL NOT NULL,
        labels TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX images_by_digest ON images (digest)",
    # AUTOINCREMENT: directories are named by the id, and what is left of a removed one must not become another's
    """CREATE TABLE snapshots (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        snapshotter TEXT NOT NULL,
        key TEXT NOT NULL,
        parent INTEGER REFERENCES snapshots (id) DEFERRABLE INITIALLY DEFERRED,
        kind TEXT NOT NULL CHECK (kind IN ('active', 'view', 'committed')),
        created REAL NOT NULL,
        labels TEXT NOT NULL,
        size INTEGER NOT NULL DEFAULT 0,
        inodes INTEGER NOT NULL DEFAULT 0,
        owner TEXT,
        UNIQUE (snapshotter, key),
        CHECK ((owner IS NULL) = (kind = 'committed'))
    ) STRICT""",
    "CREATE INDEX snapshots_by_parent ON snapshots (parent) WHERE parent IS NOT NULL",
    "CREATE INDEX snapshots_by_owner ON snapshots (owner) WHERE owner IS NOT NULL",
    """CREATE TABLE leases (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        owner TEXT NOT NULL,
        created REAL NOT NULL
    ) STRICT""",
    """CREATE TABLE leased (
        lease INTEGER NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
        kind TEXT NOT NULL CHECK (kind IN ('blob', 'snapshot')),
        item TEXT NOT NULL,
        PRIMARY KEY (lease, kind, item)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE containers (
        id TEXT PRIMARY KEY,
        image TEXT NOT NULL,
        digest TEXT NOT NULL,
        snapshotter TEXT NOT NULL,
        snapshot TEXT NOT NULL,
        owner TEXT NOT NULL,
        created REAL NOT NULL,
        labels TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_VERSION_1,)  # the n-th makes version n of version n - 1
