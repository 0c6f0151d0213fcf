"""The services of a running node, from another process."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import KeyValue
from geometry_msgs.msg import Point, PointStamped, Pose, PoseStamped, Quaternion
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from vla_retrieval.ros.conversions import to_ns, to_stamp
from vla_retrieval.ros.images import to_rgb
from vla_retrieval.thumbnails import make_thumbnail
from vla_retrieval_msgs.msg import ActionPayload, Entry, Filter, Query, Status

from .harness import NodeProcess, Robot, image_message, picture, wait_until

pytestmark = pytest.mark.usefixtures("node")


@pytest.fixture(scope="module")
def robot(node: NodeProcess) -> Iterator[Robot]:
    """Return a planner that all tests here share: finding the node takes seconds."""
    robot = Robot()
    yield robot
    robot.close()


@pytest.fixture(autouse=True)
def forget_all(node: NodeProcess, robot: Robot) -> Iterator[None]:
    """Leave an empty memory to the next test."""
    yield
    answer = robot.call("retrieve", instruction="anything", k=10_000)
    ids = [match.entry_id for match in answer.result.matches]
    if ids:
        assert robot.call("forget", entry_ids=ids).success


def remember(robot: Robot, seed: int, instruction: str, **fields: Any) -> int:
    """Remember a made-up pair and return its entry id."""
    image = image_message(picture(seed), stamp_ns=seed * 1_000_000_000)
    response = robot.call("remember", image=image, instruction=instruction, **fields)
    assert response.success, response.message
    return int(response.entry_id)


def ids_of(response: Any) -> list[int]:
    """Return the entry ids of an answer, best first."""
    assert response.success, response.message
    return [match.entry_id for match in response.result.matches]


def test_an_instruction_finds_the_instruction_that_is_like_it(robot: Robot) -> None:
    """instruction -> instructions, ranked from 1, best first."""
    remember(robot, 1, "open the top drawer")
    cup = remember(robot, 2, "pick up the red cup")
    response = robot.call(
        "retrieve", instruction="pick up the red cup!", target=Query.TARGET_INSTRUCTIONS
    )
    assert ids_of(response)[0] == cup
    matches = response.result.matches
    assert [match.rank for match in matches] == [1, 2]
    assert matches[0].score > matches[1].score
    assert matches[0].instruction_score == matches[0].score
    assert math.isnan(matches[0].scene_score)


def test_an_image_finds_its_own_scene_first(robot: Robot) -> None:
    """image -> scenes; the header of the answer is the image's."""
    expected = [remember(robot, seed, f"scene {seed}") for seed in (1, 2, 3)]
    image = image_message(picture(2), stamp_ns=77, frame_id="wrist")
    response = robot.call("retrieve", image=image, target=Query.TARGET_SCENES, k=3)
    assert sorted(ids_of(response)) == expected
    best = response.result.matches[0]
    assert best.entry_id == expected[1]
    assert best.scene_score == pytest.approx(1.0, abs=1e-5)
    assert to_ns(response.result.header.stamp) == 77
    assert response.result.header.frame_id == "wrist"


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_pair_is_scored_by_the_weighted_sum_of_its_halves(robot: Robot, weight: float) -> None:
    """score = w * scene + (1 - w) * instruction, and both halves are reported."""
    for seed in (1, 2, 3):
        remember(robot, seed, f"instruction number {seed}")
    response = robot.call(
        "retrieve", image=image_message(picture(1), 1), instruction="instruction number 3",
        target=Query.TARGET_PAIR, scene_weight=weight,
    )  # fmt: skip
    assert len(ids_of(response)) == 3
    for match in response.result.matches:
        expected = weight * match.scene_score + (1 - weight) * match.instruction_score
        assert match.score == pytest.approx(expected, abs=1e-5)


