"""Values from Python become a request, or an error that names the field."""

from __future__ import annotations

import array
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import KeyValue
from geometry_msgs.msg import PoseStamped
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.ros.requests import make_request
from vla_retrieval_msgs.msg import Filter
from vla_retrieval_msgs.srv import Forget, GetEntry, Remember, Retrieve


def test_what_is_given_is_in_the_request_and_the_rest_has_its_default() -> None:
    request = make_request(Retrieve.Request, {"instruction": "拿杯子", "k": 3})
    expected = Retrieve.Request(instruction="拿杯子", k=3)
    assert request == expected


@pytest.mark.parametrize(
    ("kind", "field", "value", "becomes"),
    [
        (Retrieve.Request, "timeout_sec", 1, 1.0),
        (Retrieve.Request, "k", np.int64(3), 3),
        (Retrieve.Request, "min_score", np.float64(0.5), 0.5),
        (Retrieve.Request, "use_newest_frame", np.bool_(True), True),
        (Remember.Request, "tags", ("kitchen", "cup"), ["kitchen", "cup"]),
        (Forget.Request, "entry_ids", np.array([2, 5]), [2, 5]),
        (Forget.Request, "entry_ids", [np.uint64(2), 5], [2, 5]),
    ],
)
def test_numbers_of_numpy_and_whole_ones_are_taken(
    kind: type[Any], field: str, value: Any, becomes: Any
) -> None:
    found = getattr(make_request(kind, {field: value}), field)
    assert (list(found) if isinstance(becomes, list) else found) == becomes


@pytest.mark.parametrize(
    ("kind", "field", "value", "said"),
    [
        (Retrieve.Request, "k", 3.0, "k: expected uint32, got float 3.0"),
        (Retrieve.Request, "k", "3", "k: expected uint32, got str '3'"),
        (Retrieve.Request, "k", -1, "k: expected uint32, got int -1"),
        (Retrieve.Request, "scene_weight", True, "scene_weight: expected float, got bool"),
        (Retrieve.Request, "min_score", 1e300, "min_score: expected float, got float 1e+300"),
        (Retrieve.Request, "instruction", None, "instruction: expected string, got NoneType"),
        (Retrieve.Request, "filter", {"tags": []}, "filter: expected vla_retrieval_msgs/Filter"),
        (Retrieve.Request, "filter", Filter(tags="cup"), "filter.tags: expected sequence<string>"),
        (Retrieve.Request, "image", Image(height="2"), "image.height: expected uint32, got str"),
        (Remember.Request, "tags", "kitchen", "tags: expected sequence<string>, got str 'kitchen'"),
        (
            Remember.Request, "metadata", [KeyValue(key="a", value=1)],
            "metadata[0].value: expected string, got int 1",
        ),
        (Forget.Request, "entry_ids", 5, "entry_ids: expected sequence<uint64>, got int 5"),
        (Forget.Request, "entry_ids", [-1], "entry_ids: expected sequence<uint64>, got list [-1]"),
        (GetEntry.Request, "entry_id", "1", "entry_id: expected uint64, got str '1'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_what_was_expected(
    kind: type[Any], field: str, value: Any, said: str
) -> None:
    """Sent as it is, most of them end the process: C code asserts."""
    with pytest.raises(InvalidInputError) as caught:
        make_request(kind, {field: value})
    assert str(caught.value).startswith(said)


def test_a_misspelled_field_is_an_error_that_names_the_one_that_was_meant() -> None:
    with pytest.raises(InvalidInputError, match=r"got 'min_scores'\. Did you mean min_score\?"):
        make_request(Retrieve.Request, {"min_scores": 0.9})


def test_a_long_value_is_not_shown_whole() -> None:
    with pytest.raises(InvalidInputError) as caught:
        make_request(Retrieve.Request, {"k": "9" * 100_000})
    assert len(str(caught.value)) < 300


def test_the_pixels_of_a_picture_are_not_looked_at_one_by_one() -> None:
    """A megabyte of them would take 60 ms."""

    class Pixels(array.array):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[int]:
            raise AssertionError("somebody looks at each of them")

    image = Image(height=2, width=2, encoding="rgb8", step=6)
    image._data = Pixels("B", bytes(12))  # as it is kept; the property would copy it
    request = make_request(Remember.Request, {"image": image})
    assert request.image == image
    assert request.image._data is image._data


def test_numbers_inside_of_messages_are_made_fit_too() -> None:
    """What is sent has them, not only what was checked: an int there ends the process."""
    pose = PoseStamped(header=Header(frame_id="map"))
    pose.pose.position.x, pose.pose.position.y = 1, np.float32(2.5)
    pair = KeyValue(key="a", value="b")
    given = {"camera_pose": pose, "metadata": [pair], "image": Image(height=np.int64(2))}
    request = make_request(Remember.Request, given)
    serialize_message(request)
    position = request.camera_pose.pose.position
    assert [type(number) for number in (position.x, position.y)] == [float, float]
    assert (position.x, position.y, request.camera_pose.header.frame_id) == (1.0, 2.5, "map")
    assert type(request.image.height) is int
    assert request.metadata == [pair]


def test_a_text_that_is_no_unicode_is_refused_with_its_field() -> None:
    """rclpy would fail on it later, without a name."""
    for fields, path in (
        ({"instruction": "\ud800"}, "instruction"),
        ({"filter": Filter(tags=["ok", "\udfff"])}, "filter.tags"),
    ):
        with pytest.raises(InvalidInputError, match=rf"{path}: expected valid Unicode"):
            make_request(Retrieve.Request, fields)
