"""The contact sheet holds what it should, whatever the number and the shape of the matches."""

from __future__ import annotations

import numpy as np
import pytest

from vla_retrieval.contact_sheet import _font, _wrap, draw_contact_sheet
from vla_retrieval.thumbnails import make_thumbnail
from vla_retrieval.types import Entry, Match, RgbImage

RED = np.full((30, 40, 3), (200, 30, 30), np.uint8)


def match(rank: int, image: RgbImage | None = RED, text: str = "拿起杯子") -> Match:
    thumbnail = b"" if image is None else make_thumbnail(image, 64)
    entry = Entry(instruction=text, stamp_ns=0, thumbnail=thumbnail, entry_id=rank)
    return Match(entry, rank, 1.0 / rank)


def share_of_red(sheet: RgbImage) -> float:
    return float((np.abs(sheet.astype(int) - (200, 30, 30)).max(axis=2) < 30).mean())


@pytest.mark.parametrize("count", [0, 1, 4, 5, 30])
def test_every_match_is_shown(count: int) -> None:
    sheet = draw_contact_sheet(None, "cup", [match(rank) for rank in range(1, count + 1)])
    pixels = share_of_red(sheet) * sheet.shape[0] * sheet.shape[1]
    assert pixels == pytest.approx(count * 200 * 150, rel=0.02)


@pytest.mark.parametrize("shape", [(40, 40), (400, 3), (3, 400), (1, 1)])
def test_pictures_of_any_shape_are_fitted(shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), (200, 30, 30), np.uint8)
    sheet = draw_contact_sheet(picture, None, [match(1, picture)])
    assert share_of_red(sheet) > 0


def test_a_match_without_a_thumbnail_says_so_and_leaves_its_place() -> None:
    with_picture = draw_contact_sheet(None, "cup", [match(1)])
    without = draw_contact_sheet(None, "cup", [match(1, None)])
    assert without.shape == with_picture.shape
    assert share_of_red(without) == 0


def test_chinese_is_drawn_in_glyphs_and_not_in_boxes() -> None:
    masks = {bytes(_font(18).getmask(char)) for char in "拿起桌子上的杯"}
    assert len(masks) == 7


@pytest.mark.parametrize("text", ["pick up the red cup " * 9, "拿起桌子上的杯子" * 20, "x" * 500])
def test_long_text_is_broken_into_lines_that_fit_and_ends_in_an_ellipsis(text: str) -> None:
    lines = _wrap(text, _font(14), 200, 2)
    assert len(lines) == 2
    assert lines[-1].endswith("…")
    assert all(_font(14).getlength(line) <= 215 for line in lines)
