"""One HTML file about an evaluation: opens without a network, prints, follows light and dark."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_retrieval.evaluation.report import naming, plots, view
from vla_retrieval.evaluation.report.lettering import lettering
from vla_retrieval.evaluation.report.libraries import library
from vla_retrieval.evaluation.report.texts import is_chinese, readable, spell_stamp
from vla_retrieval.evaluation.results import Estimate, Evaluation, StageSummary
from vla_retrieval.publishing import published

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_BYTES = 5_000_000
_TEMPLATES = Path(__file__).parent / "templates"
# Shapes of the plots' markers, around the origin.
_MARKERS = {
    "o": "M-3 0A3 3 0 1 0 3 0A3 3 0 1 0 -3 0Z", "s": "M-3 -3H3V3H-3Z", "^": "M0 -3.5L3.5 3H-3.5Z",
    "D": "M0 -4L4 0L0 4L-4 0Z",
}  # fmt: skip


def render_evaluation(evaluation: Evaluation, title: str = "Retrieval evaluation") -> str:
    """Return the page of an evaluation.

    It shows some examples of each list, of different instructions where there are, the hardest
    instructions and at most 2000 points of the map, with small pictures; where that is more than
    ``MAX_BYTES``, less of them, down to none.

    Args:
        evaluation: To be shown. Whatever its texts hold is shown as text.
        title: Of the page.

    Returns:
        HTML without references to anything outside it. It has more than ``MAX_BYTES`` in UTF-8
        only if the rest alone has: the means of all directions, counts, settings, times and notes.

    Raises:
        MissingLibraryError: If matplotlib or Jinja2 is not installed.
    """
    for limits in view.LIMITS:
        page = render("evaluation", title, _context(evaluation, limits))
        if len(page.encode("utf-8", "replace")) <= MAX_BYTES:
            break
    return page


def write_page(evaluation: Evaluation, target: Path, title: str = "Retrieval evaluation") -> None:
    """Write ``render_evaluation`` to a new file, which appears when it is whole.

    Raises:
        InvalidInputError: If the file exists or its folder does not.
        MissingLibraryError: If matplotlib or Jinja2 is not installed.
        StorageError: If the disk refuses.
    """
    page = render_evaluation(evaluation, title)
    with published(target) as partial:
        partial.write_text(page, encoding="utf-8", errors="replace")


def render(template: str, title: str, values: Mapping[str, Any]) -> str:
    """Return one of the package's templates, filled in.

    Args:
        template: Its name without ``.html.j2``.
        title: Of the page.
        values: What the template asks for.

    Raises:
        MissingLibraryError: If Jinja2 is not installed.
    """
    markup = library("markupsafe").Markup
    style, script = ((_TEMPLATES / name).read_text("utf-8") for name in ("style.css", "script.js"))
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page: str = _environment().get_template(f"{template}.html.j2").render(
        title=readable(title), style=markup(style), script=markup(script),
        script_hash=markup(script_hash), **values,
    )  # fmt: skip
    # Texts are escaped, so that the first one is the page's own.
    return page.replace("<style>", f"<style>{lettering(page)}", 1)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    jinja2 = library("jinja2")
    environment: Environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "at_k": naming.at_k, "exact": _exact, "interval": _interval, "ms": naming.spell_ms,
        "p": naming.spell_p, "readable": readable, "spell": naming.spell, "stamp": spell_stamp,
        "whole": naming.spell_count,
    }  # fmt: skip
    environment.tests["chinese"] = is_chinese
    return environment


def _exact(value: float) -> str:
    """Returns all digits as JavaScript and Python read them; '' for NaN."""
    if isinstance(value, Integral):
        return str(int(value))
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return "" if math.isnan(value) else repr(float(value))


def _interval(of: Estimate, *, signed: bool = False) -> str:
    return naming.spell_interval(of.low, of.high, signed=signed)


def _context(evaluation: Evaluation, limits: view.Limits) -> dict[str, Any]:
    markup = library("markupsafe").Markup
    micro = view.columns_of(evaluation, "micro")
    points = view.map_points(evaluation, limits)
    curves = [(name, markup(svg)) for place, (name, _, of) in enumerate(micro)
              if (svg := plots.curves(f"curve-{place}", of))]  # fmt: skip
    values: dict[str, Any] = {
        "evaluation": evaluation, "nan": math.nan, "micro": micro, "kinds": view.kinds_in(micro),
        "macro": view.columns_of(evaluation, "macro"), "curves": curves, "legend": _legend(),
        "galleries": view.galleries(evaluation, limits),
        "instructions": view.instruction_tables(evaluation, limits),
        "map": markup(plots.embedding_map("map", points)), "map_groups": plots.map_groups(points),
        "map_left_out": len(evaluation.embedding_map) - len(points),
        "notes": evaluation.notes[:100],
        "histograms": _histograms("time", evaluation.times),
        "settings": list(evaluation.settings.items()),
        **_live(evaluation),
    }  # fmt: skip
    return values | {"sections": _sections(values)}


def _sections(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns id and name of the sections that the page has."""
    evaluation = values["evaluation"]
    wanted = (
        ("summary", "Summary", True), ("curves", "Curves", values["curves"]),
        ("known", "Known or not", evaluation.known), ("examples", "Queries", values["galleries"]),
        ("instructions", "Instructions", values["instructions"]),
        ("map", "Embeddings", values["map"]),
        ("times", "Times", evaluation.times or evaluation.wall_sec),
        ("live", "Live", evaluation.live), ("settings", "Settings", values["settings"]),
    )  # fmt: skip
    return [(id_, text) for id_, text, there in wanted if there]


def _legend() -> list[tuple[str, naming.MetricKind, str, str]]:
    """Returns metric, its kind, dashes and marker, as the curves are drawn."""
    # Matplotlib's dashes are in line widths of 1.6 points; the sample's line is 2 pixels wide.
    return [
        (key, naming.kind_of(key),
         "none" if dashes == "-" else " ".join(f"{2 * length:g}" for length in dashes[1]),
         _MARKERS[marker])
        for key, (marker, dashes) in plots.CURVES.items()
    ]  # fmt: skip


def _histograms(prefix: str, times: Mapping[str, StageSummary]) -> list[tuple[str, Any]]:
    markup = library("markupsafe").Markup
    return [(name, markup(svg)) for place, (name, stage) in enumerate(times.items())
            if (svg := plots.histogram(f"{prefix}-{place}", stage))]  # fmt: skip


def _live(evaluation: Evaluation) -> dict[str, Any]:
    live = evaluation.live
    times = {"latency": live.latency_ms, "frame age": live.frame_age_ms} if live else {}
    if live and live.staleness_ms:
        times["staleness"] = live.staleness_ms
    share = (
        f"{live.frames_answered / live.frames_played:.1%}" if live and live.frames_played else ""
    )
    return {"live_times": times, "live_share": share,
            "live_histograms": _histograms("live", times)}  # fmt: skip
