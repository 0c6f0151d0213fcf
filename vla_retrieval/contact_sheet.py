"""One picture for people: the query beside its best matches."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vla_retrieval.thumbnails import NO_PICTURE, read_thumbnail
from vla_retrieval.typeface import TYPEFACE
from vla_retrieval.types import Known, Match, Retrieval, RgbImage

_MARGIN = 16
_QUERY_SIDE = 320
# Cameras are 4:3 more often than not; other shapes are fitted into the tile.
_TILE_SIDE, _TILE_HEIGHT = 200, 150
_CAPTION_LINES = 2
_LINE = 20
_MOST_COLUMNS = 5
_MOST_MATCHES = 50  # as many as markers show; ten thousand would be a picture of 2 GB
_PAPER, _INK, _PALE, _RULE = "#fbfaf7", "#1c1b19", "#77736a", "#dcd8ce"
# Teal and brick red: who does not see red and green tells them apart too.
_GOOD, _BAD = "#0b7a75", "#b3261e"
# Every verdict fits beside the title of two matches (more of them are wider), so the picture keeps
# its size while verdicts change: a viewer scales a picture of another size anew.
_LEAST_RIGHT = 520
_NO_GLYPH = "□"
_ENDING = set("，。！？；：、）》」』】’”")  # never at the beginning of a line
_HEAD = 28
_BETWEEN = "  ·  "


@dataclass(frozen=True)
class Verdict:
    """What there is to say about an answer as a whole.

    Attributes:
        text: For people, or nothing.
        good: Whether a planner can go on with the matches; None where that is not known.
    """

    text: str = ""
    good: bool | None = None


def draw_contact_sheet(
    image: RgbImage | None,
    instruction: str | None,
    matches: Sequence[Match],
    verdict: Verdict = Verdict(),
) -> RgbImage:
    """Return the query and its matches as one picture.

    Args:
        image: The query image, or None.
        instruction: The query instruction, or None.
        matches: Best first; the first 50 are drawn, those with a thumbnail show it.
        verdict: On the answer as a whole; in colour where it is good or bad.

    Returns:
        Uint8, shape ``(height, width, 3)``; the size depends on the number of matches.
    """
    title = _title(matches) + (_BETWEEN if verdict.text else "")
    matches = matches[:_MOST_MATCHES]
    rows = max(1, math.ceil(len(matches) / _MOST_COLUMNS))
    columns = max(1, math.ceil(len(matches) / rows))  # rows as full as each other
    tile_height = _TILE_HEIGHT + _LINE * (1 + _CAPTION_LINES) + _MARGIN
    titled = math.ceil(_font(15).getlength(title + verdict.text)) + _MARGIN
    right = max(columns * (_TILE_SIDE + _MARGIN), titled, _LEAST_RIGHT)
    width = _MARGIN + _QUERY_SIDE + 2 * _MARGIN + right
    height = _MARGIN + _HEAD + max(rows * tile_height, _query_height(image, instruction)) + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_query(sheet, draw, image, instruction)
    left = _MARGIN + _QUERY_SIDE + _MARGIN
    draw.line([(left, _MARGIN), (left, height - _MARGIN)], fill=_RULE)
    left += _MARGIN
    draw.text((left, _MARGIN), title, fill=_PALE, font=_font(15))
    behind = left + _font(15).getlength(title)
    draw.text((behind, _MARGIN), verdict.text, fill=_color(verdict), font=_font(15))
    for place, match in enumerate(matches):
        row, column = divmod(place, columns)
        corner = (left + column * (_TILE_SIDE + _MARGIN), _MARGIN + _HEAD + row * tile_height)
        _draw_match(sheet, draw, match, corner)
    return np.asarray(sheet)


def verdict_on(retrieval: Retrieval, min_score: float = -math.inf) -> Verdict:
    """Return what an answer says as a whole: whether the memory knows anything like the query.

    Args:
        retrieval: The answer.
        min_score: What the query asked for; named where it left no match.
    """
    if not retrieval.memory_size:
        return Verdict("the memory is empty", good=False)
    if not retrieval.eligible_size:
        return Verdict("nothing passed the filter", good=False)
    # By the name of the message's field: it is how sure the memory is that something like the
    # query *is* known, so it is low beside "nothing".
    confidence = f"(known_confidence {retrieval.known_confidence:.2f})"
    if retrieval.known is Known.NO:
        return Verdict(f"nothing like it is known {confidence}", good=False)
    if not retrieval.matches:
        return Verdict(f"all scores are below min_score {min_score:g}", good=False)
    if retrieval.known is Known.YES:
        return Verdict(f"known {confidence}", good=True)
    return Verdict()


def _color(verdict: Verdict) -> str:
    return _PALE if verdict.good is None else _GOOD if verdict.good else _BAD


def _title(matches: Sequence[Match]) -> str:
    if not matches:
        return "No match"
    drawn = f", {_MOST_MATCHES} drawn" if len(matches) > _MOST_MATCHES else ""
    return "Best match" if len(matches) == 1 else f"{len(matches)} best matches{drawn}"


def _query_height(image: RgbImage | None, instruction: str | None) -> int:
    lines = len(_wrap(instruction or "", _font(18), _QUERY_SIDE, 6))
    picture = 0 if image is None else _fitted(image, (_QUERY_SIDE, _QUERY_SIDE))[1] + 8
    return picture + lines * (_LINE + 4)


def _draw_query(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, image: RgbImage | None, instruction: str | None
) -> None:
    top = _MARGIN + _HEAD
    draw.text((_MARGIN, _MARGIN), "Query", fill=_PALE, font=_font(15))
    if image is not None:
        top += _paste(sheet, image, (_MARGIN, top), (_QUERY_SIDE, _QUERY_SIDE)) + 8
    for line in _wrap(instruction or "", _font(18), _QUERY_SIDE, 6):
        draw.text((_MARGIN, top), line, fill=_INK, font=_font(18))
        top += _LINE + 4


def _draw_match(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, match: Match, corner: tuple[int, int]
) -> None:
    left, top = corner
    try:
        picture = read_thumbnail(match.entry.thumbnail) if match.entry.thumbnail else None
        lacking = "no thumbnail"
    except NO_PICTURE:  # an import takes whatever bytes the export has
        picture, lacking = None, "thumbnail does not decode"
    if picture is not None:
        _paste(sheet, picture, corner, (_TILE_SIDE, _TILE_HEIGHT))
    else:
        draw.rectangle([left, top, left + _TILE_SIDE, top + _TILE_HEIGHT], outline=_RULE)
        draw.text((left + 8, top + 8), lacking, fill=_PALE, font=_font(14))
    top += _TILE_HEIGHT + 2
    text = f"{match.rank}.  score {match.score:.3f}"
    draw.text((left, top), text, fill=_INK, font=_font(15))
    number = f"#{match.entry.entry_id}"
    draw.text((left + _TILE_SIDE, top), number, fill=_PALE, font=_font(15), anchor="ra")
    for line in _wrap(match.entry.instruction, _font(14), _TILE_SIDE, _CAPTION_LINES):
        top += _LINE
        draw.text((left, top), line, fill=_INK, font=_font(14))


def _paste(
    sheet: Image.Image, image: RgbImage, corner: tuple[int, int], box: tuple[int, int]
) -> int:  # fmt: skip
    """Paste a picture shrunk or grown to fit a box, and return its height."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    size = _fitted(image, box)
    sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), corner)
    return size[1]


