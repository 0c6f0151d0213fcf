import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tools.benchmarks import memory
from tools.benchmarks.bench import Settings
from tools.benchmarks.data import SETTINGS, Generator, Pairs, Recipe, stored_gallery
from tools.benchmarks.entries import EVERYWHERE, FILTER_KINDS, SHARES, Labels
from tools.benchmarks.measuring import interleave, spread
from tools.benchmarks.truth import DIRECTIONS, Truth, half_of

ROOT = Path(__file__).parents[2]
RECIPE = Recipe(2000)


@pytest.fixture(scope="module")
def gallery():
    return next(iter(Generator(RECIPE).gallery()))


@pytest.mark.parametrize("setting", SETTINGS)
def test_vectors_have_unit_length(setting):
    pairs = next(iter(Generator(Recipe(500, setting)).gallery()))

    for half in (pairs.scenes, pairs.instructions):
        assert half.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-5)


def test_equal_seeds_make_equal_vectors_and_others_do_not(gallery):
    again = next(iter(Generator(RECIPE).gallery()))
    other = next(iter(Generator(Recipe(2000, seed=1)).gallery()))

    np.testing.assert_array_equal(again.scenes, gallery.scenes)
    assert not np.array_equal(other.scenes, gallery.scenes)


def test_queries_are_not_in_the_gallery(gallery):
    queries = Generator(RECIPE).queries(50)

    assert (queries.scenes @ gallery.scenes.T).max() < 0.99
    assert (queries.instructions @ gallery.instructions.T).max() < 0.99


def test_the_two_halves_lie_in_different_cones(gallery):
    fitting = (gallery.scenes * gallery.instructions).sum(axis=1)
    across = gallery.scenes[:500] @ gallery.instructions[500:1000].T
    among_scenes = gallery.scenes[:500] @ gallery.scenes[500:1000].T

    assert 0.3 < np.median(fitting) < 0.4
    assert np.median(across) < 0.2 < np.median(among_scenes)


def test_scenes_of_a_cluster_are_alike(gallery):
    rows = np.arange(len(gallery))
    clusters = Generator(RECIPE).clusters(rows)
    together = clusters[:-1] == clusters[1:]
    neighbours = (gallery.scenes[:-1] * gallery.scenes[1:]).sum(axis=1)

    low, high = np.quantile(neighbours[together], [0.05, 0.95])
    assert 0.7 < low < high < 0.9
    assert np.median(neighbours[~together]) < 0.6


def test_a_stored_gallery_is_the_generated_one_also_past_a_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.benchmarks.data.CHUNK", 100)
    recipe = Recipe(110, dim=256)
    stored = stored_gallery(recipe, tmp_path)
    chunks = list(Generator(recipe).gallery())

    assert [len(chunk) for chunk in chunks] == [100, 10]
    np.testing.assert_array_equal(stored.instructions[100:], chunks[1].instructions)
    np.testing.assert_array_equal(stored.scenes[:100], chunks[0].scenes)


@pytest.mark.parametrize("kind", FILTER_KINDS)
def test_the_rows_of_a_filter_are_those_whose_entries_pass_it(kind):
    labels = Labels(300, seed=3)
    entries = labels.entries(np.arange(300))

    def passes(entry, filter):
        return (
            set(filter.tags) <= set(entry.tags)
            and filter.metadata.items() <= entry.metadata.items()
            and entry.stamp_ns >= (filter.stamp_from_ns or 0)
        )

    for group, share in SHARES.items():
        filter, rows = labels.filter(kind, group)
        assert [i for i, entry in enumerate(entries) if passes(entry, filter)] == rows.tolist()
        assert len(rows) == max(1, round(share * 300))
    assert all(EVERYWHERE in entry.tags for entry in entries)


def test_every_call_runs_once_a_round_and_the_order_turns():
    ran = []
    calls = {name: lambda turn, name=name: ran.append((turn, name)) or turn for name in "abc"}

    laps = interleave(calls, rounds=3)

    assert ran[3:] == [
        (0, "a"), (0, "b"), (0, "c"), (1, "b"), (1, "c"), (1, "a"), (2, "c"), (2, "a"), (2, "b"),
    ]  # fmt: skip
    assert laps.rounds == 3
    assert laps.answers["b"] == [0, 1, 2]


def test_with_bursts_each_system_runs_some_rounds_in_a_row():
    ran = []
    calls = {name: lambda turn, name=name: ran.append((turn, name)) for name in "ab"}

    laps = interleave(calls, rounds=3, burst=2)

    assert ran[2:] == [(0, "a"), (1, "a"), (0, "b"), (1, "b"), (2, "b"), (2, "a")]
    laps.seconds["a"][:] = [3.0, 1.0, 5.0]
    assert laps.latency("a")["first_p50_ms"] == 4000.0


