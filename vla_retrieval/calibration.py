"""What a top score means: whether the memory holds anything like a query, and how sure that is.

A query is *answerable* when the memory holds an entry of its instruction from another episode, and
*absent* when it does not. Both kinds were asked, and their top scores are compared with a new one:

**known** is a conformal test of "this query is like the answerable ones". With the top scores
``s_ki`` of ``n_k`` answerable queries from each of ``K`` episodes, the p-value of a score ``s`` is

    p(s) = (1 + sum over k of #{i: s_ki <= s} / n_k) / (K + 1),    known = p(s) > alpha.

With one query per episode this is the conformal p-value with the nonconformity ``-s`` (Vovk,
Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; Angelopoulos and Bates, A Gentle
Introduction to Conformal Prediction, 2021, arXiv:2107.07511; as a test of outliers: Bates, Candes,
Lei, Romano and Sesia, Testing for outliers with conformal p-values, Annals of Statistics, 2023).
With several, frames of one episode are alike and no more than one witness, so each episode weighs
the same (hierarchical conformal prediction: Lee, Barber and Willett, Distribution-free inference
with hierarchical data, 2023, arXiv:2306.06342). Where the episode of a new answerable query is
exchangeable with those K, and its query with the other queries of that episode, at most a share
alpha of such queries is called unknown, however scores are distributed. That is an average over
memories and queries, not a promise for one instruction. Nothing is promised of absent queries: how
many of them pass is measured.

That holds for scores that do not depend on each other's queries. Where the queries are the memory's
own entries, each asked against the other episodes (``self_calibration.py``), the memory that also
held the new query's episode would score them the same or higher, so p-values are the same or too
high. The exception is an instruction that a single episode has: it was not answerable before, and
the share for such queries is at most ``alpha + 1 / (K + 1)``.

**confidence** is ``P(answerable | s)`` by logistic regression on ``s``, with Platt's targets
``(K + 1) / (K + 2)`` and ``1 / (K' + 2)``, for K and K' episodes, which keep away from 1 and 0
where data are few (Platt, Probabilistic Outputs for Support Vector Machines, 1999). Isotonic
regression needs about a thousand examples to do better (Niculescu-Mizil and Caruana, Predicting
Good Probabilities With Supervised Learning, 2005). Both kinds weigh the same: it supposes that as
many queries are absent as answerable, so that its odds estimate the ratio of the likelihoods of the
score. Where no absent queries were given it is ``p(s)``, which is no probability of being
answerable.

**Where it applies**: to the similarity, the fingerprint and the ``scene_weight`` that were
calibrated. A filter makes the question "does what passes hold anything like it", and the top score
is the best that passes: where few entries pass, the top score is lower and more answerable queries
are called unknown than alpha. Likewise after entries were removed. Entries added since can only
raise scores: alpha holds, and more absent queries pass.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.types import Fingerprint, Known, Modality, Similarity, Target

DEFAULT_ALPHA = 0.05

WEIGHT_TOLERANCE = 1e-3
"""Most that a query's ``scene_weight`` may differ from the calibrated one.

More than a message's float32 rounds; at 0.001 a score moves by 0.002 at most where similarities
are cosines."""

SCORE_TOLERANCE = {Similarity.COSINE: 1e-4, Similarity.DOT: 1e-4, Similarity.NEGATIVE_L2: 1e-2}
"""How much lower than a calibration score a score is that counts as equal to it.

