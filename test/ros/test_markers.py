"""Where matches are drawn, in which colours, and what is said of those that are nowhere."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from hypothesis import given
from hypothesis import strategies as st
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from vla_retrieval.ros.markers import MOST_DRAWN, depth_m, make_markers, no_markers
from vla_retrieval_msgs.msg import Entry, Match, MatchArray


def pose(
    x: float = 0.0,
    y: float = 0.0,
    z: float = 0.0,
    turn: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0),
    frame_id: str = "map",
) -> PoseStamped:
    """Return a pose that was remembered long ago."""
    at = Header(frame_id=frame_id)
    at.stamp.sec = 1000
    a, b, c, d = turn
    return PoseStamped(
        header=at,
        pose=Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=a, y=b, z=c, w=d)),
    )


def match(rank: int, at: PoseStamped | None = None, **fields: object) -> Match:
    """Return a match, with a pose or without."""
    values = {"entry_id": 100 + rank, "score": 1.0 / rank, "instruction": f"task {rank}", **fields}
    if at is not None:
        values |= {"has_camera_pose": True, "camera_pose": at}
    return Match(rank=rank, **values)


def answer(*matches: Match, frame_id: str = "camera") -> MatchArray:
    """Return an answer to a query whose image has a frame."""
    return MatchArray(header=Header(frame_id=frame_id), matches=list(matches))


def drawn(reply: MatchArray) -> dict[tuple[str, int], Marker]:
    """Return the markers that are added, by namespace and id."""
    first, *rest = make_markers(reply).markers
    assert (first.action, first.ns) == (Marker.DELETEALL, "")
    assert all(marker.action == Marker.ADD for marker in rest)
    found = {(marker.ns, marker.id): marker for marker in rest}
    assert len(found) == len(rest), "two markers of one name"
    return found


def test_a_match_is_drawn_in_the_frame_and_at_the_place_that_it_was_remembered_in() -> None:
    turn = (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5))
    markers = drawn(answer(match(1, pose(1, 2, 3, turn)), match(2, pose(4, 5, 6, frame_id="odom"))))
    for rank, frame_id, place in ((1, "map", (1, 2, 3)), (2, "odom", (4, 5, 6))):
        for namespace in ("cameras", "places"):
            marker = markers[namespace, rank]
            position = marker.pose.position
            assert (position.x, position.y, position.z) == place
            assert marker.header.frame_id == frame_id
            # The transform of then is gone by now; the frame's present one is wanted.
            assert (marker.header.stamp.sec, marker.header.stamp.nanosec) == (0, 0)
            assert marker.frame_locked
    orientation = markers["cameras", 1].pose.orientation
    assert (orientation.z, orientation.w) == pytest.approx((turn[2], turn[3]))


def has_length(turn: list[float]) -> bool:
    """Tell quaternions whose squares numpy can add up; others have a test of their own."""
    return float(np.linalg.norm(turn)) > 1e-3


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(has_length), st.integers(1, 60))
def test_a_pyramid_is_what_a_camera_at_the_pose_sees(turn: list[float], rank: int) -> None:
    """OpenCV's pinhole camera, 60 degrees wide, has its corners in the corners of its image."""
    marker = drawn(answer(match(rank, pose(1.0, -2.0, 0.5, tuple(turn)))))["cameras", rank]
    x, y, z, w = np.array(turn) / np.linalg.norm(turn)
    axis = np.array([x, y, z])
    sine = np.linalg.norm(axis)
    rotation = cv2.Rodrigues(axis / sine * 2 * np.arctan2(sine, w) if sine else axis)[0]
    turned = marker.pose.orientation
    assert np.linalg.norm([turned.x, turned.y, turned.z, turned.w]) == pytest.approx(1)
    local = np.array([[p.x, p.y, p.z] for p in marker.points])
    edges = local[:16].reshape(8, 2, 3)  # from the tip to a corner, from there to the next one
    assert not edges[::2, 0].any()
    corners = edges[::2, 1]
    assert np.array_equal(edges[1::2], np.stack([corners, np.roll(corners, -1, axis=0)], axis=1))
    world = corners @ rotation.T + [1.0, -2.0, 0.5]
    into_camera = rotation.T
    shift = -into_camera @ [1.0, -2.0, 0.5]
    focal = 320 / np.tan(np.radians(30))
    intrinsic = np.array([[focal, 0, 320], [0, focal, 240], [0, 0, 1]])
    seen, _ = cv2.projectPoints(world, cv2.Rodrigues(into_camera)[0], shift, intrinsic, None)
    expected = {(0, 0), (640, 0), (640, 480), (0, 480)}
    assert {tuple(np.round(pixel).astype(int)) for pixel in seen[:, 0]} == expected
    assert np.allclose(np.abs(corners[:, 2]), depth_m(rank))


def test_the_tick_is_at_the_side_of_the_images_upper_edge() -> None:
    """An image's y axis points down, so up is negative y."""
    below, above = drawn(answer(match(1, pose())))["cameras", 1].points[-2:]
    assert above.y < below.y < 0
    assert above.z == below.z == depth_m(1)


def test_better_ranks_are_larger_and_have_their_own_colours() -> None:
    markers = drawn(answer(*(match(rank, pose(float(rank))) for rank in range(1, 6))))
    depths = [max(p.z for p in markers["cameras", rank].points) for rank in range(1, 6)]
    assert depths == sorted(depths, reverse=True)
    assert len(set(depths)) == 5
    shades = {(c.r, c.g, c.b) for c in (markers["cameras", r].color for r in range(1, 6))}
    assert len(shades) == 5


