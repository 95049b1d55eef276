"""Garbage collection: nothing in use is removed, nothing unreferenced stays, also while others pull and remove."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from programs import popen
from small_images import put_blob, put_image

from pycontain.content import ContentStore, Digest
from pycontain.content.store import Blob
from pycontain.images.chain import chain_ids
from pycontain.images.contents import Contents, contents_of
from pycontain.images.gc import Collected, collect
from pycontain.images.platform import host_platform
from pycontain.images.pull import publish
from pycontain.images.store import Store
from pycontain.metadata import ContainerRecord, ImageRecord
from pycontain.snapshots.base import Snapshotter
from pycontain.spec import Descriptor, Index, encode
from pycontain.spec.media_types import OCI_INDEX, OCI_MANIFEST

NOTHING = Collected(0, 0, 0)
BASE = {"bin/sh": b"no shell", "base": bytes(10_000)}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    path = str(tmp_path / "store")
    store = Store.at(path)
    yield store
    store.database.close()
    store.database.owners.release()


def add(store: Store, name: str, *layers: dict[str, bytes]) -> Contents:
    """An image that is named and unpacked."""
    with store.leases.hold() as lease:
        contents = contents_at(store, put_image(store.content, layers))
        publish(store, lease, contents, contents.descriptor, name, "native")
    return contents


def contents_at(store: Store, target: Descriptor) -> Contents:
    return contents_of(target, host_platform(), lambda descriptor: store.content.read(descriptor.digest))


def native(store: Store) -> Snapshotter:
    return store.snapshotter("native")


def blobs(store: Store) -> set[str]:
    return {str(blob.digest) for blob in store.content.walk()}


def snapshots(store: Store) -> set[str]:
    return {info.key for info in native(store).walk()}


def blobs_of(contents: Contents) -> set[str]:
    manifest = contents.manifest
    return {contents.descriptor.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)}


def files(store: Store) -> list[str]:
    """What of blobs, snapshots and temporary files there is on the disk."""
    found = []
    for directory in ("content/blobs/sha256", "content/ingest", "locks", "snapshots/native", "snapshots"):
        path = os.path.join(store.path, directory)
        names = os.listdir(path) if os.path.isdir(path) else []
        found += [f"{directory}/{name}" for name in names if name != "native"]
    return found


def test_what_an_image_needs_stays_and_goes_with_its_last_name(store: Store) -> None:
    image = add(store, "one", BASE, {"top": b"1"})
    assert collect(store) == NOTHING
    store.images.put(ImageRecord("two", image.descriptor.media_type, image.descriptor.digest, image.descriptor.size))
    store.images.remove("one")
    assert collect(store) == NOTHING
    assert blobs(store) == blobs_of(image)
    assert snapshots(store) == set(image.chain_ids)
    sizes = [blob.size for blob in store.content.walk()] + [native(store).usage(key).size for key in image.chain_ids]
    store.images.remove("two")
    assert collect(store) == Collected(blobs=4, snapshots=2, bytes=sum(sizes))
    assert files(store) == []


def test_what_two_images_share_stays_with_the_other_one(store: Store) -> None:
    add(store, "one", BASE, {"top": b"1"})
    other = add(store, "two", BASE, {"top": b"2"})
    store.images.remove("one")
    removed = collect(store)
    assert (removed.blobs, removed.snapshots) == (3, 1)
    assert blobs(store) == blobs_of(other)
    assert snapshots(store) == set(other.chain_ids)


def test_a_name_that_moves_leaves_nothing_of_what_it_named(store: Store) -> None:
    add(store, "one", {"old": b"1"})
    new = add(store, "one", {"new": b"2"})
    collect(store)
    assert blobs(store) == blobs_of(new)
    assert snapshots(store) == set(new.chain_ids)


def test_an_index_may_name_manifests_that_are_not_there(store: Store) -> None:
    content = store.content
    manifest = put_image(content, [BASE])
    foreign = Descriptor(manifest.media_type, "sha256:" + "0" * 64, 100)
    index = put_blob(content, OCI_INDEX, encode(Index((foreign, manifest), OCI_INDEX)))
    store.images.put(ImageRecord("many", index.media_type, index.digest, index.size))
    assert collect(store) == NOTHING
    assert blobs(store) == blobs_of(contents_at(store, manifest)) | {index.digest}


def test_a_lease_keeps_blobs_and_what_they_lead_to(store: Store) -> None:
    image = add(store, "one", BASE)
    layer = image.manifest.layers[0].digest
    store.images.remove("one")
    with store.leases.hold() as lease:
        lease.add("blob", image.descriptor.digest)
        assert collect(store) == NOTHING
    with store.leases.hold() as lease:
        lease.add("blob", layer)
        lease.add("blob", "sha256:" + "0" * 64)  # is not there yet
        lease.add("snapshot", f"native/{image.chain_ids[0]}")
        assert collect(store).blobs == 2
        assert blobs(store) == {layer}
        assert snapshots(store) == set(image.chain_ids)
    assert collect(store).blobs == 1
    assert files(store) == []


def test_a_container_keeps_its_image(store: Store) -> None:
    image = add(store, "one", BASE, {"top": b"1"})
    native(store).prepare("root", image.chain_ids[-1])
    store.containers.add(ContainerRecord("c", "one", image.descriptor.digest, "native", "root"))
    store.images.remove("one")
    assert collect(store) == NOTHING
    store.containers.remove("c")
    assert collect(store).blobs == 4  # the root goes on without them
    assert snapshots(store) == {"root", *image.chain_ids}
    native(store).remove("root")
    assert collect(store).snapshots == 2
    assert files(store) == []


DIES = """
import os, sys
from pycontain.images.store import Store
from pycontain.metadata import ContainerRecord

