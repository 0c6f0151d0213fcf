"""Rankings looked at some at a time: the same numbers and bytes as all at once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from vla_retrieval.evaluation import metrics
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.run import Run
from vla_retrieval.experiments import ranked, scoring
from vla_retrieval.experiments.judging import Judge
from vla_retrieval.experiments.ranked import HeldRankings, Ranked, StoredRankings
from vla_retrieval.experiments.settings import ExperimentSettings

DEPTH = 4
WORDS = ["cup", "bowl", "Cup!", "book", "bowl", "cup"]


def frame(number: int, instruction: str) -> Frame:
    def nothing() -> None:
        raise AssertionError("nobody asked for a picture")

    return Frame(
        f"q{number}", "bag", "/i", number, number, "camera", instruction, f"bag-{number}",
        number, nothing, nothing,  # type: ignore[arg-type]
    )  # fmt: skip


GALLERY = [frame(n, WORDS[n % len(WORDS)]) for n in range(12)]
QUERIES = [frame(100 + n, [*WORDS, "nothing of the kind"][n % 7]) for n in range(11)]


def run() -> Run:
    scores = np.random.default_rng(0).random((len(QUERIES), len(GALLERY)))
    scores[3] = np.nan  # nothing was found
    ids = [query.query_id for query in QUERIES]
    return Run.from_scores(ids, np.arange(len(GALLERY)), scores, DEPTH)


@pytest.mark.parametrize("held", [0, 7, 1000])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_parts_of_any_size_give_what_the_whole_gives(
    rows: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranked, "_ROWS", rows)
    monkeypatch.setattr(ranked, "_HELD", held)
    whole = Ranked(QUERIES, HeldRankings(run()), Judge(GALLERY, ExperimentSettings()))
    parts = [metrics.evaluate(qrels, part, (1, 3)) for part, qrels in whole.parts()]
    assert len(parts) == -(-len(QUERIES) // rows)
    joined = metrics.joined(parts, (1, 3))
    expected = metrics.evaluate(whole.qrels, whole.run, (1, 3))
    assert joined.query_ids == expected.query_ids
    np.testing.assert_array_equal(joined.relevant, expected.relevant)
    assert list(joined.values) == list(expected.values)
    for name, values in expected.values.items():
        np.testing.assert_array_equal(joined.values[name], values)

    found, at_once = hashlib.sha256(), hashlib.sha256()
    whole.update(found)
    for array in (
        whole.run.entry_ids, whole.run.scores, whole.qrels.offsets, whole.qrels.entry_ids,
        whole.qrels.grades,
    ):  # fmt: skip
        at_once.update(np.ascontiguousarray(array).tobytes())
    assert found.digest() == at_once.digest()


def test_a_part_has_few_judgements_however_many_entries_are_relevant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranked, "_JUDGEMENTS", 8)
    whole = Ranked(QUERIES, HeldRankings(run()), Judge(GALLERY, ExperimentSettings()))
    counts = [len(qrels.entry_ids) for _, qrels in whole.parts()]
    assert max(counts) <= 8
    assert sum(counts) == len(whole.qrels.entry_ids)


def test_rankings_are_read_as_they_were_stored_also_after_the_file_was_removed(
    tmp_path: Path,
) -> None:
    expected = run()
    stored = StoredRankings(tmp_path / "file", DEPTH)
    for start, stop in ((0, 5), (5, 11)):
        stored.append(expected.entry_ids[start:stop], expected.scores[start:stop])
    (tmp_path / "file").unlink()
    for start, stop in ((0, 11), (2, 4), (10, 11), (4, 4)):
        entries, scores = stored.read(start, stop)
        np.testing.assert_array_equal(entries, expected.entry_ids[start:stop])
        np.testing.assert_array_equal(scores, expected.scores[start:stop])


def test_a_row_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    expected = run()
    stored = StoredRankings(tmp_path / "file", DEPTH)
    stored.append(expected.entry_ids[:6], expected.scores[:6])
    whole = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(whole[:-7])

    again = StoredRankings(tmp_path / "file", DEPTH)
    assert len(again) == 5
    again.append(expected.entry_ids[5:], expected.scores[5:])
    entries, scores = StoredRankings(tmp_path / "file", DEPTH).read(0, 11)
    np.testing.assert_array_equal(entries, expected.entry_ids)
    np.testing.assert_array_equal(scores, expected.scores)


def test_a_stage_without_any_time_has_a_histogram_from_zero_on() -> None:
    found = scoring.summarise([0.0, 0.0])
    assert found.edges_ms[0] == 0.0
    assert sum(found.counts) == found.calls == 2


def test_a_query_without_anything_relevant_is_not_taken_for_one_that_can_be_answered() -> None:
    """A file of relevance, unlike words, may have nothing for a query that is no absent one."""
    judge, settings = Judge(GALLERY, ExperimentSettings()), ExperimentSettings(alpha=0.5)
    absent = [frame(200 + n, f"absent {n}") for n in range(3)]
    ids = [query.query_id for query in absent]
    lower = Run.from_scores(ids, np.arange(2), -np.ones((3, 2)), DEPTH)
    found = scoring.score_known(
        Ranked(QUERIES, HeldRankings(run()), judge), Ranked(absent, HeldRankings(lower), judge),
        settings,
    )  # fmt: skip
    # Of eleven, one asks for nothing of the kind, and one has no ranking.
    assert (found.answerable, found.absent) == (9, 3)
    assert found.auroc.value == 1.0
