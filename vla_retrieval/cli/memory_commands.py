"""The commands of ``memory``: each calls the library and prints what it answers."""

from __future__ import annotations

import csv
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vla_retrieval import reembedding, transfer
from vla_retrieval.calibration import Calibration
from vla_retrieval.cli.output import print_json, progress_bars, size
from vla_retrieval.encoders import load_encoder
from vla_retrieval.errors import RetrievalError
from vla_retrieval.heads import load_head
from vla_retrieval.memory import Memory, checking, dropping, snapshot
from vla_retrieval.memory.contents import open_contents
from vla_retrieval.memory.describing import MemoryInfo, describe
from vla_retrieval.memory.directory import size_bytes
from vla_retrieval.memory.failures import storage_errors
from vla_retrieval.memory.findings import Report
from vla_retrieval.memory.mending import mend_log
from vla_retrieval.memory.names import DATABASE_NAME
from vla_retrieval.memory.options import MemoryOptions
from vla_retrieval.projection import Head, name_of, short_digest
from vla_retrieval.publishing import check_absent
from vla_retrieval.types import Fingerprint, Similarity

Command = Callable[[Namespace], int]


def info(args: Namespace) -> int:
    """Print what a memory holds."""
    found = describe(args.directory)
    if args.json:
        print_json(found)
    else:
        _print_info(found)
    return 0


def check(args: Namespace) -> int:
    """Print what is wrong with a memory, and remove it if that is asked for."""
    write = args.drop_damaged and args.yes
    mended = {"log_mended": mend_log(args.directory)} if write else {}
    if mended.get("log_mended") and not args.json:
        print("mended: the log; all commits in it can be read again")
    with open_contents(args.directory, write=write, to_check=True) as contents:
        with progress_bars() as progress:
            report = checking.check(contents, progress)
        planned = dropping.plan(report)
        if not args.drop_damaged:
            _print_report(report, args)
            return 1 if report.wrong else 0
        if not args.yes or planned.nothing:
            _print_report(report, args, would_drop=planned, done=mended)
            return 1 if report.wrong else 0
        if not args.json:
            _print_report(report, args)
        dropped = dropping.drop_damaged(contents, report)
        with progress_bars() as progress:
            after = checking.check(contents, progress)
        if args.json:
            done = {"dropped": dropped, "after": _report(after)}
            print_json({**_report(report), **mended, **done})
        else:
            print(f"removed: {_dropped(dropped)}")
            print("what is left:")
            _print_report(after, args)
    return 1 if after.wrong else 0


def compact(args: Namespace) -> int:
    """Compact a memory and print its sizes."""
    with storage_errors("use", args.directory):
        before = size_bytes(args.directory) if args.directory.is_dir() else 0
    head = None if args.head is None else load_head(args.head)
    with open_to_write(args.directory, head=head) as memory:
        memory.wait_until_idle()
        memory.compact()
    after = size_bytes(args.directory)
    if args.json:
        print_json({"before_bytes": before, "after_bytes": after})
    else:
        print(f"{size(before)} before, {size(after)} after")
        if after > before:
            print(
                "The index's snapshot was written, which spares the next start reading all entries."
            )
    return 0


def export(args: Namespace) -> int:
    """Write all entries into a file or a folder."""
    writers = {"parquet": transfer.export_parquet, "directory": transfer.export_folder}
    head = None if args.head is None else load_head(args.head)
    with open_contents(args.directory) as contents, progress_bars() as progress:
        count = writers[args.format](contents, args.out, progress, head)
    if args.json:
        print_json({"entries": count, "out": args.out})
    else:
        print(f"{count} entries in {args.out}")
    return 0