store = Store.at(sys.argv[1])
store.snapshotter("native").prepare("root", sys.argv[2])
store.containers.add(ContainerRecord("c", "one", sys.argv[3], "native", "root"))
with store.leases.hold() as lease:
    lease.add("blob", sys.argv[3])
    with store.content.ingest("sha256:" + "1" * 64) as ingest:
        ingest.write(b"a part")
        print("ready", flush=True)
        sys.stdin.read()
"""


def test_a_killed_process_keeps_nothing(store: Store) -> None:
    image = add(store, "one", BASE)
    with popen(DIES, store.path, image.chain_ids[-1], image.descriptor.digest, stdin=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        store.images.remove("one")
        assert collect(store) == NOTHING
        assert os.listdir(f"{store.path}/content/ingest") == ["sha256-" + "1" * 64]
        process.kill()
    assert collect(store).blobs == 3
    assert files(store) == []
    assert store.leases.items() == set()
    assert store.containers.list() == []
    assert os.listdir(store.database.owners.directory) == [store.database.owners.current()]


def test_temporary_files_of_the_killed_go_when_nobody_holds_them(store: Store) -> None:
    add(store, "one", BASE)
    os.makedirs(f"{store.path}/locks", exist_ok=True)
    for path in ("locks/native-sha256-1", "content/ingest/sha256-" + "2" * 64):
        Path(store.path, path).write_bytes(b"x")
    os.makedirs(f"{store.path}/snapshots/native/999/fs")
    for name, age in ((".probe-1", 1000), (".probe-2", 0)):
        os.mkdir(f"{store.path}/snapshots/{name}")
        os.utime(f"{store.path}/snapshots/{name}", (os.times().elapsed, os.stat(store.path).st_mtime - age))
    store.images.remove("one")
    collect(store)
    assert files(store) == ["snapshots/.probe-2"]  # somebody may be at it


def test_damaged_and_strange_documents_do_not_stop_it(store: Store) -> None:
    kept = add(store, "kept", BASE)
    damaged = add(store, "damaged", {"a": b"1"})
    os.truncate(f"{store.path}/content/blobs/sha256/{damaged.descriptor.digest[7:]}", 20)
    for number, document in enumerate((
        b"{", b"{}", b"[]", b"{" * 100_000, b'{"layers": [1, {}, {"digest": 5}], "config": [], "manifests": {}}',
        b'{"config": {"digest": "../../x"}, "rootfs": {"diff_ids": "x"}}', b'{"manifests": [{"digest": ""}]}',
    )):
        blob = put_blob(store.content, OCI_INDEX, document)
        store.images.put(ImageRecord(f"strange{number}", blob.media_type, blob.digest, blob.size))
    store.images.put(ImageRecord("no digest", OCI_INDEX, "nothing", 5))
    store.images.put(ImageRecord("twice", OCI_INDEX, _twice(store, kept.descriptor), 0))
    removed = collect(store)
    assert (removed.blobs, removed.snapshots) == (2, 1)  # of the damaged one, whose own blob is still named
    assert blobs(store) >= blobs_of(kept)


def _twice(store: Store, target: Descriptor) -> str:
    """The digest of an index that names the same manifest twice, in a document of another form than ours."""
    document = json.dumps({"manifests": [{"digest": target.digest}] * 2})
    return put_blob(store.content, OCI_INDEX, document.encode()).digest


def test_snapshots_of_any_order_are_removed(store: Store) -> None:
    """A layer may have been made before its parent."""
    snapshotter = store.snapshotter("overlay") if os.geteuid() == 0 else native(store)
    for key in ("upper", "lower"):
        snapshotter.prepare(key)
    snapshotter.commit("a", "lower")
    snapshotter.commit("b", "upper", parent="a" if snapshotter.rebase else None)
    assert collect(store).snapshots == 2
    assert list(snapshotter.walk()) == []


def test_chain_ids_are_those_of_the_specification() -> None:
    a, b = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    assert chain_ids([a]) == (a,)
    assert chain_ids([a, b])[0] == a
    assert chain_ids([a, b]) != chain_ids([b, a])


class Meddling(ContentStore):
    """Lets others do something at the two moments that matter: when most is known, and when the removal has begun."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.after_walk: Callable[[], object] = lambda: None
        self.before_remove: Callable[[], object] = lambda: None

    def walk(self) -> Iterator[Blob]:
        yield from list(super().walk())
        self.after_walk()

    def remove(self, digest: Digest | str) -> bool:
        self.before_remove()
        return super().remove(digest)


