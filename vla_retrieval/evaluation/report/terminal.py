"""The summary of an evaluation, and a comparison, as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vla_retrieval.evaluation.comparing import Comparison
from vla_retrieval.evaluation.report.comparison_page import finding
from vla_retrieval.evaluation.report.naming import (
    at_k,
    live_times,
    spell,
    spell_count,
    spell_interval,
    spell_ms,
    spell_p,
    spell_share,
    wall_sentence,
)
from vla_retrieval.evaluation.report.texts import readable
from vla_retrieval.evaluation.report.view import columns_of, kinds_in
from vla_retrieval.evaluation.results import (
    Agreement,
    Estimate,
    Evaluation,
    KnownResult,
    LiveResult,
    WallTime,
)


def summary_table(evaluation: Evaluation, average: str = "micro") -> Table:
    """Return metrics by direction, each with its 95% interval under it.

    Args:
        evaluation: With the directions.
        average: ``micro`` (mean over queries) or ``macro`` (mean over instructions).
    """
    columns = columns_of(evaluation, average)
    over = "instructions (macro)" if average == "macro" else "queries (micro)"
    table = _table(f"mean over {over}, 95% interval")
    table.add_column("", no_wrap=True)
    for name, under, _ in columns:
        head = Text(readable(name), style="bold").append(f"\n{under}", style="not bold dim")
        table.add_column(head, justify="right")
    for _, metrics in kinds_in(columns):
        for metric in metrics:
            cells = [_estimate(estimates.get(metric)) for _, _, estimates in columns]
            table.add_row(Text(readable(at_k(metric))), *cells)
        # hit@K and Recall@K are easily taken for each other.
        table.add_row()
    return table


def known_table(known: Mapping[str, KnownResult]) -> Table:
    """Return how well each direction tells what is not in the memory."""
    table = _table("known or not, 95% interval")
    table.add_column("direction")
    for head in ("answerable", "absent", "threshold", "false accepts", "false rejects", "AUROC"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, one in known.items():
        table.add_row(
            Text(readable(name)), spell_count(one.answerable), spell_count(one.absent),
            spell(one.threshold), _estimate(one.false_accepts), _estimate(one.false_rejects),
            _estimate(one.auroc),
        )  # fmt: skip
    return table


def comparison_table(comparison: Comparison, title: str = "") -> Table:
    """Return one row for each run and metric: both values, the difference, and whether it is one.

    Args:
        comparison: Of two runs or more.
        title: Over the table; without one, it says what the runs are compared with.
    """
    against = f"against {comparison.baseline}, {spell_count(comparison.queries)} queries"
    table = _table(f"{title}: {against}" if title else against)
    for head in ("run", "metric"):
        table.add_column(head)
    for head in ("baseline", "run", "difference", "p corrected"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("finding", no_wrap=True)
    styles = {"better": ("▲ better", "green"), "worse": ("▼ worse", "red")}
    for row in comparison.differences:
        table.add_row(
            Text(readable(row.run)), Text(readable(at_k(row.metric))), spell(row.baseline_value),
            spell(row.value), _estimate(row.difference, signed=True), spell_p(row.p_corrected),
            Text(*styles.get(finding(row), ("not told apart", "dim"))),
        )  # fmt: skip
    return table


def print_evaluation(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print both summaries, the known and the live part if there are, notes, times and the hash.

    Args:
        evaluation: To be printed.
        console: Where to; standard output if it is None.
    """
    console = console or Console(highlight=False)
    for average in ("micro", "macro"):
        console.print(summary_table(evaluation, average))
    if evaluation.known:
        console.print(known_table(evaluation.known))
    if evaluation.live:
        _print_live(evaluation.live, console)
    for note in evaluation.notes:
        console.print(Text(f"note: {readable(note, 1000)}", style="dim"))
    if evaluation.wall:
        console.print(_wall_table(evaluation.wall))
    console.print(Text(f"hash: {readable(evaluation.hash)}", style="dim"))


def _print_live(live: LiveResult, console: Console) -> None:
    """Print what only a running node shows."""
    table = _table("live, milliseconds")
    for head in ("", "calls", "p50", "p90", "p99"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    for name, stage in {**live_times(live), **live.stages}.items():
        times = (stage.p50_ms, stage.p90_ms, stage.p99_ms)
        table.add_row(Text(readable(name)), spell_count(stage.calls), *map(spell_ms, times))
    console.print(table)
    share = spell_share(live.frames_answered, live.frames_played)
    causes = ", ".join(f"{n} {cause}" for cause, n in live.drops.items() if n) or "none dropped"
    console.print(
        Text(f"{live.frames_answered} of {live.frames_played} frames answered ({share}); {causes}")
    )
    if live.agreement:
        console.print(_agreement_table(live.agreement))


def _agreement_table(agreement: Mapping[str, Agreement]) -> Table:
    first = next(iter(agreement.values()))
    table = _table(
        f"first {first.depth} entries against the offline evaluation; near ties: another order, "
        f"scores within {first.tolerance:g}"
    )
    table.add_column("direction")
    for head in ("queries", "same", "near ties", "different", "largest difference"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, one in agreement.items():
        counts = (one.both, one.same, one.near_ties, one.different)
        table.add_row(
            Text(readable(name)), *map(spell_count, counts), f"{one.score_difference:.1e}"
        )
    return table


def _wall_table(wall: WallTime) -> Table:
    table = _table(wall_sentence(wall))
    table.add_column("")
    table.add_column("s", justify="right")
    table.add_column("share", justify="right")
    for name, seconds in wall.parts_sec.items():
        share = spell_share(seconds, wall.total_sec)
        table.add_row(Text(readable(name)), spell(seconds, 1), share)
    return table


def _table(title: str) -> Table:
    # As Text: rich would take "[bold]" in a name for markup.
    return Table(title=Text(readable(title), style="italic"), title_justify="left", box=None,
                 header_style="bold", pad_edge=False, show_edge=False)  # fmt: skip


def _estimate(of: Estimate | None, *, signed: bool = False) -> Text:
    if of is None:
        return Text(spell(float("nan")), style="dim")
    text = Text(spell(of.value, signed=signed))
    interval = spell_interval(of.low, of.high, signed=signed)
    return text.append(f"\n{interval}", style="dim") if interval else text
