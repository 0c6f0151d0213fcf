"""What a top score means: coverage, monotone confidence, and where a calibration applies."""

from __future__ import annotations

import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_retrieval.calibration import (
    DIRECTIONS,
    WEIGHT_TOLERANCE,
    Calibration,
    TopScores,
    direction_of,
    fewest_episodes,
    fit,
    is_weighted,
)
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.types import Fingerprint, Known, Similarity, Target

FINGERPRINT = Fingerprint("m", "sha256:0", "p", 8)

score_lists = st.lists(st.floats(-1, 1), min_size=1, max_size=40)


def single(scores: object) -> TopScores:
    """Return one query per episode."""
    array = np.asarray(scores, dtype=np.float64)
    return TopScores(array, np.arange(len(array)))


def binomial_error(trials: int, share: float) -> float:
    """Return four standard deviations of a count: one run in 30 000 is above it by chance."""
    return 4 * math.sqrt(trials * share * (1 - share))


def calibration(**changes: object) -> Calibration:
    direction = fit(single(np.linspace(0.5, 0.9, 50)), single(np.linspace(0.1, 0.5, 50)))
    fields = {
        "similarity": Similarity.COSINE, "scene_weight": 0.5, "fingerprint": FINGERPRINT,
        "alpha": 0.05, "memory_size": 50, "queries": 50, "seed": 0, "date": "2026-01-01",
        "directions": dict.fromkeys(("instruction to scenes", "pair"), direction),
    }  # fmt: skip
    return Calibration(**{**fields, **changes})  # type: ignore[arg-type]


class TestKnown:
    @pytest.mark.parametrize("alpha", [0.05, 0.2])
    @pytest.mark.parametrize("count", [25, 100])
    @pytest.mark.parametrize("draw", ["normal", "standard_cauchy", "integers"])
    def test_rejects_at_most_alpha_of_exchangeable_queries(
        self, alpha: float, count: int, draw: str
    ) -> None:
        rng = np.random.default_rng(count)
        trials = 2000

        def scores() -> np.ndarray:
            return rng.integers(0, 5, count + 1) if draw == "integers" else getattr(rng, draw)(
                size=count + 1
            )  # fmt: skip

        rejected = 0
        for _ in range(trials):
            *seen, new = scores()
            rejected += not fit(single(seen), alpha=alpha).is_known(new)
        assert rejected <= alpha * trials + binomial_error(trials, alpha)

    def test_uses_up_most_of_alpha_where_scores_do_not_tie(self) -> None:
        rng = np.random.default_rng(1)
        rejected = sum(
            not fit(single(s[:99]), alpha=0.1).is_known(s[99]) for s in rng.normal(size=(2000, 100))
        )
        assert abs(rejected - 200) <= binomial_error(2000, 0.1)

    def test_holds_where_frames_of_an_episode_are_alike(self) -> None:
        """One query per frame would reject far more: 30 episodes are no 600 witnesses."""
        rng = np.random.default_rng(2)
        trials, rejected, pooled = 2000, 0, 0
        for _ in range(trials):
            sizes = rng.integers(1, 40, 21)
            centres = rng.normal(size=21)
            episodes = np.repeat(np.arange(21), sizes)
            scores = centres[episodes] + 0.01 * rng.normal(size=len(episodes))
            seen = episodes < 20
            new = rng.choice(scores[~seen])
            given_scores = TopScores(scores[seen], episodes[seen])
            rejected += not fit(given_scores, alpha=0.05).is_known(new)
            pooled += not fit(single(scores[seen]), alpha=0.05).is_known(new)
        limit = 0.05 * trials + binomial_error(trials, 0.05)
        assert rejected <= limit < pooled

    @given(score_lists, score_lists)
    def test_the_p_value_is_the_counted_one(self, seen: list[float], asked: list[float]) -> None:
        fitted = fit(single(seen))
        for score, p in zip(asked, fitted.p_value(asked), strict=True):
            certain = 1 + sum(s <= score + fitted.tolerance - 1e-8 for s in seen)
            possible = 1 + sum(s <= score + fitted.tolerance + 1e-8 for s in seen)
            size = len(seen) + 1
            assert certain / size - 1e-9 <= p <= possible / size + 1e-9

    @given(score_lists, st.sampled_from([0.05, 0.1, 0.3]))
    def test_the_threshold_is_where_known_begins(self, seen: list[float], alpha: float) -> None:
        fitted = fit(single(seen), alpha=alpha)
        if len(seen) < fewest_episodes(alpha):
            assert fitted.threshold == -math.inf
            assert fitted.is_known(-1e9)
        else:
            assert fitted.is_known(fitted.threshold + 1e-8)
            assert not fitted.is_known(fitted.threshold - 1e-8)

    def test_a_repeat_in_another_precision_is_known_where_all_were_verbatim(self) -> None:
        fitted = fit(single(np.ones(50)))
        assert fitted.is_known(0.99995)
        assert not fitted.is_known(0.999)
        assert fitted.asks_for_the_same

    def test_a_repeat_in_another_precision_is_known_by_its_distance_too(self) -> None:
        """A cosine of 0.99995 is a distance of 0.01 between vectors of unit length."""
        fitted = fit(single(np.zeros(50)), similarity=Similarity.NEGATIVE_L2)
        assert fitted.is_known(-0.0099)
        assert not fitted.is_known(-0.02)

    def test_scores_that_spread_do_not_ask_for_the_same(self) -> None:
        assert not fit(single(np.linspace(0, 1, 50))).asks_for_the_same

    @pytest.mark.parametrize("alpha", [0.05, 0.07, 0.1, 0.3, 0.5])
    def test_so_few_episodes_reject_and_one_less_does_not(self, alpha: float) -> None:
        count = fewest_episodes(alpha)
        assert not fit(single(np.ones(count)), alpha=alpha).is_known(0.0)
        assert count == 1 or fit(single(np.ones(count - 1)), alpha=alpha).is_known(0.0)

    @pytest.mark.parametrize("alpha", [0.0, -1.0, 0.6, math.nan])
    def test_an_alpha_out_of_range_is_refused(self, alpha: float) -> None:
        with pytest.raises(InvalidInputError, match="alpha"):
            fit(single([1.0]), alpha=alpha)

    @pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
    def test_a_score_that_is_none_is_refused(self, score: float) -> None:
        with pytest.raises(InvalidInputError, match="scores: expected finite numbers"):
            single([0.5, score])

    def test_a_score_without_an_episode_is_refused(self) -> None:
        with pytest.raises(InvalidInputError, match=r"episodes: .*shape \(2,\), got \(1,\)"):
            TopScores(np.array([0.5, 0.6]), np.array([1]))

    def test_no_answerable_query_is_refused(self) -> None:
        with pytest.raises(InvalidInputError, match="answerable"):
            fit(single([]))