def test_what_is_leased_or_named_while_it_is_at_work_stays(store: Store) -> None:
    leased, named = add(store, "one", {"a": b"1"}), add(store, "two", {"b": b"2"})
    store.images.remove("one")
    store.images.remove("two")
    content = store._content = Meddling(store.content.path)
    with store.leases.hold() as lease:
        def meddle() -> None:
            lease.add("blob", leased.descriptor.digest)
            store.images.put(ImageRecord("two", OCI_MANIFEST, named.descriptor.digest, named.descriptor.size))

        content.after_walk = meddle
        assert collect(store) == NOTHING
        assert blobs(store) == blobs_of(leased) | blobs_of(named)
        assert snapshots(store) == {*leased.chain_ids, *named.chain_ids}


def test_who_leases_a_blob_while_it_is_removed_finds_what_will_be(store: Store) -> None:
    """The lease waits for the removal: otherwise it would be found, and be gone a moment later."""
    image = add(store, "one", BASE, {"top": b"1"})
    store.images.remove("one")
    content = store._content = Meddling(store.content.path)
    found: dict[str, bool] = {}

    def lease_all() -> None:
        with store.leases.hold() as lease:
            for digest in blobs_of(image):
                lease.add("blob", digest)
                found[digest] = content.info(digest) is not None

    thread = threading.Thread(target=lease_all)

    def meddle() -> None:
        if thread.ident is None:
            thread.start()
            thread.join(0.2)  # it cannot end before the collection does, but would if it did not wait

    content.before_remove = meddle
    assert collect(store).blobs == 4
    thread.join()
    assert found == dict.fromkeys(blobs_of(image), False)


