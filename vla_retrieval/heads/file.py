"""The file of a head: safetensors, so that reading it executes nothing.

Its metadata are ``format`` and ``format_version``, ``method``, ``digest``, ``encoder`` (the
fingerprint of the encoder that it belongs to, JSON) and ``record`` (how it was trained, JSON).
safetensors has no checksum; the digest is computed again from what was read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vla_retrieval.errors import HeadError, HeadMismatchError, InvalidInputError
from vla_retrieval.heads.base import WeightedHead, Weights
from vla_retrieval.heads.hashing import HashHead
from vla_retrieval.heads.joint import JointHead
from vla_retrieval.heads.metric import MetricHead
from vla_retrieval.projection import Head
from vla_retrieval.publishing import published
from vla_retrieval.types import Fingerprint

METHODS: dict[str, type[WeightedHead]] = {
    head.METHOD: head for head in (JointHead, MetricHead, HashHead)
}

FORMAT = "vla_retrieval.head"
FORMAT_VERSION = 1


def load_head(path: Path, encoder_fingerprint: Fingerprint | None = None) -> Head:
    """Read a head.

    Args:
        path: Of a file that ``save_head`` wrote.
        encoder_fingerprint: Of the encoder whose embeddings it will get; None: whichever it names.

    Raises:
        HeadError: If the file is missing, damaged, no head, or of a newer version.
        HeadMismatchError: If the head was trained on another encoder.
    """
    metadata, weights = _read(Path(path))
    encoder = _fingerprint(path, metadata["encoder"])
    if encoder_fingerprint is not None and encoder != encoder_fingerprint:
        raise HeadMismatchError(
            f"{path} was trained on another encoder: expected {encoder_fingerprint}, got"
            f" {encoder}. Load the encoder that it was trained on, or train a head for this one."
        )
    try:
        head = METHODS[metadata["method"]](encoder, weights)
    except (HeadError, InvalidInputError) as error:
        raise HeadError(f"{path}: {error}") from error
    if head.digest != metadata["digest"]:
        raise _damaged(path, f"arrays of {metadata['digest']}", f"those of {head.digest}")
    return head


def read_record(path: Path) -> dict[str, Any]:
    """Return how a head was trained, as ``save_head`` got it.

    Raises:
        HeadError: If the file is missing, damaged, no head, or of a newer version.
    """
    metadata, _ = _read(Path(path))
    return _object(path, "record", metadata["record"])


def save_head(head: WeightedHead, path: Path, record: Mapping[str, Any] | None = None) -> None:
    """Write a head to a new file, which appears when it is whole.

    Args:
        head: To be written.
        path: That does not exist yet.
        record: How it was trained, as JSON has it.

    Raises:
        InvalidInputError: If the file exists or its folder does not.
        StorageError: If the disk refuses.
    """
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "method": head.method,
        "digest": head.digest,
        "encoder": json.dumps(asdict(head.encoder)),
        "record": json.dumps(dict(record or {}), ensure_ascii=False, allow_nan=False),
    }
    content = save(dict(head.weights), metadata)
    with published(path) as partial:
        partial.write_bytes(content)


def _read(path: Path) -> tuple[dict[str, str], Weights]:
    """Return the metadata, with all keys, and the arrays."""
    try:
        found = "a file" if path.is_file() else "a directory" if path.is_dir() else "nothing"
    except OSError as error:  # a name that is too long, a folder that may not be entered
        found = str(error.strerror)
    if found != "a file":
        raise HeadError(f"No head at {path}: expected a file, got {found}. Check the path.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
            _check_format(path, metadata)
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        # The last two are safetensors' own for types that numpy has not (bf16, fp8).
        size = path.stat().st_size if path.exists() else 0
        raise _damaged(path, "safetensors", f"{size} bytes with {error}") from error


def _check_format(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise HeadError(
            f"{path} is no head: expected {FORMAT!r} as the format in its metadata, got"
            f" {metadata.get('format')!r}. Give a file that `train` wrote; weights of a model are"
            " given as checkpoint."
        )
    version = metadata.get("format_version")
    if version != str(FORMAT_VERSION):
        raise HeadError(
            f"{path} cannot be read: expected format version {FORMAT_VERSION}, got {version}."
            " Train it again, or use the release that wrote it."
        )
    missing = {"method", "digest", "encoder", "record"} - metadata.keys()
    if missing:
        raise _damaged(path, f"{', '.join(sorted(missing))} in its metadata", "none")
    if metadata["method"] not in METHODS:
        raise HeadError(
            f"{path} cannot be used: expected a method of {', '.join(METHODS)}, got"
            f" {metadata['method']!r}. Use the release that wrote it."
        )


def _fingerprint(path: Path, text: str) -> Fingerprint:
    try:
        return Fingerprint.from_plain(_object(path, "encoder", text))
    except TypeError as error:
        raise _damaged(path, "a fingerprint as encoder", str(error)) from error


def _object(path: Path, name: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:  # also what is nested without end
        raise _damaged(path, f"JSON as {name}", str(error)) from error
    if not isinstance(found, dict):
        raise _damaged(path, f"an object as {name}", type(found).__name__)
    return found


def _damaged(path: Path, expected: str, got: str) -> HeadError:
    return HeadError(f"{path} is damaged: expected {expected}, got {got}. Copy it again.")
