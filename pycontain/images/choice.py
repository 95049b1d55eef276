"""Which image a container is made from: a value, looked up when the container starts."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from pycontain.errors import ImageNotFound, InvalidArgument
from pycontain.images.image import Image
from pycontain.images.store import Store

Pull = Literal["missing", "always", "never"]


@frozen
class ImageChoice:
    """A reference or digest, where to look for it, and when to ask its registry. `store` is a path, None the user's."""

    reference: str
    pull: Pull = "missing"
    platform: str | None = None
    snapshotter: str | None = None
    store: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.pull not in ("missing", "always", "never"):
            raise InvalidArgument(f"{self.pull!r} is not 'missing', 'always' or 'never'")

    @classmethod
    def of(cls, image: str | Image, pull: Pull, platform: str | None, snapshotter: str | None) -> ImageChoice:
        if isinstance(image, Image):
            return cls(image.target.digest, "never", platform or image.platform, snapshotter, image.store.path)
        return cls(image, pull, platform, snapshotter)

    def resolve(self) -> Image:
        """The image, pulled or loaded when it is missing. Raises as `Image.get` and `Image.pull`."""
        store = Store.at(self.store)
        if self.pull == "always":
            return self._fetch(store)
        try:
            return Image.get(self.reference, platform=self.platform, store=store)
        except ImageNotFound:
            if self.pull == "never":
                raise
        return self._fetch(store)

    def _fetch(self, store: Store) -> Image:
        return Image.pull(self.reference, platform=self.platform, snapshotter=self.snapshotter, store=store)