def test_an_entry_comes_back_whole(robot: Robot) -> None:
    """Everything that was remembered is read, by get_entry and in a match."""
    pose = PoseStamped(
        header=Header(stamp=to_stamp(5), frame_id="map"),
        pose=Pose(position=Point(x=1.0, y=2.0, z=3.0), orientation=Quaternion(w=1.0)),
    )
    action = ActionPayload(space="ee_delta", shape=[2, 3], values=[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    metadata = [KeyValue(key="task", value="tidy"), KeyValue(key="操作员", value="李")]
    entry_id = remember(
        robot, 9, "拿起桌子上的杯子", episode_id="e7", outcome=Entry.OUTCOME_SUCCESS,
        action=action, has_camera_pose=True, camera_pose=pose, tags=["kitchen", "night"],
        metadata=metadata,
    )  # fmt: skip
    whole = robot.call("get_entry", entry_id=entry_id, with_thumbnail=True, with_embeddings=True)
    match = robot.call("retrieve", instruction="杯子", with_thumbnails=True).result.matches[0]
    for found in (whole.entry, match):
        assert found.entry_id == entry_id
        assert found.instruction == "拿起桌子上的杯子"
        assert to_ns(found.stamp) == 9_000_000_000
        assert found.frame_id == "camera"
        assert found.episode_id == "e7"
        assert found.outcome == Entry.OUTCOME_SUCCESS
        assert found.action == action
        assert found.has_camera_pose
        assert found.camera_pose == pose
        assert sorted(found.tags) == ["kitchen", "night"]
        assert sorted(found.metadata, key=lambda kv: kv.key) == metadata
        assert to_rgb(found.thumbnail).shape == (48, 64, 3)
    for embedding in (whole.scene_embedding, whole.instruction_embedding):
        assert np.linalg.norm(embedding) == pytest.approx(1.0, abs=1e-5)


def test_thumbnails_and_embeddings_are_sent_only_when_asked_for(robot: Robot) -> None:
    """Without the flags the messages stay small."""
    entry_id = remember(robot, 1, "look")
    entry = robot.call("get_entry", entry_id=entry_id)
    assert not len(entry.entry.thumbnail.data)
    assert not len(entry.scene_embedding)
    match = robot.call("retrieve", instruction="look").result.matches[0]
    assert not len(match.thumbnail.data)


def test_filters_choose_before_the_search(robot: Robot) -> None:
    """k matches come back although better ones are filtered out."""
    tidy = [KeyValue(key="task", value="tidy")]
    for seed in range(1, 6):
        remember(robot, seed, f"pour water {seed}", outcome=Entry.OUTCOME_FAILURE)
    good = remember(
        robot, 6, "open the door", outcome=Entry.OUTCOME_SUCCESS, tags=["a", "b"],
        metadata=tidy, episode_id="e",
    )  # fmt: skip
    six = to_stamp(6_000_000_000)
    for part in (
        {"outcomes": [Entry.OUTCOME_SUCCESS]},
        {"tags": ["a"]},
        {"metadata": tidy},
        {"episode_ids": ["e"]},
        {"stamp_from": six},
        {"exclude_ids": [good - n for n in range(1, 6)]},
    ):
        response = robot.call("retrieve", instruction="pour water 1", k=1, filter=Filter(**part))
        assert ids_of(response) == [good], part
        assert response.result.eligible_size == 1
        assert response.result.memory_size == 6
        assert response.result.query.filter == Filter(**part)


def pose_at(x: float, frame_id: str = "map") -> PoseStamped:
    """Return a pose on the x axis, in metres."""
    pose = Pose(position=Point(x=x), orientation=Quaternion(w=1.0))
    return PoseStamped(header=Header(frame_id=frame_id), pose=pose)


def near(x: float, radius_m: float) -> Filter:
    """Return a filter by a ball on the x axis of the map."""
    point = PointStamped(header=Header(frame_id="map"), point=Point(x=x))
    return Filter(has_near=True, near=point, near_radius_m=radius_m)


def test_only_poses_in_the_ball_and_in_its_frame_are_near(robot: Robot) -> None:
    """The surface belongs to it; entries without a pose, or with one in another frame, do not."""
    here, there = (
        remember(robot, seed, "look", has_camera_pose=True, camera_pose=pose_at(x))
        for seed, x in ((1, 1.0), (2, 4.0))
    )
    remember(robot, 3, "look", has_camera_pose=True, camera_pose=pose_at(1.0, "odom"))
    remember(robot, 4, "look")
    for radius_m, expected in ((0.5, [here]), (3.0, [here, there])):
        response = robot.call("retrieve", instruction="look", filter=near(1.0, radius_m))
        assert ids_of(response) == expected
        assert response.result.query.filter == near(1.0, radius_m)
        assert (response.result.eligible_size, response.result.memory_size) == (len(expected), 4)


def test_the_diversity_asked_for_is_repeated_in_the_answer(robot: Robot) -> None:
    """As it was understood."""
    best = remember(robot, 1, "look")
    response = robot.call("retrieve", instruction="look", diversity=0.25)
    assert ids_of(response) == [best]
    assert response.result.query.diversity == 0.25


def test_pinned_is_what_was_said_last(robot: Robot) -> None:
    """At remembering, and by the service: for all that are named, or for none."""
    one, two = remember(robot, 1, "stay"), remember(robot, 2, "stay", pinned=True)

    def pinned() -> list[bool]:
        return [robot.call("get_entry", entry_id=i).entry.pinned for i in (one, two)]

    assert pinned() == [False, True]
    assert robot.call("pin", entry_ids=[one, two]).success
    assert pinned() == [True, True]
    unknown = robot.call("pin", entry_ids=[one, 2**64 - 1], pinned=False)
    assert unknown.status.code == Status.NOT_FOUND
    assert str(2**64 - 1) in unknown.message
    assert pinned() == [True, True]
    assert robot.call("pin", entry_ids=[one, two], pinned=False).success
    assert pinned() == [False, False]


def test_pinning_nothing_is_refused(robot: Robot) -> None:
    """An empty list is a mistake of the caller's."""
    response = robot.call("pin")
    assert response.status.code == Status.INVALID_REQUEST
    assert response.message.startswith("entry_ids: ")


def test_matches_below_the_minimum_score_are_left_out(robot: Robot) -> None:
    """An unlike scene is no match at all."""
    like = remember(robot, 1, "first")
    remember(robot, 2, "second")
    image = image_message(picture(1), 1)
    assert ids_of(robot.call("retrieve", image=image, min_score=0.999)) == [like]


def test_k_may_be_larger_than_the_memory(robot: Robot) -> None:
    """All entries are ranked then."""
    expected = [remember(robot, seed, f"thing {seed}") for seed in (1, 2)]
    response = robot.call("retrieve", instruction="thing", k=4_000_000_000)
    assert sorted(ids_of(response)) == expected


def test_an_empty_memory_answers_with_no_matches(robot: Robot) -> None:
    """Nothing known is an answer, not an error, and needs no calibration."""
    response = robot.call("retrieve", instruction="anything")
    assert ids_of(response) == []
    assert response.result.known == response.result.KNOWN_NO
    assert response.result.known_confidence == 0.0
    assert response.result.exact


def test_compressed_images_are_taken_for_queries_and_for_remembering(robot: Robot) -> None:
    """A JPEG stands for the raw image."""
    header = Header(stamp=to_stamp(3), frame_id="camera")
    jpeg = CompressedImage(header=header, format="jpeg", data=make_thumbnail(picture(4), 64))
    stored = robot.call("remember", compressed_image=jpeg, instruction="a jpeg")
    assert stored.success
    response = robot.call("retrieve", compressed_image=jpeg)
    assert ids_of(response) == [stored.entry_id]
    assert response.result.matches[0].score == pytest.approx(1.0, abs=1e-5)


def test_forgotten_entries_are_never_matched_again(robot: Robot) -> None:
    """All that are named go, at once; nothing else does."""
    ids = [remember(robot, seed, "same words") for seed in (1, 2, 3)]
    response = robot.call("forget", entry_ids=[ids[0], ids[2]])
    assert response.success
    assert response.memory_size == 1
    assert ids_of(robot.call("retrieve", instruction="same words")) == [ids[1]]
    assert robot.call("get_entry", entry_id=ids[0]).status.code == Status.NOT_FOUND


def test_each_forgotten_entry_is_counted(robot: Robot) -> None:
    """Also where one call forgets several."""
    before = robot.call("get_stats").entries_forgotten
    ids = [remember(robot, seed, "same words") for seed in (1, 2)]
    assert robot.call("forget", entry_ids=ids).success
    assert robot.call("get_stats").entries_forgotten == before + 2


def test_forgetting_an_unknown_entry_forgets_nothing(robot: Robot) -> None:
    """All or none, and the unknown id is named."""
    entry_id = remember(robot, 1, "stay")
    response = robot.call("forget", entry_ids=[entry_id, 424242])
    assert response.status.code == Status.NOT_FOUND
    assert "424242" in response.message
    assert ids_of(robot.call("retrieve", instruction="stay")) == [entry_id]


def test_stats_count_what_is_held_and_done(robot: Robot) -> None:
    """Sizes of the memory, facts of the encoder, counts of the node."""
    before = robot.call("get_stats")
    remember(robot, 3, "count me")
    after = robot.call("get_stats")
    assert after.success
    assert after.memory_size == before.memory_size + 1 == 1
    assert after.entries_remembered == before.entries_remembered + 1
    assert to_ns(after.oldest_stamp) == to_ns(after.newest_stamp) == 3_000_000_000
    assert (after.model, after.device, after.precision) == ("double", "cpu", "fp32")
    assert after.engine == "double"
    assert after.embedding_dim > 0
    assert after.size_bytes > 0
    assert after.index_kind == "exact"
    assert after.index_rows - after.index_dead_rows == 1
    assert after.index_ram_bytes > 0
    assert (after.merged, after.evicted, after.entries_merged) == (0, 0, 0)
    assert (after.index_directions, after.index_error) == ([], "")


def test_many_calls_at_once_are_all_answered(robot: Robot) -> None:
    """A second request is taken while the first waits."""
    entry_id = remember(robot, 1, "busy")
    call = robot.client.call_async
    futures = [call("retrieve", instruction=f"busy {n}") for n in range(20)]
    for future in futures:
        wait_until(future.done, "an answer")
    assert all(ids_of(future.result()) == [entry_id] for future in futures)


GOOD = image_message(picture(1), 1)


def _bad(**changes: Any) -> Image:
    image = image_message(picture(1), 1)
    for name, value in changes.items():
        setattr(image, name, value)
    return image


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "query"),
        ({"instruction": "  "}, "instruction"),
        ({"instruction": "long " * 20_000}, "instruction"),
        ({"instruction": "x", "k": 0}, "k"),
        ({"instruction": "x", "scene_weight": math.nan}, "scene_weight"),
        ({"instruction": "x", "scene_weight": 1.5}, "scene_weight"),
        ({"instruction": "x", "min_score": math.nan}, "min_score"),
        ({"instruction": "x", "target": 9}, "target"),
        ({"instruction": "x", "diversity": 2.0}, "diversity"),
        ({"instruction": "x", "diversity": math.nan}, "diversity"),
        ({"instruction": "x", "filter": near(0.0, 0.0)}, "filter.near_radius_m"),
        ({"instruction": "x", "filter": near(math.nan, 1.0)}, "filter.near"),
        ({"instruction": "x", "timeout_sec": -1.0}, "timeout_sec"),
        ({"instruction": "x", "timeout_sec": math.nan}, "timeout_sec"),
        ({"image": _bad(height=0, width=0, step=0, data=b"")}, "image.height"),
        ({"image": _bad(data=b"short")}, "image.data"),
        ({"image": _bad(encoding="nonsense")}, "image.encoding"),
        ({"image": GOOD, "use_newest_frame": True}, "use_newest_frame"),
        ({"compressed_image": CompressedImage(data=b"junk")}, "compressed_image.data"),
        ({"instruction": "x", "filter": Filter(outcomes=[7])}, "filter.outcomes"),
        (
            {
                "instruction": "x",
                "filter": Filter(stamp_from=to_stamp(2), stamp_to=to_stamp(1)),
            },
            "filter.stamp_from",
        ),
    ],
)
def test_a_bad_query_is_refused_by_field(robot: Robot, fields: dict[str, Any], field: str) -> None:
    """The message names the field, what was expected and what came; the node stays up."""
    response = robot.call("retrieve", **fields)
    assert not response.success
    assert response.status.code == Status.INVALID_REQUEST
    assert response.message.startswith(f"{field}: expected ")
    assert ", got " in response.message


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"instruction": "x"}, "image"),
        ({"image": GOOD}, "instruction"),
        ({"image": GOOD, "instruction": "x", "outcome": 3}, "outcome"),
        ({"image": GOOD, "instruction": "x", "tags": ["a", "a"]}, "tags"),
        (
            {"image": GOOD, "instruction": "x", "metadata": [KeyValue(key="a"), KeyValue(key="a")]},
            "metadata",
        ),
        (
            {"image": GOOD, "instruction": "x", "action": ActionPayload(space="s", values=[1.0])},
            "action.shape",
        ),
        (
            {
                "image": GOOD,
                "instruction": "x",
                "action": ActionPayload(shape=[1], values=[1.0]),
            },
            "action.space",
        ),
        (
            {
                "image": GOOD,
                "instruction": "x",
                "has_camera_pose": True,
                "camera_pose": PoseStamped(pose=Pose(orientation=Quaternion(w=0.0))),
            },
            "camera_pose.pose.orientation",
        ),
    ],
)
def test_a_bad_pair_is_refused_and_nothing_is_stored(
    robot: Robot, fields: dict[str, Any], field: str
) -> None:
    """Neither half of a refused pair is in the memory."""
    response = robot.call("remember", **fields)
    assert response.status.code == Status.INVALID_REQUEST
    assert response.message.startswith(f"{field}: expected ")
    assert robot.call("get_stats").memory_size == 0


