from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_retrieval.evaluation.report.plots import curves, embedding_map, histogram, map_groups
from vla_retrieval.evaluation.report.svg import COLOURS
from vla_retrieval.evaluation.results import Estimate, MapPoint, StageSummary

PLACES = st.floats(-1e6, 1e6)
POINTS = st.builds(MapPoint, PLACES, PLACES, st.sampled_from(["scene", "instruction"]),
                   st.text("abcdefgh", max_size=1))  # fmt: skip


def stage(edges: list[float], counts: list[int], p50: float = 1.0) -> StageSummary:
    return StageSummary(sum(counts), p50, p50, p50, 1.0, tuple(edges), tuple(counts))


@settings(deadline=None, max_examples=30)
@given(st.lists(POINTS, min_size=1, max_size=12))
def test_every_point_of_a_map_has_its_own_instruction(points: list[MapPoint]) -> None:
    root = ElementTree.fromstring(embedding_map("map", points))

    titles = [title.text for title in root.iter("title")]
    assert sorted(map(str, titles)) == sorted(f"{one.kind}: {one.label}" for one in points)


def test_the_most_frequent_instructions_have_colours_of_their_own() -> None:
    points = [MapPoint(0, 0, "scene", label) for label in "aaabbcdefgh"]

    assert map_groups(points) == list("abcdef")


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(), min_size=2, max_size=6)
    | st.lists(st.floats(-1e13, 1e13), min_size=2, max_size=6, unique=True).map(sorted),
    st.floats(),
)
def test_any_histogram_is_drawn_or_left_out(edges: list[float], p50: float) -> None:
    svg = histogram("time", stage(edges, [3] * (len(edges) - 1), p50))

    assert not svg or ElementTree.fromstring(svg).get("role") == "img"


@settings(deadline=None, max_examples=30)
@given(st.lists(st.builds(Estimate, *[st.floats()] * 3), min_size=1, max_size=5))
def test_any_curve_is_drawn_or_left_out(values: list[Estimate]) -> None:
    svg = curves("curve", {f"hit@{10**k}": of for k, of in enumerate(values)})

    assert not svg or ElementTree.fromstring(svg).get("role") == "img"


def test_one_k_is_no_curve_and_metrics_without_k_have_none() -> None:
    of = Estimate(0.5, 0.4, 0.6)

    assert curves("curve", {"hit@1": of, "mrr": of, "own": of, "own@3": of}) == ""
    assert curves("curve", {"hit@1": of, "hit@5": Estimate(*[math.nan] * 3)}) == ""
    assert "hit@5 0.500" in curves("curve", {"hit@1": of, "hit@5": of})


@pytest.mark.parametrize(
    "empty", [stage([], []), stage([0, 1], [0]), stage([0, 1, 2], [1]), stage([0, 1], [])]
)
def test_a_histogram_of_nothing_is_left_out(empty: StageSummary) -> None:
    assert histogram("time", empty) == ""


def test_plots_follow_the_page_in_colour_and_font_and_are_named_apart() -> None:
    edges = np.geomspace(1, 100, 11).tolist()
    first, second = (histogram(name, stage(edges, [5] * 10)) for name in ("time-0", "time-1"))

    assert not [colour for colour in COLOURS.values() if colour in first]
    assert "var(--ink)" in first
    assert "font-family" not in first
    assert "<text" in first
    ids = [{e.get("id") for e in ElementTree.fromstring(one).iter()} - {None}
           for one in (first, second)]  # fmt: skip
    assert ids[0]
    assert not ids[0] & ids[1]
