"""From a figure of matplotlib to SVG that can stand in a page.

Colours are drawn as stand-ins and become variables of the page's style, so that a plot follows the
page into the dark and onto paper. Text stays text, in the page's font: it is small, can be searched
and read aloud. Labels are ours and English, because nobody knows where the plot's text will end;
instructions belong into the page, where lines break.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from vla_retrieval.evaluation.report.libraries import library

COLOURS = {
    "ink": "#010203", "pale": "#020304", "rule": "#030405", "paper": "#040506",
    "hit": "#050607", "recall": "#060708", "mrr": "#070809", "ndcg": "#08090a",
    "accuracy": "#090a0b", "s1": "#0a0b0c", "s2": "#0b0c0d", "s3": "#0c0d0e", "s4": "#0d0e0f",
    "s5": "#0e0f10", "s6": "#0f1011",
}  # fmt: skip
"""Variables of the page's style to the colours that stand for them in a figure."""

_VARIABLE = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"


def style() -> dict[str, Any]:
    """Return matplotlib's settings for figures that go through ``to_svg``."""
    ink, pale, rule = COLOURS["ink"], COLOURS["pale"], COLOURS["rule"]
    return {
        "svg.fonttype": "none", "svg.hashsalt": "vla_retrieval", "font.size": 8.0,
        # The page gives the font; this one comes with matplotlib and is only measured.
        "font.family": ["DejaVu Sans"], "axes.unicode_minus": True,
        "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
        "text.color": ink, "axes.labelcolor": pale, "axes.edgecolor": rule,
        "xtick.color": rule, "ytick.color": rule, "xtick.labelcolor": pale,
        "ytick.labelcolor": pale, "xtick.labelsize": 8.0, "ytick.labelsize": 8.0,
        "axes.labelsize": 8.0, "grid.color": rule, "grid.linewidth": 0.6, "axes.linewidth": 0.8,
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
        "lines.linewidth": 1.6, "lines.solid_capstyle": "round",
    }  # fmt: skip


def to_svg(
    figure: Any, name: str, label: str, titles: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Return a figure as an ``svg`` element.

    Args:
        figure: Of matplotlib, made with the settings of ``style``.
        name: Different from those of all other figures in the page; letters, digits and hyphens.
        label: What the figure shows, for those who cannot see it.
        titles: ``gid`` of a scatter to what appears over its points, in their order.
    """
    library("matplotlib.backends.backend_svg")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for gid, texts in (titles or {}).items():
        _add_titles(root, gid, texts)
    _drop(root, {f"{_SVG}metadata"})
    _rename(root, name)
    for element in root.iter():
        _restyle(element)
        element.tag = element.tag.removeprefix(_SVG)
        element.tail = None
    for group in root.iter("g"):
        _share_style(group)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib.update({"role": "img", "aria-label": label})
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _drop(parent: Element, tags: set[str]) -> None:
    for child in list(parent):
        if child.tag in tags:
            parent.remove(child)
        else:
            _drop(child, tags)


def _add_titles(root: Element, gid: str, texts: Sequence[str]) -> None:
    group = next(element for element in root.iter() if element.get("id") == gid)
    # A shape is defined once and used for each point, unless there are too few points for that.
    points = list(group.iter(f"{_SVG}use")) or list(group.iter(f"{_SVG}path"))
    for point, text in zip(points, texts, strict=True):
        ElementTree.SubElement(point, f"{_SVG}title").text = text


def _rename(root: Element, name: str) -> None:
    """Keeps only ids that something refers to, and makes them the page's only ones."""
    text = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    kept = {one or other for one, other in used}
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in kept:
            element.set("id", f"{name}-{own}")
        link = element.attrib.pop(_LINK, None)
        if link is not None:
            element.set("href", f"#{name}-{link.removeprefix('#')}")
        clip = element.get("clip-path")
        if clip is not None:
            element.set("clip-path", clip.replace("url(#", f"url(#{name}-"))


def _restyle(element: Element) -> None:
    """Puts variables in the place of colours, and leaves the font's name to the page."""
    found = element.get("style")
    if found is not None:
        found = re.sub(r"#[0-9a-f]{6}", lambda match: _VARIABLE.get(match[0], match[0]), found)
        found = re.sub(r"font-family: [^;]*;? ?", "", found)
        found = re.sub(r"font: ([0-9.]+px)[^;]*", r"font-size: \1", found)
        element.set("style", found)
    for coordinate in ("x", "y", "d"):
        value = element.get(coordinate)
        if value is not None:
            element.set(coordinate, re.sub(r"\d+\.\d+", _two_digits, " ".join(value.split())))


def _two_digits(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _share_style(group: Element) -> None:
    """Writes the style of a thousand equal points once."""
    points = [child for child in group if child.tag == "use"]
    styles = {point.get("style") for point in points}
    if len(points) > 1 and len(points) == len(group) and len(styles) == 1 and None not in styles:
        group.set("style", str(styles.pop()))
        for point in points:
            del point.attrib["style"]