class TestConfidence:
    @given(score_lists, score_lists)
    def test_grows_with_the_score_and_stays_in_its_range(
        self, answerable: list[float], absent: list[float]
    ) -> None:
        fitted = fit(single(answerable), single(absent))
        confidences = fitted.confidence(np.linspace(-3, 3, 200))
        assert (np.diff(confidences) >= 0).all()
        assert ((confidences >= 0) & (confidences <= 1)).all()

    def test_without_absent_queries_is_the_p_value(self) -> None:
        fitted = fit(single([0.1, 0.2, 0.3]))
        np.testing.assert_array_equal(fitted.confidence([0.0, 0.25]), fitted.p_value([0.0, 0.25]))

    def test_is_the_share_of_answerable_queries_at_that_score(self) -> None:
        """Two normal distributions of one width have logistic odds; the truth is known."""
        rng = np.random.default_rng(3)
        fitted = fit(single(rng.normal(0.5, 0.1, 4000)), single(rng.normal(0.4, 0.1, 1000)))
        scores = np.array([0.3, 0.4, 0.45, 0.5, 0.6])
        high, low = (
            np.array([NormalDist(mean, 0.1).pdf(s) for s in scores]) for mean in (0.5, 0.4)
        )
        truth = high / (high + low)
        np.testing.assert_allclose(fitted.confidence(scores), truth, atol=0.03)

    def test_does_not_become_certain_where_a_few_queries_are_told_apart(self) -> None:
        fitted = fit(single([0.8, 0.81, 0.82]), single([0.1, 0.11, 0.12]))
        assert 0.7 < fitted.confidence(0.81) < 0.9
        assert 0.1 < fitted.confidence(0.11) < 0.3

    def test_does_not_change_with_the_number_of_frames_of_an_episode(self) -> None:
        """A camera at rest says one thing a hundred times."""
        rng = np.random.default_rng(4)
        high, low = single(rng.normal(0.5, 0.2, 30)), single(rng.normal(0.4, 0.2, 20))

        def longer(scores: TopScores) -> TopScores:
            frames = np.where(scores.episodes % 3 == 0, 40, 1)
            return TopScores(np.repeat(scores.scores, frames), np.repeat(scores.episodes, frames))

        asked = np.linspace(-1, 1, 9)
        expected = fit(high, low)
        for found in (fit(longer(high), low), fit(high, longer(low))):
            np.testing.assert_allclose(found.confidence(asked), expected.confidence(asked))
            np.testing.assert_allclose(found.p_value(asked), expected.p_value(asked))

    def test_says_nothing_where_absent_queries_score_higher(self) -> None:
        fitted = fit(single([0.1, 0.2]), single([0.5, 0.6]))
        np.testing.assert_array_equal(fitted.confidence([0.0, 1.0]), [0.5, 0.5])


