import pytest

pytest.importorskip("rosbags", reason="reading the demonstration bag needs rosbags")

from tools.tabletop.bag import episodes
from tools.tabletop.known import bag_frames, never_visited
from tools.tabletop.language import satisfies
from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory import Memory
from vla_retrieval.self_calibration import calibrate
from vla_retrieval.types import NewEntry


def test_what_is_absent_fits_no_scene_of_the_bag():
    scenes = episodes(7, 16)
    absent = never_visited(scenes, 30)
    assert len(absent) == 30
    for _, said in absent:
        assert not any(satisfies(said[0][0], scene) for scene, _ in scenes)


def test_the_bag_alone_repeats_no_instruction_and_is_refused(tmp_path):
    frames = list(bag_frames())
    assert len({frame.episode for frame in frames}) == 32
    encoder = DoubleEncoder()
    scenes = encoder.encode_images([frame.picture for frame in frames])
    texts = encoder.encode_instructions([frame.instruction for frame in frames])
    entries = [NewEntry(frame.instruction, 0, episode_id=frame.episode) for frame in frames]
    with Memory.open(tmp_path / "memory", encoder.fingerprint, durable=False) as memory:
        memory.add(entries, scenes, texts)
        with pytest.raises(InvalidInputError, match="got 0 such"):
            calibrate(memory)
