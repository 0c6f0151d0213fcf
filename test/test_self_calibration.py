"""Calibrating a memory with its own entries, against plain loops over every pair of entries."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vla_retrieval import self_calibration
from vla_retrieval.calibration import DIRECTIONS, SCORE_TOLERANCE, Calibration
from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory import Memory
from vla_retrieval.retriever import Retriever, make_probes
from vla_retrieval.self_calibration import calibrate, leave_one_out
from vla_retrieval.types import Filter, Known, Modality, NewEntry, Query, Similarity, Target

from .memory.oracle import fingerprint

DIM = 16
VISITS, FRAMES = 6, 3


def fill(memory: Memory, instructions: int = 8, noise: float = 0.5, episodes: str = "{i} {v}"):
    """Store visits to scenes: each an episode of a few frames that are all but the same."""
    rng = np.random.default_rng(5)
    scenes, texts, entries = [], [], []
    for i in range(instructions):
        scene, text = rng.normal(size=(2, DIM))
        for v in range(VISITS):
            seen, said = scene + noise * rng.normal(size=DIM), text
            for _ in range(FRAMES):
                scenes.append(seen + 0.01 * rng.normal(size=DIM))
                texts.append(said + 0.2 * rng.normal(size=DIM))
                entries.append(NewEntry(f"do {i}", 0, episode_id=episodes.format(i=i, v=v)))
    halves = [np.array(half, np.float32) for half in (scenes, texts)]
    halves = [half / np.linalg.norm(half, axis=1, keepdims=True) for half in halves]
    memory.add(entries, *halves)


@pytest.fixture(params=Similarity)
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Memory]:
    with Memory.open(tmp_path / "m", fingerprint(DIM), request.param, durable=False) as memory:
        yield memory


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Memory]:
    with Memory.open(tmp_path / "m", fingerprint(DIM), durable=False) as memory:
        fill(memory)
        yield memory


def oracle(memory: Memory, weight: float, direction: str) -> list[tuple[bool, float, float]]:
    """Ask the memory itself with each entry, other entries excluded by their ids."""
    parts, target = DIRECTIONS[direction]
    entries = memory.get_many(memory.entry_ids())
    found = []
    for entry in entries:
        scene, instruction = memory.embeddings(entry.entry_id)
        probes = make_probes(
            target, weight, scene if Modality.SCENE in parts else None,
            instruction if Modality.INSTRUCTION in parts else None,
        )  # fmt: skip
        own = [e.entry_id for e in entries if e.episode_id == entry.episode_id]
        same = [e.entry_id for e in entries if e.instruction == entry.instruction]
        tops = [
            max(
                (
                    c.score
                    for c in memory.search(
                        probes, 1, filter=Filter(exclude_ids=tuple(away))
                    ).candidates
                ),
                default=-math.inf,
            )
            for away in (own, {*own, *same})
        ]
        found.append((bool(set(same) - set(own)), tops[0], tops[1]))
    return found


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_scores_are_those_of_searches_that_exclude_the_own_episode(
    memory: Memory, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_calibration, "_AT_ONCE", 7)  # several portions
    fill(memory, instructions=3)
    extra = NewEntry("said once", 0, episode_id="alone")
    memory.add([extra], *np.eye(2, DIM, dtype=np.float32)[:, None])
    labels = self_calibration._labels(memory, {}, lambda *_: None)
    scores = leave_one_out(memory, np.arange(len(labels.entry_ids)), labels, 0.3)
    has_answer, best, others = zip(*oracle(memory, 0.3, direction), strict=True)
    assert scores.has_answer.tolist() == list(has_answer)
    assert not has_answer[-1]
    np.testing.assert_allclose(scores.best[direction], best, atol=1e-6)
    np.testing.assert_allclose(scores.best_other[direction], others, atol=1e-6)


def test_a_query_never_sees_its_own_episode(filled: Memory) -> None:
    """Frames of an episode are all but the same: one that saw them would score 1."""
    labels = self_calibration._labels(filled, {}, lambda *_: None)
    scores = leave_one_out(filled, np.arange(len(labels.entry_ids)), labels, 0.5)
    assert scores.best["scene to scenes"].max() < 0.999


def test_what_is_found_is_stored_beside_the_memory_and_judges_queries(tmp_path: Path) -> None:
    with Memory.open(tmp_path / "m", fingerprint(DIM), durable=False) as memory:
        fill(memory)
        found = calibrate(memory, scene_weight=0.25, seed=3)
        memory.set_calibration(found.calibration.to_json())
    with Memory.open(tmp_path / "m", fingerprint(DIM), durable=False) as memory:
        stored = Calibration.from_json(memory.calibration() or "")
    assert stored == found.calibration
    assert (stored.memory_size, stored.queries) == (8 * VISITS * FRAMES, 8 * VISITS * FRAMES)
    assert (stored.scene_weight, stored.seed, stored.alpha) == (0.25, 3, 0.05)
    assert (found.episodes, found.instructions) == (8 * VISITS, 8)


def test_alpha_and_the_similarity_decide_what_counts_as_known(memory: Memory) -> None:
    """In what is stored and in what is reported alike."""
    fill(memory)
    found = calibrate(memory, alpha=0.2)
    assert found.calibration.directions
    for name, direction in found.calibration.directions.items():
        assert (direction.alpha, direction.tolerance) == (0.2, SCORE_TOLERANCE[memory.similarity])
        assert found.known[name].threshold == direction.threshold


def test_what_it_reports_is_right_where_all_is_told_apart(filled: Memory) -> None:
    found = calibrate(filled)
    result = found.known["pair"]
    assert result.answerable == result.absent == 8 * VISITS * FRAMES
    assert result.auroc.value > 0.99
    assert result.false_accepts.value < 0.05
    assert result.false_rejects.value <= 0.15
    assert result.false_rejects.low <= result.false_rejects.value <= result.false_rejects.high


def test_where_scores_say_nothing_the_report_says_so(filled: Memory) -> None:
    """Scenes and instructions here are unrelated: no modality finds the other."""
    result = calibrate(filled).known["scene to instructions"]
    assert result.auroc.value < 0.65
    assert result.false_accepts.value > 0.6


def test_a_direction_of_verbatim_repeats_is_left_out(tmp_path: Path) -> None:
    encoder = DoubleEncoder()
    with Memory.open(tmp_path / "m", encoder.fingerprint, durable=False) as memory:
        rng = np.random.default_rng(0)
        entries = [NewEntry(f"do {i % 8}", 0, episode_id=str(i)) for i in range(48)]
        images = rng.integers(0, 255, (48, 8, 8, 3), dtype=np.uint8)
        texts = encoder.encode_instructions([e.instruction for e in entries])
        memory.add(entries, encoder.encode_images(list(images)), texts)
        found = calibrate(memory)
    assert list(found.left_out) == ["instruction to instructions"]
    assert not set(found.left_out) & set(found.calibration.directions)


def test_instructions_that_mean_the_same_are_one(filled: Memory) -> None:
    """Pairs of them: four instructions are left, and neither of a pair is absent's answer."""
    apart = calibrate(filled)
    joined = calibrate(filled, same=[(f"do {i}", f"DO  {i + 1}") for i in range(0, 8, 2)])
    assert (apart.instructions, joined.instructions) == (8, 4)
    auroc = [found.known["scene to instructions"].auroc.value for found in (apart, joined)]
    assert auroc[1] > auroc[0]