The same picture or text has a cosine of 0.99995 to itself in another precision (ARCHITECTURE), a
distance of 0.01. Without it a verbatim repeat would be unknown where all calibration scores are 1.
It makes p-values higher, never lower. For vectors of unit length."""

_BOTH = (Modality.SCENE, Modality.INSTRUCTION)
DIRECTIONS: Mapping[str, tuple[tuple[Modality, ...], Target]] = {
    "scene to instructions": ((Modality.SCENE,), Target.INSTRUCTIONS),
    "scene to scenes": ((Modality.SCENE,), Target.SCENES),
    "instruction to scenes": ((Modality.INSTRUCTION,), Target.SCENES),
    "instruction to instructions": ((Modality.INSTRUCTION,), Target.INSTRUCTIONS),
    "pair": (_BOTH, Target.PAIR),
    "scene to pair": ((Modality.SCENE,), Target.PAIR),
    "instruction to pair": ((Modality.INSTRUCTION,), Target.PAIR),
    "both to scenes": (_BOTH, Target.SCENES),
    "both to instructions": (_BOTH, Target.INSTRUCTIONS),
}
"""Name of a direction to the parts of the query and what they are compared with."""

_NAMES = {key: name for name, key in DIRECTIONS.items()}
_NEWTON_STEPS = 50


def direction_of(*, image: bool, instruction: bool, target: Target) -> str:
    """Return the name of the direction of a query that has these parts; one at least."""
    parts = tuple(m for m, given in zip(_BOTH, (image, instruction), strict=True) if given)
    return _NAMES[parts, target]


def is_weighted(direction: str) -> bool:
    """Return whether scores of a direction depend on ``scene_weight``."""
    parts, target = DIRECTIONS[direction]
    return len(parts) == 2 or target is Target.PAIR


def fewest_episodes(alpha: float) -> int:
    """Return how many episodes it takes that any score is unknown: ``1 / (K + 1) <= alpha``.

    Raises:
        InvalidInputError: If alpha is not in [0.001, 0.5].
    """
    if not 0.001 <= alpha <= 0.5:
        raise InvalidInputError("alpha", "a number in [0.001, 0.5]", str(alpha))
    return math.ceil(1 / alpha - 1e-9) - 1


@dataclass(frozen=True, eq=False)
class TopScores:
    """Top scores of ``n`` queries.

    Attributes:
        scores: Float64, shape ``(n,)``, finite.
        episodes: Int64, shape ``(n,)``: queries of one episode have the same number.

    Raises:
        InvalidInputError: If the shapes differ or a score is not finite.
    """

    scores: NDArray[np.float64]
    episodes: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check the arrays."""
        object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float64))
        object.__setattr__(self, "episodes", np.asarray(self.episodes, dtype=np.int64))
        if self.scores.ndim != 1 or self.scores.shape != self.episodes.shape:
            raise InvalidInputError(
                "episodes", f"one per score, shape {self.scores.shape}", f"{self.episodes.shape}"
            )
        if not np.isfinite(self.scores).all():
            raise InvalidInputError("scores", "finite numbers", "NaN or infinity")

    def __len__(self) -> int:
        """Return n."""
        return len(self.scores)

    def of(self, which: NDArray[np.bool_]) -> TopScores:
        """Return some of them, ``which`` of shape ``(n,)``."""
        return TopScores(self.scores[which], self.episodes[which])

    @property
    def episode_count(self) -> int:
        """Different episodes."""
        return len(np.unique(self.episodes))

    @property
    def weights(self) -> NDArray[np.float64]:
        """One over the queries of each one's episode, shape ``(n,)``."""
        _, which, counts = np.unique(self.episodes, return_inverse=True, return_counts=True)
        return 1.0 / counts[which]


