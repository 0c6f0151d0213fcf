"""From each query's metrics to what a direction did: means, intervals, one row per instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.bootstrap import RESAMPLES, estimates
from vla_retrieval.evaluation.metrics import QueryMetrics
from vla_retrieval.evaluation.results import DirectionResult, InstructionRow


def average(
    measured: QueryMetrics,
    instructions: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> DirectionResult:
    """Average over queries and over instructions.

    *Micro* is the mean over queries, and its bootstrap draws queries. *Macro* is the mean over
    instructions of their means, and its bootstrap draws instructions, each with all its queries:
    the frames of one episode look alike and succeed or fail together, so that the instructions, and
    not their frames, are what another recording would have other ones of. For the same reason the
    micro interval is too narrow where an instruction has many alike queries; the macro one is not.

    Args:
        measured: Of ``m`` queries. Those without a relevant entry are only counted.
        instructions: Each query's instruction, ``m`` texts.
        seed: Of both bootstraps.
        resamples: Of each of them.

    Returns:
        Without examples. Rows are in the order in which instructions first come; one whose queries
        all lack a relevant entry has 0 queries, NaN for every mean, and no part in macro.

    Raises:
        InvalidInputError: If ``instructions`` has another length, ``resamples`` is below 1 or
            ``seed`` below 0.
    """
    kept = measured.answerable
    columns = {name: values[kept] for name, values in measured.values.items()}
    names, all_groups = group(instructions, len(kept))
    groups = all_groups[kept]
    counts = np.bincount(groups, minlength=len(names))
    relevant = group_means({"": measured.relevant[kept].astype(np.float64)}, groups, counts)[""]
    means = group_means(columns, groups, counts)
    answered = counts > 0
    macro = {name: values[answered] for name, values in means.items()}
    return DirectionResult(
        queries=int(np.count_nonzero(kept)),
        without_relevant=measured.without_relevant,
        micro=estimates(columns, seed=seed, resamples=resamples),
        macro=estimates(macro, seed=seed, resamples=resamples),
        per_instruction=_rows(names, counts, relevant, means),
    )


def group(instructions: Sequence[str], queries: int) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the different instructions, in order of appearance, and each query's place in them.

    Args:
        instructions: One for each query.
        queries: How many there must be.

    Returns:
        The texts, and int64 of shape ``(queries,)``.

    Raises:
        InvalidInputError: If there are not as many.
    """
    if len(instructions) != queries:
        got = f"{len(instructions)} for {queries} queries"
        raise InvalidInputError("instructions", "one for each query", got)
    place = {text: number for number, text in enumerate(dict.fromkeys(instructions))}
    places = np.array([place[text] for text in instructions], dtype=np.int64)
    return tuple(place), places


def group_means(
    columns: Mapping[str, NDArray[np.float64]],
    groups: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> dict[str, NDArray[np.float64]]:
    """Return each column's mean within each group.

    Args:
        columns: Name to float64, shape ``(n,)``.
        groups: Each element's group, int64, shape ``(n,)``.
        counts: Elements in each of the ``g`` groups, int64, shape ``(g,)``.

    Returns:
        Name to float64, shape ``(g,)``, NaN for groups without elements.
    """
    size = np.where(counts > 0, counts, np.nan)
    return {
        name: np.bincount(groups, weights=values, minlength=len(counts)) / size
        for name, values in columns.items()
    }


def _rows(
    names: Sequence[str],
    counts: NDArray[np.int64],
    relevant: NDArray[np.float64],
    means: Mapping[str, NDArray[np.float64]],
) -> tuple[InstructionRow, ...]:
    return tuple(
        InstructionRow(
            instruction=name,
            queries=int(counts[number]),
            relevant=float(relevant[number]),
            metrics={metric: float(values[number]) for metric, values in means.items()},
        )
        for number, name in enumerate(names)
    )
