"""A page brings the characters that its Chinese needs, and no others."""

from __future__ import annotations

import base64
import io
import re
import sys

import pytest
from fontTools.ttLib import TTFont

from test.evaluation import made_up
from vla_retrieval.errors import MissingLibraryError
from vla_retrieval.evaluation.report.lettering import lettering
from vla_retrieval.evaluation.report.page import render_evaluation

TEXT = "Take it: 拿起桌子上的杯子，。"


def letters_of(style: str) -> set[str]:
    """Return the characters that the typeface in a style sheet draws with ink."""
    (coded,) = re.findall(r'url\("data:font/woff;base64,([^"]+)"\)', style)
    font = TTFont(io.BytesIO(base64.b64decode(coded)))
    shapes = font.getGlyphSet()
    drawn = set()
    for code, name in font.getBestCmap().items():
        pen = _Pen()
        shapes[name].draw(pen)
        if pen.moves:
            drawn.add(chr(code))
    return drawn


class _Pen:
    """Counts outlines."""

    def __init__(self) -> None:
        self.moves = 0

    def moveTo(self, _: object) -> None:  # noqa: N802  (fontTools' name)
        self.moves += 1

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


def test_each_chinese_character_of_the_text_is_drawn() -> None:
    assert letters_of(lettering(TEXT)) >= set("拿起桌子上的杯子，。")


def test_characters_that_the_text_does_not_have_are_left_out() -> None:
    assert "红" not in letters_of(lettering(TEXT))
    assert len(lettering(TEXT)) < 10_000


def test_a_text_without_chinese_brings_nothing() -> None:
    assert lettering("Take the cup — naïve, Ελληνικά, кот, 123.") == ""


def test_the_same_text_gives_the_same_bytes() -> None:
    assert lettering(TEXT) == lettering(TEXT)


def test_a_character_that_the_typeface_lacks_is_left_to_the_readers_fonts() -> None:
    assert letters_of(lettering("杯\u9fff子")) == {"杯", "子"}


@pytest.mark.parametrize("title", ["拿起杯子", "<style>杯子</style>"])
def test_a_page_names_the_typeface_in_its_own_style_alone(title: str) -> None:
    page = render_evaluation(made_up.small(), title)
    head, rest = page.split("</style>", 1)
    assert letters_of(head) >= {"杯", "子"}
    assert 'font: 16px/1.5 "Shipped"' in head
    assert "@font-face" not in rest


def test_without_fonttools_the_error_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "fontTools.subset", None)
    with pytest.raises(MissingLibraryError, match=r"needs fontTools.*requirements/evaluation\.txt"):
        lettering(TEXT)
