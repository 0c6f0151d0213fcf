"""A retriever over a memory that has a head: scores, what is known, and what resembles what."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from test.learned import turned_head
from vla_retrieval import diversity
from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.heads import MetricHead
from vla_retrieval.memory import Memory
from vla_retrieval.projection import Head
from vla_retrieval.retriever import Retriever
from vla_retrieval.self_calibration import calibrate
from vla_retrieval.types import Known, Modality, NewEntry, Query, Target

ENCODER = DoubleEncoder()
COLOURS = {"red": (220, 30, 30), "green": (30, 170, 50), "blue": (30, 60, 210)}
VISITS = 10
TURNED = turned_head(ENCODER.fingerprint, 1)


def flat_head() -> MetricHead:
    """Return a head that keeps two dimensions, in which others resemble each other."""
    weight = np.random.default_rng(4).standard_normal((2, ENCODER.dim)).astype(np.float32)
    zeros = np.zeros(ENCODER.dim, np.float32)
    return MetricHead(
        ENCODER.fingerprint,
        {"weight": weight, "scene.centre": zeros, "instruction.centre": zeros},
    )


@pytest.fixture
def retriever(tmp_path: Path) -> Iterator[Retriever]:
    """Return one that remembers ten visits to each of three colours."""
    rng = np.random.default_rng(0)
    entries, images = [], []
    for visit in range(VISITS):
        for name, colour in COLOURS.items():
            noise = rng.integers(-20, 20, (16, 16, 3))
            images.append(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))
            entries.append(NewEntry(f"the {name} cup", 0, episode_id=f"{name} {visit}"))
    texts = ENCODER.encode_instructions([entry.instruction for entry in entries])
    with Memory.open(tmp_path / "memory", ENCODER.fingerprint, durable=False) as memory:
        memory.add(entries, ENCODER.encode_images(images), texts)
        yield Retriever(ENCODER, memory)


def switch(retriever: Retriever, head: Head | None) -> None:
    retriever.memory.use_head(head)
    assert retriever.memory.wait_until_idle(60)


QUERY = Query(instruction="the red cup", target=Target.SCENES, k=5)


@pytest.mark.parametrize("calibrated_with", [None, TURNED], ids=["without", "with"])
def test_a_calibration_holds_for_the_head_it_was_made_with_and_for_no_other(
    retriever: Retriever, calibrated_with: Head | None
) -> None:
    switch(retriever, calibrated_with)
    found = calibrate(retriever.memory, alpha=0.1)
    retriever.memory.set_calibration(found.calibration.to_json())
    others = [h for h in (None, TURNED, turned_head(ENCODER.fingerprint, 2), flat_head())
              if (h and h.digest) != (calibrated_with and calibrated_with.digest)]  # fmt: skip
    assert len(others) == 3
    for head in others:
        switch(retriever, head)
        assert retriever.retrieve(QUERY).known is Known.NOT_CALIBRATED
    switch(retriever, calibrated_with)
    assert retriever.retrieve(QUERY).known is Known.YES
    absurd = dataclasses.replace(QUERY, instruction="quantum chromodynamics lecture")
    assert retriever.retrieve(absurd).known is not Known.NOT_CALIBRATED


def test_the_scores_that_are_calibrated_are_those_of_the_search(retriever: Retriever) -> None:
    switch(retriever, TURNED)
    scenes = retriever.memory.vectors_of([1, 2, 3], Modality.SCENE)
    found = retriever.retrieve(dataclasses.replace(QUERY, k=30))
    query = TURNED.project(ENCODER.encode_instructions(["the red cup"]), Modality.INSTRUCTION)[0]
    scores = {match.entry.entry_id: match.score for match in found.matches}
    np.testing.assert_allclose([scores[i] for i in (1, 2, 3)], scenes @ query, atol=1e-6)
    assert (found.head, found.head_method) == (TURNED.digest, "joint")


def test_different_matches_differ_in_what_is_compared(retriever: Retriever) -> None:
    """A head that sees little finds others alike than the encoder does."""
    wanted = dataclasses.replace(QUERY, diversity=0.7)
    shown = []
    for head in (None, flat_head()):
        switch(retriever, head)
        pool = retriever.retrieve(dataclasses.replace(QUERY, k=QUERY.k * diversity.POOL)).matches
        ids = [match.entry.entry_id for match in pool]
        likeness = diversity.cosines(retriever.memory.vectors_of(ids, Modality.SCENE))
        scores = np.array([match.score for match in pool])
        expected = diversity.choose(scores, likeness, QUERY.k, wanted.diversity)
        shown.append([match.entry.entry_id for match in retriever.retrieve(wanted).matches])
        assert shown[-1] == [ids[i] for i in expected]
    assert shown[0] != shown[1]
