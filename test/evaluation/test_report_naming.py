from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_retrieval.evaluation.report.naming import (
    at_k,
    by_kind,
    spell,
    spell_count,
    spell_interval,
    spell_ms,
    spell_p,
    split_metric,
)
from vla_retrieval.evaluation.report.texts import is_chinese, readable, spell_stamp


@pytest.mark.parametrize(
    ("name", "parts"),
    [("ndcg@10", ("ndcg", 10)), ("mrr", ("mrr", "")), ("own@x", ("own@x", "")), ("@3", ("@3", ""))],
)
def test_a_metric_splits_into_name_and_k(name: str, parts: tuple[str, object]) -> None:
    assert split_metric(name) == parts


def test_metrics_are_called_as_in_the_documents() -> None:
    assert [at_k(name) for name in ("hit@1", "recall@5", "ndcg@10", "mrr", "own@3")] == [
        "hit@1", "Recall@5", "NDCG@10", "MRR", "own@3",
    ]  # fmt: skip


def test_kinds_come_in_one_order_and_ks_from_small_to_large() -> None:
    names = ["own@2", "recall@10", "mrr", "hit@10", "hit@5", "recall@5", "hit@5"]

    assert by_kind(names) == {
        "hit": ["hit@5", "hit@10"], "recall": ["recall@5", "recall@10"], "mrr": ["mrr"],
        "own": ["own@2"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (0.12345, False, "0.123"), (math.nan, False, "–"), (-math.inf, False, "−∞"),
        (-0.0001, False, "0.000"), (0.0001, True, "0.000"), (0.01, True, "+0.010"),
        (-0.01, True, "−0.010"),
    ],
)  # fmt: skip
def test_numbers_are_spelt(value: float, signed: bool, text: str) -> None:
    assert spell(value, signed=signed) == text


def test_intervals_with_signs_do_not_look_like_subtractions() -> None:
    assert spell_interval(0.1, 0.2) == "0.100–0.200"
    assert spell_interval(-0.1, 0.2) == "−0.100 to 0.200"
    assert spell_interval(-0.1, 0.2, signed=True) == "−0.100 to +0.200"
    assert spell_interval(math.nan, math.nan) == ""


def test_times_counts_and_p_values_are_spelt() -> None:
    times = [0.8123, 9.994, 9.996, 41.26, 99.96, 12345.6, math.nan]
    assert [spell_ms(ms) for ms in times] == [
        "0.81", "9.99", "10.0", "41.3", "100", "12\u202f346", "–",
    ]  # fmt: skip
    assert [spell_count(n) for n in (0, 999, 1000, -1234567)] == [
        "0", "999", "1\u202f000", "−1\u202f234\u202f567",
    ]  # fmt: skip
    assert [spell_p(p) for p in (1.0, 0.05, 0.0009, math.nan)] == ["1.000", "0.050", "< 0.001", "–"]


@given(st.text(st.characters()))
def test_readable_text_is_bounded_and_stays_as_it_is_the_second_time(text: str) -> None:
    once = readable(text, 20)

    assert len(once) <= 20
    assert readable(once, 20) == once
    assert once.encode().decode() == once


def test_text_that_can_be_shown_is_left_alone() -> None:
    assert readable("拿起杯子\n\tضع 🙂") == "拿起杯子\n\tضع 🙂"
    assert readable("a\r\nb\rc\0d") == "a\nb\nc\ufffdd"


def test_chinese_is_told_from_japanese_and_korean() -> None:
    assert [is_chinese(text) for text in ("拿起cup", "カップを取る", "컵을 집어 木", "cup")] == [
        True, False, False, False,
    ]  # fmt: skip


def test_a_stamp_is_a_time_and_one_beyond_the_calendar_a_number() -> None:
    assert spell_stamp(1_763_900_000_123_456_789) == "2025-11-23 12:13:20.123 UTC"
    assert spell_stamp(10**30) == f"{10**30} ns"
