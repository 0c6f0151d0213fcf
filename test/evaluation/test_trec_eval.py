"""Random runs against trec_eval, an implementation that shares nothing with ours."""

from __future__ import annotations

import numpy as np
import pytest

from vla_retrieval.evaluation.metrics import QueryMetrics, evaluate
from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.run import Run

pytrec_eval = pytest.importorskip(
    "pytrec_eval",
    reason="pytrec_eval-terrier has wheels for x86_64 only, and its source downloads trec_eval",
)

KS = (1, 3, 10, 100)
THEIRS = {"accuracy": "P", "hit": "success", "recall": "recall", "ndcg": "ndcg_cut"}
M, GALLERY = 150, 300


def random_qrels(rng: np.random.Generator, highest: int) -> Qrels:
    return Qrels.from_mapping(
        {
            f"q{row}": {
                int(entry): int(rng.integers(1, highest + 1))
                for entry in rng.choice(GALLERY, rng.integers(1, 60), replace=False)
            }
            for row in range(M)
        }
    )


def random_run(rng: np.random.Generator) -> Run:
    """Returns rankings of 0 to 120 entries, with scores that stay apart in float32."""
    hits = []
    for row in range(M):
        length = int(rng.integers(0, 121))
        entries = rng.choice(GALLERY, length, replace=False)
        hits += list(zip([row] * length, entries, rng.permutation(length) / 8, strict=True))
    rows, entry_ids, scores = (np.array(column) for column in zip(*hits, strict=True))
    return Run.from_hits([f"q{row}" for row in range(M)], rows, entry_ids, scores)


def trec_eval(qrels: Qrels, run: Run, gain) -> dict[str, dict[str, float]]:
    """Returns what trec_eval says for each query; its gain of a grade is the grade itself."""
    bounds = list(zip(qrels.query_ids, qrels.offsets[:-1], qrels.offsets[1:], strict=True))
    relevant = {
        q: {str(qrels.entry_ids[i]): gain(int(qrels.grades[i])) for i in range(start, end)}
        for q, start, end in bounds
    }
    retrieved = {
        q: {
            str(entry): float(score) for entry, score in zip(ids, scores, strict=True) if entry >= 0
        }
        for q, ids, scores in zip(run.query_ids, run.entry_ids, run.scores, strict=True)
    }
    cuts = ",".join(map(str, KS))
    measures = {"recip_rank", *(f"{name}.{cuts}" for name in THEIRS.values())}
    return pytrec_eval.RelevanceEvaluator(relevant, measures).evaluate(retrieved)


def assert_equal(ours: QueryMetrics, theirs: dict[str, dict[str, float]]) -> None:
    for name, values in ours.values.items():
        metric, _, k = name.partition("@")
        their_name = f"{THEIRS[metric]}_{k}" if k else "recip_rank"
        expected = [theirs[query_id][their_name] for query_id in ours.query_ids]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("seed", range(5))
def test_binary_relevance_gives_what_trec_eval_gives(seed):
    rng = np.random.default_rng(seed)
    qrels, run = random_qrels(rng, 1), random_run(rng)

    assert_equal(evaluate(qrels, run, KS), trec_eval(qrels, run, gain=int))


@pytest.mark.parametrize("seed", range(5))
def test_grades_give_what_trec_eval_gives_for_their_gains(seed):
    rng = np.random.default_rng(seed)
    qrels, run = random_qrels(rng, 4), random_run(rng)

    assert_equal(evaluate(qrels, run, KS), trec_eval(qrels, run, gain=lambda grade: 2**grade - 1))


def test_trec_evals_own_gain_is_another_one():
    qrels = Qrels.from_mapping({"q": {1: 1, 2: 3}})
    run = Run.from_scores(["q"], [[1, 2]], [[0.9, 0.8]], depth=2)
    theirs = trec_eval(qrels, run, gain=int)["q"]["ndcg_cut_10"]

    log3 = np.log2(3)
    assert theirs == pytest.approx((1 + 3 / log3) / (3 + 1 / log3))
    ours = evaluate(qrels, run).values["ndcg@10"][0]
    assert ours == pytest.approx((1 + 7 / log3) / (7 + 1 / log3))


def test_trec_eval_ranks_equal_scores_by_higher_id_and_compares_in_float32():
    evaluator = pytrec_eval.RelevanceEvaluator({"q": {"2": 1}}, {"recip_rank"})
    tied = evaluator.evaluate({"q": {"1": 1.0, "2": 1.0 - 1e-10}})

    assert tied["q"]["recip_rank"] == 1.0


def test_trec_eval_takes_a_query_without_relevant_entries_as_zero():
    evaluator = pytrec_eval.RelevanceEvaluator({"q": {"2": 0}}, {"recip_rank", "recall.5"})

    assert evaluator.evaluate({"q": {"2": 1.0}}) == {"q": {"recip_rank": 0.0, "recall_5": 0.0}}
