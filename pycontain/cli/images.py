"""The commands for images: they translate, and print tables."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pycontain.images.fetch import Progress
    from pycontain.images.image import Image
    from pycontain.spec.image import Descriptor

UNITS = ("B", "kB", "MB", "GB", "TB")


@click.command()
@click.argument("reference")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Another platform than this machine's.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the digest.")
def pull(reference: str, platform: str | None, quiet: bool) -> None:
    """Bring an image from its registry into the store."""
    from pycontain.images.image import Image

    with Bar(hidden=quiet or not sys.stderr.isatty()) as bar:
        image = Image.pull(reference, platform=platform, progress=bar.progress)
    click.echo(image.target.digest if quiet else f"{image.name}\n{image.target.digest}")


@click.command()
@click.argument("image")
@click.argument("reference", required=False)
def push(image: str, reference: str | None) -> None:
    """Send IMAGE to a registry, under its own name or as REFERENCE."""
    from pycontain.images.image import Image

    found = Image.get(image)
    found.push(reference or found.name)
    click.echo(f"{reference or found.name}\n{found.digest}")


@click.command(name="images")
@click.option("-q", "--quiet", is_flag=True, help="Print only the digests.")
def list_images(quiet: bool) -> None:
    """List the images in the store."""
    from pycontain.images.image import Image

    images = Image.list()
    if quiet:
        for image in images:
            click.echo(image.target.digest)
        return
    rows: list[tuple[str, ...]] = [("NAME", "DIGEST", "PLATFORM", "SIZE")]
    rows += [(familiar(image), image.target.digest[7:19], image.platform, size(image.size)) for image in images]
    click.echo(table(rows))


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
def rmi(images: tuple[str, ...]) -> None:
    """Remove images, and what no other image or container needs of them."""
    from pycontain.images.image import Image

    for name in images:
        image = Image.get(name)
        image.remove()
        click.echo(f"removed {image.name}")


@click.command()
@click.argument("image")
@click.argument("name")
def tag(image: str, name: str) -> None:
    """Give IMAGE another name too."""
    from pycontain.images.image import Image

    click.echo(Image.get(image).tag(name).name)


@click.command()
@click.argument("image")
def history(image: str) -> None:
    """Show how an image was made, the newest step first."""
    from pycontain.images.image import Image

    rows: list[tuple[str, ...]] = [("CREATED", "CREATED BY", "COMMENT")]
    for step in reversed(Image.get(image).history):
        rows.append(tuple(printable(text or "")[:60] for text in (step.created, step.created_by, step.comment)))
    click.echo(table(rows))


@click.command()
def prune() -> None:
    """Remove everything in the store that no image and no container needs."""
    from pycontain.images.gc import collect
    from pycontain.images.store import Store

    collected = collect(Store.at())
    click.echo(f"removed {collected.blobs} blobs ({size(collected.bytes)}) and {collected.snapshots} snapshots")


@click.group(name="image")
def image_group() -> None:
    """Inspect, load, save and unpack images."""


@image_group.command()
@click.argument("image")
def inspect(image: str) -> None:
    """Print what is known of an image as JSON."""
    import json

    from pycontain.images.image import Image
    from pycontain.spec.convert import to_dict

    found = Image.get(image)
    click.echo(json.dumps(
        {
            "name": found.name, "digest": found.digest, "target": to_dict(found.target), "size": found.size,
            "platform": found.platform, "manifest": to_dict(found.manifest), "config": to_dict(found.config),
        },
        indent=2,
    ))


@image_group.command()
@click.argument("source")
def load(source: str) -> None:
    """Load the images of oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:REFERENCE]."""
    from pycontain.images.image import Image

    for image in Image.load(source):
        click.echo(f"loaded {image.name}")


@image_group.command()
@click.argument("image")
@click.argument("destination")
def save(image: str, destination: str) -> None:
    """Write IMAGE to oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:REFERENCE]."""
    from pycontain.images.image import Image

    Image.get(image).save(destination)


@image_group.command()
@click.argument("image")
@click.argument("directory")
def unpack(image: str, directory: str) -> None:
    """Unpack the root file system of IMAGE into a new or empty DIRECTORY."""
    from pycontain.images.image import Image

    Image.get(image).unpack(directory)


COMMANDS = (pull, push, list_images, rmi, tag, history, prune, image_group)


class Bar:
    """How far a download is, on one line of the terminal."""

    def __init__(self, *, hidden: bool) -> None:
        self._hidden = hidden
        self._sizes: dict[str, tuple[int, int]] = {}
        self._shown = 0.0

    @property
    def progress(self) -> Progress:
        return self._update

    def _update(self, descriptor: Descriptor, here: int) -> None:
        self._sizes[descriptor.digest] = (here, descriptor.size)
        now = time.monotonic()
        if not self._hidden and now - self._shown > 0.1:
            self._shown = now
            self._show()

    def _show(self) -> None:
        sizes = list(self._sizes.values())
        here, whole = sum(pair[0] for pair in sizes), sum(pair[1] for pair in sizes)
        done = sum(pair[0] == pair[1] for pair in sizes)
        click.echo(f"\r\033[K{size(here)} of {size(whole)}, {done} of {len(sizes)} blobs", err=True, nl=False)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            click.echo("\r\033[K", err=True, nl=False)


def familiar(image: Image) -> str:
    from pycontain.errors import InvalidReference
    from pycontain.registry.reference import Reference

    try:
        return Reference.parse(image.name).familiar
    except InvalidReference:  # one without a name
        return "<none>"


def size(number: float) -> str:
    """Bytes in decimal units, as docker shows them."""
    for unit in UNITS:
        if number < 1000 or unit == UNITS[-1]:
            break
        number /= 1000
    return f"{number:.3g}{unit}"


def printable(text: str) -> str:
    """What a stranger wrote, without what a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text)


def table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
