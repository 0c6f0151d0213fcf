"""Pages in a real browser: nothing is fetched, nothing complains, everything fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from test.evaluation import made_up
from test.evaluation.browser import Browser, chromium
from vla_retrieval.evaluation.report.comparison_page import write_comparison_page
from vla_retrieval.evaluation.report.page import write_page

pytestmark = [
    pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt install chromium"),
    # Starting Chromium and laying out pages with hundreds of pictures takes several seconds.
    pytest.mark.slow,
]
DESKTOP, PHONE = 1280, 390


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    evaluation = made_up.evaluation()
    write_page(evaluation, folder / "evaluation.html")
    write_comparison_page(
        {"scene to scenes": made_up.comparison()}, folder / "comparison.html",
        {"clip": evaluation, "other": replace(evaluation, hash="other")},
    )  # fmt: skip
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["evaluation", "comparison"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("dark", [False, True])
def test_a_page_opens_in_peace(
    browser: Browser, pages: dict[str, Path], tmp_path: Path, name: str, width: int, dark: bool
) -> None:
    browser.open(pages[name], width, dark=dark)

    browser.screenshot(tmp_path / "page.png")
    outside = [
        url
        for url in browser.requests
        if not url.startswith(("data:image/jpeg;", "data:font/woff;"))
    ]
    assert outside == [pages[name].resolve().as_uri()]
    assert browser.complaints == []
    # Tables scroll by themselves; the page itself never moves sideways.
    assert browser.run("document.documentElement.scrollWidth") == width
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(28, 27, 25)" if dark else "rgb(251, 250, 247)")


@pytest.mark.parametrize("name", ["evaluation", "comparison"])
def test_chinese_is_drawn_with_the_pages_own_typeface(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    browser.open(pages[name])
    used = "[...document.fonts].filter(face => face.status == 'loaded').map(face => face.family)"
    assert browser.run(used) == ["Shipped"]


def test_a_click_on_a_heading_sorts_and_another_one_turns_the_order(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["evaluation"])
    column = "document.querySelectorAll('table.sortable')[0]"
    values = (
        f"[...{column}.tBodies[0].rows].map(row => row.cells[1].querySelector('data').value)"
        ".map(Number)"
    )

    browser.run(f"{column}.tHead.rows[0].cells[1].querySelector('button').click()")
    up = browser.run(values)
    browser.run(f"{column}.tHead.rows[0].cells[1].querySelector('button').click()")
    down = browser.run(values)

    assert len(up) == 200
    assert up == sorted(up)
    assert down == sorted(up, reverse=True)
    sorted_by = f"{column}.tHead.rows[0].cells[1].getAttribute('aria-sort')"
    assert browser.run(sorted_by) == "descending"


def test_numbers_that_do_not_exist_come_last_either_way(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["comparison"])
    table = "document.querySelector('table.sortable')"
    browser.run(f"{table}.tBodies[0].rows[0].cells[2].querySelector('data').value = ''")

    last = f"{table}.tBodies[0].rows[{table}.tBodies[0].rows.length - 1].cells[2]"
    for _ in range(2):
        browser.run(f"{table}.tHead.rows[0].cells[2].querySelector('button').click()")
        assert browser.run(f"{last}.querySelector('data').value") == ""


def test_a_script_from_elsewhere_would_not_run(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["evaluation"])

    browser.run(
        "(() => { const one = document.createElement('script');"
        " one.textContent = 'window.attacked = true'; document.body.append(one) })()"
    )

    assert browser.run("window.attacked") is None


def test_a_page_prints_to_a_few_sheets(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["evaluation"], dark=True)

    pdf = browser.pdf()

    # Each has a colour of its own: what a browser leaves for later is missing on paper.
    shown = browser.run(
        "new Set([...document.querySelectorAll('details[open] img')].map(i => i.src)).size"
    )
    assert pdf.count(b"/Subtype /Image") >= shown > 0
    assert pdf.startswith(b"%PDF-")
    assert 5 < pdf.count(b"/Type /Page\n") < 16
