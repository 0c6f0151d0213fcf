"""What qrels and runs take, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.qrels import MAX_GRADE, Qrels
from vla_retrieval.evaluation.query_ids import make_query_ids
from vla_retrieval.evaluation.run import Run

NAN = np.nan


def run_of(entry_ids, scores):
    return Run(tuple(f"q{n}" for n in range(len(entry_ids))), np.array(entry_ids), np.array(scores))


def test_pairs_in_any_order_become_rows_with_ascending_entries():
    qrels = Qrels.from_pairs(["a", "b", "c"], [2, 0, 2, 0], [9, 7, 3, 8], [1, 2, 3, 4])

    assert qrels.offsets.tolist() == [0, 2, 2, 4]
    assert qrels.entry_ids.tolist() == [7, 8, 3, 9]
    assert qrels.grades.tolist() == [2, 4, 3, 1]
    assert qrels.relevant.tolist() == [2, 0, 2]
    assert qrels.rows.tolist() == [0, 0, 2, 2]


def test_pairs_without_grades_all_have_grade_one():
    assert Qrels.from_pairs(["a"], [0, 0], [1, 2]).grades.tolist() == [1, 1]


def test_a_mapping_and_the_same_pairs_are_the_same_qrels():
    qrels = Qrels.from_mapping({"a": {8: 1, 7: 2}, "b": {}})

    assert qrels.query_ids == ("a", "b")
    assert qrels.entry_ids.tolist() == [7, 8]
    assert qrels.grades.tolist() == [2, 1]
    assert qrels.offsets.tolist() == [0, 2, 2]


def test_there_may_be_no_query_at_all():
    assert Qrels.from_mapping({}).offsets.tolist() == [0]
    assert Run.from_hits([], [], [], []).entry_ids.shape == (0, 1)


@pytest.mark.parametrize(
    ("rows", "entry_ids", "grades", "message"),
    [
        ([0, 0], [5, 5], [1, 1], "entry_ids: expected each once.*5 after 5 in 'a'"),
        ([0], [5], [0], f"grades: expected numbers from 1 to {MAX_GRADE}, got 0 for query 'a'"),
        ([0], [5], [MAX_GRADE + 1], "grades: expected"),
        ([0], [-1], [1], "entry_ids: expected numbers from 0 on, got -1"),
        ([1], [5], [1], "rows: expected positions in 1 query_ids, got 1"),
        ([-1], [5], [1], "rows: expected positions"),
        ([0], [5, 6], [1], "expected one of each"),
        ([0], [5.5], [1], "entry_ids: expected whole numbers, got an array of float64"),
        ([0], [[5]], [1], r"entry_ids: expected 1 dimension.*shape \(1, 1\)"),
    ],
)
def test_pairs_that_make_no_qrels_are_refused(rows, entry_ids, grades, message):
    with pytest.raises(InvalidInputError, match=message):
        Qrels.from_pairs(["a"], rows, entry_ids, grades)


@pytest.mark.parametrize("offsets", [[0], [0, 1], [1, 2], [0, 3, 2], [0, 1, 2]])
def test_offsets_that_do_not_fit_are_refused(offsets):
    with pytest.raises(InvalidInputError, match="offsets: expected"):
        Qrels(("a",), np.array(offsets), np.array([5, 6]), np.array([1, 1]))


def test_descending_offsets_are_refused():
    with pytest.raises(InvalidInputError, match="offsets: expected ascending"):
        Qrels(("a", "b", "c"), np.array([0, 2, 1, 2]), np.array([5, 6]), np.array([1, 1]))


def test_too_few_grades_are_refused():
    with pytest.raises(InvalidInputError, match="grades: expected one for each"):
        Qrels(("a",), np.array([0, 2]), np.array([5, 6]), np.array([1]))


@pytest.mark.parametrize("query_id", ["", "two words", "拿起\u3000杯子", "a\tb", "a\n", "\ufeffa"])
def test_an_id_that_a_file_cannot_hold_is_refused(query_id):
    with pytest.raises(InvalidInputError, match="query_ids: expected printable text"):
        Qrels.from_mapping({query_id: {}})


def test_an_id_that_comes_twice_is_refused():
    with pytest.raises(InvalidInputError, match="each id once, got 'a' twice"):
        Qrels.from_pairs(["a", "b", "a"], [], [])


def test_ids_made_from_texts_are_readable_different_and_accepted():
    texts = ["拿起 桌子上的杯子", "pick\u3000up\n it", "拿起 桌子上的杯子", "", "\ud800", "_"]
    made = make_query_ids(texts)

    assert made[:3] == ("拿起_桌子上的杯子", "pick_up_it", "拿起_桌子上的杯子#2")
    assert len(set(made)) == len(texts)
    assert Qrels.from_pairs(made, [], []).query_ids == made


def test_the_arrays_cannot_be_written_and_the_callers_still_can():
    own = np.array([[1, 2]])
    run = run_of(own, [[0.9, 0.8]])

    with pytest.raises(ValueError, match="read-only"):
        run.entry_ids[0, 0] = 5
    own[0, 0] = 1


def test_scores_are_ranked_with_ties_by_lower_id_and_nan_left_out():
    run = Run.from_scores(["a"], [[9, 4, 7, 5]], [[0.5, 0.5, 0.7, NAN]], depth=5)

    assert run.entry_ids.tolist() == [[7, 4, 9, -1, -1]]
    assert run.scores[0, :3].tolist() == [0.7, 0.5, 0.5]
    assert np.isnan(run.scores[0, 3:]).all()
    assert run.depth == 5
    assert run.lengths.tolist() == [3]


def test_one_gallery_serves_all_queries():
    run = Run.from_scores(["a", "b"], [1, 2, 3], [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]], depth=2)

    assert run.entry_ids.tolist() == [[3, 2], [1, 2]]


def test_hits_of_any_number_and_order_become_padded_rows():
    run = Run.from_hits(["a", "b", "c"], [2, 0, 2, 2], [5, 6, 7, 8], [0.1, 0.2, 0.3, 0.2])

    assert run.entry_ids.tolist() == [[6, -1, -1], [-1, -1, -1], [7, 8, 5]]


def test_hits_are_cut_after_they_were_ranked():
    run = Run.from_hits(["a"], [0, 0, 0], [5, 6, 7], [0.1, 0.3, 0.2], depth=2)

    assert run.entry_ids.tolist() == [[6, 7]]


@pytest.mark.parametrize(
    ("entry_ids", "scores", "message"),
    [
        (
            [[1, 1]],
            [[0.9, 0.8]],
            "each entry once in a ranking, got entry 1 more than once for .*q0",
        ),
        ([[1, 2, 1]], [[0.9, 0.8, 0.7]], "each entry once"),
        ([[1, 1]], [[0.9, 0.9]], "each entry once"),
        ([[1, 2]], [[0.8, 0.9]], "best score first.*entry 2, score 0.9 at rank 2 of 'q0'"),
        ([[2, 1]], [[0.9, 0.9]], "equal scores by lower entry id"),
        ([[-1, 2]], [[NAN, 0.9]], "padding after the last entry"),
        ([[1, 2]], [[0.9, NAN]], "a score with each entry"),
        ([[1, -1]], [[0.9, 0.8]], "NaN with padding"),
        ([[1, -2]], [[0.9, NAN]], "ids from 0 on, or -1 as padding"),
        ([[1, 2]], [[0.9]], "one row for each query, of one shape"),
        ([[1.0, 2.0]], [[0.9, 0.8]], "entry_ids: expected whole numbers"),
        ([[1, 2]], [["x", "y"]], "scores: expected real numbers"),
        ([1, 2], [0.9, 0.8], "entry_ids: expected 2 dimension"),
    ],
)
def test_rows_that_are_no_ranking_are_refused(entry_ids, scores, message):
    with pytest.raises(InvalidInputError, match=message):
        run_of(entry_ids, scores)


@pytest.mark.parametrize(
    ("rows", "scores", "depth", "message"),
    [
        ([0], [0.5], 0, "depth: expected a whole number from 1 on, got 0"),
        ([1], [0.5], 1, "rows: expected positions in 1 query_ids"),
        ([0], [0.5, 0.4], 1, "expected one of each for a hit"),
    ],
)
def test_hits_that_make_no_run_are_refused(rows, scores, depth, message):
    with pytest.raises(InvalidInputError, match=message):
        Run.from_hits(["a"], rows, [5], scores, depth)


def test_scores_of_another_shape_than_the_entries_are_refused():
    with pytest.raises(InvalidInputError, match="one row for each query"):
        Run.from_scores(["a"], [[1, 2, 3]], [[0.1, 0.2]], depth=2)


def test_an_aligned_run_has_the_queries_asked_for_in_their_order():
    run = run_of([[1, 2], [3, -1]], [[0.9, 0.8], [0.7, NAN]])
    aligned = run.aligned(["q1", "new", "q0"])

    assert aligned.query_ids == ("q1", "new", "q0")
    assert aligned.entry_ids.tolist() == [[3, -1], [-1, -1], [1, 2]]
    assert run.missing(["q1", "new", "q0"]) == ("new",)
    assert run.aligned(["q0", "q1"]) is run
    assert run.aligned(["q0"]).entry_ids.tolist() == [[1, 2]]


@given(
    grades=st.dictionaries(
        st.sampled_from("abcdef"), st.dictionaries(st.integers(0, 9), st.integers(1, 3), max_size=4)
    ),
    data=st.data(),
)
def test_qrels_of_some_queries_are_those_of_a_plain_dictionary(grades, data) -> None:
    wanted = data.draw(st.permutations(sorted(grades)))[: data.draw(st.integers(0, len(grades)))]
    found = Qrels.from_mapping(grades).only(wanted)
    expected = Qrels.from_mapping({query_id: grades[query_id] for query_id in wanted})
    assert found.query_ids == tuple(wanted)
    for name in ("offsets", "entry_ids", "grades"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_qrels_of_a_query_that_is_not_there_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"query_ids: expected queries of these.*'x'"):
        Qrels.from_mapping({"a": {1: 1}}).only(["a", "x"])
