"""From a query to ranked matches, without ROS: against brute force over the encoder's vectors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_retrieval import deadline, diversity
from vla_retrieval.deadline import Deadline
from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.errors import (
    DeadlineExceededError,
    EntryNotFoundError,
    InvalidInputError,
    MemoryFormatError,
)
from vla_retrieval.memory import Memory
from vla_retrieval.memory.options import MemoryOptions
from vla_retrieval.memory.results import SearchResult
from vla_retrieval.retriever import Retriever, make_probes
from vla_retrieval.thumbnails import make_thumbnail, read_thumbnail
from vla_retrieval.types import (
    Filter,
    Modality,
    NewEntry,
    Query,
    Remembered,
    RgbImage,
    StageTimes,
    Target,
)

TEXTS = ("pick up the red cup", "open the drawer", "拿起桌子上的杯子", "pick up the cup")


def picture(seed: int) -> RgbImage:
    """Return a picture of coloured patches that is like no other seed's."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.ascontiguousarray(patches.repeat(8, axis=0).repeat(8, axis=1))


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retriever]:
    """Return a retriever that remembers the four texts with a picture each."""
    encoder = DoubleEncoder()
    folder = tmp_path_factory.mktemp("retriever") / "memory"
    with Memory.open(folder, encoder.fingerprint) as memory:
        retriever = Retriever(encoder, memory)
        for number, text in enumerate(TEXTS):
            entry = NewEntry(instruction=text, stamp_ns=number, episode_id=f"e{number}")
            assert retriever.remember(picture(number), entry).entry_id == number + 1
        yield retriever


@pytest.fixture
def two_alike(tmp_path: Path) -> Iterator[Retriever]:
    """Return a retriever that remembers two scenes, 1 and 2, with the instruction "same"."""
    encoder = DoubleEncoder()
    with Memory.open(tmp_path / "memory", encoder.fingerprint) as memory:
        retriever = Retriever(encoder, memory)
        for number in (1, 2):
            retriever.remember(picture(number), NewEntry(instruction="same", stamp_ns=number))
        yield retriever


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("parts", ["image", "instruction", "both"])
@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_every_direction_equals_the_weighted_sum_over_the_encoders_vectors(
    retriever: Retriever, target: Target, parts: str, weight: float
) -> None:
    encoder = retriever.encoder
    image = None if parts == "instruction" else picture(2)
    text = None if parts == "image" else "pick up the mug"
    query = Query(image=image, instruction=text, target=target, scene_weight=weight, k=4)

    scenes = encoder.encode_images([picture(n) for n in range(4)]).astype(np.float64)
    instructions = encoder.encode_instructions(TEXTS).astype(np.float64)
    asked = [encoder.encode_images([image])[0]] if image is not None else []
    asked += [encoder.encode_instructions([text])[0]] if text is not None else []
    first, last = asked[0].astype(np.float64), asked[-1].astype(np.float64)
    share = weight if len(asked) == 2 else 1.0
    expected = {
        Target.SCENES: share * scenes @ first + (1 - share) * scenes @ last,
        Target.INSTRUCTIONS: share * instructions @ first + (1 - share) * instructions @ last,
        Target.PAIR: weight * scenes @ first + (1 - weight) * instructions @ last,
    }[target]

    matches = retriever.retrieve(query).matches
    assert [m.rank for m in matches] == [1, 2, 3, 4]
    np.testing.assert_allclose([m.score for m in matches], np.sort(expected)[::-1], atol=1e-6)
    for match in matches:
        assert match.score == pytest.approx(expected[match.entry.entry_id - 1], abs=1e-6)
        assert match.entry.instruction == TEXTS[match.entry.entry_id - 1]


@given(weight=st.floats(0, 1), has_image=st.booleans(), has_text=st.booleans())
def test_the_weights_of_the_probes_add_up_to_one(
    weight: float, has_image: bool, has_text: bool
) -> None:
    vector = np.ones(4, np.float32) / 2
    image, text = (vector if has_image else None), (vector if has_text else None)
    for target in Target:
        if not (has_image or has_text):
            with pytest.raises(ValueError, match="got neither"):
                make_probes(target, weight, image, text)
            continue
        probes = make_probes(target, weight, image, text)
        assert sum(probe.weight for probe in probes) == pytest.approx(1.0)
        halves = {probe.modality for probe in probes}
        assert (
            halves
            == {
                Target.SCENES: {Modality.SCENE},
                Target.INSTRUCTIONS: {Modality.INSTRUCTION},
                Target.PAIR: set(Modality),
            }[target]
        )


