"""Pages that show entries to people: static HTML, nothing to run, nothing to fetch."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from types import TracebackType
from typing import IO

from vla_retrieval import typeface
from vla_retrieval.types import Entry, Fingerprint

ENTRIES_PER_PAGE = 200
_FONTS = "fonts"

_STYLE = """
:root { color-scheme: light dark;
  --paper: #fbfaf7; --ink: #1c1b19; --pale: #77736a; --rule: #dcd8ce }
@media (prefers-color-scheme: dark) {
  :root { --paper: #1c1b19; --ink: #f3f0e8; --pale: #a39e92; --rule: #3a3833 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 80rem; padding: 1.5rem; background: var(--paper);
  color: var(--ink);
  font: 16px/1.45 "Shipped", system-ui, "Noto Sans", "Noto Sans CJK SC", "PingFang SC",
    "Microsoft YaHei", sans-serif }
h1 { font-size: 1.4rem; margin: 0 }
header p, nav { color: var(--pale); margin: .3rem 0; overflow-wrap: anywhere }
nav a { color: inherit; margin-right: .8rem }
ul { display: grid; gap: 1.2rem 1rem; list-style: none; padding: 0;
  grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)) }
li { border-top: 1px solid var(--rule); padding-top: .6rem; overflow-wrap: anywhere }
img, .none { width: 100%; aspect-ratio: 4 / 3; object-fit: contain; background: var(--rule);
  border-radius: 4px; display: grid; place-items: center; color: var(--pale) }
.instruction { margin: .5rem 0 .2rem; white-space: pre-wrap }
.more { color: var(--pale); font-size: .85rem; margin: 0 }
.success { color: #43a047 } .failure { color: #e53935 }
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --pale: #555; --rule: #ccc }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
  body { max-width: none; padding: 0; font-size: 10pt } nav { display: none }
  ul { grid-template-columns: repeat(4, 1fr); gap: .8rem } li { break-inside: avoid } }
"""


class PageWriter:
    """Writes ``index.html`` and, where there are many entries, ``pages/2.html`` and so on.

    Args:
        folder: Where ``index.html`` goes.
        fingerprint: Of the encoder, shown at the top.
        total: How many entries will be added.
    """

    def __init__(self, folder: Path, fingerprint: Fingerprint, total: int) -> None:
        """Start without a page."""
        self._folder = folder
        self._fingerprint = fingerprint
        self._total = total
        self._pages = max(1, -(-total // ENTRIES_PER_PAGE))
        self._added = 0
        self._has_typeface = False
        self._file: IO[str] | None = None

    def __enter__(self) -> PageWriter:
        """Open the first page."""
        self._begin(1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the last page."""
        self._end()

    def add(self, entry: Entry, thumbnail: str | None) -> None:
        """Show an entry.

        Args:
            entry: To be shown.
            thumbnail: Its picture, relative to the folder, or None.
        """
        number = self._added // ENTRIES_PER_PAGE + 1
        if self._added and self._added % ENTRIES_PER_PAGE == 0:
            self._end()
            self._begin(number)
        self._added += 1
        if not self._has_typeface and typeface.is_wanted_for(entry.instruction):
            self._add_typeface()
        self._write(_item(entry, thumbnail and f"{_up(number)}{thumbnail}"))

    def _add_typeface(self) -> None:
        """Put the typeface beside the pages, with its licence, as that asks."""
        (self._folder / _FONTS).mkdir(exist_ok=True)
        for file in (typeface.TYPEFACE, typeface.LICENCE):
            shutil.copyfile(file, self._folder / _FONTS / file.name)
        self._has_typeface = True

    def _begin(self, number: int) -> None:
        path = self._folder / _name(number)
        path.parent.mkdir(exist_ok=True)
        self._file = path.open("w", encoding="utf-8")
        self._number = number
        of = f", page {number} of {self._pages}" if self._pages > 1 else ""
        noun = "entry" if self._total == 1 else "entries"
        style = typeface.face("Shipped", f"{_up(number)}{_FONTS}/{typeface.TYPEFACE.name}") + _STYLE
        self._write(
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>Memory, {self._total} {noun}{of}</title>\n<style>{style}</style>\n</head>\n"
            f"<body>\n<header><h1>{self._total} {noun}{of}</h1>\n"
            f"<p>{escape(str(self._fingerprint))}</p>{self._links()}</header>\n<ul>\n"
        )

    def _end(self) -> None:
        self._write(f"</ul>\n{self._links()}</body>\n</html>\n")
        if self._file is not None:
            self._file.close()

    def _write(self, text: str) -> None:
        if self._file is not None:
            self._file.write(text)

    def _links(self) -> str:
        """Return links to the first, the previous, the next and the last page."""
        if self._pages == 1:
            return ""
        here = self._number
        wanted = {"first": 1, "previous": here - 1, "next": here + 1, "last": self._pages}
        links = [
            f'<a href="{_up(here)}{_name(number)}">{text}</a>'
            for text, number in wanted.items()
            if 1 <= number <= self._pages and number != here
        ]
        return f"<nav>{''.join(links)}</nav>\n"


def _name(number: int) -> str:
    return "index.html" if number == 1 else f"pages/{number}.html"


def _up(number: int) -> str:
    return "" if number == 1 else "../"


def _item(entry: Entry, picture: str | None) -> str:
    image = '<div class="none">no picture</div>'
    if picture:
        # Not loaded lazily: a browser prints only what it has loaded, and a page has 200 at most.
        image = f'<img src="{escape(picture)}" alt="scene of entry {entry.entry_id}">'
    outcome = entry.outcome.name.lower()
    more = [
        f"{entry.entry_id}",
        _time(entry.stamp_ns),
        f'<span class="{outcome}">{outcome}</span>' if entry.outcome else "",
        escape(f"episode {entry.episode_id}") if entry.episode_id else "",
        "pinned" if entry.pinned else "",
        f"{entry.merged} more like it" if entry.merged else "",
        *(escape(f"#{tag}") for tag in entry.tags),
        *(escape(f"{key}={value}") for key, value in entry.metadata.items()),
    ]
    return (
        f'<li id="{entry.entry_id}">{image}\n'
        f'<p class="instruction" dir="auto">{escape(entry.instruction)}</p>\n'
        f'<p class="more">{" · ".join(filter(None, more))}</p></li>\n'
    )


def _time(stamp_ns: int) -> str:
    """Return a stamp for people; what no calendar has, as nanoseconds."""
    try:
        when = datetime.fromtimestamp(stamp_ns / 1e9, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"{stamp_ns} ns"
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"
