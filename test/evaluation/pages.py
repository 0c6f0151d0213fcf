"""Reading pages as a strict program would."""

from __future__ import annotations

import math
from xml.etree.ElementTree import Element

import html5lib

OUTSIDE = ("src", "href", "srcset", "data", "action", "poster", "xlink:href", "background")


def parse(page: str) -> Element:
    """Returns the page's root; an error in its HTML raises."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return parser.parse(page)


def text_of(element: Element) -> str:
    """Returns all text in an element."""
    return "".join(element.itertext())


def addresses(root: Element) -> list[str]:
    """Returns what elements refer to, without data and places in the page itself."""
    found = [
        value
        for element in root.iter()
        for name, value in element.attrib.items()
        if str(name).split("}")[-1] in OUTSIDE and element.tag != "data"
    ]
    return [value for value in found if not value.startswith(("#", "data:image/jpeg;base64,"))]


def number(text: str | None) -> float:
    """Returns a number as it stands in an attribute."""
    return float(text) if text else math.nan


def summary(root: Element, table: str) -> dict[str, list[tuple[float, float, float] | None]]:
    """Returns metric to value, low and high in each column."""
    found = next(element for element in root.iter("table") if element.get("id") == table)
    rows = [row for row in found.iter("tr") if row.get("data-metric")]
    return {str(row.get("data-metric")): [_estimate(cell) for cell in row.findall("td")]
            for row in rows}  # fmt: skip


def _estimate(cell: Element) -> tuple[float, float, float] | None:
    value = cell.find("data")
    if value is None:
        return None
    return number(value.get("value")), number(cell.get("data-low")), number(cell.get("data-high"))
