"""A node on a real GPU: what it answers, what it gives back, and what others can do to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from vla_retrieval_msgs.msg import MatchArray, Status  # noqa: E402

from .harness import (  # noqa: E402
    START_SEC,
    NodeProcess,
    Robot,
    image_message,
    picture,
    wait_until,
)
from .parameters import Manager  # noqa: E402

_MB = 1 << 20
_LEFT_BYTES = 24 * _MB
"""What is left of a GPU that others fill: too little for a 4K image."""

Start = Callable[..., NodeProcess]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a ViT-B-32: 300 MB of a GPU in fp16."""
    open_clip = pytest.importorskip("open_clip")
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(open_clip.create_model("ViT-B-32", load_weights=False).state_dict(), path)
    return path


def used_bytes() -> int:
    """What all processes have taken of the GPU."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


@pytest.fixture
def others() -> Iterator[Callable[[int], None]]:
    """Return a function that takes the GPU's memory but for so many bytes; 0 gives it back."""
    held: list[Any] = []

    def leave(left: int) -> None:
        held.clear()
        torch.cuda.empty_cache()
        while left and (free := torch.cuda.mem_get_info()[0] - left) > 2 * _MB:
            held.append(torch.empty(free // _MB * _MB, dtype=torch.uint8, device="cuda"))

    yield leave
    leave(0)


def begin(start: Start, robot: Robot, **parameters: Any) -> NodeProcess:
    node = start(diagnostics_period_sec=0.2, **parameters)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    return node


def test_frames_and_calls_are_answered_and_the_diagnostics_name_the_gpu(
    start: Start, robot: Robot
) -> None:
    node = begin(start, robot, model="vla-retrieval-demo")
    for seed in range(5):
        image = image_message(picture(seed, 480, 640), seed)
        assert robot.call("remember", image=image, instruction=f"task {seed}").success
    found = robot.call("retrieve", image=image_message(picture(3, 480, 640), 9), k=1)
    assert found.result.matches[0].instruction == "task 3"
    assert found.result.matches[0].score > 0.999
    assert robot.call("retrieve", instruction="task 3", target=1, k=1).result.matches
    calls = [
        robot.client.call_async("retrieve", image=image_message(picture(seed, 480, 640), 9), k=1)
        for seed in 4 * [0, 1, 2, 3, 4]
    ]
    wait_until(lambda: all(call.done() for call in calls), "answers to pictures that wait together")
    found_first = [call.result().result.matches[0].instruction for call in calls]
    assert found_first == 4 * [f"task {seed}" for seed in range(5)]
    published = robot.collect(MatchArray, "retrieval/matches")
    robot.wait_until_heard()
    robot.show(picture(2, 480, 640), 11)
    answer = published.wait_for(lambda m: len(m.matches) > 0)
    assert answer.matches[0].instruction == "task 2"
    reports = robot.collect(DiagnosticArray, "/diagnostics")
    report = reports.wait_for(lambda m: m.status[0].level == DiagnosticStatus.OK).status[0]
    values = {pair.key: pair.value for pair in report.values}
    assert values["device"] == "cuda:0"
    assert (values["engine"], values["precision"]) == ("torch", "fp16")
    assert "Traceback" not in node.log


def test_cleaning_up_gives_the_gpu_back_each_time(
    start: Start, robot: Robot, weights: Path
) -> None:
    before = used_bytes()
    begin(start, robot, model="ViT-B-32", checkpoint=weights)
    manager = Manager(robot)
    kept = []
    for seed in range(3):
        image = image_message(picture(seed, 480, 640), seed)
        assert robot.call("remember", image=image, instruction="task").success
        taken = used_bytes() - before
        assert manager.try_to("deactivate")
        assert manager.try_to("cleanup")
        kept.append(used_bytes() - before)
        assert taken - kept[-1] > 280 * _MB, (taken / _MB, kept[-1] / _MB)
        assert manager.try_to("configure")
        assert manager.try_to("activate")
    # What stays is CUDA's own, and does not become more.
    assert kept[2] - kept[1] < 8 * _MB, [bytes_ / _MB for bytes_ in kept]


def test_a_gpu_that_others_have_filled_fails_requests_with_the_reason_and_not_the_node(
    start: Start, robot: Robot, others: Callable[[int], None]
) -> None:
    node = begin(start, robot, model="vla-retrieval-demo")
    small, large = (
        image_message(picture(1, *size), 1) for size in ((480, 640), (2160, 3840))
    )  # fmt: skip
    assert robot.call("remember", image=small, instruction="task").success
    others(_LEFT_BYTES)
    refused = robot.call("retrieve", image=large, k=1)
    assert not refused.success
    assert refused.status.code == Status.INTERNAL
    for words in ("cuda:0", "memory", "3840"):
        assert words in refused.message
    # What it was asked before still fits.
    assert robot.call("retrieve", image=small, k=1).result.matches
    others(0)
    assert robot.call("retrieve", image=large, k=1).result.matches
    assert node.is_alive()
    assert "Traceback" not in node.log


def test_a_model_that_does_not_fit_leaves_the_node_unconfigured_until_there_is_room(
    start: Start, robot: Robot, weights: Path, others: Callable[[int], None]
) -> None:
    node = start(autostart=False, model="ViT-B-32", checkpoint=weights, diagnostics_period_sec=0.2)
    manager = Manager(robot)
    others(600 * _MB)  # CUDA itself takes most of it
    assert not manager.try_to("configure")
    assert manager.state() == "unconfigured"
    reports = robot.collect(DiagnosticArray, "/diagnostics")
    (report,) = reports.wait_for(lambda m: m.status[0].level == DiagnosticStatus.ERROR).status
    assert "memory" in report.message
    others(0)
    assert manager.try_to("configure")
    assert manager.try_to("activate")
    image = image_message(picture(0, 480, 640), 1)
    assert robot.call("remember", image=image, instruction="task").success
    assert "Traceback" not in node.log
