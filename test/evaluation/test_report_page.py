from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from test.evaluation import made_up, pages
from vla_retrieval.errors import InvalidInputError, MissingLibraryError
from vla_retrieval.evaluation.report import libraries
from vla_retrieval.evaluation.report.json_file import read_json, to_json
from vla_retrieval.evaluation.report.naming import spell, spell_count
from vla_retrieval.evaluation.report.page import MAX_BYTES, render_evaluation
from vla_retrieval.evaluation.report.pictures import data_uri
from vla_retrieval.evaluation.report.texts import readable
from vla_retrieval.evaluation.report.writing import write_report
from vla_retrieval.evaluation.results import Evaluation, Example, InstructionRow, MapPoint, Shown

SMALL = made_up.small()


@pytest.fixture(scope="module")
def large() -> Evaluation:
    return made_up.evaluation()


@pytest.fixture(scope="module")
def page(large: Evaluation) -> str:
    return render_evaluation(large)


@pytest.fixture(scope="module")
def root(page: str) -> Element:
    return pages.parse(page)


def test_ten_thousand_frames_fit_into_five_megabytes(page: str) -> None:
    assert len(page.encode()) < MAX_BYTES == 5_000_000


def test_the_page_refers_to_nothing_outside_it(page: str, root: Element) -> None:
    assert pages.addresses(root) == []
    styles = "".join(pages.text_of(style) for style in root.iter("style"))
    assert not re.search(r'url\((?!"data:font/woff;base64,)|@import', styles)
    assert set(re.findall(r"url\((.)", page.replace(styles, ""))) == {"#"}


def test_every_text_from_outside_stays_text(page: str, root: Element) -> None:
    assert "<script>alert" not in page
    assert len(list(root.iter("script"))) == 1
    assert not [name for element in root.iter() for name in element.attrib if name == "onerror"]
    assert pages.text_of(root).count(made_up.ATTACK) > 3


def test_ids_are_unique_and_links_within_the_page_lead_somewhere(root: Element) -> None:
    ids = Counter(element.get("id") for element in root.iter() if element.get("id"))
    links = {element.get("href", "")[1:] for element in root.iter() if element.get("href")}
    regions = {element.get("aria-labelledby") for element in root.iter()} - {None}

    assert {name for name, times in ids.items() if times > 1} == set()
    assert links | regions <= set(ids)


def test_pictures_and_plots_have_texts_and_heads_of_tables_a_scope(root: Element) -> None:
    images, plots = list(root.iter("img")), list(root.iter("{http://www.w3.org/2000/svg}svg"))
    plots = plots or list(root.iter("svg"))

    assert images
    assert all(image.get("alt") for image in images)
    assert plots
    assert all(plot.get("aria-label") or plot.get("aria-hidden") for plot in plots)
    assert all(head.get("scope") for head in root.iter("th"))


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_the_summary_has_exactly_the_numbers_of_the_json(
    large: Evaluation, root: Element, average: str
) -> None:
    of_json = json.loads(to_json(large))["evaluation"]["directions"].values()

    shown = pages.summary(root, f"{average}-table")

    metrics = {metric for result in of_json for metric in result[average]}
    assert set(shown) == metrics
    for metric, cells in shown.items():
        expected = [result[average][metric] for result in of_json]
        wanted = [tuple(pages.number(str(of[end]) if of[end] is not None else None)
                        for end in ("value", "low", "high")) for of in expected]  # fmt: skip
        assert repr(cells) == repr(wanted)


def test_what_is_read_is_the_number_behind_it_rounded(root: Element) -> None:
    cells = [cell for cell in root.iter("data") if cell.get("value")]
    decimal = [cell for cell in cells if re.fullmatch(r"[−]?\d\.\d{3}", pages.text_of(cell))]

    assert len(decimal) > 1000
    assert all(pages.text_of(cell) == spell(float(cell.get("value", ""))) for cell in decimal)


def test_parts_of_the_wall_time_stand_with_their_shares(root: Element) -> None:
    table = next(e for e in root.iter("table") if e.get("id") == "wall-table")

    rows = [[pages.text_of(cell) for cell in row] for row in table.iter("tr")][1:]

    assert "Where the 300.0 s of wall time went." in pages.text_of(table)
    assert rows[0] == ["encoding", "265.0", "88.3%"]
    assert rows[3] == ["the <rest>", "2.8", "0.9%"]