def import_(args: Namespace) -> int:
    """Store all entries of an export, and print how far it got whatever happens."""
    source = transfer.open_source(args.source)
    stored: list[int] = []
    try:
        _import(args, source, stored)
    except (RetrievalError, KeyboardInterrupt):
        print(f"memory import: stopped; stored {_ids(stored)} of {source.count}", file=sys.stderr)
        raise
    if args.json:
        ends = {"first_id": stored[0], "last_id": stored[-1]} if stored else {}
        print_json({"entries": len(stored), **ends})
    else:
        print(f"{_ids(stored)} of {source.count} entries are in {args.directory}")
    return 0


def _import(args: Namespace, source: transfer.Source, stored: list[int]) -> None:
    """Store all entries, and append their new ids as they are committed."""
    head = None if args.head is None else load_head(args.head)
    batches = transfer.begin(source)
    with (
        _id_file(args.ids) as write_ids,
        open_to_write(args.directory, source.fingerprint, head=head) as memory,
        progress_bars() as progress,
    ):

        def note(old: Sequence[int], new: Sequence[int]) -> None:
            stored.extend(new)
            write_ids(old, new)
            progress("entries", len(stored), source.count)

        transfer.import_entries(memory, batches, note)


def reembed(args: Namespace) -> int:
    """Make a new memory with another encoder."""
    check_absent(args.out)
    images = reembedding.find_images(args.images) if args.images else None
    with open_contents(args.directory) as contents:
        encoder = load_encoder(args.settings)
        with progress_bars() as progress:
            made = reembedding.reembed(
                contents, args.out, encoder, images,
                skip_missing=args.skip_missing, progress=progress,
            )  # fmt: skip
    if args.json:
        print_json(made)
    else:
        print(
            f"{made.entries} entries in {args.out}, {made.from_images} of them from images and"
            f" {made.entries - made.from_images} from thumbnails"
        )
        if made.skipped:
            print(f"left out, without a picture: {', '.join(map(str, made.skipped))}")
    return 0


@contextmanager
def open_to_write(
    directory: Path,
    fingerprint: Fingerprint | None = None,
    wanted: Similarity | None = None,
    head: Head | None = None,
) -> Iterator[Memory]:
    """Open a memory as its snapshot was written for, so that the snapshot stays of use.

    Args:
        directory: Of the memory.
        fingerprint: Of a new memory, or None.
        wanted: Similarity to open it with instead.
        head: To open it with, or None; a snapshot that was written with another is of no use,
            which is said.
    """
    _tell_of_other_head(directory, head)
    similarity = wanted or Similarity.COSINE
    with storage_errors("use", directory):
        is_there = (directory / DATABASE_NAME).exists()
    if wanted is None and is_there:
        with open_contents(directory) as contents:
            similarity = contents.similarity()
    options = MemoryOptions(build_threads=os.cpu_count() or 1)
    with Memory.open(directory, fingerprint, similarity, options=options, head=head) as memory:
        yield memory


def _tell_of_other_head(directory: Path, head: Head | None) -> None:
    """Say on stderr where the snapshot is of a learned head that it will not be of any more."""
    try:
        had = snapshot.fingerprint_of(directory).head
    except snapshot.SnapshotError:
        return  # whoever opens the memory says what is wrong with it
    if had and (head is None or head.digest != had):
        print(
            f"memory: the snapshot of the index is of the head {short_digest(had)}, and becomes one"
            f" of {name_of(head)}: a node with that head builds its index anew. --head FILE keeps"
            " it.",
            file=sys.stderr,
        )


@contextmanager
def _id_file(path: Path | None) -> Iterator[Callable[[Sequence[int], Sequence[int]], None]]:
    """Lend what writes pairs of ids to a new file, each batch at once, or to nowhere."""
    if path is None:
        yield lambda old, new: None
        return
    check_absent(path)
    with storage_errors("write", path), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["old_entry_id", "new_entry_id"])

        def write(old: Sequence[int], new: Sequence[int]) -> None:
            writer.writerows(zip(old, new, strict=True))
            file.flush()

        yield write


