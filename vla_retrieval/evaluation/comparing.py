"""Two or more runs against one qrels: what differs, how much, and whether by more than chance.

A query that a run lacks counts with 0 in each metric, for the baseline too: a run that leaves out
what is hard must not gain by it. A query that only a run has is left out, because nothing is known
about it. Both are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.averaging import group, group_means
from vla_retrieval.evaluation.bootstrap import RESAMPLES, estimates
from vla_retrieval.evaluation.metrics import cuts_of, evaluate
from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.randomization import FLIPS, holm, p_values
from vla_retrieval.evaluation.results import Estimate
from vla_retrieval.evaluation.run import Run


@dataclass(frozen=True)
class Difference:
    """One metric of one run against the baseline.

    Attributes:
        run: Name of the run.
        metric: For example ``"ndcg@10"``.
        baseline_value: Mean of the baseline.
        value: Mean of the run.
        difference: Of the run minus the baseline, with its 95% bootstrap interval.
        p: Of the paired randomisation test, on both sides.
        p_corrected: The same after Holm, over every row of the comparison, or of several
            (``correct_together``).
    """

    run: str
    metric: str
    baseline_value: float
    value: float
    difference: Estimate
    p: float
    p_corrected: float


@dataclass(frozen=True)
class Comparison:
    """Runs against the first of them.

    Attributes:
        baseline: Name of the first run.
        queries: That have a relevant entry; only these are compared.
        without_relevant: Queries of the qrels that have none.
        units: What was resampled and flipped: as many queries, or instructions.
        missing: Name of each run to the number of ``queries`` that it has not.
        unknown: Name of each run to the number of its queries that the qrels have not.
        differences: Run by run, metric by metric, as they were given.
    """

    baseline: str
    queries: int
    without_relevant: int
    units: int
    missing: Mapping[str, int]
    unknown: Mapping[str, int]
    differences: tuple[Difference, ...]


def compare(
    qrels: Qrels,
    runs: Mapping[str, Run],
    metrics: Sequence[str],
    *,
    instructions: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
) -> Comparison:
    """Compare runs with the first of them, query by query.

    Args:
        qrels: With at least one query that has a relevant entry.
        runs: Two or more, by name; the first is the baseline.
        metrics: One or more names, each once, as ``metrics.parse_metric`` takes them.
        instructions: One for each query of the qrels; then means of instructions are compared
            (macro), and instructions are resampled and flipped. Frames of one episode succeed or
            fail together, and taken one by one they make chance look like a difference. None:
            queries are compared one by one (micro).
        seed: Of the bootstrap and of the test.
        resamples: Of the bootstrap.
        flips: Of the test, as in ``randomization.p_values``.

    Raises:
        InvalidInputError: If one of these is not as described.
    """
    _check(qrels, runs, metrics)
    columns = {name: _values(qrels, run, metrics) for name, run in runs.items()}
    kept = qrels.relevant > 0
    if instructions is not None:
        columns = _by_instruction(columns, group(instructions, len(kept))[1][kept])
    baseline, *others = columns
    found = _differences(columns, baseline, others, seed, resamples, flips)
    answerable = qrels.answerable
    return Comparison(
        baseline=baseline,
        queries=len(answerable),
        without_relevant=len(kept) - len(answerable),
        units=len(columns[baseline][metrics[0]]),
        missing={name: len(run.missing(answerable)) for name, run in runs.items()},
        unknown={name: _unknown(qrels, run) for name, run in runs.items()},
        differences=tuple(found),
    )


def correct_together(comparisons: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """Correct p values over every row of several comparisons, where one decision rests on all.

    A gate that has to hold in five directions is tried five times, and by chance fails more often.

    Args:
        comparisons: By name.

    Returns:
        The same but for each ``p_corrected``.
    """
    rows = [row for one in comparisons.values() for row in one.differences]
    corrected = iter(holm({str(place): row.p for place, row in enumerate(rows)}).values())
    return {
        name: replace(
            one,
            differences=tuple(replace(row, p_corrected=next(corrected)) for row in one.differences),
        )
        for name, one in comparisons.items()
    }


def _check(qrels: Qrels, runs: Mapping[str, Run], metrics: Sequence[str]) -> None:
    if len(runs) < 2:
        raise InvalidInputError("runs", "two or more", str(len(runs)))
    if not metrics or len(set(metrics)) < len(metrics):
        raise InvalidInputError("metrics", "one or more names, each once", str(list(metrics)))
    if not qrels.entry_ids.size:
        # Without this a gate would pass where nothing was compared.
        raise InvalidInputError(
            "qrels", "a query with a relevant entry", f"{len(qrels.query_ids)} queries without one"
        )


def _values(qrels: Qrels, run: Run, metrics: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Returns each metric of the queries that have a relevant entry."""
    measured = evaluate(qrels, run.aligned(qrels.query_ids), cuts_of(metrics))
    return {name: measured.values[name][measured.answerable] for name in metrics}


def _by_instruction(
    columns: Mapping[str, Mapping[str, NDArray[np.float64]]], groups: NDArray[np.int64]
) -> dict[str, dict[str, NDArray[np.float64]]]:
    # Only instructions that kept queries have, numbered anew, so that no mean is NaN.
    groups = np.unique(groups, return_inverse=True)[1]
    counts = np.bincount(groups)
    return {name: group_means(of, groups, counts) for name, of in columns.items()}


def _unknown(qrels: Qrels, run: Run) -> int:
    return len(set(run.query_ids).difference(qrels.query_ids))


def _differences(
    columns: Mapping[str, Mapping[str, NDArray[np.float64]]],
    baseline: str,
    others: Sequence[str],
    seed: int,
    resamples: int,
    flips: int,
) -> list[Difference]:
    base = columns[baseline]
    pairs = [(run, metric) for run in others for metric in base]
    # A line break is in no metric's name.
    by_key = {f"{m}\n{run}": columns[run][m] - base[m] for run, m in pairs}
    p = p_values(by_key, seed=seed, flips=flips)
    corrected = holm(p)
    moved = estimates(by_key, seed=seed, resamples=resamples)
    return [
        Difference(
            run=run,
            metric=metric,
            baseline_value=float(base[metric].mean()),
            value=float(columns[run][metric].mean()),
            difference=moved[key],
            p=p[key],
            p_corrected=corrected[key],
        )
        for (run, metric), key in zip(pairs, by_key, strict=True)
    ]