# Each process pulls from a source of its own: blobs are leased, asked for, and written when they are missing; then the
# image is unpacked, named, used, and removed. All the time somebody collects.
WORK = """
import os, random, sys
from small_images import put_image
from pycontain.content import ContentStore
from pycontain.images.contents import contents_of
from pycontain.images.gc import collect
from pycontain.images.platform import host_platform
from pycontain.images.pull import publish
from pycontain.images.store import Store

path, number = sys.argv[1], sys.argv[2]
choose = random.Random(number)
store, source = Store.at(path), ContentStore(f"{path}-source-{number}")
LAYERS = [{f"file{n}": bytes([n]) * 5000} for n in range(4)]

def read(content):
    return lambda descriptor: content.read(descriptor.digest)

def pull(name, layers):
    target = put_image(source, layers)
    image = contents_of(target, host_platform(), read(source))
    with store.leases.hold() as lease:
        for blob in (target, image.manifest.config, *image.manifest.layers):
            lease.add("blob", blob.digest)
            if store.content.info(blob.digest) is None:
                with store.content.ingest(blob.digest, blob.size) as ingest:
                    if not ingest.done:
                        ingest.write(source.read(blob.digest)[ingest.offset:])
                        ingest.commit()
        publish(store, lease, image, target, name, "native")
    return target, image

def check(target, image):
    for blob in (target, image.manifest.config, *image.manifest.layers):
        assert store.content.verify(blob.digest, blob.size), blob
    snapshotter = store.snapshotter("native")
    key = f"root-{number}-{os.urandom(4).hex()}"
    snapshotter.prepare(key, image.chain_ids[-1])
    for chain_id in image.chain_ids:
        assert snapshotter.stat(chain_id).kind == "committed"
    return snapshotter, key

for turn in range(int(sys.argv[3])):
    layers = choose.sample(LAYERS, choose.randint(1, 3))
    if choose.random() < 0.3:
        layers.append({"own": number.encode() + bytes([turn])})
    name = f"image-{number}-{choose.randint(0, 1)}"
    target, image = pull(name, layers)
    snapshotter, key = check(target, image)
    if choose.random() < 0.6:
        store.images.remove(name)
    if choose.random() < 0.6:
        collect(store)
    with snapshotter.tree(key) as tree:  # in use, whatever became of its image
        assert sorted(os.listdir(tree)) == sorted(file for files in layers for file in files)
    snapshotter.remove(key)
for name in ("image-%s-0", "image-%s-1"):
    store.images.remove(name % number)
print("done")
"""


def test_processes_that_pull_remove_and_collect_at_once_lose_nothing_and_leave_nothing(store: Store) -> None:
    processes = [popen(WORK, store.path, number, 12) for number in range(4)]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert outputs == ["done\n"] * 4
    collect(store)
    assert files(store) == []
    with store.database.read() as connection:
        assert connection.execute("SELECT count(*) FROM snapshots").fetchone() == (0,)


KILLED = WORK.replace('print("done")', "collect(store)")


def test_kills_at_any_moment_leave_nothing_after_the_next_collection(store: Store) -> None:
    for seed in range(8):
        with popen(KILLED, store.path, seed, 1000) as process:
            try:
                process.wait(timeout=0.3 + 0.05 * seed)
            except subprocess.TimeoutExpired:
                process.kill()
    for image in store.images.list():
        target = Descriptor(image.media_type, image.digest, image.size)
        contents = contents_at(store, target)  # no image is torn
        assert all(store.content.verify(digest) for digest in blobs_of(contents))
        assert set(contents.chain_ids) <= snapshots(store)
        store.images.remove(image.name)
    collect(store)
    assert [name for name in files(store) if not name.startswith("snapshots/.")] == []


class Counting(ContentStore):
    """Counts how often each blob is opened."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.opened: Counter[str] = Counter()

    def open(self, digest: Digest | str) -> BinaryIO:
        self.opened[str(digest)] += 1
        return super().open(digest)


def test_documents_are_read_once_and_layers_never(store: Store) -> None:
    content = store._content = Counting(store.content.path)
    with store.database.write(durable=True):
        for number in range(20):
            target = put_image(content, [BASE, {"top": str(number).encode()}])
            store.images.put(ImageRecord(f"image{number}", target.media_type, target.digest, target.size))
    content.opened.clear()
    assert collect(store) == NOTHING
    assert len(content.opened) == 2 * 20  # a manifest and a configuration each
    assert set(content.opened.values()) == {2}  # to see whether it is a document, and to read it
