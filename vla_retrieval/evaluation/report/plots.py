"""The plots of a page: curves over K, histograms of times, and the map of embeddings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from vla_retrieval.evaluation.report.libraries import library
from vla_retrieval.evaluation.report.naming import at_k, by_kind, spell, spell_ms, split_metric
from vla_retrieval.evaluation.report.svg import COLOURS, style, to_svg
from vla_retrieval.evaluation.results import Estimate, MapPoint, StageSummary

CURVES: dict[str, tuple[str, Any]] = {
    "hit": ("o", "-"), "recall": ("s", (0, (5, 1.5))), "ndcg": ("^", (0, (1.5, 1.5))),
    "accuracy": ("D", (0, (6, 1.5, 1.5, 1.5))),
}  # fmt: skip
"""Metrics over K to marker and dashes, so that nobody needs the colour."""
MAP_LABELS = 6
"""So many instructions have a colour of their own in the map."""


def curves(name: str, estimates: Mapping[str, Estimate]) -> str:
    """Return the metrics that have a K over K with their intervals, or '' without two of one.

    Args:
        name: Different from those of all other plots in the page; letters, digits and hyphens.
        estimates: Metric name to its mean.
    """
    lines = {
        key: [(int(split_metric(metric)[1]), estimates[metric]) for metric in metrics
              if not math.isnan(estimates[metric].value)]
        for key, metrics in by_kind(estimates).items() if key in CURVES
    }  # fmt: skip
    lines = {key: line for key, line in lines.items() if len(line) > 1}
    if not lines:
        return ""

    def draw(axes: Any) -> None:
        for key, line in lines.items():
            _draw_curve(axes, key, line)
        ks = sorted({k for line in lines.values() for k, _ in line})
        _scale_k(axes, ks)
        axes.set(ylim=(0, 1.02), yticks=[0, 0.25, 0.5, 0.75, 1], xlabel="K")
        axes.set_yticklabels(["0", "0.25", "0.5", "0.75", "1"])
        axes.grid(axis="y")
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)

    ends = [f"{at_k(f'{key}@{k}')} {spell(of.value)}"
            for key, line in lines.items() for k, of in (line[0], line[-1])]  # fmt: skip
    return _plot(draw, name, f"Curves over K: {', '.join(ends)}. The summary has all numbers.")


def epochs(name: str, values: Sequence[float], first: int) -> str:
    """Return a value over the epochs of a training, or '' without two of them.

    Args:
        name: Different from those of all other plots in the page; letters, digits and hyphens.
        values: One per epoch.
        first: Number of the first epoch.
    """
    if len(values) < 2:
        return ""
    numbers = list(range(first, first + len(values)))

    def draw(axes: Any) -> None:
        axes.plot(numbers, values, color=COLOURS["ndcg"])
        axes.set(xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")

    ends = f"{spell(values[0])} at epoch {first}, {spell(values[-1])} at epoch {numbers[-1]}"
    return _plot(draw, name, f"Curve over epochs: {ends}.")


def histogram(name: str, stage: StageSummary) -> str:
    """Return how often a stage took how long, or '' without a histogram that can be drawn.

    Percentiles outside the bins are left out.

    Args:
        name: Different from those of all other plots in the page; letters, digits and hyphens.
        stage: With its times.
    """
    edges, counts = stage.edges_ms, stage.counts
    if not _can_be_drawn(edges, counts):
        return ""

    def draw(axes: Any) -> None:
        axes.stairs(counts, edges, fill=True, color=COLOURS["hit"], alpha=0.45)
        axes.stairs(counts, edges, color=COLOURS["hit"], linewidth=0.8)
        percentiles = {"p50": stage.p50_ms, "p90": stage.p90_ms, "p99": stage.p99_ms}
        top = max(counts)
        for place, (label, value) in enumerate(percentiles.items()):
            if edges[0] <= value <= edges[-1]:
                height = top * (1.3 - 0.1 * place)
                axes.vlines(value, 0, height, color=COLOURS["ink"], linewidth=0.7)
                axes.annotate(label, (value, height), xytext=(2, -2), va="top", fontsize=7,
                              textcoords="offset points", color=COLOURS["ink"])  # fmt: skip
        _scale_ms(axes, edges)
        axes.set(xlabel="ms", ylim=(0, top * 1.32), yticks=[0, top])
        axes.set_yticklabels(["0", f"{top}"])
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)

    found = f"p50 {spell_ms(stage.p50_ms)}, p99 {spell_ms(stage.p99_ms)} ms"
    return _plot(draw, name, f"Histogram of {sum(counts)} times, {found}.", (3.4, 1.7))


def _can_be_drawn(edges: Sequence[float], counts: Sequence[int]) -> bool:
    if len(edges) != len(counts) + 1 or min(counts, default=0) < 0 or not sum(counts):
        return False
    # Beyond a century, or with bins that are all but equal, matplotlib's axes overflow.
    widths = [after - before for before, after in pairwise(edges)]
    return all(abs(edge) < 1e13 for edge in edges) and all(width > 1e-9 for width in widths)


def map_groups(points: Sequence[MapPoint]) -> list[str]:
    """Return the instructions that have a colour of their own in a map: the most frequent ones."""
    return [label for label, _ in Counter(point.label for point in points).most_common(MAP_LABELS)]


def embedding_map(name: str, points: Sequence[MapPoint]) -> str:
    """Return points in the plane, or '' without any; a point's label appears when it is touched.

    Args:
        name: Different from those of all other plots in the page; letters, digits and hyphens.
        points: With coordinates from -1e6 to 1e6.
    """
    if not points:
        return ""
    colours = {label: f"s{place}" for place, label in enumerate(map_groups(points), start=1)}
    layers: dict[tuple[str, str], list[MapPoint]] = {}
    # The many of all other instructions are drawn first, and instructions over scenes.
    for point in sorted(points, key=lambda one: (one.kind != "scene", one.label in colours)):
        layers.setdefault((point.kind, colours.get(point.label, "pale")), []).append(point)

    def draw(axes: Any) -> None:
        for (kind, colour), members in layers.items():
            _draw_points(axes, kind, colour, members)
        # The coordinates mean nothing by themselves, and text that is legible on a phone would be
        # too large on a desk in so wide a figure.
        axes.set(xticks=[], yticks=[])
        axes.margins(0.03)
        axes.set_aspect("equal", adjustable="datalim")

    titles = {f"{kind}-{colour}": [f"{kind}: {point.label}" for point in members]
              for (kind, colour), members in layers.items()}  # fmt: skip
    kinds = Counter(point.kind for point in points)
    found = " and ".join(f"{count} {kind}s" for kind, count in kinds.items())
    return _plot(draw, name, f"Map of embeddings: {found}.", (7.2, 3.9), titles)


def _plot(
    draw: Callable[[Any], None],
    name: str,
    label: str,
    inches: tuple[float, float] = (3.4, 2.3),
    titles: Mapping[str, Sequence[str]] | None = None,
) -> str:
    matplotlib = library("matplotlib")
    # Figure and not pyplot: no window, no state that other users of matplotlib would see.
    figures = library("matplotlib.figure")
    with matplotlib.rc_context(style()):
        figure = figures.Figure(figsize=inches, layout="constrained")
        draw(figure.subplots())
        return to_svg(figure, name, label, titles)


def _draw_curve(axes: Any, key: str, line: Sequence[tuple[int, Estimate]]) -> None:
    marker, dashes = CURVES[key]
    ks = [k for k, _ in line]
    colour = COLOURS[key]
    axes.fill_between(ks, [of.low for _, of in line], [of.high for _, of in line],
                      color=colour, alpha=0.18, linewidth=0)  # fmt: skip
    axes.plot(ks, [of.value for _, of in line], color=colour, linestyle=dashes, marker=marker,
              markersize=4, markeredgewidth=0)  # fmt: skip


def _scale_k(axes: Any, ks: Sequence[int]) -> None:
    ticker = library("matplotlib.ticker")
    if ks[-1] >= 10 * ks[0]:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xticks(ks)
    axes.set_xticklabels([str(k) for k in ks])


def _scale_ms(axes: Any, edges: Sequence[float]) -> None:
    ticker = library("matplotlib.ticker")
    # Bins that grow with time are made for such an axis, others would be squeezed together on it.
    if edges[0] > 0 and edges[-1] - edges[-2] > 3 * (edges[1] - edges[0]):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(base=10, subs=(1, 2, 5), numticks=7))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(edges[0], edges[-1])


def _draw_points(axes: Any, kind: str, colour: str, members: Sequence[MapPoint]) -> None:
    is_scene = kind == "scene"
    axes.scatter(
        [point.x for point in members], [point.y for point in members],
        s=9 if is_scene else 30, marker="o" if is_scene else "^", gid=f"{kind}-{colour}",
        color=COLOURS[colour], alpha=(0.35 if colour == "pale" else 0.7) if is_scene else 0.95,
        edgecolors="none" if is_scene else COLOURS["paper"], linewidths=0.5,
    )  # fmt: skip
