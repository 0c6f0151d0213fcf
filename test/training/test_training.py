"""Training on small embeddings where the right answer is known."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from test.training import made_up
from vla_retrieval.errors import InvalidInputError, MissingLibraryError
from vla_retrieval.heads import METHODS, HashHead, JointHead
from vla_retrieval.training import Pairs, TrainingSettings, train
from vla_retrieval.training.splitting import split_episodes
from vla_retrieval.types import Modality

pytest.importorskip("pytorch_metric_learning")

ALL = pytest.mark.parametrize("method", list(METHODS))


def settings(method: str, **others: object) -> TrainingSettings:
    usual = {"epochs": 25, "batch": 64, "bits": 64, "device": "cpu", "learning_rate": 1e-2}
    return TrainingSettings(method, **(usual | others))


def held_out(record: dict, when: str, direction: str, metric: str = "ndcg@10") -> float:
    return record["metrics"]["test"][when][direction][metric]["value"]


def test_joint_training_aligns_a_modality_that_was_turned() -> None:
    record = train(made_up.rotated(), settings("joint")).record

    for direction in ("instruction to scenes", "scene to instructions"):
        assert held_out(record, "before", direction, "hit@1") < 0.5
        assert held_out(record, "after", direction, "hit@1") > 0.95


def test_joint_training_leaves_alone_what_nothing_can_better() -> None:
    trained = train(made_up.aligned(), settings("joint"))

    assert held_out(trained.record, "before", "instruction to scenes") == 1.0
    assert trained.head.digest == JointHead.identity(trained.head.encoder).digest
    assert trained.record["untrained"]


def test_metric_training_suppresses_dimensions_that_say_nothing() -> None:
    trained = train(made_up.with_nuisance(), settings("metric"))
    strength = np.linalg.norm(trained.head.weights["weight"], axis=0)

    assert held_out(trained.record, "before", "scene to scenes") < 0.5
    assert held_out(trained.record, "after", "scene to scenes") > 0.8
    assert strength[:8].min() > 2 * strength[8:].max()


def test_hash_training_gives_near_codes_to_neighbours() -> None:
    pairs = made_up.aligned()
    trained = train(pairs, settings("hash"))
    rows = split_episodes(pairs, 0).test
    bits = np.unpackbits(trained.head.codes(pairs.scenes[rows], Modality.SCENE), axis=1)
    distances = (bits[:, None] != bits[None]).sum(axis=2)
    labels = np.array(pairs.labels)[rows]
    same = labels[:, None] == labels

    assert np.median(distances[~same]) > 1.5 * np.median(distances[same])


def test_hash_training_ranks_better_than_random_hyperplanes() -> None:
    record = train(made_up.with_nuisance(), settings("hash")).record

    assert held_out(record, "after", "scene to scenes") > 0.03 + held_out(
        record, "before", "scene to scenes"
    )


@pytest.mark.parametrize(
    ("threshold", "kept"), [(9, False), (1e-9, True)], ids=["one code for all", "as random ones"]
)
def test_hash_training_keeps_random_hyperplanes_where_those_validate_better(
    threshold: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learned(pairs: Pairs, space: object, bits: int, seed: int) -> tuple[HashHead, str]:
        weights = dict(HashHead.initial(pairs.encoder, bits, seed).weights)
        thresholds = np.full(bits, threshold, np.float32)
        weights |= {f"{m.value}.threshold": thresholds for m in Modality}
        return HashHead(pairs.encoder, weights), "made up"

    monkeypatch.setattr("vla_retrieval.training.fitting.hash_start", learned)
    trained = train(made_up.aligned(), settings("hash", epochs=1, learning_rate=1e-6))
    random = HashHead.initial(trained.head.encoder, 64, 0)

    assert trained.record["untrained"] != kept
    assert (trained.head.digest != random.digest) == kept


@ALL
def test_same_seed_gives_the_same_head_and_another_seed_another(method: str) -> None:
    pairs = made_up.with_nuisance()
    first, again, other = (
        train(pairs, settings(method, epochs=3, seed=seed)).head.digest for seed in (1, 1, 2)
    )

    assert first == again
    assert first != other


@ALL
def test_progress_is_told_from_the_start_to_the_last_epoch(method: str) -> None:
    told: list[tuple[int, int, float]] = []
    record = train(
        made_up.with_nuisance(), settings(method, epochs=4, patience=4), lambda *of: told.append(of)
    ).record

    assert [epoch for epoch, _, _ in told] == list(range(len(told)))
    assert {epochs for _, epochs, _ in told} == {4}
    assert [validation for _, _, validation in told] == record["curves"]["validation"]


@ALL
def test_record_says_what_was_trained_on_and_what_it_is_worth(method: str) -> None:
    pairs = made_up.with_nuisance()
    record = train(pairs, settings(method, epochs=2), labelled_by="words").record
    sides = record["data"]["sides"]

    assert record["data"]["fingerprint"] == pairs.fingerprint()
    assert record["data"]["labelled_by"] == "words"
    assert sum(of["pairs"] for of in sides.values()) == len(pairs)
    assert ("bits" in record["settings"]) == (method == "hash")
    assert set(record["metrics"]) == {"train", "validation", "test"}


def test_patience_ends_training_that_gets_no_better() -> None:
    curves = train(made_up.aligned(), settings("joint", patience=2)).record["curves"]

    assert len(curves["loss"]) == 2
    assert curves["stopped_early"]


def test_data_fingerprint_changes_with_an_embedding_and_with_a_label() -> None:
    pairs = made_up.aligned()
    scenes = pairs.scenes.copy()
    scenes[0] = scenes[1]
    labels = ("another", *pairs.labels[1:])
    texts, episodes = pairs.texts, pairs.episodes

    def fingerprint(scenes: np.ndarray, labels: tuple[str, ...]) -> str:
        return Pairs(
            pairs.encoder, scenes, pairs.instructions, texts, labels, episodes
        ).fingerprint()

    same = fingerprint(pairs.scenes, pairs.labels)
    assert same == pairs.fingerprint()
    assert len({same, fingerprint(scenes, pairs.labels), fingerprint(pairs.scenes, labels)}) == 3


def test_missing_library_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    monkeypatch.delitem(sys.modules, "pytorch_metric_learning.losses", raising=False)

    with pytest.raises(MissingLibraryError, match=r"requirements/training\.txt"):
        train(made_up.aligned(), settings("joint"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "magic"), ("bits", 100), ("seed", -1), ("seed", 2**63), ("epochs", 0),
        ("patience", 0), ("batch", 7), ("learning_rate", 0.0), ("learning_rate", 2.0),
        ("temperature", 0.0), ("weight_decay", -1.0), ("weight_decay", float("nan")),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=f"{field}: expected"):
        TrainingSettings(**({"method": "hash"} | {field: value}))


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cuda:99"])
def test_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(InvalidInputError, match="device: expected"):
        train(made_up.aligned(), settings("joint", device=device))
