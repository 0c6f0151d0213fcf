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
    spell,
    spell_count,
    spell_interval,
    spell_p,
)
from vla_retrieval.evaluation.report.texts import readable
from vla_retrieval.evaluation.report.view import columns_of, kinds_in
from vla_retrieval.evaluation.results import (
    Agreement,
    Estimate,
    Evaluation,
    KnownResult,
    LiveResult,
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


def live_table(live: LiveResult) -> Table:
    """Return how soon frames were answered, and why some were not."""
    answered = f"{spell_count(live.frames_answered)} of {spell_count(live.frames_played)}"
    by = f", played by {live.player}" if live.player else ""
    table = _table(f"live: {answered} frames answered{by}")
    table.add_column("")
    for head in ("p50", "p90", "p99"):
        table.add_column(head, justify="right", no_wrap=True)
    rows = [
        ("image stamp to matches received, ms", live.latency_ms),
        ("age of the frame when the answer was sent, ms", live.frame_age_ms),
    ]
    if live.staleness_ms:
        rows.append(("age of its frame when the next answer came, ms", live.staleness_ms))
    for name, stage in rows:
        table.add_row(name, *(spell(ms) for ms in (stage.p50_ms, stage.p90_ms, stage.p99_ms)))
    for why, count in live.drops.items():
        table.add_row(Text(readable(why)), spell_count(count))
    return table


def agreement_table(agreement: Mapping[str, Agreement]) -> Table:
    """Return how many rankings of a running node are the same as offline, by direction."""
    table = _table("rankings of the node beside the offline evaluation of the same bags")
    table.add_column("direction")
    for head in (
        "answered live", "offline", "by both", "same ranking", "largest difference of scores",
    ):  # fmt: skip
        table.add_column(head, justify="right")
    for name, one in agreement.items():
        counts = map(spell_count, (one.live, one.offline, one.both, one.same))
        table.add_row(Text(readable(name)), *counts, f"{one.largest_difference:.1e}")
    return table


def wall_line(wall_sec: Mapping[str, float]) -> str:
    """Return the wall time and the share of each part that took a hundredth of it or more."""
    total = sum(wall_sec.values())
    parts = [
        f"{name} {sec / total:.0%}" for name, sec in wall_sec.items() if sec >= 0.01 * total > 0
    ]
    return f"{total:.1f} s: {', '.join(parts)}"


def comparison_table(comparison: Comparison, title: str = "") -> Table:
    """Return one row for each run and metric: both values, the difference, and whether it is one.

    Args:
        comparison: Of two runs or more.
        title: Over the table; without one, it says what the runs are compared with.
    """
    against = f"against {comparison.baseline}, {spell_count(comparison.queries)} queries"
    if comparison.units != comparison.queries:
        against += f", means over {spell_count(comparison.units)} instructions"
    for run, unknown in comparison.unknown.items():
        if unknown:
            against += f"; {spell_count(unknown)} of {run} left out"
    table = _table(f"{title}: {against}" if title else against)
    # At 80 columns names and metrics stay whole, and what has a space in it goes on two lines.
    table.add_column("run", overflow="fold", min_width=14)
    table.add_column("metric", no_wrap=True, min_width=9)
    for head in ("baseline", "run", "difference"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("p corrected", justify="right", min_width=9)
    table.add_column("finding", min_width=8)
    styles = {"better": ("▲ better", "green"), "worse": ("▼ worse", "red")}
    for row in comparison.differences:
        table.add_row(
            Text(readable(row.run)), Text(readable(at_k(row.metric))), spell(row.baseline_value),
            spell(row.value), _estimate(row.difference, signed=True), spell_p(row.p_corrected),
            Text(*styles.get(finding(row), ("not told apart", "dim"))),
        )  # fmt: skip
    return table


def print_evaluation(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print both summaries, the known part if there is one, the notes and the hash.

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
        console.print(live_table(evaluation.live))
        if evaluation.live.agreement:
            console.print(agreement_table(evaluation.live.agreement))
    if evaluation.wall_sec:
        console.print(Text(wall_line(evaluation.wall_sec), style="dim"))
    for note in evaluation.notes:
        console.print(Text(f"note: {readable(note, 1000)}", style="dim"))
    console.print(Text(f"hash: {readable(evaluation.hash)}", style="dim"))


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
