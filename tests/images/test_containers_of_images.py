"""Images as their users have them: loaded, pulled, run, saved, pushed and removed, through the public names."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from registries import docker_registry
from small_images import layer_tar, put_blob

from pycontain import CommandNotFound, Container, Image, ImageNotFound, InvalidArgument, NotSupported
from pycontain.content import ContentStore, Digest
from pycontain.images.store import Store
from pycontain.spec import ConfigFields, Descriptor, ImageConfig, Manifest, RootFS, encode
from pycontain.spec.media_types import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers of images need root")

CONFIG = ConfigFields(
    user="alice", env=("PATH=/bin", "GREETING=hello"),
    entrypoint=("/bin/sh", "-c"), cmd=("echo $GREETING; pwd; id -un",), working_dir="/made/by/nobody",
)


def tar_of(directory: Path) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(directory, arcname=".")
    return made.getvalue()


@pytest.fixture(scope="module")
def layout(busybox_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images that share a layer: `plain`, and `configured`, whose upper layer removes a file and adds one."""
    path = tmp_path_factory.mktemp("layout")
    content = ContentStore(str(path))
    base = tar_of(busybox_root)
    upper = layer_tar({"etc/.wh.group": b"", "added/file": b"from above\n"})
    content.set_index({
        "plain:1": put(content, [base], ConfigFields(cmd=("echo", "plain"), env=("PATH=/bin",))),
        "configured:1": put(content, [base, upper], CONFIG),
    })
    return path


def put(content: ContentStore, tars: list[bytes], config: ConfigFields) -> Descriptor:
    layers = tuple(put_blob(content, OCI_LAYER_GZIP, gzip.compress(data, 1, mtime=0)) for data in tars)
    root = RootFS(diff_ids=tuple(str(Digest.of(data)) for data in tars))
    document = ImageConfig(root, "amd64", "linux", config=config)
    return put_blob(
        content, OCI_MANIFEST, encode(Manifest(put_blob(content, OCI_CONFIG, encode(document)), layers, OCI_MANIFEST))
    )


