"""Accuracy@K, hit@K, Recall@K, MRR and NDCG@K of each query.

With ``R_K`` the first K retrieved, ``R`` the relevant entries of a query and ``rel_i`` the grade of
the entry at rank i, 0 where it is not relevant::

    accuracy@K   |R_K and R| / K
    hit@K        1 where R_K holds a relevant entry, else 0 (its mean is the top-K accuracy)
    recall@K     |R_K and R| / |R|
    mrr          1 / rank of the first relevant entry of the whole ranking, 0 where there is none
    ndcg@K       DCG@K / IDCG@K, DCG@K = sum over i = 1..K of (2^rel_i - 1) / log2(i + 1);
                 IDCG@K is the DCG@K of all relevant entries, highest grade first

A ranking with fewer than K entries is as one whose further ranks hold nothing relevant: accuracy@K
is still divided by K. Queries without a relevant entry have no value (NaN) and are never averaged
in. The gains of NDCG are those of Burges et al., "Learning to rank using gradient descent", 2005.

``test/evaluation/test_trec_eval.py`` compares with trec_eval where definitions agree. They differ:

=====================  ==========================================  ================================
subject                here                                        trec_eval
=====================  ==========================================  ================================
names                  accuracy, hit, recall, mrr, ndcg            P, success, recall, recip_rank,
                                                                   ndcg_cut
gain of grade g        2^g - 1                                     g; the same where g is 0 or 1
scores                 compared as float64                         compared as float32
equal scores           lower entry id first, as a number           higher document id first, as text
no relevant entry      no value, counted apart                     0, averaged in
query not in the run   refused; ``Run.aligned`` adds it, empty     left out; 0 with option -c
query not in qrels     refused; ``Run.aligned`` leaves it out      left out
=====================  ==========================================  ================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.run import Run

DEFAULT_KS = (1, 5, 10)
LARGEST = 2**63 - 1
AT_K = ("accuracy", "hit", "recall", "ndcg")
"""Metrics that are taken at a K, in the order in which they are given; then comes ``mrr``."""


@dataclass(frozen=True, eq=False)
class QueryMetrics:
    """Each query's metrics.

    Attributes:
        query_ids: ``m`` ids, those of the qrels.
        relevant: Number of relevant entries of each: int64, shape ``(m,)``.
        values: Metric name, for example ``"ndcg@10"`` or ``"mrr"``, to float64, shape ``(m,)``,
            from 0 to 1, and NaN for queries without a relevant entry.
    """

    query_ids: tuple[str, ...]
    relevant: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float64]]

    @property
    def answerable(self) -> NDArray[np.bool_]:
        """Which queries have a relevant entry: shape ``(m,)``."""
        return self.relevant > 0

    @property
    def without_relevant(self) -> int:
        """Number of queries that have none."""
        return int(np.count_nonzero(~self.answerable))


def evaluate(qrels: Qrels, run: Run, ks: Iterable[int] = DEFAULT_KS) -> QueryMetrics:
    """Score a run.

    Args:
        qrels: Of ``m`` queries.
        run: Of the same queries in the same order. ``mrr`` looks at its whole depth.
        ks: At which ranks to cut, from 1 on; values come in ascending order, each once. Without
            any, only ``mrr`` is computed.

    Raises:
        InvalidInputError: If the queries are not the same ones in the same order, or a K is
            below 1.
    """
    if qrels.query_ids != run.query_ids:
        raise InvalidInputError(
            "run", "the queries of the qrels, in their order", _first_difference(qrels, run),
            "run.aligned(qrels.query_ids) gives such a run.",
        )  # fmt: skip
    cuts = sorted(set(ks))
    if cuts and cuts[0] < 1:
        raise InvalidInputError("ks", "whole numbers from 1 on", str(cuts[0]))
    grades = retrieved_grades(qrels, run)
    values = _at_cuts(qrels, grades, cuts)
    values["mrr"] = _reciprocal_ranks(grades)
    relevant = qrels.relevant
    for value in values.values():
        value[relevant == 0] = np.nan
    return QueryMetrics(qrels.query_ids, relevant, values)


def joined(parts: Sequence[QueryMetrics], ks: Iterable[int] = DEFAULT_KS) -> QueryMetrics:
    """Return the metrics of all queries of some parts, one part after the other.

    Args:
        parts: With the same metrics; there may be none.
        ks: At which they were cut, for the names where there is no part.
    """
    names = [f"{name}@{k}" for name in AT_K for k in sorted(set(ks))] + ["mrr"]
    nothing = np.zeros(0)
    return QueryMetrics(
        tuple(query_id for part in parts for query_id in part.query_ids),
        np.concatenate([nothing.astype(np.int64), *(part.relevant for part in parts)]),
        {name: np.concatenate([nothing, *(part.values[name] for part in parts)]) for name in names},
    )


def retrieved_grades(qrels: Qrels, run: Run) -> NDArray[np.int64]:
    """Return the grade of each retrieved entry, 0 where it is not relevant or padding.

    Args:
        qrels: Of ``m`` queries.
        run: Of the same queries in the same order, which is not checked.

    Returns:
        Int64, shape ``(m, depth)``.
    """
    if not qrels.entry_ids.size:
        return np.zeros(run.entry_ids.shape, np.int64)
    # One sorted array of (row, entry) as one number finds all at once.
    known = qrels.entry_ids
    wanted, span = run.entry_ids, int(known.max()) + 1
    if span > LARGEST // len(qrels.query_ids):
        # Such ids times a row are more than 64 bits hold, so entries count by their place among the
        # relevant ones instead. Finding the places takes longer than all the rest.
        unique, known = np.unique(known, return_inverse=True)
        place = np.searchsorted(unique, wanted).clip(max=len(unique) - 1)
        wanted, span = np.where(unique[place] == wanted, place, -1), len(unique)
    keys = qrels.rows * span + known
    rows = np.arange(len(qrels.query_ids))[:, None]
    wanted_keys = np.where((wanted >= 0) & (wanted < span), rows * span + wanted, -1)
    found = np.searchsorted(keys, wanted_keys).clip(max=len(keys) - 1)
    return np.where(keys[found] == wanted_keys, qrels.grades[found], 0)


def parse_metric(name: str) -> tuple[str, int | None]:
    """Split a metric's name: ``"ndcg@10"`` into ``("ndcg", 10)``, ``"mrr"`` into ``("mrr", None)``.

    Raises:
        InvalidInputError: If it is no metric's name.
    """
    if name == "mrr":
        return name, None
    found = re.fullmatch(rf"({'|'.join(AT_K)})@([1-9][0-9]{{0,8}})", name)
    if found is None:
        expected = f"mrr, or one of {', '.join(AT_K)} with @ and K, as ndcg@10"
        raise InvalidInputError("metric", expected, repr(name))
    return found[1], int(found[2])


def cuts_of(names: Sequence[str]) -> tuple[int, ...]:
    """Return the Ks in some metrics' names, ascending, each once.

    Raises:
        InvalidInputError: If one is no metric's name.
    """
    return tuple(sorted({k for _, k in map(parse_metric, names) if k is not None}))


def _first_difference(qrels: Qrels, run: Run) -> str:
    for place, (wanted, got) in enumerate(zip(qrels.query_ids, run.query_ids, strict=False)):
        if wanted != got:
            return f"{got!r} in place of {wanted!r} at position {place}"
    return f"{len(run.query_ids)} queries in place of {len(qrels.query_ids)}"


def _at_cuts(
    qrels: Qrels, grades: NDArray[np.int64], cuts: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    # Ranks that the run does not have add nothing, so each cut looks at the last one it has.
    depth = min(max(cuts, default=0), grades.shape[1])
    found = _with_zero(np.cumsum(grades[:, :depth] > 0, axis=1, dtype=np.int64))
    gained = _with_zero(_cumulative_gain(grades[:, :depth]))
    ideal = _with_zero(_cumulative_gain(_ideal_grades(qrels, max(cuts, default=0))))
    # Queries without a relevant entry become NaN later; a 1 keeps the division silent.
    relevant = np.maximum(qrels.relevant, 1)
    values: dict[str, list[NDArray[np.float64]]] = {name: [] for name in AT_K}
    for k in cuts:
        hits, dcg = found[:, min(k, depth)], gained[:, min(k, depth)]
        idcg = ideal[:, min(k, ideal.shape[1] - 1)]
        values["accuracy"].append(hits / k)
        values["hit"].append((hits > 0).astype(np.float64))
        values["recall"].append(hits / relevant)
        # Rounding may leave a DCG a last digit above the ideal one.
        values["ndcg"].append(np.minimum(dcg / np.where(idcg > 0, idcg, 1.0), 1.0))
    return {f"{n}@{k}": v for n, of in values.items() for k, v in zip(cuts, of, strict=True)}


def _with_zero(cumulated: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
    """Puts rank 0 before rank 1, so that column K is what the first K ranks add up to."""
    return np.pad(cumulated.astype(np.float64), ((0, 0), (1, 0)))


def _cumulative_gain(grades: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns DCG at each rank; one order of summation, so that an ideal ranking has exactly 1."""
    gains = np.exp2(grades.astype(np.float64)) - 1.0
    discounts = np.log2(np.arange(2, grades.shape[1] + 2, dtype=np.float64))
    return np.cumsum(gains / discounts, axis=1)


def _ideal_grades(qrels: Qrels, k: int) -> NDArray[np.int64]:
    """Returns the highest k grades of each query, highest first, padded with 0."""
    m, highest = len(qrels.query_ids), int(qrels.grades.max(initial=1))
    # Counting how often each grade comes is linear, and a sort is not.
    cells = np.bincount(qrels.rows * highest + highest - qrels.grades, minlength=m * highest)
    at_least = np.cumsum(cells.reshape(m, highest), axis=1)
    ranks = np.arange(min(k, int(qrels.relevant.max(initial=0))))
    ideal = np.zeros((m, len(ranks)), np.int64)
    for as_high in at_least.T:
        ideal += ranks < as_high[:, None]
    return ideal


def _reciprocal_ranks(grades: NDArray[np.int64]) -> NDArray[np.float64]:
    if not grades.shape[1]:
        return np.zeros(len(grades))
    is_relevant = grades > 0
    first = is_relevant.argmax(axis=1)
    return np.where(is_relevant.any(axis=1), 1.0 / (first + 1), 0.0)