@dataclass(frozen=True)
class DirectionCalibration:
    """What top scores of one direction mean.

    Attributes:
        alpha: Share of answerable queries that may be called unknown.
        tolerance: As ``SCORE_TOLERANCE``.
        scores: Different top scores of answerable queries, ascending.
        p_values: The p-value from each of them on; ``1 / (episodes + 1)`` below the first.
        queries: Answerable queries that were asked.
        absent: Absent ones.
        episodes: Different episodes of the answerable ones.
        slope: Of the log odds of being answerable, per unit of score, 0 or more; None where no
            absent queries were given.
        offset: Log odds at score 0, or None.
    """

    alpha: float
    tolerance: float
    scores: tuple[float, ...]
    p_values: tuple[float, ...]
    queries: int
    absent: int
    episodes: int
    slope: float | None = None
    offset: float | None = None

    def p_value(self, score: ArrayLike) -> NDArray[np.float64]:
        """Return p-values in (0, 1], in the shape of the scores; higher for higher scores."""
        steps = np.array([1.0 / (self.episodes + 1), *self.p_values])
        found: NDArray[np.float64] = steps[
            np.searchsorted(self.scores, np.asarray(score) + self.tolerance, side="right")
        ]
        return found

    def is_known(self, score: ArrayLike) -> NDArray[np.bool_]:
        """Return which scores count as known, in their shape."""
        known: NDArray[np.bool_] = self.p_value(score) > self.alpha
        return known

    @property
    def threshold(self) -> float:
        """The lowest score that counts as known; minus infinity if every score does."""
        if 1.0 / (self.episodes + 1) > self.alpha:
            return -math.inf
        first = int(np.argmax(np.array(self.p_values) > self.alpha))
        return self.scores[first] - self.tolerance

    @property
    def asks_for_the_same(self) -> bool:
        """Whether only a score as high as the highest of all answerable queries counts as known.

        So it is where each of them repeats something word for word: it says nothing then about
        what is merely like it.
        """
        return self.threshold >= self.scores[-1] - 2 * self.tolerance

    def confidence(self, score: ArrayLike) -> NDArray[np.float64]:
        """Return confidences in [0, 1], in the shape of the scores; higher for higher scores."""
        if self.slope is None or self.offset is None:
            return self.p_value(score)
        return _logistic(self.offset + self.slope * np.asarray(score, dtype=np.float64))


def fit(
    answerable: TopScores,
    absent: TopScores | None = None,
    *,
    alpha: float = DEFAULT_ALPHA,
    similarity: Similarity = Similarity.COSINE,
) -> DirectionCalibration:
    """Return what top scores mean, given those of answerable queries and, maybe, absent ones.

    With fewer episodes than ``fewest_episodes(alpha)`` every score is known.

    Raises:
        InvalidInputError: If there is no answerable query, or alpha is out of its range.
    """
    fewest_episodes(alpha)
    if not len(answerable):
        raise InvalidInputError("answerable", "at least one query", "none")
    order = np.argsort(answerable.scores, kind="stable")
    # Down, so that p-values are never too low for it; 1e-9 is far below every tolerance.
    scores = np.floor(answerable.scores[order] * 1e9) / 1e9
    episodes = answerable.episode_count
    p_values = (1.0 + np.cumsum(answerable.weights[order])) / (episodes + 1)
    last = np.append(scores[1:] != scores[:-1], True)
    slope = offset = None
    if absent is not None and len(absent):
        slope, offset = _log_odds(answerable, absent)
    return DirectionCalibration(
        alpha, SCORE_TOLERANCE[similarity], tuple(scores[last].tolist()),
        tuple(np.minimum(p_values[last], 1.0).tolist()), len(answerable),
        len(absent) if absent is not None else 0, episodes, slope, offset,
    )  # fmt: skip


