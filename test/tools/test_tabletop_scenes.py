import numpy as np
import pytest

from tools.tabletop.scene import Scene, TableObject, altered, mirrored, sample_scene
from tools.tabletop.vocabulary import (
    ALL_PAIRS,
    COLOURS,
    KINDS,
    TEST_PAIRS,
    TRAIN_PAIRS,
    VALIDATION_PAIRS,
)


def test_held_out_pairs_are_in_no_training_scene():
    rng = np.random.default_rng(0)
    held_out = TEST_PAIRS | VALIDATION_PAIRS
    for _ in range(3000):
        scene = sample_scene(rng, "train")
        assert not scene.pairs & held_out
        assert not altered(rng, scene).pairs & held_out


def test_the_three_splits_share_no_pair_and_cover_all():
    assert not TEST_PAIRS & VALIDATION_PAIRS
    assert set(TRAIN_PAIRS) | TEST_PAIRS | VALIDATION_PAIRS == set(ALL_PAIRS)
    assert len(TRAIN_PAIRS) + len(TEST_PAIRS) + len(VALIDATION_PAIRS) == len(ALL_PAIRS)


def test_every_kind_and_colour_is_still_met_in_training():
    assert {kind for _, kind in TRAIN_PAIRS} == set(KINDS)
    assert {colour for colour, _ in TRAIN_PAIRS} == set(COLOURS)


@pytest.mark.parametrize(("split", "own"), [("test", TEST_PAIRS), ("validation", VALIDATION_PAIRS)])
def test_held_out_scenes_show_a_pair_of_their_own_and_none_of_the_other_split(split, own):
    rng = np.random.default_rng(1)
    other = (TEST_PAIRS | VALIDATION_PAIRS) - own
    for _ in range(500):
        pairs = sample_scene(rng, split).pairs
        assert pairs & own
        assert not pairs & other


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