def test_however_bad_its_rank_a_pyramid_can_be_seen() -> None:
    assert depth_m(10_000) >= 0.1


def test_the_ball_tells_the_outcome_in_colour_and_the_label_in_words() -> None:
    outcomes = (Entry.OUTCOME_UNKNOWN, Entry.OUTCOME_SUCCESS, Entry.OUTCOME_FAILURE)
    markers = drawn(
        answer(*(match(n, pose(float(n)), outcome=o) for n, o in enumerate(outcomes, 1)))
    )
    gray, green, red = (markers["places", rank].color for rank in (1, 2, 3))
    assert gray.r == gray.g == gray.b
    assert green.g > max(green.r, green.b)
    assert red.r > max(red.g, red.b)
    assert [markers["labels", rank].text for rank in (1, 2, 3)] == [
        "1. 1.000 #101: task 1", "2. 0.500 #102, success: task 2", "3. 0.333 #103, failure: task 3",
    ]  # fmt: skip
    assert all(m.color.a == 1.0 for m in markers.values())


def test_what_lies_at_one_place_shares_a_label_above_it() -> None:
    """Labels on top of each other cannot be read."""
    here, near, elsewhere = pose(1, 1, 1), pose(1, 1.05, 1), pose(1, 1, 1, frame_id="odom")
    markers = drawn(answer(*(match(n, at) for n, at in enumerate((here, elsewhere, near), 1))))
    labels = {number: m for (namespace, number), m in markers.items() if namespace == "labels"}
    assert labels[1].text.splitlines() == ["1. 1.000 #101: task 1", "3. 0.333 #103: task 3"]
    assert labels[2].text == "2. 0.500 #102: task 2"
    assert set(labels) == {1, 2}
    # The lower line is above the tip of the best pyramid, if that looks straight up.
    half = len(labels[1].text.splitlines()) / 2 * labels[1].scale.z
    assert labels[1].pose.position.z - half >= 1 + depth_m(1)


def test_texts_say_how_wide_a_space_is() -> None:
    """RViz's own is a metre, where x is 0, so that words lie far apart."""
    texts = [
        marker
        for marker in drawn(answer(match(1), match(2, pose()))).values()
        if marker.type == Marker.TEXT_VIEW_FACING
    ]
    assert len(texts) == 2
    assert all(0 < marker.scale.x < marker.scale.z for marker in texts)


def test_a_crowd_at_one_place_is_counted_and_not_listed() -> None:
    label = drawn(answer(*(match(n, pose()) for n in range(1, 21))))["labels", 1]
    assert label.text.splitlines()[-1] == "and 14 more here"
    assert len(label.text.splitlines()) == 7


def test_a_long_instruction_is_cut_and_takes_one_line() -> None:
    text = drawn(answer(match(1, pose(), instruction="pick\nup " + "很" * 5000)))["labels", 1].text
    assert text.startswith("1. 1.000 #101: pick up 很")
    assert text.endswith("…")
    assert len(text) < 90
    assert "\n" not in text


def test_matches_without_a_pose_are_named_in_a_note_in_front_of_the_camera() -> None:
    markers = drawn(answer(match(1), match(2, pose()), match(3, pose(frame_id=""))))
    note = markers["note", 0]
    assert note.text == "2 of 3 matches remembered without a camera pose: 1. #101, 3. #103"
    assert note.header.frame_id == "camera"
    assert note.pose.position.z > 0
    assert {key for key in markers if key[0] != "note"} == {
        ("cameras", 2), ("places", 2), ("labels", 2),
    }  # fmt: skip


def test_the_note_falls_back_on_the_frame_of_the_best_pose_and_is_left_out_without_any() -> None:
    assert drawn(answer(match(1), match(2, pose()), frame_id=""))["note", 0].header.frame_id == (
        "map"
    )
    assert drawn(answer(match(1), frame_id="")) == {}


def test_an_answer_without_matches_says_so() -> None:
    assert drawn(answer())["note", 0].text == "no match"


def test_no_note_where_all_is_drawn() -> None:
    assert ("note", 0) not in drawn(answer(match(1, pose())))


def test_of_ten_thousand_matches_the_best_fifty_are_drawn_and_the_rest_is_counted() -> None:
    markers = drawn(answer(*(match(n, pose(float(n))) for n in range(1, 10_001))))
    ranks = {number for namespace, number in markers if namespace == "cameras"}
    assert ranks == set(range(1, MOST_DRAWN + 1))
    assert len(markers) == 3 * MOST_DRAWN + 1
    assert markers["note", 0].text == "the best 50 of 10000 matches are drawn"


def test_a_quaternion_of_any_length_is_drawn_as_one_of_length_one() -> None:
    """RViz refuses others, and the memory takes them."""
    turned = drawn(answer(match(1, pose(turn=(0.0, 0.0, 3e-300, 4e-300)))))["cameras", 1]
    orientation = turned.pose.orientation
    assert (orientation.z, orientation.w) == pytest.approx((0.6, 0.8))


def test_clearing_deletes_all() -> None:
    (only,) = no_markers("camera").markers
    assert (only.action, only.header.frame_id) == (Marker.DELETEALL, "camera")


def test_every_marker_has_a_frame_the_deleting_one_too() -> None:
    """Foxglove takes an empty one for a frame of the robot's that tf does not connect."""
    nowhere = answer(match(1), match(2, pose()), frame_id="")
    for reply in (answer(), answer(match(1, pose())), nowhere):
        assert all(marker.header.frame_id for marker in make_markers(reply).markers)
