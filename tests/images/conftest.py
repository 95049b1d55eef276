"""Two stores, and an image in the first."""

from __future__ import annotations

from pathlib import Path

import pytest
from archives_made import FILES
from small_images import put_image

from pycontain.content import ContentStore
from pycontain.spec import Descriptor


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(str(tmp_path / "content"))


@pytest.fixture
def other(tmp_path: Path) -> ContentStore:
    return ContentStore(str(tmp_path / "other"))


@pytest.fixture
def image(store: ContentStore) -> Descriptor:
    return put_image(store, FILES)