def test_a_live_run_shows_latency_ages_and_drops(root: Element) -> None:
    table = next(e for e in root.iter("table") if e.get("id") == "live-stages-table")

    names = [pages.text_of(row.find("th")) for row in table.iter("tr")][1:]

    assert names == ["latency", "frame age", "staleness"]
    assert "129 replaced by a newer frame before their turn" in pages.text_of(root)


def test_a_live_run_shows_how_many_rankings_are_those_of_the_offline_evaluation(
    root: Element,
) -> None:
    table = next(e for e in root.iter("table") if e.get("id") == "agreement-table")

    rows = [[pages.text_of(cell) for cell in row] for row in table.iter("tr")][1:]

    assert rows[0][:5] == ["scene to scenes", *map(spell_count, (2790, 3000, 2790, 2788))]
    assert rows[0][5:] == ["99.9%", "3.1e-05"]
    assert rows[1] == [made_up.ATTACK, "0", "3\u202f000", "0", "0", "", "0.0e+00"]


def test_hit_and_recall_stand_apart_with_their_meanings(root: Element) -> None:
    groups = [pages.text_of(row) for row in root.iter("tr") if row.get("class") == "group"]

    assert groups[0].startswith("hit@Kshare of queries with at least one")
    assert groups[1].startswith("Recall@Kshare of a query’s relevant entries")


def test_an_empty_direction_shows_dashes_and_no_curve(large: Evaluation, root: Element) -> None:
    assert "0 queries, 120 left out" in pages.text_of(root)
    captions = [pages.text_of(caption) for caption in root.iter("figcaption")]
    assert "pair" not in captions
    assert "scene to scenes" in captions


def test_instructions_begin_with_the_hardest_and_end_with_those_without_queries() -> None:
    rows = tuple(
        InstructionRow(name, queries, 1.0, {"mrr": mrr})
        for name, queries, mrr in (("good", 3, 0.9), ("none", 0, float("nan")), ("bad", 3, 0.1))
    )
    result = replace(SMALL.directions["scene to scenes"], per_instruction=rows)
    root = pages.parse(render_evaluation(replace(SMALL, directions={"scene to scenes": result})))

    heads = [head for head in root.iter("th") if head.get("class") == "instruction"]
    assert [pages.text_of(head) for head in heads] == ["bad", "good", "none"]


def test_examples_are_of_different_instructions_where_there_are() -> None:
    worst = tuple(Example(f"{n}", "cup" if n < 8 else f"tool {n}", 0, 0.0, ()) for n in range(11))
    result = replace(SMALL.directions["scene to scenes"], worst=worst)
    root = pages.parse(render_evaluation(replace(SMALL, directions={"scene to scenes": result})))

    queries = [pages.text_of(one) for one in root.iter("div") if one.get("class") == "query"]
    shown = [next(name for name in ("cup", "tool 8", "tool 9", "tool 10") if name in text)
             for text in queries]  # fmt: skip
    assert shown == ["cup", "tool 8", "tool 9", "tool 10", "cup", "cup"]


def test_right_and_wrong_are_words_and_not_only_colours(root: Element) -> None:
    marks = Counter(
        (item.get("class"), pages.text_of(item.find("p"))[:1])  # type: ignore[arg-type]
        for item in root.iter("li")
        if item.get("class") in ("right", "wrong")
    )

    assert set(marks) == {("right", "✓"), ("wrong", "✗")}


def test_chinese_is_marked_as_chinese_and_other_languages_are_not(root: Element) -> None:
    texts = [one for one in root.iter("span") if one.get("class") == "instruction"]

    marked = {pages.text_of(one) for one in texts if one.get("lang") == "zh"}
    assert any("拿起" in text for text in marked)
    assert not any(text.isascii() for text in marked)
    assert all(one.get("dir") == "auto" for one in texts)


def test_the_map_has_at_most_two_thousand_points_each_with_its_instruction(page: str) -> None:
    titles = re.findall(r"<title>(scene|instruction): ([^<]+)</title>", page)

    assert len(titles) == 2000
    assert {kind for kind, _ in titles} == {"scene", "instruction"}


