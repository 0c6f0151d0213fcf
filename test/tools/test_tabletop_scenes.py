import numpy as np
import pytest

from tools.tabletop.scene import Scene, TableObject, altered, mirrored, sample_scene
from tools.tabletop.vocabulary import ALL_PAIRS, AREAS, split_of


def test_held_out_combinations_are_in_no_training_scene():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        scene = sample_scene(rng, "train")
        for shown in (scene, altered(rng, scene), mirrored(scene)):
            assert {item.split for item in shown.objects} == {"train"}


def test_one_combination_in_eight_is_held_out_for_each_of_the_two_other_splits():
    splits = [split_of(*pair, area) for pair in ALL_PAIRS for area in range(AREAS)]
    assert splits.count("test") / len(splits) == pytest.approx(1 / 8, abs=0.02)
    assert splits.count("validation") / len(splits) == pytest.approx(1 / 8, abs=0.02)


def test_every_pair_is_trained_in_at_least_four_areas():
    for pair in ALL_PAIRS:
        assert sum(split_of(*pair, area) == "train" for area in range(AREAS)) >= 4


@pytest.mark.parametrize("split", ["test", "validation"])
def test_held_out_scenes_show_a_combination_of_their_own_and_none_of_the_other_split(split):
    rng = np.random.default_rng(1)
    for _ in range(300):
        shown = {item.split for item in sample_scene(rng, split).objects}
        assert split in shown
        assert shown <= {split, "train"}


def test_an_altered_scene_differs_from_its_original():
    rng = np.random.default_rng(2)
    for _ in range(300):
        scene = sample_scene(rng, "train")
        assert altered(rng, scene) != scene


def test_left_and_right_trade_places_in_the_mirror():
    cup, bowl = TableObject("cup", "red", -0.2, 0.0), TableObject("bowl", "blue", 0.2, 0.0)
    first, second = mirrored(Scene((cup, bowl))).objects
    assert cup.stands("left of", bowl)
    assert first.stands("right of", second)
    assert cup.at("left")
    assert first.at("right")


def test_places_and_relations_hold_by_a_clear_margin():
    rng = np.random.default_rng(3)
    for _ in range(500):
        objects = sample_scene(rng, "train").objects
        for item in objects:
            assert abs(abs(item.x) - 0.10) >= 0.029
            assert abs(abs(item.y) - 0.10) >= 0.029
        for other in objects[1:]:
            for gap in (abs(objects[0].x - other.x), abs(objects[0].y - other.y)):
                assert abs(gap - 0.08) >= 0.019
                assert abs(gap - 0.30) >= 0.019
