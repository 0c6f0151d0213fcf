"""Tags and metadata as the text in which SQLite keeps them: JSON, or nothing where there are none.

In the row of their entry they cost a commit nothing but their bytes; tables of their own cost it a
page and a statement each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

# What json itself quotes texts with; json.dumps takes several times as long to set up.
_quoted = json.encoder.encode_basestring


def tags_text(tags: Sequence[str]) -> str | None:
    """Return tags as a JSON array, in their order."""
    return f"[{','.join(map(_quoted, tags))}]" if tags else None


def metadata_text(metadata: Mapping[str, str]) -> str | None:
    """Return metadata as a JSON object."""
    if not metadata:
        return None
    return "{" + ",".join(f"{_quoted(k)}:{_quoted(v)}" for k, v in metadata.items()) + "}"


def tags_of(text: str | None) -> tuple[str, ...]:
    """Return what ``tags_text`` made a text of.

    Raises:
        ValueError: If it is no JSON array; whether it holds texts is not looked at.
    """
    if text is None:
        return ()
    found = json.loads(text)
    if not isinstance(found, list):
        raise ValueError(f"expected a JSON array, got {text!r}")
    return tuple(found)


def metadata_of(text: str | None) -> dict[str, str]:
    """Return what ``metadata_text`` made a text of.

    Raises:
        ValueError: If it is no JSON object; whether it holds texts is not looked at.
    """
    if text is None:
        return {}
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, got {text!r}")
    return found
