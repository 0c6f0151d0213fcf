"""The figures as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tools.benchmarks.measuring import BURST

Values = dict[str, Any]


def show(console: Console, part: str, found: Values) -> None:
    """Print one part."""
    _PARTS[part](console, found)


def _search(console: Console, found: Values) -> None:
    if found["index"]:
        facts = ", ".join(
            f"{name} {value}"
            for name, value in found["index"].items()
            if isinstance(value, (str, int, float))
        )
        console.print(f"index: {facts}", highlight=False)
        for one in found["index"].get("directions") or ():
            console.print(f"  {one}", highlight=False)
    rows = []
    for name, values in found["directions"].items():
        bare = values.get("bare")
        rows.append(
            [
                name, f"{values['p50_ms']:.3f}", f"{values['p99_ms']:.3f}",
                f"{values['first_p50_ms']:.3f}", f"{values['recall_at_10']:.4f}",
                f"{values['faiss_flat']['p50_ms']:.3f}",
                _ratio(values["ratio_to_faiss_flat"]),
                f"{bare['p50_ms']:.3f} ({bare['recall_at_10']:.4f})" if bare else "-",
                _ratio(values["ratio_to_bare"]) if bare else "-", str(values["queries"]),
            ]
        )  # fmt: skip
    _table(
        console, f"Search, k = 10; bare FAISS: {found['bare']}",
        ["direction", "p50 ms", "p99 ms", "first ms", "recall@10", "flat p50 ms", "time / flat",
         "bare p50 ms (recall)", "time / bare", "queries"], rows,
    )  # fmt: skip
    console.print(
        "flat: IndexFlatIP, one thread; for a pair one scan of each half, not merged. Systems take"
        f" turns every {BURST} queries; first: the first of these, after the others' work."
    )


def _filters(console: Console, found: Values) -> None:
    rows = [
        [
            direction, kind, f"{values['share']:.2%}", f"{values['eligible']:,}",
            f"{values['p50_ms']:.3f}", _ratio(values["ratio_to_unfiltered"]),
            f"{values['recall_at_10']:.4f}",
        ]
        for direction, kinds in found.items()
        for kind, shares in kinds.items()
        for values in shares.values()
    ]  # fmt: skip
    _table(
        console, "Filtered search",
        ["direction", "filter", "share", "eligible", "p50 ms", "time / unfiltered", "recall@10"],
        rows,
    )  # fmt: skip


def _adds(console: Console, found: Values) -> None:
    rows = [
        [
            mode, batch, f"{values['adds_per_sec']:,.0f}", f"{values['p99_ms']:.2f}",
            f"{values['sqlite_rows_per_sec']:,.0f}", _three(values["ratio_of_sums"]),
            _ratio(values["ratio_to_sqlite"]), str(values["rounds"]),
        ]
        for mode in ("durable", "not durable")
        for batch, values in found[mode].items()
    ]  # fmt: skip
    size = found["durable"]["1"]["bytes"]
    _table(
        console, f"Adds; SQLite: one blob of {size:,} bytes a row, as many rows a commit",
        ["commit", "batch", "adds / s", "p99 ms a call", "SQLite rows / s", "rate / SQLite",
         "by round", "rounds"], rows,
    )  # fmt: skip


def _opening(console: Console, found: Values) -> None:
    rows = [
        [
            name, f"{values['cached_share']:.0%}", f"{values['bytes'] / 1e6:,.0f}",
            _seconds(values["read_sec"]), _seconds(values["open_sec"]),
            _ratio(values["ratio_to_reading"]), _seconds(values["first_answer_sec"]),
            _seconds(values["idle_sec"]), str(values["rounds"]),
        ]
        for name, values in found["states"].items()
    ]  # fmt: skip
    _table(
        console, f"Opening; killed: {found['caught_up']:,} entries after the last clean stop",
        ["state, page cache", "in cache before", "MB", "read all s", "open s", "open / read",
         "first answer s", "idle s", "rounds"], rows,
    )  # fmt: skip


def _sizes(console: Console, found: Values) -> None:
    rows = [
        [name, f"{v['ram_bytes_per_entry']:,.0f}", f"{v['disk_bytes_per_entry']:,.0f}", v["note"]]
        for name, v in found.items()
    ]
    _table(console, "Bytes an entry", ["system", "RAM (anonymous)", "disk", "holds"], rows)


def _peers(console: Console, found: Values) -> None:
    rows = []
    for name, values in found.items():
        if "left_out" in values:
            continue
        row = [
            name, f"{values['single_adds_per_sec']:,.0f}", f"{values['ready_per_sec']:,.0f}",
            f"{values['ram_bytes_per_entry']:,.0f}", f"{values['disk_bytes_per_entry']:,.0f}",
            f"{values['open_sec']:.3f}", f"{values['first_answer_sec']:.3f}",
        ]  # fmt: skip
        rows.append(row)
    _table(
        console, "Stores of scenes (the memory: of pairs), filled from nothing",
        ["system", "single adds / s", "ready entries / s", "RAM B", "disk B", "open s",
         "first answer s"], rows,
    )  # fmt: skip
    rows = []
    for name, values in found.items():
        for direction in ("scenes by image", "scenes by text"):
            if direction in values:
                rows.append([name, *_peer_direction(direction, values[direction])])
        for group, filtered in values.get("filtered", {}).items():
            rows.append(
                [
                    name, f"by image, {group}", f"{filtered['p50_ms']:.3f}",
                    f"{filtered['p99_ms']:.3f}", f"{filtered['recall_at_10']:.4f}", "",
                    _ratio(filtered["ratio_to_unfiltered"]) + " unfiltered",
                ]
            )  # fmt: skip
    _table(
        console, "Scenes, k = 10; groups: percent = 1%, rare = 0.01%",
        ["system", "query", "p50 ms", "p99 ms", "recall@10", "time / flat", "time / memory"], rows,
    )  # fmt: skip
    for name, values in found.items():
        what = f"left out: {values['left_out']}" if "left_out" in values else values["note"]
        console.print(f"{name}: {what}", highlight=False)


def _peer_direction(direction: str, values: Values) -> list[str]:
    return [
        direction, f"{values['p50_ms']:.3f}", f"{values['p99_ms']:.3f}",
        f"{values['recall_at_10']:.4f}", _ratio(values["ratio_to_faiss_flat"]),
        f"{_ratio(values['ratio_to_memory'])} (its recall {values['memory_recall_at_10']:.4f})",
    ]  # fmt: skip


def _table(
    console: Console, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _ratio(values: Values) -> str:
    """Median, with the 10th and the 90th percentile of the rounds."""
    middle, low, high = (_three(values[key]) for key in ("median", "p10", "p90"))
    return f"{middle} [{low}, {high}]"


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(values: Values) -> str:
    return f"{values['median']:.3f}"


_PARTS: dict[str, Callable[[Console, Values], None]] = {
    "search": _search,
    "filter": _filters,
    "adds": _adds,
    "open": _opening,
    "bytes": _sizes,
    "peers": _peers,
}
