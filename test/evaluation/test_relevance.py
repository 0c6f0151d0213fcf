"""Which entries are relevant, by each way to say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.relevance import (
    ByKey,
    ForGallery,
    Labels,
    normalise,
    read_labels,
)
from vla_retrieval.evaluation.trec import read_qrels


def pairs(qrels: Qrels) -> dict[str, dict[int, int]]:
    found: dict[str, dict[int, int]] = {query_id: {} for query_id in qrels.query_ids}
    for row, entry, grade in zip(qrels.rows, qrels.entry_ids, qrels.grades, strict=True):
        found[qrels.query_ids[row]][int(entry)] = int(grade)
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pick up the cup.", "pick  up\tthe CUP"),
        ("拿起桌子上的杯子。", "拿起桌子上的杯子"),
        ("拿起杯子！", "拿起杯子!"),
        ("ｐｉｃｋ\u3000ｕｐ", "pick up"),
        ("STRASSE", "straße"),
        ("go ...", "go"),
    ],
)
def test_one_instruction_written_differently_is_one(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("pick up the cup", "pick up the cups"), ("杯子", "盒子"), ("...", "")],
)
def test_different_instructions_stay_different(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize("mark", [*".!?,;:~", *"。！？，；：、…｡", "\u3000", "?!"])
def test_a_mark_at_the_end_changes_no_instruction(mark: str) -> None:
    assert normalise(f"pick up the cup{mark}") == normalise("pick up the cup")


@settings(deadline=None)
@given(st.text())
@example("\u03aa\u0301")  # folding takes its normal form away
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_equal_instructions_are_relevant() -> None:
    gallery = ByKey([7, 3, 5], map(normalise, ["go", "Stop", "go!"]))
    qrels = gallery.qrels(["q1", "q2"], [normalise("Go."), normalise("stop")])

    assert pairs(qrels) == {"q1": {5: 1, 7: 1}, "q2": {3: 1}}


def test_a_query_without_a_relevant_entry_is_kept() -> None:
    assert pairs(ByKey([1], ["b"]).qrels(["q1", "q2"], ["a", "b"])) == {"q1": {}, "q2": {1: 1}}


def test_equal_episodes_are_relevant_and_no_episode_is_equal_to_none() -> None:
    gallery = ByKey([1, 2, 3], ["e1", "", "e2"])

    assert pairs(gallery.qrels(["q1", "q2"], ["e1", ""])) == {"q1": {1: 1}, "q2": {}}
    assert gallery.most == 1


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abe"), max_size=9))
def test_judging_query_by_query_is_judging_all(entry_keys: list[str], asked: list[str]) -> None:
    gallery = ByKey(range(len(entry_keys)), entry_keys)
    query_ids = [f"q{n}" for n in range(len(asked))]

    whole = pairs(gallery.qrels(query_ids, asked))

    assert whole == {
        query_id: {n: 1 for n, of_entry in enumerate(entry_keys) if of_entry == key}
        for query_id, key in zip(query_ids, asked, strict=True)
    }
    for query_id, key in zip(query_ids, asked, strict=True):
        assert pairs(gallery.qrels([query_id], [key])) == {query_id: whole[query_id]}
    assert gallery.most >= max(map(len, whole.values()), default=0)


def test_equal_labels_are_relevant_and_words_without_a_label_are_their_own() -> None:
    labels = {"pick up the cup": "cup", "拿起杯子": "cup"}
    words = ["Pick up the cup!", "拿起杯子。", "open the door", "cup"]

    keys = list(map(Labels(labels), words))
    qrels = ByKey([1, 2, 3, 4], keys).qrels(["a", "b", "c", "d"], keys)

    assert pairs(qrels) == {"a": {1: 1, 2: 1}, "b": {1: 1, 2: 1}, "c": {3: 1}, "d": {4: 1}}


def test_two_labels_for_one_instruction_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="one label"):
        Labels({"go": "a", "Go.": "b"})


def test_ids_and_keys_must_be_as_many() -> None:
    with pytest.raises(InvalidInputError, match="entry_ids"):
        ByKey([1, 2], ["k"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.yaml", "拿起杯子: cup\npick up the cup: cup\n"),
        ("labels.yaml", "cup:\n- 拿起杯子\n- pick up the cup\n"),
        ("labels.json", '{"cup": ["拿起杯子", "pick up the cup"]}'),
        ("labels.json", '\ufeff{"拿起杯子": "cup", "pick up the cup": "cup"}'),
    ],
)
def test_labels_are_read_in_either_direction(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")

    assert read_labels(path) == {"拿起杯子": "cup", "pick up the cup": "cup"}


@pytest.mark.parametrize(
    "text",
    ["- a\n", "a: {b: c}\n", "a: [1]\n", "a: ''\n", "[", "a: [x]\nb: [x]", "[" * 5000],
    ids=["list", "mapping", "number", "nothing", "cut off", "two labels", "nested without end"],
)
def test_a_file_that_holds_no_labels_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text(text)

    with pytest.raises(InvalidInputError, match=r"labels\.yaml"):
        read_labels(path)
    with pytest.raises(InvalidInputError, match=r"nothing\.yaml"):
        read_labels(tmp_path / "nothing.yaml")


def test_a_qrels_file_is_brought_to_the_gallery_with_its_grades(tmp_path: Path) -> None:
    path = tmp_path / "qrels.txt"
    path.write_text("q2 0 1 3\nq2 0 9 1\nq1 0 2 1\nother 0 1 2\nq3 0 1 0\n")

    gallery = ForGallery(read_qrels(path), [1, 2])
    asked = ["q1", "q2", "q3", "q4"]
    notes = gallery.notes(asked)

    assert pairs(gallery.qrels(asked)) == {"q1": {2: 1}, "q2": {1: 3}, "q3": {}, "q4": {}}
    assert any("1 of 4 queries" in note for note in notes)
    assert any("1 judgement(s)" in note for note in notes)


def test_qrels_without_anything_are_brought_along_too() -> None:
    assert pairs(ForGallery(Qrels.from_mapping({}), []).qrels(["q"])) == {"q": {}}