@dataclass(frozen=True)
class Calibration:
    """What top scores of a memory mean, and what that was found with.

    Attributes:
        similarity: That was calibrated.
        scene_weight: That was calibrated, in the directions that depend on it.
        fingerprint: Of the embeddings.
        alpha: As in each direction.
        memory_size: Entries in the memory then.
        queries: Entries that were asked with.
        seed: That chose them.
        date: When, ISO 8601 in UTC.
        directions: Name, of ``DIRECTIONS``, to what its scores mean.
    """

    similarity: Similarity
    scene_weight: float
    fingerprint: Fingerprint
    alpha: float
    memory_size: int
    queries: int
    seed: int
    date: str
    directions: Mapping[str, DirectionCalibration]

    def judge(
        self, direction: str, scene_weight: float, score: float, similarity: Similarity,
        fingerprint: Fingerprint,
    ) -> tuple[Known, float]:  # fmt: skip
        """Return whether something like a query is known, and the confidence in that.

        Args:
            direction: Of the query, as ``direction_of`` names it.
            scene_weight: Of the query.
            score: The best score of all entries that pass the query's filter.
            similarity: That made the score.
            fingerprint: Of the embeddings that it was made of.

        Returns:
            ``Known.NOT_CALIBRATED`` and NaN where this does not apply to the query.
        """
        found = self.directions.get(direction)
        other_weight = abs(scene_weight - self.scene_weight) > WEIGHT_TOLERANCE
        if (
            found is None
            or math.isnan(score)
            or (similarity, fingerprint) != (self.similarity, self.fingerprint)
            or (is_weighted(direction) and other_weight)
        ):
            return Known.NOT_CALIBRATED, math.nan
        known = Known.YES if bool(found.is_known(score)) else Known.NO
        return known, float(found.confidence(score))

    def to_json(self) -> str:
        """Return it as JSON."""
        plain = dataclasses.asdict(self)
        plain["similarity"] = self.similarity.value
        return json.dumps(plain)

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Return what ``to_json`` wrote.

        Raises:
            InvalidInputError: If it is something else.
        """
        try:
            plain: dict[str, Any] = json.loads(text)
            plain["similarity"] = Similarity(plain["similarity"])
            plain["fingerprint"] = Fingerprint.from_plain(plain["fingerprint"])
            plain["directions"] = {
                name: _to_direction(fields) for name, fields in plain["directions"].items()
            }
            return cls(**plain)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise InvalidInputError(
                "calibration", "JSON as Calibration.to_json writes it", f"{error!r}",
                "Calibrate the memory again: memory calibrate.",
            ) from error  # fmt: skip


def _to_direction(fields: dict[str, Any]) -> DirectionCalibration:
    lists: dict[str, Sequence[float]] = {name: fields[name] for name in ("scores", "p_values")}
    if not lists["scores"] or len(lists["scores"]) != len(lists["p_values"]):
        raise ValueError("expected as many scores as p_values, and at least one")
    return DirectionCalibration(**{**fields, **{name: tuple(v) for name, v in lists.items()}})


def _logistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * x))  # never overflows
    return found


def _log_odds(answerable: TopScores, absent: TopScores) -> tuple[float, float]:
    """Return slope and offset of the log odds of being answerable, with Platt's targets.

    Each kind weighs 1, and each episode the same within its kind. Newton's method on the convex
    loss, with the step halved until it does not go up; scores are standardised meanwhile.
    """
    scores = np.concatenate([answerable.scores, absent.scores])
    kinds = answerable, absent
    weights = np.concatenate([kind.weights / kind.episode_count for kind in kinds])
    ones, zeros = (kind.episode_count for kind in kinds)
    targets = np.concatenate([
        np.full(len(answerable), (ones + 1.0) / (ones + 2.0)),
        np.full(len(absent), 1.0 / (zeros + 2.0)),
    ])  # fmt: skip
    centre, scale = float(scores.mean()), float(scores.std())
    if scale == 0.0:
        return 0.0, 0.0
    x = np.column_stack([(scores - centre) / scale, np.ones_like(scores)])

    def loss(theta: NDArray[np.float64]) -> float:
        z = x @ theta
        return float(weights @ (np.logaddexp(0.0, z) - targets * z))

    theta = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        p = _logistic(x @ theta)
        gradient = x.T @ (weights * (p - targets))
        curvature = (x * (weights * p * (1.0 - p))[:, None]).T @ x + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-6 and loss(theta - size * step) > loss(theta):
            size /= 2
        theta = theta - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    if theta[0] <= 0.0:  # higher scores where nothing is known: they say nothing
        return 0.0, 0.0
    slope = float(theta[0]) / scale
    return slope, float(theta[1]) - slope * centre
