"""The content store: blobs by digest, verified when they are written, published whole or not at all."""

from __future__ import annotations

from pycontain.content.digest import Digest
from pycontain.content.ingest import Ingest, NewBlob
from pycontain.content.store import Blob, ContentStore

__all__ = ["Blob", "ContentStore", "Digest", "Ingest", "NewBlob"]