def test_no_round_begins_after_the_limit_but_the_least_are_run():
    assert interleave({"a": lambda turn: None}, rounds=100, limit_sec=0, least=4).rounds == 4
    assert interleave({"a": lambda turn: None}, rounds=2, limit_sec=math.inf, least=4).rounds == 2


def test_a_ratio_is_taken_within_each_round():
    laps = interleave({"a": lambda turn: None, "b": lambda turn: None}, rounds=11)
    laps.seconds["a"][:] = np.arange(1, 12) * 2.0
    laps.seconds["b"][:] = np.arange(1, 12)

    assert laps.ratio("a", "b") == {"median": 2.0, "p10": 2.0, "p90": 2.0}
    assert laps.latency("b")["p99_ms"] == pytest.approx(np.percentile(np.arange(1, 12), 99) * 1e3)


def test_spread_is_that_of_numpy():
    values = np.random.default_rng(0).exponential(size=101)

    assert list(spread(values).values()) == pytest.approx(np.percentile(values, [50, 10, 90]))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_truth_agrees_with_sorting_everything(gallery, direction):
    queries = Generator(RECIPE).queries(20)
    rows = np.arange(0, len(gallery), 3)
    scores = sum(
        side.weight * half_of(queries, side.asked_by) @ half_of(gallery, side.half)[rows].T
        for side in DIRECTIONS[direction]
    )
    best = rows[np.argsort(-scores, axis=1)]
    truth = Truth(gallery, queries, DIRECTIONS[direction], 10, rows)

    assert truth.recall(best[:, :10]) == 1.0
    assert truth.recall(best[:, 5:15]) == pytest.approx(0.5)
    assert truth.recall(np.repeat(best[:, :1], 10, axis=1)) == pytest.approx(0.1)
    assert truth.recall([[] for _ in best]) == 0.0


def test_a_row_that_ties_with_the_last_of_the_best_counts_as_found():
    scenes = np.eye(4, dtype=np.float32)[[0, 1, 1, 2]]
    pairs = Pairs(scenes, scenes)
    query = Pairs(scenes[1:2], scenes[1:2])

    for answer in ([1], [2]):
        assert Truth(pairs, query, DIRECTIONS["scenes by image"], 1).recall([answer]) == 1.0


def test_settings_pass_through_json(tmp_path):
    settings = Settings(RECIPE, tmp_path, index_bytes=5, peers=("hnswlib",))

    assert Settings.from_json(settings.to_json()) == settings


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    work = tmp_path_factory.mktemp("benchmark")
    memory.main(
        ["--size", "300", "--queries", "8", "--seconds", "0.2", "--rounds", "1", "--index", "exact",
         "--work", str(work), "--json", str(work / "report.json"),
         "--part", "search", "filter", "adds", "open", "bytes"]
    )  # fmt: skip
    return json.loads((work / "report.json").read_text())


def test_a_small_run_fills_every_part(report):
    parts = report["parts"]

    assert set(parts) == {"search", "filter", "adds", "open", "bytes"}
    assert set(parts["search"]["directions"]) == set(DIRECTIONS)
    assert set(parts["adds"]["durable"]) == {"1", "256", "1024"}
    assert set(parts["open"]["states"]) == {
        f"{state}, {cache}" for state in ("clean", "killed") for cache in ("warm", "cold")
    }
    assert all(system["disk_bytes_per_entry"] > 0 for system in parts["bytes"].values())
    assert "work" not in report["settings"]
    assert report["machine"]["versions"]["faiss-cpu"]


def test_an_exact_memory_finds_everything(report):
    directions = report["parts"]["search"]["directions"].values()
    filtered = [
        values
        for kinds in report["parts"]["filter"].values()
        for shares in kinds.values()
        for values in shares.values()
    ]

    assert [values["recall_at_10"] for values in (*directions, *filtered)] == [1.0] * (
        len(directions) + len(filtered)
    )
    assert {values["eligible"] for values in filtered} == {300, 150, 30, 3, 1}


def test_a_slower_disk_is_one_on_which_every_sync_takes_so_much_longer(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "tools.benchmarks.memory", "--size", "50", "--part", "bytes",
         "--sync-ms", "5", "--work", tmp_path / "work", "--json", tmp_path / "report.json"],
        check=True, cwd=ROOT,
    )  # fmt: skip
    machine = json.loads((tmp_path / "report.json").read_text())["machine"]

    assert machine["sync_added_ms"] == 5.0
    assert machine["sync_ms"] > 5.0
