"""Gates: how much worse a run may be, as ``ndcg@10:0.01``, and a table with an exit code.

The rule: a run **fails** a gate where its metric is lower than the baseline's by more than the
tolerance **and** the difference is significant, its corrected p value below ``ALPHA``. One alone
does not fail: a drop that chance explains is no reason to stop, and neither is a sure drop that is
smaller than what was said to matter. So a small comparison seldom fails; its intervals show how
little it knows. The p value is that of any difference from 0, not of one beyond the tolerance, and
is corrected over everything that is compared, in every direction: compare only the metrics that you
decide by.

Queries that a run lacks count with 0, as ``comparing.py`` says, so leaving them out fails a
gate like answering them wrongly. The table counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.comparing import Comparison, Difference
from vla_retrieval.evaluation.metrics import parse_metric
from vla_retrieval.evaluation.randomization import ROUNDING

ALPHA = 0.05
GATE_FAILED = 1
HEADER = (
    "run", "metric", "baseline", "value", "difference", "95% interval", "p", "p (Holm)", "missing",
    "gate",
)  # fmt: skip


@dataclass(frozen=True)
class Gate:
    """How much lower than the baseline's a metric may be.

    Attributes:
        metric: For example ``"ndcg@10"``.
        tolerance: From 0 to 1.
    """

    metric: str
    tolerance: float


@dataclass(frozen=True)
class Table:
    """A comparison to print.

    Attributes:
        header: One text for each column.
        rows: As many texts each, in the order of the comparison's differences.
        exit_code: ``GATE_FAILED`` if a run failed a gate, else 0.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    exit_code: int


def parse_gate(text: str) -> Gate:
    """Read a gate from ``metric:tolerance``, for example ``"ndcg@10:0.01"``.

    Raises:
        InvalidInputError: If it is no such text, or the tolerance is not from 0 to 1.
    """
    metric, colon, tolerance = text.partition(":")
    expected = "a metric, a colon and a tolerance from 0 to 1, as ndcg@10:0.01"
    try:
        number = float(tolerance)
        parse_metric(metric)
    except (ValueError, InvalidInputError) as error:
        raise InvalidInputError("gate", expected, repr(text)) from error
    if not colon or not 0.0 <= number <= 1.0:
        raise InvalidInputError("gate", expected, repr(text))
    return Gate(metric, number)


def fails(gate: Gate, difference: Difference) -> bool:
    """Tell whether a run fails a gate, by the rule above.

    Args:
        gate: Of the same metric, which is not checked.
        difference: Of the run.
    """
    drop = -difference.difference.value
    # A drop of just the tolerance passes, also where rounding made it larger.
    beyond = drop > gate.tolerance + ROUNDING
    return beyond and difference.p_corrected < ALPHA


def tabulate(comparison: Comparison, gates: Sequence[Gate] = ()) -> Table:
    """Make a table of a comparison, judged by gates.

    The last column of a row is ``passed`` or ``FAILED`` where gates have its metric, else empty.

    Raises:
        InvalidInputError: If a gate's metric was not compared.
    """
    compared = {difference.metric for difference in comparison.differences}
    for gate in gates:
        if gate.metric not in compared:
            expected = f"a metric that was compared: {', '.join(sorted(compared))}"
            raise InvalidInputError("gate", expected, gate.metric)
    rows: list[tuple[str, ...]] = []
    failed = False
    for difference in comparison.differences:
        own = [gate for gate in gates if gate.metric == difference.metric]
        fell = any(fails(gate, difference) for gate in own)
        failed = failed or fell
        verdict = ("FAILED" if fell else "passed") if own else ""
        rows.append((*_cells(comparison, difference), verdict))
    return Table(HEADER, tuple(rows), GATE_FAILED if failed else 0)


def _cells(comparison: Comparison, difference: Difference) -> tuple[str, ...]:
    moved = difference.difference
    return (
        difference.run,
        difference.metric,
        f"{difference.baseline_value:.4f}",
        f"{difference.value:.4f}",
        f"{moved.value:+.4f}",
        f"{moved.low:+.4f} to {moved.high:+.4f}",
        f"{difference.p:.4f}",
        f"{difference.p_corrected:.4f}",
        _missing(comparison, difference.run),
    )


def _missing(comparison: Comparison, run: str) -> str:
    """Returns queries that the run lacks, and those that the baseline lacks where there are any."""
    baseline = comparison.missing[comparison.baseline]
    return f"{comparison.missing[run]}" + (f" (baseline {baseline})" if baseline else "")
