"""Splits, attraction, closed forms and measures, each against what they must be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from test.training import made_up
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.heads import HashHead, MetricHead
from vla_retrieval.training import LabelRule, Pairs
from vla_retrieval.training.closed import between, itq, whitening, within
from vla_retrieval.training.contrast import attraction, index_pairs
from vla_retrieval.training.joint import as_joint
from vla_retrieval.training.measuring import (
    DIRECTIONS,
    by_codes,
    by_cosine,
    by_projection,
    kept,
    per_query,
    reranked,
)
from vla_retrieval.training.splitting import SIDES, split_episodes
from vla_retrieval.training.starts import hash_start, starts
from vla_retrieval.types import Modality

NUMBERS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=30)


@given(rows=NUMBERS, itself=st.booleans())
def test_nothing_of_one_label_or_one_episode_repels(
    rows: list[tuple[int, int]], itself: bool
) -> None:
    labels, episodes = (torch.tensor(column) for column in zip(*rows, strict=True))
    a1, p, a2, n = (of.tolist() for of in index_pairs(attraction(labels, episodes), itself=itself))
    together = {
        (i, j)
        for i in range(len(rows))
        for j in range(len(rows))
        if rows[i][0] == rows[j][0] or rows[i][1] == rows[j][1]
    }
    diagonal = {(i, i) for i in range(len(rows))}
    everything = {(i, j) for i in range(len(rows)) for j in range(len(rows))}

    assert set(zip(a1, p, strict=True)) == (together if itself else together - diagonal)
    assert set(zip(a2, n, strict=True)) == everything - together


@given(episodes_of=st.lists(st.integers(1, 12), min_size=1, max_size=14), seed=st.integers(0, 5))
def test_no_episode_is_on_two_sides_and_each_side_can_be_measured(
    episodes_of: list[int], seed: int
) -> None:
    label = np.repeat(np.arange(len(episodes_of)), episodes_of)
    rows = np.random.default_rng(0).standard_normal((len(label), 4))
    pairs = made_up.pairs(rows, rows, label, np.arange(len(label)))
    try:
        found = split_episodes(pairs, seed)
    except InvalidInputError:
        # Two labels on each side need two that are divided, or three whole ones for each missing.
        divided = sum(count >= 6 for count in episodes_of)
        assert sum(2 <= count < 6 for count in episodes_of) < 3 * max(0, 2 - divided)
        return
    sides = [set(getattr(found, side).tolist()) for side in SIDES]

    assert set().union(*sides) == set(range(len(label)))
    assert sum(map(len, sides)) == len(label)
    assert all(of["answerable"] >= 1 and of["labels"] >= 2 for of in found.counts(pairs).values())


def test_frames_of_one_episode_stay_together() -> None:
    pairs = made_up.aligned()
    found = split_episodes(pairs, 3)
    episodes = [{pairs.episodes[row] for row in getattr(found, side)} for side in SIDES]

    assert not episodes[0] & episodes[1]
    assert not episodes[0] & episodes[2]
    assert not episodes[1] & episodes[2]


def test_another_seed_draws_another_split() -> None:
    pairs = made_up.aligned()

    assert split_episodes(pairs, 0).test.tolist() == split_episodes(pairs, 0).test.tolist()
    assert split_episodes(pairs, 0).test.tolist() != split_episodes(pairs, 1).test.tolist()


def few(labels: int, episodes: int) -> Pairs:
    label, episode = made_up.tasks(labels, episodes)
    rows = np.random.default_rng(0).standard_normal((len(label), 4))
    return made_up.pairs(rows, rows, label, episode)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (few(0, 0), "pairs: expected pairs with labels"),
        (few(1, 9), "labels: expected two different"),
        (few(2, 2), "episodes: expected two labels at least on each side"),
        (few(9, 1), "episodes: expected two labels at least on each side"),
    ],
    ids=["nothing", "one label", "four episodes", "nothing repeated"],
)
def test_too_little_to_learn_from_is_said(pairs: Pairs, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        split_episodes(pairs, 0)


def test_one_episode_is_said_with_what_to_do() -> None:
    rows = np.random.default_rng(0).standard_normal((8, 4))
    pairs = made_up.pairs(rows, rows, np.arange(8) % 2, np.zeros(8, int))

    with pytest.raises(InvalidInputError, match=r"episodes: expected several.*its episode_id"):
        split_episodes(pairs, 0)


def test_whitening_makes_the_covariance_round() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4000, 6)) * np.array([5, 3, 1, 1, 0.5, 0.2])
    rows -= rows.mean(axis=0)
    moved = rows @ whitening(rows, 0.0).T
    covariance = moved.T @ moved / len(moved)

    np.testing.assert_allclose(covariance / covariance[0, 0], np.eye(6), atol=1e-9)
    np.testing.assert_allclose(whitening(rows, 1.0), np.eye(6), atol=1e-12)


def test_within_takes_the_mean_of_each_label_away() -> None:
    rows = np.array([[1.0, 0.0], [3.0, 0.0], [5.0, 5.0]])

    np.testing.assert_array_equal(
        within(rows, np.array([0, 0, 1])), [[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    )


def test_axes_between_labels_are_those_along_which_their_means_differ() -> None:
    labels = np.repeat(np.arange(3), 4)
    points = np.array([[3.0, 0.0], [0.0, 2.0], [-3.0, -2.0]])
    inside = np.tile([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], (3, 1))
    rows = np.concatenate([points[labels], 9 * inside], axis=1)
    axes = between([rows, rows[:, [0, 1, 3, 2]]], labels)

    np.testing.assert_allclose(axes.T @ axes, np.diag([1, 1, 0, 0]), atol=1e-9)


def test_itq_planes_are_orthogonal_and_lie_nearer_to_the_corners_than_the_principal_axes() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((500, 16)) @ np.diag(np.linspace(3, 0.1, 16))
    planes = itq(rows, 8, 0)

    def lost(planes: np.ndarray) -> float:
        values = rows @ planes.T
        return float(np.linalg.norm(np.sign(values) - values))

    _, axes = np.linalg.eigh(rows.T @ rows)
    np.testing.assert_allclose(planes @ planes.T, np.eye(8), atol=1e-9)
    assert lost(planes) < lost(axes[:, 8:].T)
    assert np.linalg.norm(planes @ axes[:, :8]) < 1e-9  # only turned within the leading ones


def test_itq_has_more_planes_than_dimensions_where_that_is_asked() -> None:
    rows = np.random.default_rng(0).standard_normal((100, 16))

    assert itq(rows, 64, 0).shape == (64, 16)


def test_a_start_means_the_same_as_a_joint_head_and_as_a_metric() -> None:
    pairs = made_up.with_nuisance()
    for head in (start.head for start in starts(pairs)):
        for m in Modality:
            np.testing.assert_allclose(
                as_joint(head).project(pairs.half(m), m), head.project(pairs.half(m), m), atol=1e-5
            )


def test_half_of_the_bits_are_of_the_embeddings_whatever_space_was_learned() -> None:
    pairs = made_up.with_nuisance()
    alone, one, *_, other = starts(pairs)
    first, second = (hash_start(pairs, space, 64, 0)[0] for space in (one, other))
    planes, others = (head.weights["scene.weight"] for head in (first, second))

    np.testing.assert_array_equal(planes[:32], others[:32])
    assert not np.isclose(planes[32:], others[32:]).all(axis=1).any()
    np.testing.assert_allclose(np.linalg.norm(planes, axis=1), 1, atol=1e-6)
    assert hash_start(pairs, alone, 64, 0)[1] == "iterative quantization"


@pytest.mark.parametrize("direction", list(DIRECTIONS))
def test_proposals_are_those_of_a_count_by_hand(direction: str) -> None:
    pairs = made_up.rotated()
    asks, found = DIRECTIONS[direction]
    head = HashHead.initial(pairs.encoder, 64)
    signs = {m: np.unpackbits(head.codes(pairs.half(m), m), axis=1) for m in Modality}
    cosines = pairs.half(asks).astype(float) @ pairs.half(found).astype(float).T
    ranked = reranked(by_codes(head))(pairs, asks, found, np.arange(len(pairs)))
    shares = []
    for row, (text, episode) in enumerate(zip(pairs.texts, pairs.episodes, strict=True)):
        others = [i for i, of in enumerate(pairs.episodes) if of != episode]
        distances = {i: int((signs[asks][row] != signs[found][i]).sum()) for i in others}
        near = sorted(others, key=lambda i: (distances[i], i))[:13]  # a tenth of 128, rounded up
        best = sorted(others, key=lambda i: (-cosines[row, i], i))[:10]
        assert np.flatnonzero(ranked[row] > -1.5).tolist() == sorted(near)
        asked_before = (text, episode) in list(zip(pairs.texts, pairs.episodes, strict=True))[:row]
        if asks is Modality.SCENE or not asked_before:
            shares.append(len(set(near) & set(best)) / 10)

    assert kept(pairs, direction, by_codes(head)).tolist() == shares
    assert kept(pairs, direction, by_cosine).tolist() == [1.0] * len(shares)


@pytest.mark.parametrize("direction", list(DIRECTIONS))
def test_measures_are_those_of_a_count_by_hand(direction: str) -> None:
    pairs = made_up.rotated()
    asks, found = DIRECTIONS[direction]
    head = MetricHead.identity(pairs.encoder)
    cosines = pairs.half(asks).astype(float) @ pairs.half(found).astype(float).T
    hits = []
    seen = set()
    for row in range(len(pairs)):
        key = (pairs.texts[row], pairs.episodes[row])
        if asks is Modality.INSTRUCTION and key in seen:
            continue
        seen.add(key)
        others = [i for i in range(len(pairs)) if pairs.episodes[i] != pairs.episodes[row]]
        best = max(others, key=lambda i: (round(cosines[row, i], 12), -i))
        hits.append(float(pairs.labels[best] == pairs.labels[row]))
    measured = per_query(pairs, direction, by_projection(head), most=10_000)

    assert measured["hit@1"].mean() == pytest.approx(np.mean(hits), abs=1e-9)


def test_labels_come_from_words_groups_or_keys() -> None:
    metadata = {"task": "tidy"}
    words = LabelRule()
    labelled = LabelRule(labels={"Take the cup!": "cup"})
    grouped = LabelRule(same=[["take the cup", "拿起杯子"]])

    assert words("Take  the CUP.", {}) == words("take the cup", metadata)
    assert words("take the cup", {}) != words("take the bowl", {})
    assert labelled("take the cup", {}) == "label cup"
    assert grouped("拿起杯子。", {}) == grouped("take the cup", {})
    assert LabelRule(key="task")("anything", metadata) == "tidy"
    assert LabelRule(key="task")("anything", {}) == ""


def test_two_rules_at_once_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="one of labels, same and label_key"):
        LabelRule(labels={"a": "b"}, key="task")


def test_an_instruction_in_two_groups_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="same: expected each instruction in one group"):
        LabelRule(same=[["a", "b"], ["c", "b"]])
