"""What was measured, as tables and as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def show(found: dict[str, Any]) -> None:
    """Print everything."""
    console = Console(width=110)
    if "starts" in found:
        for table in _starts(found["starts"]):
            console.print(table)
    if "stages" in found:
        for table in _stages(found["stages"]):
            console.print(table)
    if "throughput" in found:
        for table in _throughput(found["throughput"]):
            console.print(table)
    if "load" in found:
        for name in ("quiet", "hogged", "delivery"):
            console.print(_load(name, found["load"][name]))
        console.print(_bars("under load", found["load"]["bars"]))


def plot(stages: dict[str, Any], path: Path) -> None:
    """Draw the ratios with their spreads and bars as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = stages["ratios"][::-1]
    figure, axes = pyplot.subplots(figsize=(9, 0.5 * len(lines) + 1.5))
    for height, line in enumerate(lines):
        width = line["median"]
        error = [[width - line["p10"]], [line["p90"] - width]]
        axes.barh(height, width, xerr=error, color="#4878a8", capsize=3, height=0.6)
        if line["bar"] is not None:
            axes.plot([line["bar"]] * 2, [height - 0.4, height + 0.4], color="#c03028", lw=2)
    axes.set_yticks(range(len(lines)), [line["text"] for line in lines])
    axes.set_xscale("log")
    axes.set_xlabel("ratio: median, 10th to 90th percentile; red: the bar")
    axes.set_title(f"{stages['engine']} {stages['precision']} on {stages['device']}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _stages(stages: dict[str, Any]) -> list[Table]:
    title = (
        f"{stages['engine']} {stages['precision']} on {stages['device']}, index {stages['index']}, "
        f"{stages['rounds']} rounds" + ("" if stages["with messages"] else ", without messages")
    )
    ratios = Table("ratio", "median \\[p10, p90]", "bar", "", title=title)
    for line in stages["ratios"]:
        bar = line["bar"]
        met = "" if bar is None else ("met" if line["median"] <= bar else "missed")
        shown = f"{line['median']:.3g} [{line['p10']:.3g}, {line['p90']:.3g}]"
        ratios.add_row(line["text"], shown, "" if bar is None else f"{bar:g}", met)
    times = Table("call", "ms: median \\[p10, p90]")
    for name, one in stages["milliseconds"].items():
        times.add_row(name, f"{one['median']:.2f} [{one['p10']:.2f}, {one['p90']:.2f}]")
    cosines = Table("worst cosine to eager fp32, and preprocessing", "")
    for name, value in stages["cosine"].items():
        cosines.add_row(name, f"{value:.6f}")
    return [ratios, times, cosines]


def _starts(starts: dict[str, Any]) -> Iterator[Table]:
    encoder = starts["encoder"]
    names = list(next(iter(encoder.values())))
    table = Table("start of an encoder \\[s]", *names)
    for start, seconds in encoder.items():
        table.add_row(start, *(f"{seconds[name]:.1f}" for name in names))
    yield table
    if "node" in starts:
        table = Table("start of a node, to its first answer \\[s]", "")
        for start, seconds in starts["node"].items():
            table.add_row(start, f"{seconds:.1f}")
        yield table


def _load(name: str, load: dict[str, Any]) -> Table:
    columns = ("p50", "p90", "p95", "p99", "max")
    table = Table(f"load, {name}", *columns)
    for what, value in load.items():
        if isinstance(value, dict):
            table.add_row(Text(what), *(f"{value[q]:.1f}" for q in columns))
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            table.add_row(Text(what), Text(shown))
    return table


def _throughput(found: dict[str, Any]) -> Iterator[Table]:
    title = f"{found['precision']} on {found['device']}, batches of {found['batch']}"
    rates = Table("images a second", "median \\[p10, p90]", title=title)
    for name, one in found["rates"].items():
        rates.add_row(name, f"{one['median']:.0f} [{one['p10']:.0f}, {one['p90']:.0f}]")
    for name in ("matrix rate [TFLOP/s]", "share of the matrix rate"):
        one = found[name]
        rates.add_row(Text(name), f"{one['median']:.3g} [{one['p10']:.3g}, {one['p90']:.3g}]")
    yield rates
    yield _bars("throughput, times as fast", found["bars"])


def _bars(title: str, bars: list[dict[str, Any]]) -> Table:
    table = Table(title, "value", "bar", "")
    for line in bars:
        bar = f"{'<=' if line['below'] else '>='} {line['bar']:g}"
        met = "met" if line["met"] else "missed"
        table.add_row(Text(line["text"]), f"{line['value']:.3g}", bar, met)
    return table
