"""How metrics and numbers are called and spelt in a report."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

NONE = "–"
"""Stands where there is no number."""
MINUS = "−"


@dataclass(frozen=True)
class MetricKind:
    """One metric at any K.

    Attributes:
        key: As in ``"hit@10"``, without the K.
        title: For people.
        meaning: What it counts, in one phrase.
    """

    key: str
    title: str
    meaning: str


KINDS = (
    MetricKind("hit", "hit@K", "share of queries with at least one relevant entry in the first K"),
    MetricKind("recall", "Recall@K", "share of a query’s relevant entries that the first K hold"),
    MetricKind("mrr", "MRR", "1 / rank of the first relevant entry, 0 where none is retrieved"),
    MetricKind("ndcg", "NDCG@K", "gain of the first K by grade and rank, over the best possible"),
    MetricKind("accuracy", "Accuracy@K", "share of the first K that is relevant"),
)
_BY_KEY = {kind.key: kind for kind in KINDS}


def split_metric(name: str) -> tuple[str, int | str]:
    """Return a metric's name and its K, ``""`` where it has none."""
    key, _, k = name.rpartition("@")
    # int() takes other digits than these, and signs and spaces.
    if key and k.isascii() and k.isdigit() and len(k) <= 9:
        return key, int(k)
    return name, ""


def kind_of(key: str) -> MetricKind:
    """Return what is known of a metric; one that is not known is called by its name."""
    return _BY_KEY.get(key) or MetricKind(key, key, "")


def at_k(name: str) -> str:
    """Return a metric's name for people: ``"recall@5"`` is ``"Recall@5"``; others stay."""
    key, k = split_metric(name)
    kind = _BY_KEY.get(key)
    if kind is None:
        return name
    return kind.title.replace("@K", "" if k == "" else f"@{k}")


def by_kind(names: Iterable[str]) -> dict[str, list[str]]:
    """Return metrics by their name without the K: kinds as in ``KINDS``, Ks from small to large."""
    found: dict[str, list[str]] = {kind.key: [] for kind in KINDS}
    for name in dict.fromkeys(names):
        found.setdefault(split_metric(name)[0], []).append(name)
    for of_kind in found.values():
        of_kind.sort(key=lambda name: int(split_metric(name)[1] or 0))
    return {key: of_kind for key, of_kind in found.items() if of_kind}


def spell(value: float, digits: int = 3, *, signed: bool = False) -> str:
    """Return a number with a fixed number of digits; NaN is a dash, infinity its sign."""
    if math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if not float(text):
        text = text.lstrip("+-")  # what rounds to zero has no sign
    return text.replace("-", MINUS)


def spell_interval(low: float, high: float, digits: int = 3, *, signed: bool = False) -> str:
    """Return ``low to high``, ``low–high`` where no sign may come, or ``""`` without bounds."""
    if math.isnan(low) and math.isnan(high):
        return ""
    first, last = (spell(bound, digits, signed=signed) for bound in (low, high))
    return f"{first} to {last}" if signed or low < 0 else f"{first}–{last}"


def spell_ms(value: float) -> str:
    """Return milliseconds with three significant digits, or whole ones from 100 on."""
    if not math.isfinite(value):
        return spell(value)
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return grouped(spell(value, digits))


def spell_count(value: int) -> str:
    """Return a whole number with thin spaces between thousands."""
    return grouped(str(value).replace("-", MINUS))


def grouped(text: str) -> str:
    """Return a number's text with narrow no-break spaces between thousands."""
    sign = MINUS if text.startswith(MINUS) else ""
    whole, dot, rest = text.removeprefix(MINUS).partition(".")
    if not whole.isdigit():
        return text
    return f"{sign}{int(whole):,}".replace(",", "\u202f") + dot + rest


def spell_p(p: float) -> str:
    """Return a p value with three digits; one below 0.001 is ``< 0.001``."""
    return "< 0.001" if p < 0.001 else spell(p)
