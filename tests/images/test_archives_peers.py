"""Layouts and archives of images from and to skopeo, umoci and podman."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from archives_made import FILES, NAME, SAVE, assert_whole, config_of, load

from pycontain.content import ContentStore
from pycontain.images.layout import save_layout
from pycontain.spec import Descriptor


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"needs {program}")
    return found


def output_of(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def podman(directory: Path, *words: str) -> str:
    """podman with a storage of its own, which leaves that of the machine alone. Its path has to be a short one."""
    if os.geteuid() != 0:
        pytest.skip("needs root: podman with a storage of its own")
    places = ("--root", f"{directory}/root", "--runroot", f"{directory}/run", "--storage-driver", "vfs")
    return output_of(needs("podman"), *places, *words)


@pytest.mark.parametrize("kind", ["layout", "oci-archive", "docker-archive"])
def test_skopeo_reads_what_we_write_and_we_read_what_it_writes(
    kind: str, store: ContentStore, other: ContentStore, image: Descriptor, tmp_path: Path
) -> None:
    transport = {"layout": "oci"}.get(kind, kind)
    ours, its = tmp_path / "ours", tmp_path / "its"
    SAVE[kind](store, [(NAME, image)], str(ours))
    seen = json.loads(output_of(needs("skopeo"), "inspect", f"{transport}:{ours}:{NAME}"))
    assert len(seen["Layers"]) == 2
    config = json.loads(output_of("skopeo", "inspect", "--config", f"{transport}:{ours}:{NAME}"))
    assert config["config"]["Cmd"] == ["/bin/sh"]
    output_of("skopeo", "copy", "-q", f"{transport}:{ours}:{NAME}", f"{transport}:{its}:{NAME}")
    ((name, loaded),) = load(kind, other, str(its))
    assert name == NAME
    assert_whole(other, loaded)
    assert config_of(other, loaded)[1].rootfs == config_of(store, image)[1].rootfs


def test_the_store_itself_can_be_read_by_skopeo_and_umoci_in_place(
    store: ContentStore, image: Descriptor, tmp_path: Path
) -> None:
    store.set_index({NAME: image, "127.0.0.1:5000/x:1": image})
    assert output_of(needs("umoci"), "list", "--layout", store.path).split() == ["127.0.0.1:5000/x:1", NAME]
    for name in (NAME, "127.0.0.1:5000/x:1"):
        seen = json.loads(output_of(needs("skopeo"), "inspect", f"oci:{store.path}:{name}"))
        assert seen["Digest"] == image.digest
    output_of("umoci", "raw", "unpack", "--rootless", "--image", f"{store.path}:{NAME}", str(tmp_path / "root"))
    assert (tmp_path / "root" / "etc" / "hosts").read_bytes() == FILES[1]["etc/hosts"]


def test_umoci_adds_an_image_to_our_layout_and_we_read_both(
    store: ContentStore, other: ContentStore, image: Descriptor, tmp_path: Path
) -> None:
    layout = str(tmp_path / "layout")
    save_layout(store, [("1", image)], layout)
    output_of(needs("umoci"), "config", "--image", f"{layout}:1", "--tag", "2", "--config.cmd", "/other")
    images = dict(load("layout", other, layout))
    assert config_of(other, images["1"])[1].config.cmd == ("/bin/sh",)
    assert config_of(other, images["2"])[1].config.cmd == ("/other",)


def test_podman_loads_what_we_save_and_we_load_what_it_saves(
    store: ContentStore, other: ContentStore, image: Descriptor, tmp_path: Path, public_path: Path
) -> None:
    for kind in ("oci-archive", "docker-archive"):
        ours, its = tmp_path / f"{kind}.tar", tmp_path / f"podman-{kind}.tar"
        SAVE[kind](store, [(NAME, image)], str(ours))
        assert NAME in podman(public_path, "load", "-q", "-i", str(ours))
        podman(public_path, "save", "-q", "--format", kind, "-o", str(its), NAME)
        podman(public_path, "rmi", NAME)
        ((name, loaded),) = load(kind, other, str(its))
        assert name == NAME
        assert config_of(other, loaded)[1].rootfs == config_of(store, image)[1].rootfs
        assert_whole(other, loaded)