def test_one_instruction_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    """As where bags are evaluated and heads are trained."""
    texts = ["pick up the cup", " Pick  UP\tthe cup ", "pick up the ｃup", "Pick up the cup."]
    entries = [NewEntry(text, 0, episode_id=text) for text in texts]
    with Memory.open(tmp_path / "m", fingerprint(DIM), durable=False) as memory:
        memory.add(entries, *np.eye(8, DIM, dtype=np.float32).reshape(2, 4, DIM))
        labels = self_calibration._labels(memory, {}, lambda *_: None)
    assert labels.instructions.tolist() == [0, 0, 0, 0]


def test_an_instruction_in_two_groups_is_named(filled: Memory) -> None:
    with pytest.raises(InvalidInputError, match="'do 1' in two"):
        calibrate(filled, same=[("do 0", "do 1"), ("Do 1", "do 2")])


def test_fewer_queries_are_spread_over_the_episodes(filled: Memory) -> None:
    labels = self_calibration._labels(filled, {}, lambda *_: None)
    asked = self_calibration._chosen(labels, 8 * VISITS, seed=1)
    assert len(np.unique(labels.episodes[asked])) == 8 * VISITS


def test_the_same_seed_finds_the_same(filled: Memory) -> None:
    found = [calibrate(filled, queries=100, seed=2) for _ in range(2)]
    assert found[0].calibration.directions == found[1].calibration.directions
    assert found[0].known == found[1].known


@pytest.mark.parametrize(
    ("instructions", "episodes", "said"),
    [
        (0, "{i} {v}", "0 entries of 0"),
        (1, "{i} {v}", "18 entries of 1"),
        (8, "", "got 0 such among 144 queries from 1 episodes"),
        (8, "{i}", "got 0 such among 144 queries from 8 episodes"),
        (3, "{i} {v}", "got 18 such"),
    ],
)
def test_too_little_data_is_refused_with_what_is_missing(
    tmp_path: Path, instructions: int, episodes: str, said: str
) -> None:
    with Memory.open(tmp_path / "m", fingerprint(DIM), durable=False) as memory:
        if instructions:
            fill(memory, instructions, episodes=episodes)
        with pytest.raises(InvalidInputError, match=said):
            calibrate(memory)


@pytest.mark.parametrize("field", ["alpha", "scene_weight", "queries"])
def test_an_argument_out_of_range_is_named(filled: Memory, field: str) -> None:
    with pytest.raises(InvalidInputError, match=field):
        calibrate(filled, **{field: -1})