def test_a_filter_leaves_k_matches_whenever_k_entries_pass(retriever: Retriever) -> None:
    query = Query(instruction=TEXTS[0], filter=Filter(episode_ids=("e1", "e2")), k=2)
    found = retriever.retrieve(query)
    assert sorted(m.entry.entry_id for m in found.matches) == [2, 3]
    assert (found.eligible_size, found.memory_size) == (2, 4)


def test_every_match_counts_as_a_use_of_its_entry(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    monkeypatch.setattr(retriever.memory, "note_use", used.extend)
    found = retriever.retrieve(Query(instruction="cup", k=3))
    assert used == [match.entry.entry_id for match in found.matches]
    assert found.exact


def test_a_repeated_pair_is_counted_at_the_first_and_the_oldest_makes_room(tmp_path: Path) -> None:
    encoder = DoubleEncoder()
    options = MemoryOptions(max_entries=2, merge_scene=0.999)
    with Memory.open(tmp_path / "memory", encoder.fingerprint, options=options) as memory:
        retriever = Retriever(encoder, memory)
        pairs = [NewEntry(instruction="same", stamp_ns=number) for number in range(4)]
        assert retriever.remember(picture(0), pairs[0]) == Remembered(1, False, ())
        assert retriever.remember(picture(0), pairs[1]) == Remembered(1, True, ())
        second = retriever.remember(picture(1), pairs[2])
        assert (second.merged, second.evicted_ids) == (False, ())
        assert retriever.remember(picture(2), pairs[3]).evicted_ids == (1,)


def test_thumbnails_come_only_when_asked_for(retriever: Retriever) -> None:
    query = Query(instruction="cup")
    assert not retriever.retrieve(query).matches[0].entry.thumbnail
    jpeg = retriever.retrieve(query, thumbnails=True).matches[0].entry.thumbnail
    assert read_thumbnail(jpeg).shape == (48, 64, 3)


def test_an_entry_keeps_the_thumbnail_that_it_brings(two_alike: Retriever) -> None:
    own = make_thumbnail(picture(9), 10)
    kept = two_alike.remember(picture(3), NewEntry("pick up the cup", 3, thumbnail=own)).entry_id
    assert two_alike.memory.get(kept, thumbnail=True).thumbnail == own


def test_a_scene_that_is_encoded_already_is_not_encoded_again(retriever: Retriever) -> None:
    scene = retriever.encoder.encode_images([picture(1)])[0]
    query = Query(image=picture(3), target=Target.SCENES, k=1)
    assert retriever.retrieve(query, scene=scene).matches[0].entry.entry_id == 2


def test_a_deadline_that_has_passed_stops_the_query_before_it_costs_anything(
    retriever: Retriever,
) -> None:
    times = StageTimes()
    late = Deadline(at_sec=time.monotonic() - 1.0, timeout_sec=0.5)
    with pytest.raises(DeadlineExceededError, match=r"timeout_sec: no answer within 0\.5 s"):
        retriever.retrieve(Query(instruction="cup"), deadline=late, times=times)
    assert times == StageTimes()


def test_a_deadline_that_passes_during_the_search_keeps_entries_from_being_read(
    two_alike: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, now = two_alike.memory, [0.0]
    search = memory.search

    def slowly(*arguments: Any, **options: Any) -> SearchResult:
        now[0] = 9.0
        return search(*arguments, **options)

    monkeypatch.setattr(memory, "search", slowly)
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: now[0]))
    late = Deadline(at_sec=5.0, timeout_sec=5.0)
    with pytest.raises(DeadlineExceededError, match="before reading the matched entries"):
        two_alike.retrieve(Query(instruction="same"), deadline=late)


def test_the_total_time_is_at_least_the_sum_of_its_stages(retriever: Retriever) -> None:
    times = retriever.retrieve(Query(image=picture(1), instruction="cup")).times
    stages = times.encode_image_sec + times.encode_instruction_sec + times.filter_sec
    assert times.total_sec >= stages + times.search_sec + times.fetch_sec > 0


