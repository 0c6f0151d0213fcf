"""A model that is cut computes what it computed whole, to the last bit."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch")
openvino = pytest.importorskip("openvino")

from vla_retrieval.encoders import openvino_engine  # noqa: E402
from vla_retrieval.encoders.exporting import IMAGE, TEXT, programs  # noqa: E402
from vla_retrieval.encoders.splitting import split  # noqa: E402
from vla_retrieval.encoders.towers import TextTower  # noqa: E402
from vla_retrieval.right_of_way import RightOfWay  # noqa: E402

SIZE, CONTEXT = 32, 16
TEXT_CFG = {
    "context_length": CONTEXT, "vocab_size": 64, "width": 32, "heads": 2, "layers": 3,
}  # fmt: skip
TRANSFORMER = {"image_size": SIZE, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8}
CONVOLUTIONS = {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}


def converted(vision: dict, name: str):
    """Return one tower of a small model, and inputs for it in batches of several sizes."""
    from open_clip import CLIP

    torch.manual_seed(3)
    model = CLIP(16, vision, TEXT_CFG).eval()
    made = programs(model, (SIZE, SIZE), TextTower(model, CONTEXT))[name]
    rng = np.random.default_rng(0)
    if name == IMAGE:
        rows = [rng.standard_normal((n, 3, SIZE, SIZE)).astype(np.float32) for n in (1, 3, 1)]
    else:
        rows = [rng.integers(1, 63, (n, length)) for n, length in ((1, 8), (3, 12), (1, CONTEXT))]
    return openvino.convert_model(made.export()), rows


def compiled(model):
    return openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


@pytest.mark.parametrize(
    ("vision", "name"), [(TRANSFORMER, IMAGE), (CONVOLUTIONS, IMAGE), (TRANSFORMER, TEXT)]
)
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_one_after_the_other_compute_what_the_whole_computes(vision, name, parts) -> None:
    model, inputs = converted(vision, name)
    whole = compiled(model).create_infer_request()
    expected = [whole.infer([rows])[0].copy() for rows in inputs]
    cut = split(model, parts)
    assert 1 < len(cut) <= parts
    tower = openvino_engine._tower([compiled(part) for part in cut], RightOfWay())
    for rows, wanted in zip(inputs, expected, strict=True):
        np.testing.assert_array_equal(tower(torch.from_numpy(rows)).numpy(), wanted)


def test_parts_cost_about_the_same() -> None:
    model, _ = converted({**TRANSFORMER, "layers": 8}, IMAGE)
    sizes = [
        sum(
            int(np.prod(op.get_output_shape(0)))
            for op in part.get_ordered_ops()
            if op.get_type_name() == "Constant" and op.get_element_type().is_real()
        )
        for part in split(model, 4)
    ]
    assert len(sizes) == 4
    assert max(sizes) < 2 * min(sizes)


def test_a_model_with_nothing_to_weigh_stays_whole() -> None:
    from openvino import opset13 as ops

    rows = ops.parameter([1, 4], np.float32)
    assert len(split(openvino.Model([ops.relu(ops.abs(rows))], [rows]), 3)) == 1


def test_calls_beside_each_other_do_not_mix_their_rows() -> None:
    model, _ = converted(TRANSFORMER, IMAGE)
    tower = openvino_engine._tower([compiled(part) for part in split(model, 4)], RightOfWay())
    rng = np.random.default_rng(1)
    inputs = [
        torch.from_numpy(rng.standard_normal((1 + n % 3, 3, SIZE, SIZE)).astype(np.float32))
        for n in range(24)
    ]
    expected = [tower(rows).numpy() for rows in inputs]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(tower, inputs), expected, strict=True):
            np.testing.assert_array_equal(found.numpy(), wanted)


def test_a_picture_lets_an_instruction_go_first_between_its_parts() -> None:
    """The picture is in hand when the instruction comes, and goes on once that is embedded."""
    model, inputs = converted(TRANSFORMER, IMAGE)
    way, order = RightOfWay(), []
    asked, in_hand = threading.Event(), threading.Event()

    class Watched(RightOfWay):
        def give_way(self, longest_sec: float) -> float:
            in_hand.set()
            assert asked.wait(60)
            waited = way.give_way(60)
            order.append("part")
            return waited

    tower = openvino_engine._tower([compiled(part) for part in split(model, 3)], Watched())
    with ThreadPoolExecutor(1) as pool:
        picture = pool.submit(tower, torch.from_numpy(inputs[0]))
        assert in_hand.wait(60)
        with way.going_first():
            asked.set()
            order.append("instruction")
        picture.result(60)
    assert order == ["instruction", "part", "part"]
