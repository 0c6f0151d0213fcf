import io
import itertools

import pytest
from PIL import Image

rosbags = pytest.importorskip("rosbags", reason="reading the demonstration bag needs rosbags")

from rosbags.highlevel import AnyReader  # noqa: E402 - after importorskip
from rosbags.typesys import Stores, get_typestore  # noqa: E402 - after importorskip

from tools.tabletop.bag import (  # noqa: E402 - after importorskip
    BAG_FOLDER,
    FRAME_ID,
    IMAGE_TOPIC,
    INSTRUCTION_TOPIC,
    episodes,
)
from tools.tabletop.language import satisfies  # noqa: E402 - after importorskip


@pytest.fixture(scope="module")
def messages():
    with AnyReader([BAG_FOLDER], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
        return [
            (connection.topic, stamp, reader.deserialize(raw, connection.msgtype))
            for connection, stamp, raw in reader.messages()
        ]


def test_the_bag_stays_under_ten_megabytes():
    assert sum(path.stat().st_size for path in BAG_FOLDER.iterdir()) <= 10_000_000


def test_every_frame_of_the_bag_decodes(messages):
    frames = [message for topic, _, message in messages if topic == IMAGE_TOPIC]
    assert len(frames) >= 100
    for frame in frames:
        picture = Image.open(io.BytesIO(frame.data.tobytes()))
        picture.load()
        assert (picture.size, frame.format) == ((640, 480), "jpeg")


def test_frames_are_stamped_as_they_were_recorded(messages):
    for topic, stamp, message in messages:
        if topic == IMAGE_TOPIC:
            header = message.header
            assert header.frame_id == FRAME_ID
            assert header.stamp.sec * 1_000_000_000 + header.stamp.nanosec == stamp


def test_frames_follow_the_instruction_in_each_language(messages):
    topics = [topic for topic, _, _ in messages]
    assert topics[:2] == [INSTRUCTION_TOPIC, IMAGE_TOPIC]
    for before, after in itertools.pairwise(topics):
        assert (before, after) != (INSTRUCTION_TOPIC, INSTRUCTION_TOPIC)
    said = [message.data for topic, _, message in messages if topic == INSTRUCTION_TOPIC]
    assert said[:2] == ["pick up the cup on the table", "拿起桌子上的杯子"]
    assert len(said) >= 24


def test_the_bags_instructions_fit_their_scenes():
    for scene, said in episodes(seed=7, count=16):
        assert all(satisfies(instruction, scene) for instruction, _ in said)


def test_the_bags_instructions_fit_no_other_scene_with_two_exceptions():
    found = episodes(seed=7, count=16)
    scenes = [scene for scene, _ in found]
    fitting = [[satisfies(said[0][0], scene) for scene in scenes].count(True) for _, said in found]
    assert {number for number, many in enumerate(fitting, start=1) if many > 1} == {1, 15}


def test_every_fourth_episode_shows_a_held_out_combination():
    splits = [{item.split for item in scene.objects} for scene, _ in episodes(seed=7, count=16)]
    assert all("validation" not in shown for shown in splits)
    assert ["test" in shown for shown in splits] == [n > 0 and n % 4 == 0 for n in range(16)]