def _calibration(text: str | None) -> str:
    if text is None:
        return "none: whether a query is known is not said until `memory calibrate` was called"
    made = Calibration.from_json(text)
    return (
        f"{len(made.directions)} directions, alpha {made.alpha:g}, {made.similarity.value}, scene"
        f" weight {made.scene_weight:g}, head {short_digest(made.fingerprint.head) or 'none'},"
        f" of {made.memory_size} entries, {made.date}"
    )


def _print_info(found: MemoryInfo) -> None:
    stats, index = found.stats, found.stats.index
    lines = {
        "directory": stats.directory,
        "format": found.format,
        "fingerprint": stats.fingerprint,
        "entries": f"{stats.entries}, {found.pinned} of them pinned",
        "scenes from": _time(stats.oldest_stamp_ns),
        "scenes to": _time(stats.newest_stamp_ns),
        "merged, evicted": f"{stats.merged}, {stats.evicted}",
        "index": f"{index.kind}, {index.rows} rows, {index.dead_rows} of removed entries,"
        f" {size(index.ram_bytes)} of RAM, similarity {stats.similarity.value}",
        "opened from": index.opened_from,
        "snapshot": f"{index.snapshot_behind} changes behind",
        "calibration": _calibration(found.calibration),
    }
    for name, value in lines.items():
        print(f"{name + ':':17}{value}")
    for d in index.directions:
        pair = f" beside {d.beside} to the other half" if d.beside else ""
        print(
            f"{'direction:':17}{d.source} to {d.target}{pair}: {d.depth} compared,"
            f" recall {d.recall:.4f}"
        )
    print(f"{'rows:':17}" + ", ".join(f"{name} {count}" for name, count in found.rows.items()))
    for name, count in found.file_bytes.items():
        print(f"{'file:':17}{name} {size(count)}")
    print(f"{'all files:':17}{size(stats.size_bytes)}")


def _report(report: Report) -> dict[str, Any]:
    return {
        "ok": not report.wrong,
        "entries": report.entries,
        "thumbnails": report.thumbnails,
        "findings": list(report.findings),
    }


def _print_report(
    report: Report,
    args: Namespace,
    would_drop: dropping.Dropped | None = None,
    done: Mapping[str, bool] = MappingProxyType({}),
) -> None:
    if args.json:
        planned = {"would_drop": would_drop} if would_drop else {}
        print_json({**_report(report), **done, **planned})
        return
    for finding in report.findings:
        print(finding)
    verdict = f"{len(report.wrong)} wrong" if report.wrong else "all of it agrees"
    print(f"{report.entries} entries and {report.thumbnails} thumbnails checked: {verdict}")
    if would_drop is not None and not would_drop.nothing:
        print(f"--drop-damaged would remove: {_dropped(would_drop)}")
        print("nothing was removed: give --yes as well")


def _dropped(dropped: dropping.Dropped) -> str:
    parts = [
        _listed("entries", dropped.entry_ids),
        _listed("thumbnails alone of entries", dropped.thumbnail_ids),
        _listed("rows without an entry from", dropped.orphan_tables),
        "the snapshot of the index, which the next open makes anew" if dropped.snapshot else "",
        "the calibration, which `memory calibrate` makes anew" if dropped.calibration else "",
        "what cannot be mended of the log" if dropped.log else "",
        "counts that cannot be, which begin anew" if dropped.counters else "",
    ]
    return "; ".join(filter(None, parts)) or "nothing"


def _listed(what: str, items: Sequence[object]) -> str:
    return f"{what} {', '.join(map(str, items))}" if items else ""


def _ids(ids: Sequence[int]) -> str:
    return f"{len(ids)} (ids {ids[0]} to {ids[-1]})" if ids else "0"


def _time(stamp_ns: int | None) -> str:
    if stamp_ns is None:
        return "-"
    try:
        return f"{datetime.fromtimestamp(stamp_ns / 1e9, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):  # beyond the calendar
        return f"{stamp_ns} ns"
