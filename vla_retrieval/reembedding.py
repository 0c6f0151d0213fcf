"""A memory made anew with another encoder, from the pictures that it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vla_retrieval.encoders import Encoder
from vla_retrieval.errors import InvalidInputError, StorageError
from vla_retrieval.memory.contents import Contents, Progress, silent
from vla_retrieval.memory.copying import Copy, copying
from vla_retrieval.publishing import published
from vla_retrieval.thumbnails import NO_PICTURE, read_thumbnail, why_no_picture
from vla_retrieval.types import Entry, RgbImage

_SUFFIXES = (".jpg", ".jpeg", ".png")
_SHOWN = 20


@dataclass(frozen=True)
class Reembedded:
    """What became of the entries.

    Attributes:
        entries: How many the new memory has.
        from_images: How many of them were made from source images, not from thumbnails.
        skipped: Ids of those left out, because there is no picture of them; ascending.
    """

    entries: int
    from_images: int
    skipped: tuple[int, ...]


def find_images(folder: Path) -> dict[int, Path]:
    """Return the pictures in a folder that are named ``<entry_id>.jpg``, ``.jpeg`` or ``.png``.

    Raises:
        InvalidInputError: If there is no such folder; the field is ``images``.
        StorageError: If it cannot be read.
    """
    try:
        if not folder.is_dir():
            raise InvalidInputError("images", "a folder of <entry_id>.jpg or .png", str(folder))
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise StorageError(
            f"cannot read {folder}: {error.strerror or error}. Check the path and the rights."
        ) from error
    return {
        int(path.stem): path
        for path in paths
        if path.suffix.lower() in _SUFFIXES and path.stem.isascii() and path.stem.isdigit()
    }


def reembed(
    contents: Contents,
    target: Path,
    encoder: Encoder,
    images: Mapping[int, Path] | None = None,
    *,
    skip_missing: bool = False,
    progress: Progress = silent,
) -> Reembedded:
    """Make a new memory with another encoder; entries keep their ids and all that they say.

    Args:
        contents: The open directory of the old memory, which stays as it is.
        target: Directory of the new one; it must not exist. It appears when it is whole.
        encoder: Of the new one.
        images: Source images by entry id, taken before thumbnails, which are smaller.
        skip_missing: Whether entries without a picture are left out, or else refused.
        progress: Told how far it is.

    Raises:
        InvalidInputError: If the target exists, or there are entries without a picture that may
            not be left out.
        EncoderError: If the encoder fails.
        MemoryFormatError: If an entry of the old memory is damaged.
        StorageError: If a picture cannot be read, or the disk refuses.
    """
    images = images or {}
    missing = without_picture(contents, images, progress)
    if missing and not skip_missing:
        raise _without(missing, contents.count())
    left_out = set(missing)
    done = from_images = 0
    total = contents.count()
    with published(target) as partial, copying(contents, partial, encoder.fingerprint) as copy:
        for portion in contents.portions():
            entries = [e for e in portion.entries if e.entry_id not in left_out]
            _copy(copy, entries, encoder, images)
            from_images += sum(entry.entry_id in images for entry in entries)
            done += len(portion.entries)
            progress("entries", done, total)
    return Reembedded(done - len(missing), from_images, tuple(missing))


def without_picture(
    contents: Contents, images: Mapping[int, Path], progress: Progress = silent
) -> list[int]:
    """Return the ids of entries with neither an image nor a thumbnail that decodes, ascending.

    Raises:
        MemoryFormatError: If an entry is damaged.
        StorageError: If they cannot be read.
    """
    missing: list[int] = []
    done, total = 0, contents.count()
    for portion in contents.portions():
        missing += [
            entry.entry_id
            for entry in portion.entries
            if entry.entry_id not in images and why_no_picture(entry.thumbnail)
        ]
        done += len(portion.entries)
        progress("pictures", done, total)
    return missing


def _without(missing: Sequence[int], total: int) -> InvalidInputError:
    shown = ", ".join(map(str, missing[:_SHOWN])) + (", ..." if len(missing) > _SHOWN else "")
    return InvalidInputError(
        "images", "a thumbnail or an image of every entry",
        f"none of {len(missing)} of {total}: {shown}",
        "Give --images with <entry_id>.jpg or .png of them, or leave them out with"
        " --skip-missing.",
    )  # fmt: skip


def _copy(
    copy: Copy, entries: Sequence[Entry], encoder: Encoder, images: Mapping[int, Path]
) -> None:  # fmt: skip
    if not entries:
        return
    pictures = [_picture(entry, images) for entry in entries]
    scenes = encoder.encode_images(pictures)
    instructions = encoder.encode_instructions([entry.instruction for entry in entries])
    copy.add([entry.entry_id for entry in entries], scenes, instructions)


def _picture(entry: Entry, images: Mapping[int, Path]) -> RgbImage:
    path = images.get(entry.entry_id)
    if path is None:
        return read_thumbnail(entry.thumbnail)
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except NO_PICTURE as error:
        raise StorageError(
            f"cannot read {path} as a picture: {error}. Replace it, or take it away."
        ) from error