def _fitted(image: RgbImage, box: tuple[int, int]) -> tuple[int, int]:
    """Return the width and height that a picture has when it just fits a box."""
    height, width = image.shape[:2]
    scale = min(box[0] / width, box[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(TYPEFACE), size)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, most_lines: int) -> list[str]:
    """Break text into lines: English at spaces, Chinese anywhere; the rest becomes an ellipsis."""
    lines: list[str] = []
    line = ""
    for piece in _pieces(_drawable(" ".join(text.split()))):
        too_long = font.getlength((line + piece).rstrip()) > width
        if line and too_long and piece not in _ENDING:
            lines.append(line.rstrip())
            line = piece.lstrip()
        else:
            line += piece
        if len(lines) > most_lines:
            break
    lines.append(line.rstrip())
    if len(lines) > most_lines:
        lines = [*lines[: most_lines - 1], lines[most_lines - 1][:-1] + "…"]
    return [line for line in lines if line]


def _drawable(text: str) -> str:
    """Return text that the font has: nothing for what has no shape, a box for what it lacks.

    Marks that turn the direction of writing have no shape, and would turn what follows.
    """
    shaped = (char for char in text if unicodedata.category(char) not in ("Cf", "Cc", "Cs"))
    return "".join(map(_nearest, shaped))


@lru_cache(maxsize=4096)
def _nearest(char: str) -> str:
    """Return a character that the font has: the same, or without its accent, or a box."""
    for candidate in (char, unicodedata.normalize("NFD", char)[0]):
        # The font draws nothing for what it lacks.
        if candidate == " " or _font(14).getmask(candidate).getbbox() is not None:
            return candidate
    return _NO_GLYPH


def _pieces(text: str) -> list[str]:
    """Return words with the space behind them, and characters beyond Latin one by one."""
    pieces: list[str] = []
    word = ""
    for char in text:
        word += char
        if char == " " or ord(char) > 0x2E7F or len(word) > 24:
            pieces.append(word)
            word = ""
    return [*pieces, word]