def test_points_without_a_place_are_left_out_of_the_map() -> None:
    points = tuple(MapPoint(x, 0.0, "scene", f"at {x}") for x in (float("nan"), 1.0, float("inf")))

    page = render_evaluation(replace(SMALL, embedding_map=points))

    assert re.findall(r"<title>(scene: [^<]+)</title>", page) == ["scene: at 1.0"]


def noise(side: int, seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return base64.b64encode(buffer.getvalue()).decode()


def test_pictures_that_nothing_compresses_do_not_make_the_page_larger() -> None:
    picture = noise(600, 0)
    shown = tuple(Shown(number, "x" * 5000, 0.5, 0, picture) for number in range(20))
    examples = tuple(Example(str(n), "y" * 5000, 0, 0.0, shown, picture) for n in range(200))
    rows = tuple(InstructionRow(f"{n}" * 1000, 1, 1.0, {"mrr": 0.5}) for n in range(2000))
    result = replace(SMALL.directions["scene to scenes"], best=examples, worst=examples,
                     confidently_wrong=examples, per_instruction=rows)  # fmt: skip
    points = tuple(MapPoint(n / 7, n % 13, "scene", "z" * 900) for n in range(20_000))
    evaluation = replace(SMALL, directions={f"direction {n}": result for n in range(5)},
                         embedding_map=points)  # fmt: skip

    page = render_evaluation(evaluation)

    assert len(page.encode()) <= MAX_BYTES
    assert "data:image/jpeg" in page


def test_less_is_shown_where_everything_would_be_too_much() -> None:
    rows = tuple(InstructionRow("字" * 900, 1, 1.0, {"mrr": 0.5}) for _ in range(300))
    result = replace(SMALL.directions["scene to scenes"], per_instruction=rows)
    page = render_evaluation(
        replace(SMALL, directions={f"direction {n}": result for n in range(40)})
    )

    assert len(page.encode()) <= MAX_BYTES
    assert "of 300 instructions" in page


def test_a_thumbnail_that_is_no_picture_is_left_out() -> None:
    good = noise(40, 1)

    assert data_uri("not base64!", 9999) == data_uri("aGVsbG8=", 9999) == ""
    assert data_uri(good, 9999).startswith("data:image/jpeg;base64,")
    assert data_uri(good, 10) == ""


ANY_TEXT = st.text(st.characters(), max_size=30)


@settings(deadline=None)
@given(ANY_TEXT, ANY_TEXT)
def test_whatever_a_text_holds_the_page_is_valid_and_shows_it(one: str, other: str) -> None:
    result = SMALL.directions["scene to scenes"]
    examples = (Example(other, one, -1, 0.0, (Shown(1, other, 0.5, 1, other),), one),)
    evaluation = replace(
        SMALL, settings={one: other}, notes=(one, other), hash=other,
        counts={one: 1}, directions={other: replace(result, worst=examples)},
    )  # fmt: skip

    root = pages.parse(render_evaluation(evaluation, title=one))

    # A line break of Windows or the old Mac is one line break to HTML.
    notes = next(e for e in root.iter("section") if e.get("class") == "notes")
    assert [pages.text_of(note) for note in notes.iter("li")] == [readable(one), readable(other)]


def test_a_page_of_nothing_is_a_page() -> None:
    root = pages.parse(render_evaluation(Evaluation("", {}, {}, (), {})))

    assert "Retrieval evaluation" in pages.text_of(root)


def test_a_report_is_a_folder_that_appears_whole(tmp_path: Path) -> None:
    write_report(SMALL, tmp_path / "report", "厨房")

    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"index.html", "evaluation.json", "summary.csv", "instructions.csv"}
    assert repr(read_json(tmp_path / "report" / "evaluation.json")) == repr(SMALL)
    assert "<title>厨房</title>" in (tmp_path / "report" / "index.html").read_text("utf-8")
    with pytest.raises(InvalidInputError, match="does not exist yet"):
        write_report(SMALL, tmp_path / "report")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_missing_library_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(MissingLibraryError, match=r"needs matplotlib.*requirements/evaluation.txt"):
        libraries.library("matplotlib")


def test_plots_and_templates_are_imported_only_when_a_page_is_made() -> None:
    code = (
        "import sys\n"
        "from vla_retrieval.evaluation.report import comparison_page, terminal, writing\n"
        "print(sorted({'matplotlib', 'jinja2'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
