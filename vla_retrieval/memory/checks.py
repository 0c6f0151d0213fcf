"""What is refused at the door of the memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.types import Embeddings, Filter, Fingerprint, NewEntry, Probe

_UNIT_TOLERANCE = 1e-3  # on the length of a unit vector
_SHORTEST, _LONGEST = 1e-6, 1e6  # lengths whose products and squares stay well inside float32
_FLOAT32 = np.dtype(np.float32)
_LATEST_NS = 2**63 - 1  # SQLite's largest integer


def check_embeddings(
    field: str, vectors: Embeddings, shape: tuple[int, ...], fingerprint: Fingerprint
) -> None:
    """Check vectors that come from an encoder.

    Args:
        field: What the caller calls them.
        vectors: To be checked.
        shape: That they must have, ``(n, dim)`` or ``(dim,)``.
        fingerprint: Says whether they must have unit length.

    Raises:
        InvalidInputError: If type, shape, values or lengths are not those of embeddings.
    """
    if not isinstance(vectors, np.ndarray) or vectors.dtype != _FLOAT32:
        got = getattr(vectors, "dtype", type(vectors).__name__)
        raise InvalidInputError(field, "a float32 array", str(got))
    if vectors.shape != shape:
        raise InvalidInputError(field, f"shape {shape}", f"shape {vectors.shape}")
    if _are_plainly_units(vectors):
        return
    if not np.isfinite(vectors).all():
        raise InvalidInputError(field, "finite numbers", "NaN or infinity")
    lengths = np.atleast_1d(np.linalg.norm(vectors.astype(np.float64), axis=-1))
    for length in lengths[(lengths < _SHORTEST) | (lengths > _LONGEST)][:1]:
        raise InvalidInputError(
            field, f"vectors of a length in [{_SHORTEST}, {_LONGEST}]", f"length {length:.6g}"
        )
    for length in lengths[np.abs(lengths - 1) > _UNIT_TOLERANCE][:1]:
        if fingerprint.normalized:
            raise InvalidInputError(
                field, f"vectors of length 1 within {_UNIT_TOLERANCE}", f"length {length:.6g}",
                "Normalise them, or use a fingerprint with normalized=False.",
            )  # fmt: skip


def _are_plainly_units(vectors: Embeddings) -> bool:
    """Return whether all is well with vectors, in a tenth of the time that saying why takes."""
    if vectors.ndim == 1 or len(vectors) == 1:
        vector = vectors.ravel()
        return _is_about_one(vector.dot(vector))  # np.vdot takes twice as long to get there
    squares = np.einsum("ij,ij->i", vectors, vectors)
    return len(vectors) > 0 and _is_about_one(squares.min()) and _is_about_one(squares.max())


def _is_about_one(squared_length: np.float32) -> bool:
    # NaN and infinity do not survive the comparison.
    return abs(float(squared_length) - 1) < _UNIT_TOLERANCE


def check_probes(probes: Sequence[Probe], fingerprint: Fingerprint) -> None:
    """Check what a search is asked with.

    Raises:
        InvalidInputError: If there is none, or a weight or a vector is out of its range.
    """
    if not probes:
        raise InvalidInputError("probes", "at least one", "none")
    for number, probe in enumerate(probes):
        if not 0.0 <= probe.weight <= 1.0:
            raise InvalidInputError(
                f"probes[{number}].weight", "a number in [0, 1]", str(probe.weight)
            )
        field = f"probes[{number}].vector"
        check_embeddings(field, probe.vector, (fingerprint.dim,), fingerprint)


def check_entries(entries: Sequence[NewEntry]) -> None:
    """Check that SQLite can hold what ``NewEntry`` lets through.

    Raises:
        InvalidInputError: If a text is not valid Unicode or a stamp needs more than 63 bits.
    """
    if _are_plainly_storable(entries):
        return
    for entry in entries:
        check_text("frame_id", entry.frame_id)
        check_text("episode_id", entry.episode_id)
        check_text("tags", *entry.tags)
        check_text("metadata", *entry.metadata, *entry.metadata.values())
        _check_stamp("stamp", entry.stamp_ns)
        if entry.action is not None:
            check_text("action.space", entry.action.space)
        if entry.camera_pose is not None:
            check_text("camera_pose.frame_id", entry.camera_pose.frame_id)
            _check_stamp("camera_pose.stamp", entry.camera_pose.stamp_ns)


def _are_plainly_storable(entries: Sequence[NewEntry]) -> bool:
    """Return whether all is well with entries, in a fraction of the time that saying why takes."""
    texts: list[str] = []
    stamps: list[int] = []
    for entry in entries:
        texts += (entry.frame_id, entry.episode_id, *entry.tags)
        if entry.metadata:
            texts += entry.metadata
            texts += entry.metadata.values()
        if entry.action is not None:
            texts.append(entry.action.space)
        stamps.append(entry.stamp_ns)
        if entry.camera_pose is not None:
            texts.append(entry.camera_pose.frame_id)
            stamps.append(entry.camera_pose.stamp_ns)
    try:
        "".join(texts).encode()  # join takes nothing but texts, encode no half of a surrogate pair
    except (TypeError, UnicodeEncodeError):
        return False
    return not stamps or (min(stamps) >= 0 and max(stamps) <= _LATEST_NS)


def check_filter(filter: Filter) -> None:
    """Check the texts of a filter.

    Raises:
        InvalidInputError: If one is not valid Unicode.
    """
    if filter.passes_all:
        return
    check_text("filter.episode_ids", *filter.episode_ids)
    check_text("filter.frame_ids", *filter.frame_ids)
    check_text("filter.tags", *filter.tags)
    if filter.near is not None:
        check_text("filter.near.header.frame_id", filter.near.frame_id)
    check_text("filter.metadata", *filter.metadata, *filter.metadata.values())


def check_text(field: str, *texts: str) -> None:
    """Check that each text is valid Unicode.

    Raises:
        InvalidInputError: If one is not, or is no text.
    """
    for text in texts:
        if not isinstance(text, str):
            raise InvalidInputError(field, "text", f"{type(text).__name__} {text!r}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInputError(field, "valid Unicode", str(error)) from None


def _check_stamp(field: str, stamp_ns: int) -> None:
    if not 0 <= stamp_ns <= _LATEST_NS:
        raise InvalidInputError(field, f"nanoseconds in [0, {_LATEST_NS}]", str(stamp_ns))