def test_a_match_forgotten_while_it_is_read_is_replaced_by_the_next_best(
    two_alike: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, removed = two_alike.memory, []
    read = memory.get_many

    def remove_then_read(ids: list[int], **options: bool) -> object:
        if not removed:
            removed.append(ids[0])
            memory.remove(ids[:1])
        return read(ids, **options)

    monkeypatch.setattr(memory, "get_many", remove_then_read)
    found = two_alike.retrieve(Query(instruction="same", k=1))
    assert [m.entry.entry_id for m in found.matches] == [2]
    assert found.memory_size == 1


def test_entries_that_are_found_for_ever_and_never_read_end_in_an_error(
    two_alike: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot and a database that do not belong together must not hold a thread for good."""

    def nobody(ids: list[int], **options: bool) -> object:
        raise EntryNotFoundError(f"entry_ids: no entries {ids}.")

    monkeypatch.setattr(two_alike.memory, "get_many", nobody)
    with pytest.raises(MemoryFormatError, match=r"memory: its index.*\[1\].*memory check"):
        two_alike.retrieve(Query(instruction="same", k=1))


def test_a_writer_that_takes_its_time_is_waited_for(
    two_alike: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the commit, which everybody sees, and the index."""
    memory, tries = two_alike.memory, []
    changing, read = memory._live.changing, memory.get_many
    committed, enough = threading.Event(), threading.Event()

    def slowly(*numbers: int) -> object:
        committed.set()
        assert enough.wait(60)
        return changing(*numbers)

    def noted(ids: list[int], **options: bool) -> object:
        tries.append(time.monotonic())
        if tries[-1] - tries[0] > 0.3:
            enough.set()
        return read(ids, **options)

    monkeypatch.setattr(memory._live, "changing", slowly)
    writer = threading.Thread(target=memory.remove, args=([1],))
    writer.start()
    assert committed.wait(60)
    monkeypatch.setattr(memory, "get_many", noted)
    found = two_alike.retrieve(Query(instruction="same", k=2))
    writer.join()
    assert [m.entry.entry_id for m in found.matches] == [2]
    assert len(tries) > 2


@pytest.mark.parametrize(
    "image", [np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)], ids=["float64", "empty"]
)
def test_an_image_that_is_none_is_refused_with_what_it_should_have_been(
    retriever: Retriever, image: np.ndarray
) -> None:
    with pytest.raises(InvalidInputError, match="a uint8 array of shape"):
        retriever.remember(image, NewEntry("pick up the cup", 0))


def test_diversity_shows_different_scenes_before_copies_of_one(tmp_path: Path) -> None:
    encoder = DoubleEncoder()
    with Memory.open(tmp_path / "memory", encoder.fingerprint) as memory:
        retriever = Retriever(encoder, memory, thumbnail_px=0)
        for number in (0, 0, 0, 1, 2):
            retriever.remember(picture(number), NewEntry("pick up the cup", number))
        alike = retriever.retrieve(Query(image=picture(0), k=3))
        different = retriever.retrieve(Query(image=picture(0), k=3, diversity=0.9))
    assert [m.entry.entry_id for m in alike.matches] == [1, 2, 3]
    assert different.matches[0].entry.entry_id == 1
    assert {m.entry.entry_id for m in different.matches[1:]} == {4, 5}
    assert [m.rank for m in different.matches] == [1, 2, 3]


def test_diversity_keeps_the_scores_of_the_query(retriever: Retriever) -> None:
    plain = retriever.retrieve(Query(instruction="pick up the cup", k=4))
    scores = {m.entry.entry_id: m.score for m in plain.matches}
    spread = retriever.retrieve(Query(instruction="pick up the cup", k=4, diversity=0.5))
    assert {m.entry.entry_id: m.score for m in spread.matches} == scores


def test_diversity_compares_no_more_candidates_however_many_are_wanted(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a large memory may be wanted: the likeness of each to each would fill the RAM."""
    compared: list[int] = []
    cosines = diversity.cosines

    def noted(vectors: np.ndarray) -> np.ndarray:
        compared.append(len(vectors))
        return cosines(vectors)

    monkeypatch.setattr(diversity, "cosines", noted)
    monkeypatch.setattr(diversity, "MOST", 1)
    monkeypatch.setattr(diversity, "POOL", 2)
    plain = retriever.retrieve(Query(instruction="pick up the cup", k=10**6))
    spread = retriever.retrieve(Query(instruction="pick up the cup", k=10**6, diversity=0.5))
    assert compared == [2]
    assert [m.entry.entry_id for m in spread.matches] == [m.entry.entry_id for m in plain.matches]


def test_diversity_on_an_empty_memory_finds_nothing(tmp_path: Path) -> None:
    encoder = DoubleEncoder()
    with Memory.open(tmp_path / "memory", encoder.fingerprint) as memory:
        found = Retriever(encoder, memory).retrieve(Query(instruction="a cup", diversity=0.5))
    assert found.matches == ()
