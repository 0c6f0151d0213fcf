"""Heads before and after training: the identity, what a row depends on, and codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_retrieval.errors import HeadError, InvalidInputError
from vla_retrieval.heads import HashHead, JointHead, MetricHead, WeightedHead
from vla_retrieval.types import Fingerprint, Modality

DIM = 24
ENCODER = Fingerprint("made-up", "sha256:0", "none", DIM)


def unit_rows(count: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def trained(method: str, seed: int = 3) -> WeightedHead:
    """A head with other weights than the untrained one."""
    start = {
        "joint": JointHead.identity(ENCODER),
        "metric": MetricHead.identity(ENCODER),
        "hash": HashHead.initial(ENCODER, 64),
    }[method]
    rng = np.random.default_rng(seed)
    changed = {
        name: (array + 0.1 * rng.standard_normal(array.shape)).astype(np.float32)
        for name, array in start.weights.items()
    }
    return type(start)(ENCODER, changed)


ALL = pytest.mark.parametrize("method", ["joint", "metric", "hash"])
BOTH = pytest.mark.parametrize("modality", list(Modality))


@BOTH
@pytest.mark.parametrize(
    "head",
    [JointHead.identity(ENCODER), MetricHead.identity(ENCODER), HashHead.initial(ENCODER, 64)],
    ids=lambda head: head.method,
)
def test_an_untrained_head_is_the_identity(head: WeightedHead, modality: Modality) -> None:
    rows = unit_rows(40)

    np.testing.assert_allclose(head.project(rows, modality), rows, atol=1e-7)


@ALL
@BOTH
def test_projections_are_float32_rows_of_unit_length(method: str, modality: Modality) -> None:
    found = trained(method).project(unit_rows(40), modality)

    assert found.dtype == np.float32
    assert found.shape == (40, DIM)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)


def test_joint_projection_is_that_of_its_formula() -> None:
    head, rows = trained("joint"), unit_rows(9)
    weights = head.weights
    expected = rows + rows @ weights["scene.weight"].T + weights["scene.bias"]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)

    np.testing.assert_allclose(head.project(rows, Modality.SCENE), expected, atol=1e-6)


def test_metric_cosine_is_that_of_the_mahalanobis_form() -> None:
    head, rows = trained("metric"), unit_rows(9)
    centred = rows - head.weights["scene.centre"]
    form = head.weights["weight"].T @ head.weights["weight"]
    inner = centred @ form @ centred.T
    expected = inner / np.sqrt(np.outer(np.diag(inner), np.diag(inner)))
    found = head.project(rows, Modality.SCENE)

    np.testing.assert_allclose(found @ found.T, expected, atol=1e-5)


def test_metric_of_lower_rank_says_its_dim() -> None:
    zeros = np.zeros(DIM, np.float32)
    head = MetricHead(
        ENCODER,
        {
            "weight": np.eye(DIM, dtype=np.float32)[:5],
            "scene.centre": zeros,
            "instruction.centre": zeros,
        },
    )

    assert head.dim == 5
    assert head.project(unit_rows(3), Modality.SCENE).shape == (3, 5)


def test_hash_codes_are_packed_comparisons_with_the_thresholds() -> None:
    head, rows = trained("hash"), unit_rows(9)
    weights = head.weights
    expected = rows @ weights["instruction.weight"].T > weights["instruction.threshold"]
    found = head.codes(rows, Modality.INSTRUCTION)

    assert found.dtype == np.uint8
    assert found.shape == (9, 8)
    assert head.bits == 64
    np.testing.assert_array_equal(np.unpackbits(found, axis=1), expected)


def test_untrained_hash_has_hamming_distances_that_follow_the_angle() -> None:
    # Charikar 2002: a bit differs with a probability of angle / pi.
    head = HashHead.initial(Fingerprint("made-up", "sha256:0", "none", 64), 512)
    rows = unit_rows(60, dim=64)
    bits = np.unpackbits(head.codes(rows, Modality.SCENE), axis=1)
    distances = (bits[:, None] != bits[None]).mean(axis=2)
    angles = np.arccos(np.clip(rows @ rows.T, -1, 1)) / np.pi

    assert np.abs(distances - angles).max() < 0.1


@ALL
@given(count=st.integers(1, 70), at=st.integers(0, 69))
def test_what_a_row_becomes_does_not_depend_on_the_others(method: str, count: int, at: int) -> None:
    head, rows = trained(method), unit_rows(70)
    some = rows[at % count : count]

    together = head.project(rows, Modality.SCENE)[at % count : count]
    np.testing.assert_array_equal(head.project(some, Modality.SCENE), together)
    np.testing.assert_array_equal(head.project(some[:1], Modality.SCENE), together[:1])
    if head.bits:
        codes = head.codes(rows, Modality.SCENE)[at % count : count]
        np.testing.assert_array_equal(head.codes(some, Modality.SCENE), codes)


@ALL
def test_no_rows_give_no_rows(method: str) -> None:
    head = trained(method)

    assert head.project(unit_rows(0), Modality.SCENE).shape == (0, DIM)


@ALL
@pytest.mark.parametrize(
    "rows",
    [
        np.ones((2, DIM + 1), np.float32),
        np.ones(DIM, np.float32),
        np.full((2, DIM), np.nan, np.float32),
        np.zeros((2, DIM), np.float32),
    ],
    ids=["other dim", "one dimension", "nan", "zeros"],
)
def test_embeddings_of_another_form_are_refused(method: str, rows: np.ndarray) -> None:
    with pytest.raises(InvalidInputError, match="embeddings: expected"):
        trained(method).project(rows, Modality.SCENE)


@pytest.mark.parametrize("method", ["joint", "metric"])
def test_codes_of_a_head_without_any_are_refused(method: str) -> None:
    head = trained(method)

    assert head.bits == 0
    with pytest.raises(InvalidInputError, match="one with codes"):
        head.codes(unit_rows(2), Modality.SCENE)


@pytest.mark.parametrize("bits", [0, 56, 65, 520])
def test_code_lengths_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(InvalidInputError, match="bits: expected a multiple of 8"):
        HashHead.initial(ENCODER, bits)


@ALL
def test_digest_changes_with_one_weight(method: str) -> None:
    head = trained(method)
    weights = dict(head.weights)
    name = next(iter(weights))
    weights[name] = weights[name].copy()
    weights[name].flat[0] += 1.0

    assert type(head)(ENCODER, head.weights).digest == head.digest
    assert type(head)(ENCODER, weights).digest != head.digest


@ALL
def test_weights_cannot_be_changed_through_a_head(method: str) -> None:
    array = next(iter(trained(method).weights.values()))

    with pytest.raises(ValueError, match="read-only"):
        array.flat[0] = 1.0


@ALL
@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "type", "nan"])
def test_weights_that_are_not_those_of_the_method_are_refused(method: str, fault: str) -> None:
    head = trained(method)
    weights = dict(head.weights)
    name = next(iter(weights))
    if fault == "missing":
        del weights[name]
    elif fault == "unknown":
        weights["other"] = weights[name]
    else:
        weights[name] = {
            "shape": weights[name][..., :-1],
            "type": weights[name].astype(np.float16),
            "nan": weights[name] * np.float32(np.nan),
        }[fault]

    with pytest.raises(HeadError, match=f"Not a {method} head"):
        type(head)(ENCODER, weights)
