"""The records of images, leases and containers."""

from __future__ import annotations

import time

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import popen

from pycontain.metadata import ContainerRecord, ContainerRecords, Database, ImageRecord, Images, Leases
from pycontain.metadata.labels import from_text, to_text

IMAGE = ImageRecord("docker.io/library/one:1", "application/x", "sha256:1", 100, labels={"a": "b"})
CONTAINER = ContainerRecord("c1", "one", "sha256:1", "overlay", "c1-root", labels={"a": "b"})


def test_an_image_is_found_as_it_was_put(database: Database) -> None:
    images = Images(database)
    assert images.get(IMAGE.name) is None
    images.put(IMAGE)
    assert images.get(IMAGE.name) == IMAGE
    assert images.list() == images.by_digest("sha256:1") == [IMAGE]
    assert abs(time.time() - IMAGE.created) < 3600


def test_a_name_moves(database: Database) -> None:
    images = Images(database)
    images.put(IMAGE)
    moved = evolve(IMAGE, digest="sha256:2", labels={})
    images.put(moved)
    assert images.list() == [moved]
    assert images.by_digest("sha256:1") == []


def test_a_name_is_removed_once(database: Database) -> None:
    images = Images(database)
    images.put(IMAGE)
    assert images.remove(IMAGE.name)
    assert not images.remove(IMAGE.name)
    assert images.get(IMAGE.name) is None


def test_images_are_listed_by_name(database: Database) -> None:
    images = Images(database)
    for name in ("b", "c", "a"):
        images.put(evolve(IMAGE, name=name))
    assert [image.name for image in images.list()] == ["a", "b", "c"]
    assert [image.name for image in images.by_digest("sha256:1")] == ["a", "b", "c"]


def test_a_container_belongs_to_this_process_unless_another_is_named(database: Database) -> None:
    containers = ContainerRecords(database)
    containers.add(CONTAINER)
    containers.add(evolve(CONTAINER, id="c2", owner="other"))
    assert containers.get("c1") == evolve(CONTAINER, owner=database.owners.current())
    assert [container.id for container in containers.list()] == ["c1", "c2"]
    containers.sweep()
    assert [container.id for container in containers.list()] == ["c1"]
    assert containers.remove("c1")
    assert not containers.remove("c1")
    assert containers.get("c1") is None


def test_a_lease_lasts_as_long_as_its_block(database: Database) -> None:
    leases = Leases(database)
    with leases.hold() as first, leases.hold() as second:
        first.add("blob", "sha256:1")
        first.add("blob", "sha256:1")
        first.add("snapshot", "overlay/key")
        second.add("blob", "sha256:1")
        leases.sweep()
        assert leases.items() == {("blob", "sha256:1"), ("snapshot", "overlay/key")}
        second.__exit__(None, None, None)
        assert leases.items() == {("blob", "sha256:1"), ("snapshot", "overlay/key")}
    assert leases.items() == set()


def lease_and_fail(leases: Leases) -> None:
    with leases.hold() as lease:
        lease.add("blob", "sha256:1")
        raise ZeroDivisionError


def test_a_lease_ends_with_a_block_that_fails(database: Database) -> None:
    leases = Leases(database)
    with pytest.raises(ZeroDivisionError):
        lease_and_fail(leases)
    assert leases.items() == set()


HOLDS = """
import sys
from pycontain.metadata import Database, Leases

with Leases(Database(sys.argv[1])).hold() as lease:
    lease.add("blob", "sha256:1")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lease_ends_with_its_process(database: Database) -> None:
    leases = Leases(database)
    with popen(HOLDS, database.path, stdin=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        leases.sweep()
        assert leases.items() == {("blob", "sha256:1")}
        process.kill()
        process.wait()
    leases.sweep()
    assert leases.items() == set()


text = st.text(st.characters(exclude_categories=("Cs",)))


@given(st.dictionaries(text, text, max_size=5))
def test_labels_are_read_as_they_were_written(labels: dict[str, str]) -> None:
    assert from_text(to_text(labels)) == labels


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(text.filter(lambda name: "\0" not in name), text, st.dictionaries(text, text, max_size=2))
def test_names_may_have_any_characters(database: Database, name: str, media_type: str, labels: dict[str, str]) -> None:
    record = ImageRecord(name, media_type, "sha256:1", 1, 5.0, labels)
    Images(database).put(record)
    assert Images(database).get(name) == record
