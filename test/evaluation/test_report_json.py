from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from test.evaluation import made_up
from vla_retrieval.errors import InvalidInputError, StorageError
from vla_retrieval.evaluation import results
from vla_retrieval.evaluation.report.json_file import (
    VERSION,
    from_json,
    read_json,
    to_json,
    write_json,
)

SMALL = replace(made_up.small(), notes=("厨房",))


def any_evaluation() -> st.SearchStrategy[results.Evaluation]:
    # A float that is whole must come back as a float, so the strategies follow the annotations.
    few = {"max_size": 2}
    texts = st.text(max_size=8)
    floats = st.floats()
    counts = st.integers(0, 2**70)
    estimates = st.builds(results.Estimate, floats, floats, floats)
    shown = st.builds(results.Shown, counts, texts, floats, counts, texts)
    examples = st.builds(
        results.Example, texts, texts, counts, floats, st.lists(shown, **few).map(tuple), texts
    )
    rows = st.builds(
        results.InstructionRow, texts, counts, floats, st.dictionaries(texts, floats, **few)
    )
    averages = st.dictionaries(texts, estimates, **few)
    shows = st.lists(examples, **few).map(tuple)
    directions = st.builds(
        results.DirectionResult, counts, counts, averages, averages,
        st.lists(rows, **few).map(tuple), shows, shows, shows,
    )  # fmt: skip
    known = st.builds(results.KnownResult, counts, counts, floats, *[estimates] * 3)
    numbers = st.lists(floats, max_size=3).map(tuple)
    stages = st.builds(
        results.StageSummary, counts, *[floats] * 4, numbers, st.lists(counts, **few).map(tuple)
    )
    drops = st.dictionaries(texts, counts, **few)
    agreements = st.builds(results.Agreement, counts, counts, counts, counts, floats, floats)
    live = st.builds(
        results.LiveResult, counts, counts, stages, stages, drops, st.none() | stages,
        st.dictionaries(texts, agreements, **few), texts,
    )  # fmt: skip
    points = st.builds(results.MapPoint, floats, floats, texts, texts)
    return st.builds(
        results.Evaluation, texts, st.dictionaries(texts, texts, **few),
        st.dictionaries(texts, counts, **few), st.lists(texts, **few).map(tuple),
        st.dictionaries(texts, directions, **few), st.dictionaries(texts, known, **few),
        st.dictionaries(texts, stages, **few), st.lists(points, **few).map(tuple),
        st.none() | live, st.dictionaries(texts, floats, **few),
    )  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(any_evaluation())
def test_an_evaluation_comes_back_with_every_digit(evaluation: results.Evaluation) -> None:
    # repr() and not ==, because NaN is not equal to itself; it spells floats exactly.
    assert repr(from_json(to_json(evaluation))) == repr(evaluation)


def test_a_large_evaluation_comes_back() -> None:
    evaluation = made_up.evaluation()

    assert repr(from_json(to_json(evaluation))) == repr(evaluation)


def test_numbers_that_json_lacks_are_spelt_as_documented() -> None:
    known = results.KnownResult(0, 0, math.inf, *[results.Estimate(math.nan, -math.inf, 0.5)] * 3)

    text = to_json(replace(SMALL, known={"pair": known}))

    found = json.loads(text, parse_constant=pytest.fail)["evaluation"]["known"]["pair"]
    assert found["threshold"] == "Infinity"
    assert found["auroc"] == {"value": None, "low": "-Infinity", "high": 0.5}


def test_chinese_is_legible_in_the_file_and_half_a_character_survives() -> None:
    evaluation = replace(SMALL, notes=("把杯子放下", "half \ud83d"))

    text = to_json(evaluation)

    assert "把杯子放下" in text
    assert from_json(text.encode().decode()).notes == evaluation.notes


def test_numbers_of_numpy_are_written_as_numbers() -> None:
    evaluation = replace(SMALL, counts={"frames": np.int64(3)})

    assert from_json(to_json(evaluation)).counts == {"frames": 3}


def document(**changes: Any) -> dict[str, Any]:
    return json.loads(to_json(SMALL)) | changes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "JSON"),
        ('{"a": NaN}', "NaN"),
        ("[" * 100_000, "JSON"),
        ("[]", "format"),
        (json.dumps(document(format="other")), "format"),
        (json.dumps(document(version=VERSION + 1)), "version"),
        (json.dumps(document(evaluation=None)), "evaluation: expected an object"),
        (json.dumps(document(evaluation={})), "evaluation.hash: expected a value"),
    ],
)
def test_what_is_no_evaluation_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        from_json(text)


@pytest.mark.parametrize("wrong", ["0.5", True, [], 10**400])
def test_a_damaged_number_is_named_by_its_place(wrong: object) -> None:
    damaged = document()
    damaged["evaluation"]["directions"]["scene to scenes"]["micro"]["hit@1"]["value"] = wrong

    with pytest.raises(InvalidInputError) as caught:
        from_json(json.dumps(damaged))

    assert caught.value.field == "evaluation.directions.scene to scenes.micro.hit@1.value"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(st.sampled_from(sorted(document()["evaluation"])), JSON_VALUES)
def test_any_value_in_any_field_is_read_or_refused(name: str, value: object) -> None:
    damaged = document()
    damaged["evaluation"][name] = value

    # Any other error fails the test.
    with suppress(InvalidInputError):
        assert isinstance(from_json(json.dumps(damaged)), results.Evaluation)


def test_unknown_fields_are_passed_over_and_fields_with_a_default_may_lack() -> None:
    other = document()
    other["evaluation"]["from_the_future"] = 1
    del other["evaluation"]["live"]

    assert repr(from_json(json.dumps(other))) == repr(SMALL)


def test_a_file_is_written_whole_and_never_over_another(tmp_path: Path) -> None:
    write_json(SMALL, tmp_path / "evaluation.json")

    assert repr(read_json(tmp_path / "evaluation.json")) == repr(SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]
    with pytest.raises(InvalidInputError, match="does not exist yet"):
        write_json(SMALL, tmp_path / "evaluation.json")


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes(b"\xff")

    with pytest.raises(StorageError, match="No such file"):
        read_json(tmp_path / "nothing.json")
    with pytest.raises(InvalidInputError, match="UTF-8"):
        read_json(tmp_path / "latin.json")
