"""What an image gives to a container: its root, and what its configuration says of the process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import evolve

from pycontain import defaults
from pycontain.errors import InvalidArgument, InvalidImage, NotSupported
from pycontain.resolve import process_of, with_user
from pycontain.spec import Spec

if TYPE_CHECKING:
    from pycontain.images.image import Image
    from pycontain.images.layer import WritableLayer
    from pycontain.spec.image import ConfigFields

ROOT = "rootfs"  # what the specification says for `root.path`, as in the bundle of any OCI runtime
# The working directory of a container that does not choose one: it means "/", and is written so by nobody else.
UNSET = "/."


def command(image: Image, argv: Sequence[str] | None) -> Sequence[str]:
    """The image's entrypoint, and after it `argv`, or without one what the image says.

    Raises `InvalidArgument` when there is nothing to run.
    """
    config = image.config.config
    if isinstance(argv, (str, bytes)):
        return argv  # which is refused in its place
    words = (*config.entrypoint, *(config.cmd if argv is None else argv))
    if not words:
        raise InvalidArgument(f"the image {image.name} has no command", remedy="Give one")
    return words


def resolved(spec: Spec, layer: WritableLayer, user: str | None) -> Spec:
    """The specification with what the image says where the container says nothing: environment, directory and user."""
    image = layer.image
    config = image.config.config
    process = process_of(spec)
    directory = config.working_dir or "/" if process.cwd == UNSET else process.cwd
    if not directory.startswith("/") or "\0" in directory:
        raise InvalidImage(f"the working directory {directory!r} of the image {image.name} is not an absolute path")
    spec = evolve(spec, process=evolve(process, cwd=directory, env=_environment(config, process.env)))
    user = user or config.user or None
    if user is None:
        return with_user(spec, None)
    with layer.snapshotter.tree(layer.key) as tree:
        return with_user(spec, user, tree)


def _environment(config: ConfigFields, own: Sequence[str]) -> tuple[str, ...]:
    variables = {"PATH": defaults.PATH}
    for variable in (*config.env, *own):
        name, equals, value = variable.partition("=")
        if name and equals and "\0" not in variable:
            variables[name] = value
    return tuple(f"{name}={value}" for name, value in variables.items())


def check(spec: Spec) -> None:
    """Raises `NotSupported` for what a container of an image cannot have."""
    linux = spec.linux
    kinds = {namespace.type for namespace in linux.namespaces} if linux is not None else set()
    if "user" in kinds or os.geteuid() != 0:
        raise NotSupported(
            "containers of images need root, and no user namespace of their own, as yet",
            remedy="Unpack the image to a directory (pycontain image unpack REFERENCE DIRECTORY) and use that",
        )
    if "mount" not in kinds:
        raise NotSupported("a container of an image needs a mount namespace of its own")