class TestJudging:
    def judge(self, made: Calibration, **changes: object) -> tuple[Known, float]:
        asked = {
            "direction": "pair", "scene_weight": 0.5, "score": 0.85,
            "similarity": Similarity.COSINE, "fingerprint": FINGERPRINT,
        }  # fmt: skip
        return made.judge(**{**asked, **changes})  # type: ignore[arg-type]

    def test_a_high_score_is_known_and_a_low_one_is_not(self) -> None:
        assert self.judge(calibration())[0] is Known.YES
        known, confidence = self.judge(calibration(), score=0.2)
        assert known is Known.NO
        assert confidence < 0.1

    @pytest.mark.parametrize(
        "changes",
        [
            {"similarity": Similarity.DOT},
            {"fingerprint": Fingerprint("other", "sha256:0", "p", 8)},
            {"scene_weight": 0.5 + 2 * WEIGHT_TOLERANCE},
            {"direction": "scene to scenes"},
            {"score": math.nan},
        ],
    )
    def test_what_was_not_calibrated_is_not_judged(self, changes: dict[str, object]) -> None:
        known, confidence = self.judge(calibration(), **changes)
        assert known is Known.NOT_CALIBRATED
        assert math.isnan(confidence)

    def test_a_weight_as_a_message_rounds_it_is_judged(self) -> None:
        made = calibration(scene_weight=0.3)
        assert self.judge(made, scene_weight=float(np.float32(0.3)))[0] is Known.YES

    def test_the_weight_does_not_matter_where_one_half_is_compared(self) -> None:
        found = self.judge(calibration(), direction="instruction to scenes", scene_weight=1.0)
        assert found[0] is Known.YES

    def test_each_kind_of_query_has_a_direction_of_its_own(self) -> None:
        kinds = [(True, False), (False, True), (True, True)]
        names = {
            direction_of(image=i, instruction=t, target=target)
            for i, t in kinds
            for target in Target
        }
        assert names == set(DIRECTIONS)

    @pytest.mark.parametrize("name", DIRECTIONS)
    def test_a_direction_is_named_after_what_is_asked_and_what_is_found(self, name: str) -> None:
        """Calibrations are stored by these names."""
        source, _, target = ("both to pair" if name == "pair" else name).partition(" to ")
        image, instruction = source != "instruction", source != "scene"
        found = direction_of(image=image, instruction=instruction, target=Target[target.upper()])
        assert found == name

    def test_the_weight_matters_where_two_similarities_are_added(self) -> None:
        assert {n for n in DIRECTIONS if not is_weighted(n)} == {
            "scene to instructions", "scene to scenes", "instruction to scenes",
            "instruction to instructions",
        }  # fmt: skip


class TestText:
    def test_comes_back_as_it_was(self) -> None:
        assert Calibration.from_json(calibration().to_json()) == calibration()

    @pytest.mark.parametrize(
        "text", ["", "{}", "[]", "null", '{"similarity": "cosine"}', "[" * 200_000],
        ids=["nothing", "object", "list", "null", "a part", "nested without end"],
    )  # fmt: skip
    def test_of_another_kind_is_refused_with_the_next_step(self, text: str) -> None:
        with pytest.raises(InvalidInputError, match="memory calibrate"):
            Calibration.from_json(text)

    @pytest.mark.parametrize("lists", [{"scores": [], "p_values": []}, {"p_values": [0.5]}])
    def test_whose_lists_do_not_fit_is_refused_before_a_query_is_judged(
        self, lists: dict[str, list[float]]
    ) -> None:
        plain = json.loads(calibration().to_json())
        plain["directions"]["pair"] |= lists
        with pytest.raises(InvalidInputError, match="as many scores as p_values"):
            Calibration.from_json(json.dumps(plain))
