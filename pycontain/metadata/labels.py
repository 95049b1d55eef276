"""Labels, small mappings of strings, as a column of the database."""

from __future__ import annotations

from collections.abc import Mapping


def to_text(labels: Mapping[str, str] | None) -> str:
    if not labels:
        return "{}"
    import json

    return json.dumps(dict(labels), sort_keys=True)


def from_text(text: str) -> dict[str, str]:
    if text == "{}":  # most are, and a start shall not import json for them
        return {}
    import json

    labels: dict[str, str] = json.loads(text)
    return labels
