"""What a check of a memory found."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Part(enum.Enum):
    """What of a memory a finding is about."""

    DATABASE = "database"
    LOG = "log"
    COUNTERS = "counters"
    CALIBRATION = "calibration"
    ENTRY = "entry"
    SCENE = "scene embedding"
    INSTRUCTION = "instruction embedding"
    THUMBNAIL = "thumbnail"
    ORPHAN = "orphan"
    SNAPSHOT = "snapshot"


_OF_AN_ENTRY = {Part.ENTRY, Part.SCENE, Part.INSTRUCTION}


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        part: What it is about.
        text: What is wrong with it, for people.
        entry_id: The entry that it belongs to, if to one.
        table: The table of an orphan, else empty.
        note: Whether nothing is wrong: the memory opens as well, perhaps later.
    """

    part: Part
    text: str
    entry_id: int | None = None
    table: str = ""
    note: bool = False

    def __str__(self) -> str:
        """Return one line."""
        kind = "note: " if self.note else ""
        entry = "" if self.entry_id is None else f"entry {self.entry_id}, "
        return f"{kind}{entry}{self.part.value}: {self.text}"


@dataclass(frozen=True)
class Report:
    """All that a check found.

    Attributes:
        entries: How many were checked.
        thumbnails: How many of them have a thumbnail.
        findings: In the order in which they were found.
    """

    entries: int
    thumbnails: int
    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> list[Finding]:
        """Those that are more than a note."""
        return [finding for finding in self.findings if not finding.note]

    @property
    def notes(self) -> list[Finding]:
        """Those that are only a note."""
        return [finding for finding in self.findings if finding.note]

    @property
    def damaged_ids(self) -> list[int]:
        """Entries whose row, tags, metadata or embeddings are damaged, ascending."""
        return self._ids(_OF_AN_ENTRY)

    @property
    def damaged_thumbnail_ids(self) -> list[int]:
        """Entries of which nothing but the thumbnail is damaged, ascending."""
        return sorted(set(self._ids({Part.THUMBNAIL})) - set(self.damaged_ids))

    @property
    def orphan_tables(self) -> list[str]:
        """Tables with rows that belong to no entry."""
        return sorted({finding.table for finding in self.wrong if finding.part is Part.ORPHAN})

    def has_wrong(self, part: Part) -> bool:
        """Return whether something about a part is wrong."""
        return any(finding.part is part for finding in self.wrong)

    def _ids(self, parts: set[Part]) -> list[int]:
        found = {f.entry_id for f in self.wrong if f.part in parts}
        return sorted(i for i in found if i is not None)