@pytest.fixture(scope="module")
def store(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The user's store, for this module, with both images."""
    path = tmp_path_factory.mktemp("store")
    before = os.environ.get("PYCONTAIN_STORE")
    os.environ["PYCONTAIN_STORE"] = str(path)
    Image.load(f"oci:{layout}")
    yield Store.at()
    if before is None:
        del os.environ["PYCONTAIN_STORE"]
    else:
        os.environ["PYCONTAIN_STORE"] = before


@pytest.fixture(autouse=True)
def _no_layer_stays_behind(store: Store) -> Iterator[None]:
    yield
    assert store.containers.list() == []
    assert [info.key for info in store.snapshotter().walk() if info.kind != "committed"] == []


def test_the_configuration_of_the_image_applies() -> None:
    result = Container("configured:1").run(check=True)
    assert result.text == "hello\n/made/by/nobody\nalice\n"


def test_the_container_has_the_last_word() -> None:
    container = Container("configured:1").with_env(GREETING="bye").with_workdir("/").with_user("root")
    assert container.run(["echo $GREETING; pwd; id -un"], check=True).text == "bye\n/\nroot\n"


def test_layers_lie_upon_each_other() -> None:
    result = Container("configured:1").run(["cat /added/file; ls /etc"], check=True)
    assert "from above" in result.text
    assert "passwd" in result.text
    assert "group" not in result.text.split()


def test_what_one_container_writes_no_other_sees() -> None:
    plain = Container("plain:1")
    assert plain.run(["sh", "-c", "echo x > /new; rm -r /etc; ls /"], check=True).text.split()[0] == "bin"
    assert plain.run(["sh", "-c", "ls /new; ls /etc/passwd"]).text == "/etc/passwd\n"


def test_a_shared_layer_is_stored_and_unpacked_once(store: Store) -> None:
    plain, configured = Image.get("plain:1"), Image.get("configured:1")
    assert plain.layers[0] == configured.layers[0]
    assert len([info for info in store.snapshotter().walk() if info.kind == "committed"]) == 2


def test_the_layer_stays_until_the_task_is_removed(store: Store) -> None:
    with Container("plain:1").start(["sh", "-c", "echo kept > /kept"]) as task:
        task.wait(60)
        assert len(store.containers.list()) == 1


def test_a_task_that_nobody_keeps_takes_its_layer_with_it() -> None:
    task = Container("plain:1").start(["true"])
    task.wait(60)
    del task
    gc.collect()
    Container("plain:1").run()  # at the latest


def test_the_layer_of_a_failed_start_is_removed() -> None:
    with pytest.raises(CommandNotFound):
        Container("plain:1").run(["/no/such/program"])


def test_both_snapshotters_give_the_same_tree() -> None:
    listing = ["find / -xdev | sort | md5sum"]
    trees = [Container("configured:1", snapshotter=name).run(listing, check=True) for name in ("overlay", "native")]
    assert trees[0].text == trees[1].text


def test_an_image_is_found_by_its_digest() -> None:
    image = Image.get("plain:1")
    assert Image.get(image.target.digest).digest == image.digest
    assert Container(image).run(check=True).text == "plain\n"


def test_a_missing_image_is_named_with_what_helps() -> None:
    with pytest.raises(ImageNotFound, match="pycontain pull missing"):
        Image.get("missing")


def test_a_container_without_an_image_needs_a_command() -> None:
    with pytest.raises(InvalidArgument, match="command is missing"):
        Container.from_host().run()


def test_a_user_namespace_is_refused_until_it_is_supported() -> None:
    with pytest.raises(NotSupported, match="need root"):
        Container("plain:1").with_userns().run()


def test_containers_of_images_are_values() -> None:
    assert Container("plain:1").with_env(A="1") == Container("plain:1").with_env(A="1")
    assert Container("plain:1") != Container("configured:1")
    assert repr(Container("plain:1")) == "<Container plain:1>"


def test_an_image_goes_to_a_registry_and_comes_back(tmp_path: Path) -> None:
    with docker_registry() as registry:
        name = f"{registry.host}/my/image:1"
        Image.get("configured:1").push(name)
        pulled = Image.pull(name, store=Store.at(str(tmp_path / "other")))
        assert pulled.digest == Image.get("configured:1").digest
        assert Container(pulled).run(check=True).text.startswith("hello\n")
        pulled.store.close()


@pytest.mark.parametrize("destination", ["oci:{}/layout:x", "oci-archive:{}/oci.tar", "docker-archive:{}/docker.tar"])
def test_an_image_is_saved_and_loaded_again(destination: str, tmp_path: Path) -> None:
    place = destination.format(tmp_path)
    Image.get("configured:1").save(place)
    other = Store.at(str(tmp_path / "other"))
    (loaded,) = Image.load(place, store=other)
    assert loaded.config == Image.get("configured:1").config
    assert Container(loaded).run(check=True).text.startswith("hello\n")
    other.close()


def test_an_image_is_unpacked_into_a_directory(tmp_path: Path) -> None:
    Image.get("configured:1").unpack(str(tmp_path / "root"))
    assert (tmp_path / "root/added/file").read_text() == "from above\n"
    assert not (tmp_path / "root/etc/group").exists()
    assert Container.from_rootfs(tmp_path / "root").run(["cat", "/added/file"], check=True).text == "from above\n"


def test_what_a_task_wrote_becomes_a_new_image(store: Store) -> None:
    script = "echo new > /tmp/new; rm /etc/group; echo more >> /etc/passwd; sleep 60"
    with Container("plain:1").start(["sh", "-c", script]) as task:
        while task._layer is not None and "/etc/passwd" not in [change.path for change in task.diff()]:
            time.sleep(0.01)
        kinds = {change.path: change.kind for change in task.diff()}
        assert (kinds["/tmp/new"], kinds["/etc/group"], kinds["/etc/passwd"]) == ("added", "deleted", "modified")
        image = task.commit("me/written:1", message="for the test")
        assert task.state == "running"
    assert image.history[-1].comment == "for the test"
    assert len(image.layers) == 2
    result = Container("me/written:1").run(["sh", "-c", "cat /tmp/new; tail -n 1 /etc/passwd; ls /etc/group"])
    assert (result.stdout, result.exit_code) == (b"new\nmore\n", 1)
    image.remove()


def test_a_directory_and_a_tar_become_images(busybox_root: Path, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(tar_of(busybox_root))
    listing = ["/bin/sh", "-c", "cd /; find bin etc | sort; stat -c '%n %a %u %Y' bin/busybox etc/passwd"]
    trees = []
    for image in (
        Image.from_rootfs(str(busybox_root), "me/directory:1"), Image.from_tar(str(tmp_path / "root.tar"), "me/tar:1"),
    ):
        trees.append(Container(image).run(listing, check=True).text)
        image.remove()
    assert trees[0] == trees[1]


# ---- the command line, in processes of its own

def pycontain(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pycontain", *words], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def test_the_command_line_lists_runs_and_inspects() -> None:
    assert "configured:1" in pycontain("images")
    assert pycontain("run", "configured:1") == "hello\n/made/by/nobody\nalice\n"
    assert pycontain("run", "-e", "GREETING=bye", "configured:1", "echo $GREETING") == "bye\n"
    assert json.loads(pycontain("image", "inspect", "plain:1"))["platform"] == "linux/amd64"


def test_the_command_line_loads_tags_and_removes(layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYCONTAIN_STORE", str(tmp_path / "store"))
    assert pycontain("image", "load", f"oci:{layout}:plain:1") == "loaded docker.io/library/plain:1\n"
    pycontain("tag", "plain:1", "me/other:2")
    pycontain("rmi", "plain:1")
    assert pycontain("run", "me/other:2") == "plain\n"
    pycontain("rmi", "me/other:2")
    pycontain("prune")
    left = [path for path in (tmp_path / "store/content/blobs").rglob("*") if path.is_file()]
    assert left == []
    assert [name for name in os.listdir(tmp_path / "store/snapshots/overlay") if name.isalnum()] == []