def test_unknown_entries_are_said_to_be_unknown(robot: Robot) -> None:
    """Each service names its own field, and the id."""
    for service, fields in (
        ("get_entry", {"entry_id": 999}),
        ("forget", {"entry_ids": [999]}),
        ("pin", {"entry_ids": [999], "pinned": True}),
    ):
        response = robot.call(service, **fields)
        assert response.status.code == Status.NOT_FOUND
        assert response.message.startswith(f"{next(iter(fields))}: no entry has the id 999")


def test_forgetting_nothing_is_refused(robot: Robot) -> None:
    """An empty list is a mistake of the caller's."""
    response = robot.call("forget")
    assert response.status.code == Status.INVALID_REQUEST
    assert response.message.startswith("entry_ids: ")


def test_the_newest_frame_cannot_be_used_before_any_came(robot: Robot) -> None:
    """The message names the topic that is silent."""
    for service, fields in (("retrieve", {}), ("remember", {"instruction": "x"})):
        response = robot.call(service, use_newest_frame=True, **fields)
        assert response.status.code == Status.NO_FRAME
        assert "/image" in response.message


def test_an_answer_that_comes_too_late_is_an_error(robot: Robot) -> None:
    """A deadline of a nanosecond passes before anything is done."""
    response = robot.call("retrieve", instruction="x", timeout_sec=1e-9)
    assert response.status.code == Status.DEADLINE_EXCEEDED
    assert "timeout_sec" in response.message
    assert robot.call("retrieve", instruction="x", timeout_sec=30.0).success