class TestRetriever:
    """A calibrated memory that holds colours; the double knows colours by name."""

    COLOURS = (
        ("red", (220, 30, 30)),
        ("green", (30, 170, 50)),
        ("blue", (30, 60, 210)),
        ("yellow", (235, 215, 40)),
    )

    @pytest.fixture
    def retriever(self, tmp_path: Path) -> Iterator[Retriever]:
        encoder = DoubleEncoder()
        rng = np.random.default_rng(0)
        with Memory.open(tmp_path / "m", encoder.fingerprint, durable=False) as memory:
            retriever = Retriever(encoder, memory, thumbnail_px=0)
            for visit in range(10):
                for name, colour in self.COLOURS:
                    noise = rng.integers(-20, 20, (16, 16, 3))
                    image = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                    episode = f"{name} {visit}"
                    retriever.remember(image, NewEntry(f"the {name} cup", 0, episode_id=episode))
            yield retriever

    def store(self, retriever: Retriever) -> None:
        found = calibrate(retriever.memory)
        retriever.memory.set_calibration(found.calibration.to_json())

    def test_says_nothing_before_it_is_calibrated(self, retriever: Retriever) -> None:
        answer = retriever.retrieve(Query(instruction="the red cup"))
        assert answer.known is Known.NOT_CALIBRATED
        assert math.isnan(answer.known_confidence)

    def test_knows_what_is_there_and_what_is_not(self, retriever: Retriever) -> None:
        self.store(retriever)
        yes = retriever.retrieve(Query(instruction="the red cup"))
        no = retriever.retrieve(Query(instruction="quantum chromodynamics lecture"))
        assert (yes.known, no.known) == (Known.YES, Known.NO)
        assert yes.known_confidence > 0.5 > no.known_confidence

    def test_judges_by_the_best_score_though_none_is_wanted(self, retriever: Retriever) -> None:
        self.store(retriever)
        all_of_it = retriever.retrieve(Query(instruction="the red cup"))
        none = retriever.retrieve(Query(instruction="the red cup", min_score=0.9999, k=1))
        assert not none.matches
        assert none.known is Known.YES
        assert none.known_confidence == all_of_it.known_confidence

    def test_matches_of_exactly_the_least_score_stay(self, retriever: Retriever) -> None:
        scores = [m.score for m in retriever.retrieve(Query(instruction="the red cup")).matches]
        query = Query(instruction="the red cup", min_score=scores[3])
        assert [m.score for m in retriever.retrieve(query).matches] == scores[:4]

    def test_judges_what_passes_the_filter(self, retriever: Retriever) -> None:
        self.store(retriever)
        blue = tuple(f"blue {visit}" for visit in range(10))
        query = Query(instruction="the red cup", filter=Filter(episode_ids=blue))
        assert retriever.retrieve(query).known is Known.NO

    def test_where_nothing_passes_nothing_is_known_calibrated_or_not(
        self, retriever: Retriever
    ) -> None:
        query = Query(instruction="the red cup", filter=Filter(episode_ids=("none",)))
        answer = retriever.retrieve(query)
        assert (answer.known, answer.known_confidence) == (Known.NO, 0.0)

    def test_another_weight_is_not_judged(self, retriever: Retriever) -> None:
        self.store(retriever)
        image = np.full((16, 16, 3), 30, np.uint8)
        for weight, calibrated in ((0.5, True), (0.6, False)):
            query = Query(image, "the red cup", Target.PAIR, scene_weight=weight)
            known = retriever.retrieve(query).known
            assert (known is not Known.NOT_CALIBRATED) is calibrated

    def test_another_similarity_is_not_judged(self, retriever: Retriever, tmp_path: Path) -> None:
        self.store(retriever)
        retriever.memory.close()
        encoder = retriever.encoder
        with Memory.open(tmp_path / "m", encoder.fingerprint, Similarity.DOT) as memory:
            answer = Retriever(encoder, memory).retrieve(Query(instruction="the red cup"))
        assert answer.known is Known.NOT_CALIBRATED

    def test_judges_by_the_calibration_that_was_stored_last(self, retriever: Retriever) -> None:
        query = Query(instruction="the red cup")
        retriever.memory.set_calibration("gibberish")
        assert retriever.retrieve(query).known is Known.NOT_CALIBRATED
        self.store(retriever)
        assert retriever.retrieve(query).known is Known.YES

    def test_judges_no_more_once_no_calibration_is_stored(self, retriever: Retriever) -> None:
        query = Query(instruction="the red cup")
        self.store(retriever)
        assert retriever.retrieve(query).known is Known.YES
        retriever.memory.set_calibration(None)
        assert retriever.retrieve(query).known is Known.NOT_CALIBRATED

    def test_a_text_that_is_no_calibration_is_none(
        self, retriever: Retriever, caplog: pytest.LogCaptureFixture
    ) -> None:
        retriever.memory.set_calibration("gibberish")
        for _ in range(2):
            answer = retriever.retrieve(Query(instruction="the red cup"))
            assert answer.known is Known.NOT_CALIBRATED
        assert caplog.text.count("memory calibrate") == 1
