"""Errors are read by people."""

from __future__ import annotations

from vla_retrieval.errors import InvalidInputError


def test_an_error_names_the_field_what_was_expected_what_came_and_the_next_step() -> None:
    error = InvalidInputError("k", "a whole number", "'three'", "Ask for fewer.")
    assert str(error) == "k: expected a whole number, got 'three'. Ask for fewer."
    assert error.field == "k"


def test_what_came_is_cut_where_it_is_long_and_its_length_is_told() -> None:
    said = str(InvalidInputError("image.encoding", "rgb8", "x" * 5000, "Convert it."))
    assert said.startswith("image.encoding: expected rgb8, got xxx")
    assert said.endswith("x… (5000 characters). Convert it.")
    assert len(said) < 600
