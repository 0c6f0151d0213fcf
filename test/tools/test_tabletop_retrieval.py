import ctypes.util

import pytest

pytest.importorskip("mujoco", reason="the held-out gallery is rendered with MuJoCo")
pytest.importorskip("open_clip", reason="the demonstration model needs open_clip")

if not ctypes.util.find_library("OSMesa"):
    pytest.skip("rendering without a screen needs OSMesa", allow_module_level=True)

import numpy as np

from tools.tabletop.gallery import build_gallery
from tools.tabletop.measure import Embedder, figures

HELD_OUT = "{}: full instruction, held-out target -> scene"
GENERIC = "{}: kind or colour only (many scenes fit) -> scene"


@pytest.fixture(scope="module")
def measured():
    found = figures(Embedder(), build_gallery("test", 200), "test")
    return {figure.name: figure for figure in found}


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_instruction_finds_its_scene_with_a_combination_never_trained(measured, language):
    figure = measured[HELD_OUT.format(language)]
    assert (figure.candidates, figure.queries >= 200) == (200, True)
    assert figure.hits[1] >= 0.80
    assert figure.hits[5] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_kind_or_a_colour_alone_finds_a_scene_that_shows_it(measured, language):
    assert measured[GENERIC.format(language)].hits[1] >= 0.95


@pytest.mark.slow
def test_the_same_seed_renders_the_same_gallery():
    first, second = (build_gallery("test", 3, seed=5) for _ in range(2))
    for before, after in zip(first.pictures, second.pictures, strict=True):
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
