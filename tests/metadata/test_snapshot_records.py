"""The records of snapshots: the forest, its rules, and the ids."""

from __future__ import annotations

import pytest

from pycontain.errors import SnapshotError
from pycontain.metadata import SnapshotRecords


def test_a_new_snapshot_is_there_as_it_was_made(records: SnapshotRecords) -> None:
    made = records.add("one", "active", labels={"a": "b"})
    assert records.get("one") == made
    assert (made.key, made.parent, made.kind, made.labels) == ("one", None, "active", {"a": "b"})
    assert made.owner == records.database.owners.current()
    assert records.list() == [made]


def test_a_committed_snapshot_has_its_new_name_and_keeps_its_id(records: SnapshotRecords) -> None:
    active = records.add("work", "active")
    committed = records.commit("layer", "work", size=10, inodes=3)
    assert committed == records.get("layer")
    assert (committed.id, committed.kind, committed.owner) == (active.id, "committed", None)
    assert (committed.size, committed.inodes) == (10, 3)
    assert records.find("work") is None


def test_a_chain_is_the_ids_from_the_top_to_the_bottom(records: SnapshotRecords) -> None:
    bottom = records.add("1", "committed")
    middle = records.add("2", "committed", "1")
    top = records.add("3", "active", "2")
    assert records.chain("3") == [top.id, middle.id, bottom.id]
    assert records.chain("1") == [bottom.id]
    assert records.children("1") == ["2"]


def test_a_chain_may_be_of_hundreds_of_layers(records: SnapshotRecords) -> None:
    with records.database.write():
        ids = [records.add(str(n), "committed", str(n - 1) if n else None).id for n in range(600)]
    assert records.chain("599") == ids[::-1]


def test_a_parent_can_be_given_at_the_commit(records: SnapshotRecords) -> None:
    records.add("base", "committed")
    records.add("work", "active")
    assert records.commit("layer", "work", size=1, inodes=1, parent="base").parent == "base"
    assert records.children("base") == ["layer"]


def test_an_id_is_never_given_twice(records: SnapshotRecords) -> None:
    first = records.add("one", "active").id
    records.remove("one")
    assert records.add("one", "active").id > first


def test_snapshotters_do_not_see_each_other(records: SnapshotRecords) -> None:
    other = SnapshotRecords(records.database, "native")
    records.add("one", "committed")
    assert other.find("one") is None
    with pytest.raises(SnapshotError, match="no snapshot 'one' in native"):
        other.add("two", "active", "one")
    assert other.add("one", "active").id != records.get("one").id


def test_what_has_children_is_not_removed(records: SnapshotRecords) -> None:
    records.add("base", "committed")
    records.add("a", "active", "base")
    records.add("b", "view", "base")
    with pytest.raises(SnapshotError, match="'base' is the parent of 'a' and 1 more"):
        records.remove("base")
    for key in ("a", "b", "base"):
        records.remove(key)
    assert records.list() == []


def test_what_breaks_the_rules_is_refused_and_changes_nothing(records: SnapshotRecords) -> None:
    records.add("base", "committed")
    records.add("other", "committed")
    records.add("view", "view", "base")
    records.add("work", "active", "base")
    before = records.list()
    for match, refused in (
        ("'base' exists already", lambda: records.add("base", "active")),
        ("no snapshot 'none'", lambda: records.add("new", "active", "none")),
        ("'work' is active, and only a committed", lambda: records.add("new", "active", "work")),
        ("'view' is view, and only a committed", lambda: records.add("new", "active", "view")),
        ("no snapshot 'none'", lambda: records.get("none")),
        ("no snapshot 'none'", lambda: records.chain("none")),
        ("no snapshot 'none'", lambda: records.remove("none")),
        ("no snapshot 'none'", lambda: records.commit("new", "none", size=0, inodes=0)),
        ("'view' is view, and only an active", lambda: records.commit("new", "view", size=0, inodes=0)),
        ("'base' exists already", lambda: records.commit("base", "work", size=0, inodes=0)),
        ("has the parent 'base', not 'other'", lambda: records.commit("n", "work", size=0, inodes=0, parent="other")),
    ):
        with pytest.raises(SnapshotError, match=match):
            refused()
        assert records.list() == before
