import itertools
import re

import numpy as np
import pytest

from tools.tabletop.dataset import SceneTable
from tools.tabletop.language import (
    Instruction,
    ObjectPhrase,
    altered,
    full_instruction,
    names_only_trained_combinations,
    sample_instruction,
    satisfies,
)
from tools.tabletop.phrases import LANGUAGES, WORDS, say, say_with_word
from tools.tabletop.scene import Scene, TableObject, sample_scene
from tools.tabletop.truth import truth_matrix
from tools.tabletop.vocabulary import KINDS, RELATIONS

CUP = TableObject("cup", "red", -0.2, 0.0)
PLATE = TableObject("plate", "blue", 0.2, 0.2)
SCENE = Scene((CUP, PLATE))
RED_CUP = ObjectPhrase("cup", "red")
BLUE_PLATE = ObjectPhrase("plate", "blue")


@pytest.mark.parametrize(
    ("instruction", "fits"),
    [
        (Instruction("pick", ObjectPhrase("cup")), True),
        (Instruction("pick", ObjectPhrase("bowl")), False),
        (Instruction("pick", ObjectPhrase("cup", "blue")), False),
        (Instruction("pick", ObjectPhrase(None, "blue")), True),
        (Instruction("find", ObjectPhrase("cup", None, "left")), True),
        (Instruction("find", ObjectPhrase("cup", None, "right")), False),
        (Instruction("find", ObjectPhrase("plate", None, "back right")), True),
        (Instruction("pick", RED_CUP, "left of", BLUE_PLATE), True),
        (Instruction("pick", RED_CUP, "right of", BLUE_PLATE), False),
        (Instruction("pick", RED_CUP, "next to", BLUE_PLATE), False),
        (Instruction("pick", BLUE_PLATE, "behind", RED_CUP), True),
        (Instruction("put", RED_CUP, "right of", BLUE_PLATE), True),
        (Instruction("put", RED_CUP, "next to", RED_CUP), False),
    ],
)
def test_an_instruction_fits_when_all_it_refers_to_is_there(instruction, fits):
    assert satisfies(instruction, SCENE) is fits


def test_the_goal_of_an_action_need_not_hold_yet():
    for relation in RELATIONS:
        assert satisfies(Instruction("put", RED_CUP, relation, BLUE_PLATE), SCENE)


def test_a_drawn_instruction_fits_the_scene_that_it_was_drawn_from():
    rng = np.random.default_rng(0)
    for _ in range(500):
        scene = sample_scene(rng, "test")
        assert satisfies(sample_instruction(rng, scene), scene)


def test_a_full_instruction_fits_its_scene_and_leaves_nothing_out():
    rng = np.random.default_rng(6)
    for _ in range(300):
        scene = sample_scene(rng, "test")
        instruction = full_instruction(rng, scene, scene.objects[0])
        assert satisfies(instruction, scene)
        assert instruction.target.matches(scene.objects[0])
        for phrase in instruction.phrases:
            assert None not in (phrase.kind, phrase.colour, phrase.place)


def test_a_held_out_combination_is_recognised_in_words_of_any_place_that_is_one_area():
    rng = np.random.default_rng(7)
    for _ in range(500):
        scene = sample_scene(rng, "test")
        item = next(item for item in scene.objects if item.split == "test")
        for place in ("front left", "front right", "middle", "back left", "back right"):
            if item.at(place):
                phrase = ObjectPhrase(item.kind, item.colour, place)
                assert not names_only_trained_combinations(Instruction("pick", phrase))


def test_the_fast_truth_equals_the_plain_one():
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng, "train") for _ in range(40)]
    instructions = [sample_instruction(rng, scene) for scene in scenes]
    instructions += [altered(rng, instruction) for instruction in instructions]
    plain = [[satisfies(instruction, scene) for scene in scenes] for instruction in instructions]
    np.testing.assert_array_equal(truth_matrix(instructions, SceneTable.of(scenes)), plain)


def test_a_scene_survives_the_way_through_the_table():
    rng = np.random.default_rng(2)
    scenes = [sample_scene(rng, "test") for _ in range(20)]
    table = SceneTable.of(scenes)
    for row, scene in enumerate(scenes):
        assert [item.pair for item in table.scene(row).objects] == [
            item.pair for item in scene.objects
        ]


def test_training_instructions_never_name_a_held_out_combination():
    rng = np.random.default_rng(3)
    for _ in range(2000):
        instruction = sample_instruction(rng, sample_scene(rng, "train"))
        assert names_only_trained_combinations(instruction)
        assert names_only_trained_combinations(altered(rng, instruction))


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_word_means_two_kinds(language):
    for first, second in itertools.combinations(KINDS, 2):
        assert not set(WORDS[language][first]) & set(WORDS[language][second])


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_say_each_kind_that_is_meant_and_leave_no_gap(language):
    rng = np.random.default_rng(4)
    for _ in range(500):
        instruction = sample_instruction(rng, sample_scene(rng, "train"))
        words = say(instruction, language, rng)
        assert "{" not in words
        assert "  " not in words
        for phrase in instruction.phrases:
            if phrase.kind is not None:
                assert any(word in words for word in WORDS[language][phrase.kind])


@pytest.mark.parametrize(("language", "colour"), [("en", "red"), ("zh", "红")])
def test_the_colour_is_said_before_the_kind(language, colour):
    rng = np.random.default_rng(5)
    kinds = "|".join(WORDS[language]["cup"])
    for _ in range(50):
        words = say(Instruction("pick", RED_CUP), language, rng)
        assert re.search(f"{colour}.*({kinds})", words)


def test_a_chosen_synonym_is_the_word_that_is_said():
    rng = np.random.default_rng(6)
    assert "mug" in say_with_word(Instruction("pick", RED_CUP), "en", "mug", rng)
    assert "马克杯" in say_with_word(Instruction("pick", RED_CUP), "zh", "马克杯", rng)


@pytest.mark.parametrize("language", LANGUAGES)
def test_equal_seeds_say_equal_words(language):
    instruction = Instruction("pick", RED_CUP, "left of", BLUE_PLATE)
    first, second = (say(instruction, language, np.random.default_rng(7)) for _ in range(2))
    assert first == second
