"""What an evaluation found, as plain data that goes to JSON and back.

Whatever decides the numbers is in ``Evaluation.hash``; times and file names are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Estimate:
    """A mean over queries with its 95% bootstrap interval; all NaN without queries."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class InstructionRow:
    """One instruction's part in a direction.

    Attributes:
        instruction: As it was given.
        queries: Of this instruction that have a relevant entry.
        relevant: Mean number of relevant entries of those queries.
        metrics: Metric name, for example ``"hit@1"``, to its mean over those queries.
    """

    instruction: str
    queries: int
    relevant: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Shown:
    """One entry in an example's answer.

    Attributes:
        entry_id: In the gallery.
        instruction: The entry's.
        score: Of the match.
        relevant: Its grade, 0 if it is not relevant.
        thumbnail: JPEG bytes, base64, or empty.
    """

    entry_id: int
    instruction: str
    score: float
    relevant: int
    thumbnail: str = ""


@dataclass(frozen=True)
class Example:
    """A query to look at.

    Attributes:
        query_id: As in the qrels and the run.
        instruction: In force when the query's scene was seen.
        stamp_ns: When that was.
        reciprocal_rank: 1 / rank of the first relevant entry, 0 where none is retrieved.
        matches: The first of its answer, best first.
        thumbnail: JPEG bytes of the query's scene, base64, or empty.
    """

    query_id: str
    instruction: str
    stamp_ns: int
    reciprocal_rank: float
    matches: tuple[Shown, ...]
    thumbnail: str = ""


@dataclass(frozen=True)
class DirectionResult:
    """How one direction did.

    Attributes:
        queries: That have at least one relevant entry; only these are averaged.
        without_relevant: Queries that have none.
        micro: Metric name at K, for example ``"ndcg@10"``, to its mean over queries.
        macro: The same as a mean over instructions of their means.
        per_instruction: One row per instruction.
        best: Queries that did best, to look at.
        worst: That did worst.
        confidently_wrong: Whose first match is wrong and has the highest scores.
    """

    queries: int
    without_relevant: int
    micro: Mapping[str, Estimate]
    macro: Mapping[str, Estimate]
    per_instruction: tuple[InstructionRow, ...] = ()
    best: tuple[Example, ...] = ()
    worst: tuple[Example, ...] = ()
    confidently_wrong: tuple[Example, ...] = ()


@dataclass(frozen=True)
class KnownResult:
    """How well scores tell queries that the memory can answer from those that it cannot.

    Attributes:
        answerable: Queries with something relevant in the memory.
        absent: Queries about what is not there.
        threshold: Score from which on a query counts as known.
        false_accepts: Share of absent queries that count as known.
        false_rejects: Share of answerable queries that do not.
        auroc: Probability that an answerable query scores above an absent one.
    """

    answerable: int
    absent: int
    threshold: float
    false_accepts: Estimate
    false_rejects: Estimate
    auroc: Estimate


@dataclass(frozen=True)
class StageSummary:
    """Times of one stage, in milliseconds.

    Attributes:
        edges_ms: Of the histogram's bins, one more than counts.
        counts: Calls in each bin.
    """

    calls: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    total_sec: float
    edges_ms: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class MapPoint:
    """One embedding in the plane of the two largest principal components.

    Attributes:
        kind: ``scene`` or ``instruction``.
        label: The entry's instruction.
    """

    x: float
    y: float
    kind: str
    label: str


@dataclass(frozen=True)
class Agreement:
    """How far a running node ranks as the offline evaluation of the same bags, in one direction.

    Attributes:
        live: Queries that the node answered.
        offline: Queries that were answered offline.
        both: Queries that both answered; only these are compared.
        same: Of those, how many have the same ranking but for ties within ``tolerance``.
        largest_difference: Of the scores at one rank, over the rankings of equal length.
        tolerance: Scores closer than this count as tied.
    """

    live: int
    offline: int
    both: int
    same: int
    largest_difference: float
    tolerance: float


@dataclass(frozen=True)
class LiveResult:
    """What only a running node shows.

    Attributes:
        frames_played: Images that went out and ask.
        frames_answered: Images that a match array came for, with the instruction in force.
        latency_ms: Image stamp to match received.
        frame_age_ms: Age of the frame that an answer used when the node sent it.
        drops: Why the others have no answer -> how many.
        staleness_ms: How old the newest answer's image had become when the next answer came, the
            oldest knowledge that a planner acts on (peak age of information: Costa, Codreanu and
            Ephremides, "On the age of information in status update systems with packet
            management", 2016); None where it was not measured.
        agreement: Direction name to how far the node ranks as the offline evaluation; empty where
            the bags were not evaluated offline too.
        player: Who played them; empty where it was not noted.
    """

    frames_played: int
    frames_answered: int
    latency_ms: StageSummary
    frame_age_ms: StageSummary
    drops: Mapping[str, int] = field(default_factory=dict)
    staleness_ms: StageSummary | None = None
    agreement: Mapping[str, Agreement] = field(default_factory=dict)
    player: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Everything an evaluation found.

    Attributes:
        hash: SHA-256 over the settings that decide numbers, the rankings and the qrels.
        settings: Name to value, as text, in the order to be shown.
        counts: Name to number, for example frames, episodes, gallery, queries, frames refused.
        notes: Sentences about what was chosen or left out, to be printed with the numbers.
        directions: Direction name to its result, in the order to be shown. Names are
            ``scene to instructions``, ``scene to scenes``, ``instruction to scenes``,
            ``instruction to instructions`` and ``pair``.
        known: Direction name to how well it knows what it does not know.
        times: Stage name to its times.
        embedding_map: Some entries, for a picture.
        live: What only a running node shows, or None.
        wall_sec: Part of the work to its seconds; together they are the wall time.
    """

    hash: str
    settings: Mapping[str, str]
    counts: Mapping[str, int]
    notes: tuple[str, ...]
    directions: Mapping[str, DirectionResult]
    known: Mapping[str, KnownResult] = field(default_factory=dict)
    times: Mapping[str, StageSummary] = field(default_factory=dict)
    embedding_map: tuple[MapPoint, ...] = ()
    live: LiveResult | None = None
    wall_sec: Mapping[str, float] = field(default_factory=dict)
