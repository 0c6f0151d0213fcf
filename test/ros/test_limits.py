"""The size of a request beside its picture."""

from __future__ import annotations

import array

import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import KeyValue
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.ros.limits import check_request_size, pictures_bytes, size_bytes
from vla_retrieval_msgs.msg import ActionPayload, Filter
from vla_retrieval_msgs.srv import GetStats, Remember, Retrieve


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Retrieve.Request(instruction="x" * 5000), "instruction"),
        (Retrieve.Request(instruction="杯" * 1500), "instruction"),
        (Retrieve.Request(filter=Filter(exclude_ids=[1] * 600)), "filter"),
        (Remember.Request(tags=["red"] * 1500), "tags"),
        (Remember.Request(metadata=[KeyValue(key="a", value="b" * 5000)]), "metadata"),
        (
            Remember.Request(action=ActionPayload(values=array.array("f", bytes(4 * 1200)))),
            "action",
        ),
    ],
)
def test_a_request_that_is_too_large_is_refused_by_its_largest_field(
    request_: object, field: str
) -> None:
    """The error says the limit, the size and the parameter."""
    with pytest.raises(InvalidInputError, match="max_request_kb") as caught:
        check_request_size(request_, 4096)
    assert caught.value.field == field
    check_request_size(request_, 8192)


def test_the_picture_does_not_count() -> None:
    """It has a limit of its own."""
    check_request_size(Retrieve.Request(image=Image(data=bytes(10_000))), 4096)


@given(
    tags=st.lists(st.text(max_size=30), max_size=20),
    values=st.lists(st.floats(width=32), max_size=50),
    pairs=st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=9),
)
def test_no_request_is_larger_on_the_wire_than_it_counts_for(
    tags: list[str], values: list[float], pairs: list[tuple[str, str]]
) -> None:
    """Each text and list has a few bytes of length, a terminator and alignment on top, no more."""
    request = Remember.Request(
        tags=tags, action=ActionPayload(values=values),
        metadata=[KeyValue(key=key, value=value) for key, value in pairs],
    )  # fmt: skip
    overhead = 12 * (len(tags) + 2 * len(pairs) + 40)
    assert len(serialize_message(request)) <= size_bytes(request) + overhead


def test_a_nested_message_counts_with_all_its_numbers() -> None:
    """Numbers count eight bytes each, whatever their type."""
    assert size_bytes(Time(sec=1, nanosec=2)) == 16


def test_pictures_count_for_what_waits_whatever_kind_they_are() -> None:
    """And requests that have none for nothing."""
    picture, file = Image(data=bytes(10_000)), CompressedImage(data=bytes(500))
    assert pictures_bytes(Remember.Request(image=picture, instruction="cup")) == 10_000
    assert pictures_bytes(Retrieve.Request(compressed_image=file)) == 500
    assert pictures_bytes(GetStats.Request()) == 0
