"""Chain IDs: the name of a layer together with all those below it (OCI image specification, config.md).

Snapshots are kept under them, so that what two images share is stored once and unpacked once.
"""

from __future__ import annotations

from collections.abc import Sequence


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """The chain ID of each layer, the lowest first, from the digests of the uncompressed layers."""
    import hashlib

    chain: list[str] = []
    for diff_id in diff_ids:
        if chain:
            diff_id = "sha256:" + hashlib.sha256(f"{chain[-1]} {diff_id}".encode()).hexdigest()
        chain.append(diff_id)
    return tuple(chain)
