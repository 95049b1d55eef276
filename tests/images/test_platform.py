"""The image of an index that a machine can run best is chosen, as docker does."""

from __future__ import annotations

import pytest

from pycontain.errors import ImageNotFound, InvalidArgument
from pycontain.images.platform import compatible, format_platform, host_platform, parse_platform, select
from pycontain.spec.image import Descriptor, Index, Platform
from pycontain.spec.media_types import OCI_CONFIG, OCI_MANIFEST


def entry(platform: str | None, number: int, media_type: str = OCI_MANIFEST) -> Descriptor:
    found = None
    if platform is not None:
        system, architecture, *variant = platform.split("/")
        found = Platform(architecture, system, variant=variant[0] if variant else None)
    return Descriptor(media_type, f"sha256:{number:064x}", 1, platform=found)


def chosen(wanted: str, *platforms: str | None) -> int:
    """The place of the entry that is chosen for a platform."""
    index = Index(tuple(entry(platform, number) for number, platform in enumerate(platforms)))
    return int(select(index, parse_platform(wanted), "the index").digest.partition(":")[2], 16)


@pytest.mark.parametrize(
    ("wanted", "platforms", "best"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64", ["windows/amd64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64", "linux/amd64"], 0),
        ("linux/amd64", ["linux/386"], 0),
        ("linux/amd64", ["linux/386", "linux/amd64/v1"], 1),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v3"], 2),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], 1),
        ("linux/arm64", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], 1),
        ("linux/arm", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/aarch64", ["linux/arm64"], 0),
        ("linux/amd64", [None, "linux/arm64"], 0),
        ("linux/amd64", [None, "linux/amd64", "unknown/unknown"], 1),
        ("linux/riscv64", ["linux/amd64", "linux/riscv64"], 1),
    ],
)
def test_the_best_image_that_the_machine_can_run_is_chosen(wanted: str, platforms: list[str], best: int) -> None:
    assert chosen(wanted, *platforms) == best


@pytest.mark.parametrize(
    ("wanted", "platforms"),
    [
        ("linux/amd64", ["linux/arm64", "unknown/unknown"]),
        ("linux/amd64", ["linux/amd64/v3"]),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm"]),
        ("linux/386", ["linux/amd64"]),
        ("linux/amd64", []),
    ],
)
def test_an_image_that_the_machine_cannot_run_is_not_chosen(wanted: str, platforms: list[str]) -> None:
    with pytest.raises(ImageNotFound, match=wanted):
        chosen(wanted, *platforms)


def test_what_is_no_image_is_not_chosen() -> None:
    index = Index((entry("linux/amd64", 0, OCI_CONFIG), entry("linux/amd64", 1)))
    assert select(index, parse_platform("linux/amd64"), "the index") == index.manifests[1]


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/x86_64", "linux/amd64"), ("linux/amd64/v1", "linux/amd64"), ("linux/arm64/8", "linux/arm64"),
        ("Linux/ARM/7", "linux/arm/v7"), ("linux/arm", "linux/arm/v7"), ("linux/armhf", "linux/arm/v7"),
        ("arm64", "linux/arm64"), ("linux/arm64/v8.2", "linux/arm64/v8.2"), ("windows/amd64", "windows/amd64"),
    ],
)
def test_a_platform_is_read_in_the_words_of_go_and_of_uname(text: str, platform: str) -> None:
    assert format_platform(parse_platform(text)) == platform


@pytest.mark.parametrize("text", ["", "/", "linux", "linux/", "a/b/c/d", "linux/amd64/", "linux/a b", "linux/ä", "\0"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"platform|architecture"):
        parse_platform(text)


def test_this_machine_runs_its_own_images() -> None:
    assert compatible(host_platform())[0] == host_platform()
