"""The contact sheet holds what it should, whatever the number and the shape of the matches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla_retrieval.contact_sheet import (
    Verdict,
    _drawable,
    _font,
    _wrap,
    draw_contact_sheet,
    verdict_on,
)
from vla_retrieval.thumbnails import make_thumbnail
from vla_retrieval.types import Entry, Known, Match, Retrieval, RgbImage, StageTimes

RED = np.full((30, 40, 3), (200, 30, 30), np.uint8)


def match(rank: int, image: RgbImage | None = RED, text: str = "拿起杯子") -> Match:
    thumbnail = b"" if image is None else make_thumbnail(image, 64)
    entry = Entry(instruction=text, stamp_ns=0, thumbnail=thumbnail, entry_id=rank)
    return Match(entry, rank, 1.0 / rank)


def share_of_red(sheet: RgbImage) -> float:
    return float((np.abs(sheet.astype(int) - (200, 30, 30)).max(axis=2) < 30).mean())


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 30])
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


@pytest.mark.parametrize("thumbnail", [b"no picture", make_thumbnail(RED, 64)[:200]])
def test_a_thumbnail_that_does_not_decode_leaves_its_place(thumbnail: bytes) -> None:
    damaged = replace(match(1), entry=replace(match(1).entry, thumbnail=thumbnail))
    sheet = draw_contact_sheet(None, "cup", [damaged, match(2)])
    assert sheet.shape == draw_contact_sheet(None, "cup", [match(1), match(2)]).shape
    assert share_of_red(sheet) == share_of_red(
        draw_contact_sheet(None, "cup", [match(1, None), match(2)])
    )


def test_a_sheet_of_many_matches_is_not_larger_than_one_of_fifty() -> None:
    many = draw_contact_sheet(None, "cup", [match(rank) for rank in range(1, 201)])
    fifty = draw_contact_sheet(None, "cup", [match(rank) for rank in range(1, 51)])
    assert many.shape == fifty.shape


def test_chinese_is_drawn_in_glyphs_and_not_in_boxes() -> None:
    masks = {bytes(_font(18).getmask(char)) for char in "拿起桌子上的杯"}
    assert len(masks) == 7


@pytest.mark.parametrize("text", ["pick up the red cup " * 9, "拿起桌子上的杯子" * 20, "x" * 500])
def test_long_text_is_broken_into_lines_that_fit_and_ends_in_an_ellipsis(text: str) -> None:
    lines = _wrap(text, _font(14), 200, 2)
    assert len(lines) == 2
    assert lines[-1].endswith("…")
    assert all(_font(14).getlength(line) <= 215 for line in lines)


@pytest.mark.parametrize(
    "text",
    [
        "naïve café, größer", "положи чашку", "βγαλε το φλυδι", "コップを取って", "컵을 집어",
        "拿起桌子上的杯子", "請把杯子放在桌子上",
    ],
)  # fmt: skip
def test_the_scripts_that_the_font_has_are_drawn(text: str) -> None:
    """Each letter by a shape of its own, and none by a box."""
    assert _drawable(text) == text
    letters = set(text) - {" "}
    assert len({bytes(_font(40).getmask(letter)) for letter in letters}) == len(letters)


def test_what_the_font_lacks_is_a_box_and_not_nothing() -> None:
    assert _drawable("cup 🤖 كوب") == "cup □ □□□"
    assert _drawable("βάλε") == "βαλε", "an accent is less than its letter"


def test_marks_without_a_shape_are_left_out_and_turn_nothing_around() -> None:
    assert _drawable("a\u202eb\u200bc") == "abc"


def test_a_chinese_line_does_not_begin_with_a_comma() -> None:
    lines = _wrap("拿起桌子上的杯子，" * 9, _font(14), 14 * 8, 6)
    assert len(lines) > 2
    assert not any(line.startswith("，") for line in lines)


def answer(
    known: Known, memory_size: int = 5, eligible_size: int = 5, matches: tuple[Match, ...] = ()
) -> Retrieval:
    return Retrieval(matches, memory_size, eligible_size, True, StageTimes(), known, 0.25)


FOUND = (match(1),)
UNKNOWN = "nothing like it is known (known_confidence 0.25)"


@pytest.mark.parametrize(
    ("retrieval", "text", "good"),
    [
        (answer(Known.NO, 0, 0), "the memory is empty", False),
        (answer(Known.NO, 5, 0), "nothing passed the filter", False),
        (answer(Known.NO, matches=FOUND), UNKNOWN, False),
        (answer(Known.NO), UNKNOWN, False),
        (answer(Known.YES), "all scores are below min_score 0.5", False),
        (answer(Known.NOT_CALIBRATED), "all scores are below min_score 0.5", False),
        (answer(Known.YES, matches=FOUND), "known (known_confidence 0.25)", True),
        (answer(Known.NOT_CALIBRATED, matches=FOUND), "", None),
    ],
)
def test_an_answer_says_whether_it_is_one(
    retrieval: Retrieval, text: str, good: bool | None
) -> None:
    assert verdict_on(retrieval, min_score=0.5) == Verdict(text, good)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 6])
def test_a_sheet_keeps_its_size_whatever_the_verdict_is(count: int) -> None:
    matches = [match(rank) for rank in range(1, count + 1)]
    texts = ["", "known (known_confidence 1.00)", UNKNOWN, "all scores are below min_score -0.25"]
    sheets = [draw_contact_sheet(None, "cup", matches, Verdict(text)) for text in texts]
    assert len({sheet.shape for sheet in sheets}) == 1


def test_good_and_bad_verdicts_are_drawn_in_colours_of_their_own() -> None:
    good, bad, unsaid = (
        draw_contact_sheet(None, "cup", [], Verdict("words", good)).astype(int)
        for good in (True, False, None)
    )

    def most_colourful(sheet: np.ndarray) -> np.ndarray:
        flat = sheet.reshape(-1, 3)
        return flat[np.ptp(flat, axis=1).argmax()]

    assert most_colourful(good).argmax() == 1
    assert most_colourful(bad).argmax() == 0
    assert np.ptp(most_colourful(unsaid)) < 30
