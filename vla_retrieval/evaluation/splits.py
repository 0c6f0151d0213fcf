"""Which frames make the memory and which ask.

The unit is the episode: frames of one episode look alike, so those of one side would answer those
of the other by being nearly the same picture. Only where the episode itself is what is to be found
do its first frames make the memory and its last ones ask. Equal frames are split equally, whatever
the storage, the bag's name and the version of NumPy: the draw is by SHA-256.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.frame_lists import Chosen
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.evaluation.relevance import normalise

_NS_PER_SEC = 1_000_000_000
_GALLERY, _QUERIES, _ABSENT, _UNUSED = "gallery", "queries", "absent", "unused"

Sides: TypeAlias = dict[int, str]
"""From an episode's number to its side."""
Rows: TypeAlias = NDArray[np.int64]
"""Positions of frames, ascending, shape ``(n,)``."""


@dataclass(frozen=True)
class SplitOptions:
    """How frames are divided.

    Attributes:
        query_fraction: Share of an instruction's episodes that ask, above 0 and below 1; rounded,
            but at least one episode is on each side. Without meaning where bags are named.
        absent_fraction: Share, in [0, 1], of those episodes none of whose instructions another
            episode has, which is kept out of the memory and asked as absent queries; the others
            are in the memory and are not asked. Without meaning where bags are named.
        gallery_bags: Names of bags that make the memory. Where bags are named for one side only,
            all others are the other side's.
        query_bags: Names of bags that ask.
        every_sec: Frames of a camera closer than this to the one kept before them, in their
            episode, are left out. 0: none is.
        exclude_within_sec: A frame that asks is left out if the memory holds one of the same bag
            closer in time than this. 0: none is.
        seed: Of the draw.

    Raises:
        InvalidInputError: If a number is out of its range or a bag is on both sides.
    """

    query_fraction: float = 0.5
    absent_fraction: float = 0.0
    gallery_bags: tuple[str, ...] = ()
    query_bags: tuple[str, ...] = ()
    every_sec: float = 0.0
    exclude_within_sec: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check each field against its range."""
        if not 0 < self.query_fraction < 1:
            got = str(self.query_fraction)
            raise InvalidInputError("query_fraction", "a number above 0 and below 1", got)
        if not 0 <= self.absent_fraction <= 1:
            raise InvalidInputError(
                "absent_fraction", "a number in [0, 1]", str(self.absent_fraction)
            )
        for name in ("every_sec", "exclude_within_sec"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidInputError(name, "a finite number from 0 on", str(value))
        if both := set(self.gallery_bags) & set(self.query_bags):
            got = ", ".join(sorted(both))
            raise InvalidInputError("query_bags", "other bags than gallery_bags", got)


@dataclass(frozen=True)
class Split:
    """Frames by what they are for; none is in two of them.

    No episode of the memory asks, unless they were split within episodes.

    Attributes:
        gallery: Make the memory; like the other two, in the order in which they were given.
        queries: Ask for what the memory holds: each one's instruction is in the gallery, or its
            episode where they were split within episodes, or it was named as answerable.
        absent: Ask for what the memory does not hold: all others.
        counts: Frames, episodes and instructions of each, and what was left out: name to number.
        notes: Sentences about each choice.
    """

    gallery: Sequence[Frame]
    queries: Sequence[Frame]
    absent: Sequence[Frame]
    counts: Mapping[str, int]
    notes: tuple[str, ...]


def split_frames(
    frames: Sequence[Frame],
    options: SplitOptions | None = None,
    group: Callable[[str], str] = normalise,
    *,
    within_episodes: bool = False,
    answerable: Collection[str] = (),
) -> Split:
    """Divide frames into memory and queries.

    Args:
        frames: Of one or more recordings, each in order.
        options: How.
        group: From an instruction to what makes it the same as another one; ``relevance.Labels``
            where a task label decides.
        within_episodes: Divide each episode instead: its last frames ask, ``query_fraction`` of
            them. ``exclude_within_sec`` keeps the two parts apart.
        answerable: Ids of queries to which something is relevant whatever their instructions, by a
            file; looked up for each frame that asks.

    Raises:
        InvalidInputError: If there are no frames, or a bag is named that has none, or at all where
            episodes are divided.
    """
    if not frames:
        raise InvalidInputError("frames", "at least one", "none")
    chosen = options or SplitOptions()
    kept, thinned = thin(frames, chosen.every_sec)
    facts = _facts(kept, group)
    if within_episodes:
        gallery, asking, notes = _within_episodes(facts, chosen)
    else:
        by_bags = chosen.gallery_bags or chosen.query_bags
        sides, notes = _by_bags(facts, chosen) if by_bags else _by_episodes(facts, chosen)
        gallery = _rows_of(facts, sides, _GALLERY)
        asking = _rows_of(facts, sides, _QUERIES, _ABSENT)
    far = _far_from(facts, gallery, asking, chosen.exclude_within_sec)
    held = np.isin(facts.groups[far], facts.groups[gallery]) | within_episodes
    if answerable:
        named = (frame.query_id in answerable for frame in Chosen(kept, far))
        held |= np.fromiter(named, bool, len(far))
    rows = {"gallery": gallery, "queries": far[held], "absent": far[~held]}
    left_out = {"frames thinned out": thinned, "frames too near": len(asking) - len(far)}
    counts = _counts(facts, rows) | left_out
    gallery_frames, queries, absent = (Chosen(kept, of) for of in rows.values())
    said = (*notes, *_notes(counts, chosen))
    return Split(gallery_frames, queries, absent, counts, said)


def thin(frames: Sequence[Frame], every_sec: float) -> tuple[Sequence[Frame], int]:
    """Leave out frames that follow closely in their episode; return the rest and how many."""
    every_ns = every_sec * _NS_PER_SEC
    latest: dict[tuple[str, str], int] = {}
    kept = array("q")
    for place, frame in enumerate(frames if every_ns else ()):
        camera = frame.episode_id, frame.topic
        if camera not in latest or frame.stamp_ns - latest[camera] >= every_ns:
            latest[camera] = frame.stamp_ns
            kept.append(place)
    if not every_ns:
        return frames, 0
    return Chosen(frames, np.array(kept, np.int64)), len(frames) - len(kept)


class _Facts(NamedTuple):
    """What decides about ``n`` frames; names are in the order in which they first come.

    Attributes:
        episodes: Number of each frame's episode, int64, shape ``(n,)``.
        groups: Of what makes its instruction the same as another one.
        bags: Of its bag.
        stamps: In nanoseconds.
        episode_names: Episode ids.
        bag_names: Names of bags.
    """

    episodes: NDArray[np.int64]
    groups: NDArray[np.int64]
    bags: NDArray[np.int64]
    stamps: NDArray[np.int64]
    episode_names: tuple[str, ...]
    bag_names: tuple[str, ...]


def _facts(frames: Sequence[Frame], group: Callable[[str], str]) -> _Facts:
    episodes: dict[str, int] = {}
    bags: dict[str, int] = {}
    groups: dict[str, int] = {}
    group_of: dict[str, int] = {}
    rows = array("q")
    for frame in frames:
        if frame.instruction not in group_of:
            name = group(frame.instruction)
            group_of[frame.instruction] = groups.setdefault(name, len(groups))
        rows.append(episodes.setdefault(frame.episode_id, len(episodes)))
        rows.append(group_of[frame.instruction])
        rows.append(bags.setdefault(frame.bag, len(bags)))
        rows.append(frame.stamp_ns)
    of_episode, of_group, of_bag, stamps = np.array(rows, np.int64).reshape(-1, 4).T.copy()
    return _Facts(of_episode, of_group, of_bag, stamps, tuple(episodes), tuple(bags))


def _by_bags(facts: _Facts, options: SplitOptions) -> tuple[Sides, list[str]]:
    names = facts.bag_names
    for field in ("gallery_bags", "query_bags"):
        if unknown := set(getattr(options, field)) - set(names):
            got = ", ".join(sorted(unknown))
            raise InvalidInputError(field, f"names of bags: {', '.join(names)}", got)
    others = [n for n in names if n not in {*options.gallery_bags, *options.query_bags}]
    gallery, queries = list(options.gallery_bags), list(options.query_bags)
    if not gallery:
        gallery, others = others, []
    elif not queries:
        queries, others = others, []
    side_of = dict.fromkeys(names, _UNUSED)
    side_of |= dict.fromkeys(gallery, _GALLERY) | dict.fromkeys(queries, _QUERIES)
    shown = f"the memory is made from {_names(gallery)}, and {_names(queries)} ask"
    notes = [f"Split by bags: {shown}."]
    if others:
        notes.append(f"Bags that were named for neither side are not used: {_names(others)}.")
    bag_of = dict(zip(facts.episodes.tolist(), facts.bags.tolist(), strict=True))
    return {episode: side_of[names[bag]] for episode, bag in bag_of.items()}, notes


def _within_episodes(facts: _Facts, options: SplitOptions) -> tuple[Rows, Rows, list[str]]:
    """Return the first frames of each episode, the last ones, and a sentence."""
    if options.gallery_bags or options.query_bags:
        raise InvalidInputError(
            "gallery_bags, query_bags", "none where the episode decides what is relevant",
            _names([*options.gallery_bags, *options.query_bags]),
            "No two bags have an episode in common: choose another relevance.",
        )  # fmt: skip
    asks = np.zeros(len(facts.episodes), bool)
    by_episode = np.argsort(facts.episodes, kind="stable")
    ends = np.cumsum(np.bincount(facts.episodes))
    for start, end in itertools.pairwise([0, *ends.tolist()]):
        size = end - start
        last = min(max(_rounded(options.query_fraction * size), 1), size - 1)
        asks[by_episode[end - last : end]] = True
    note = (
        f"Split within episodes: the last {options.query_fraction:.0%} of each one's frames ask, "
        "the others make the memory. Frames where the two meet are nearly the same picture"
        + ("." if options.exclude_within_sec else "; --exclude-within-sec keeps them apart.")
    )
    return np.flatnonzero(~asks), np.flatnonzero(asks), [note]


def _by_episodes(facts: _Facts, options: SplitOptions) -> tuple[Sides, list[str]]:
    """Draw episodes so that each group that several have is on both sides."""
    pairs = np.unique(np.stack([facts.episodes, facts.groups], axis=1), axis=0).tolist()
    groups_of: dict[int, list[int]] = {}
    for episode, group in pairs:
        groups_of.setdefault(episode, []).append(group)
    drawn = _drawn_order(len(facts.episode_names), options.seed)
    of_group: dict[int, list[int]] = {group: [] for group in range(int(facts.groups.max()) + 1)}
    for episode in drawn:
        for name in groups_of[episode]:
            of_group[name].append(episode)
    sides: Sides = {}
    for episodes in of_group.values():
        if len(episodes) > 1:
            _assign(episodes, sides, options.query_fraction)
    single = [episode for episode in drawn if episode not in sides]
    held_out = single[: _rounded(options.absent_fraction * len(single))]
    sides |= dict.fromkeys(single, _GALLERY) | dict.fromkeys(held_out, _ABSENT)
    several = [g for g, episodes in of_group.items() if len(episodes) > 1]
    one_sided = [g for g in several if len({sides[e] for e in of_group[g]}) < 2]
    return sides, _draw_notes(options, len(several), len(one_sided), len(single), len(held_out))


def _drawn_order(episodes: int, seed: int) -> list[int]:
    """Return the numbers of episodes in an order that depends on the seed and on them.

    Neither on names, which differ between two storages of one bag, nor on NumPy's generators,
    whose streams may change between versions.
    """
    draw = [hashlib.sha256(f"{seed} {number}".encode()).digest() for number in range(episodes)]
    return sorted(range(episodes), key=draw.__getitem__)


def _assign(episodes: Sequence[int], sides: Sides, query_fraction: float) -> None:
    """Give the episodes of one group their sides; those that have one keep it."""
    count = len(episodes)
    wanted = min(max(_rounded(query_fraction * count), 1), count - 1)
    asking = sum(sides.get(episode) == _QUERIES for episode in episodes)
    for episode in episodes:
        if episode not in sides:
            sides[episode] = _QUERIES if asking < wanted else _GALLERY
            asking += sides[episode] == _QUERIES


def _rounded(number: float) -> int:
    return math.floor(number + 0.5)


def _rows_of(facts: _Facts, sides: Sides, *wanted: str) -> Rows:
    is_wanted = [sides[episode] in wanted for episode in range(len(facts.episode_names))]
    return np.flatnonzero(np.array(is_wanted)[facts.episodes])


def _far_from(facts: _Facts, gallery: Rows, asking: Rows, within_sec: float) -> Rows:
    """Return the asking frames that no gallery frame of their bag is near in time."""
    if not within_sec:
        return asking
    far = np.ones(len(asking), bool)
    for bag in range(len(facts.bag_names)):
        stamps = np.sort(facts.stamps[gallery[facts.bags[gallery] == bag]])
        of_bag = np.flatnonzero(facts.bags[asking] == bag)
        if len(stamps):
            asked = facts.stamps[asking[of_bag]]
            far[of_bag] = _distances(stamps, asked) >= within_sec * _NS_PER_SEC
    return asking[far]


def _distances(stamps: NDArray[np.int64], asked: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return nanoseconds from each of some stamps to the nearest of ascending ones."""
    at = np.searchsorted(stamps, asked)
    after, before = stamps[at.clip(max=len(stamps) - 1)], stamps[(at - 1).clip(min=0)]
    return np.minimum(np.abs(after - asked), np.abs(asked - before))


def _counts(facts: _Facts, rows: Mapping[str, Rows]) -> dict[str, int]:
    counts = {}
    for name, of in rows.items():
        counts[f"{name} frames"] = len(of)
        counts[f"{name} episodes"] = len(np.unique(facts.episodes[of]))
        counts[f"{name} instructions"] = len(np.unique(facts.groups[of]))
    return counts


def _draw_notes(
    options: SplitOptions, several: int, one_sided: int, single: int, held_out: int
) -> list[str]:
    notes = [
        f"Split by episode (seed {options.seed}): of each of {several} instruction(s) with several "
        f"episodes, about {options.query_fraction:.0%} of the episodes ask and the others make the "
        "memory."
    ]
    if one_sided:
        notes.append(
            f"{one_sided} instruction(s) share their episodes with others in such a way that they "
            "are on one side only."
        )
    if options.absent_fraction and not single:
        notes.append("Nothing is asked as absent: each instruction has several episodes.")
    if single:
        notes.append(
            f"{single} episode(s) have no instruction that another episode has: {held_out} are "
            "kept out of the memory and asked as absent, "
            f"{single - held_out} are in the memory only."
        )
    return notes


def _notes(counts: Mapping[str, int], options: SplitOptions) -> list[str]:
    notes = []
    if options.every_sec:
        left = counts["frames thinned out"]
        notes.append(f"One frame per {options.every_sec:g} s and camera: {left} left out.")
    if options.exclude_within_sec:
        near = counts["frames too near"]
        notes.append(
            f"{near} asking frame(s) within {options.exclude_within_sec:g} s of a frame in the "
            "memory are left out."
        )
    for name, what in (("gallery", "makes the memory"), ("queries", "can ask for what it holds")):
        if not counts[f"{name} frames"]:
            notes.append(f"No frame {what}: more episodes of the same instructions are needed.")
    return notes


def _names(names: Collection[str]) -> str:
    return ", ".join(names) or "none"
