"""A node that is given learned heads, changes them while it answers, and refuses what is none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter

from test.learned import turned_head, written
from vla_retrieval import ranking
from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.memory import Memory
from vla_retrieval.projection import Head, short_digest
from vla_retrieval.types import Embeddings, Modality, NewEntry
from vla_retrieval_msgs.msg import MatchArray

from .harness import START_SEC, NodeProcess, Robot, ask, picture, wait_until

Start = Callable[..., NodeProcess]
COUNT, K = 40, 6
ASKED = "instruction 7, or one like it"


class Kept:
    """A closed memory, files of two heads for it, and what each of them should answer."""

    def __init__(self, folder: Path) -> None:
        self.directory = folder / "kept"
        self.encoder = DoubleEncoder()
        texts = [f"instruction {n}" for n in range(COUNT)]
        self.scenes = self.encoder.encode_images([picture(n) for n in range(COUNT)])
        entries = [NewEntry(text, n) for n, text in enumerate(texts)]
        with Memory.open(self.directory, self.encoder.fingerprint, durable=False) as memory:
            memory.add(entries, self.scenes, self.encoder.encode_instructions(texts))
        self.heads: dict[str, Head | None] = {"": None}
        for seed in (1, 2):
            head = turned_head(self.encoder.fingerprint, seed)
            self.heads[str(written(head, folder / f"{seed}.safetensors"))] = head
        self.paths = list(self.heads)
        self.folder = folder
        self.damaged = folder / "damaged.safetensors"
        self.damaged.write_bytes(Path(self.paths[1]).read_bytes()[:-100])
        other = replace(self.encoder.fingerprint, model="another model")
        self.foreign = written(turned_head(other, 3), folder / "foreign.safetensors")

    def expected(self, head: Head | None) -> list[int]:
        """Return the ids that brute force ranks first for the question, scenes compared."""
        query, scenes = self.encoder.encode_instructions([ASKED]), self.scenes
        if head is not None:
            query = head.project(query, Modality.INSTRUCTION)
            scenes = head.project(scenes, Modality.SCENE)
        scores = cosines(query[0], scenes)
        ids = np.arange(1, COUNT + 1)
        return [int(ids[i]) for i in ranking.order(scores, ids, K)]

    def assert_answered(self, answer: MatchArray, heads: Sequence[Head | None]) -> str:
        """One of the heads gave all of an answer, and it says which; return its digest."""
        by_digest = {"" if h is None else short_digest(h.digest): h for h in heads}
        head = by_digest[answer.head_digest]
        assert answer.head_method == ("" if head is None else head.method)
        assert [match.entry_id for match in answer.matches] == self.expected(head)
        return str(answer.head_digest)


def cosines(query: Embeddings, vectors: Embeddings) -> np.ndarray:
    wide, asked = vectors.astype(np.float64), query.astype(np.float64)
    return (wide @ asked) / (np.linalg.norm(wide, axis=1) * np.linalg.norm(asked))


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def begin(start: Start, robot: Robot, kept: Kept, **parameters: Any) -> NodeProcess:
    node = start(remote_paths_dir=kept.folder, memory_dir=kept.directory, **parameters)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    return node


class HeadParameter:
    """The parameter ``head`` of the running node."""

    def __init__(self, robot: Robot, folder: Path) -> None:
        self._folder = folder
        node = robot.client.node
        self._service = node.create_client(SetParameters, "retrieval/set_parameters")
        assert self._service.wait_for_service(START_SEC)

    def set(self, value: str) -> Any:
        name = str(Path(value).relative_to(self._folder)) if value else ""
        message = Parameter("head", value=name).to_parameter_msg()
        return ask(self._service, SetParameters.Request(parameters=[message])).results[0]


def question(robot: Robot) -> MatchArray:
    response = robot.call("retrieve", instruction=ASKED, k=K)
    assert response.success, response.message
    return response.result


def wait_for_head(robot: Robot, head: Head | None) -> None:
    digest = "" if head is None else short_digest(head.digest)

    def is_there() -> bool:
        stats = robot.call("get_stats")
        return bool(stats.head_digest == digest and not stats.head_switching)

    wait_until(is_there, f"head {digest!r}")


def test_no_query_is_lost_or_mixed_while_heads_are_switched(
    start: Start, robot: Robot, kept: Kept
) -> None:
    node = begin(start, robot, kept, head=kept.paths[1], query_mode="never")
    kept.assert_answered(question(robot), [kept.heads[kept.paths[1]]])
    done = threading.Event()
    answers: list[MatchArray] = []
    failures: list[BaseException] = []

    def planner() -> None:
        other = Robot()
        try:
            assert other.client.wait_until_active(node.is_alive, START_SEC)
            while not done.is_set() or not answers:
                answers.append(question(other))
        except BaseException as error:
            failures.append(error)
        finally:
            other.close()

    thread = threading.Thread(target=planner)
    thread.start()
    try:
        parameter = HeadParameter(robot, kept.folder)
        for path in kept.paths * 3:
            assert parameter.set(path).successful
            wait_for_head(robot, kept.heads[path])
            seen = len(answers)
            wait_until(lambda: len(answers) > seen + 1 or bool(failures), "two more answers")  # noqa: B023
    finally:
        done.set()
        thread.join()
    assert not failures, failures
    seen_heads = {kept.assert_answered(answer, list(kept.heads.values())) for answer in answers}
    assert len(seen_heads) == len(kept.heads)
    assert robot.call("get_stats").queries_failed == 0


def test_a_head_that_cannot_be_used_is_refused_with_the_reason_and_the_old_one_stays(
    start: Start, robot: Robot, kept: Kept
) -> None:
    begin(start, robot, kept, head=kept.paths[1], query_mode="never")
    parameter = HeadParameter(robot, kept.folder)
    for path, reason in (
        (kept.damaged, "is damaged"),
        (kept.foreign, "another model"),
        (kept.directory / "no such file", "No head at"),
    ):
        result = parameter.set(str(path))
        assert not result.successful
        assert reason in result.reason
        kept.assert_answered(question(robot), [kept.heads[kept.paths[1]]])
    assert not robot.call("get_stats").head_switching


def test_a_node_that_is_configured_with_no_head_for_its_encoder_names_both(
    start: Start, robot: Robot, kept: Kept
) -> None:
    node = start(memory_dir=kept.directory, head=kept.foreign)
    node.process.wait(START_SEC)
    assert "cannot configure" in node.log
    assert "another model" in node.log
    assert str(kept.encoder.fingerprint) in node.log


def test_statistics_and_diagnostics_name_the_head(start: Start, robot: Robot, kept: Kept) -> None:
    head = kept.heads[kept.paths[2]]
    assert head is not None
    begin(
        start, robot, kept, head=kept.paths[2], query_mode="never",
        diagnostics_period_sec=0.2,
    )  # fmt: skip
    stats = robot.call("get_stats")
    named = (head.method, short_digest(head.digest))
    assert (stats.head_method, stats.head_digest) == named
    assert (stats.wanted_head_method, stats.wanted_head_digest) == named
    assert stats.embedding_dim == kept.encoder.dim
    reports = robot.collect(DiagnosticArray, "/diagnostics")
    report = reports.wait_for(lambda m: len(m.status) > 1)
    facts = {pair.key: pair.value for pair in report.status[1].values}
    assert facts["head"] == facts["head_wanted"] == " ".join(named)
    assert facts["head_switching"] == "False"


@pytest.mark.slow
def test_a_node_that_is_killed_during_a_switch_comes_back_with_the_head_it_is_given(
    start: Start, robot: Robot, kept: Kept
) -> None:
    node = begin(start, robot, kept, query_mode="never")
    assert HeadParameter(robot, kept.folder).set(kept.paths[1]).successful  # the switch begins now
    node.process.kill()
    node.process.wait(START_SEC)
    for path in (kept.paths[1], kept.paths[0]):
        given = {"head": path} if path else {}
        node = begin(start, robot, kept, query_mode="never", **given)
        kept.assert_answered(question(robot), [kept.heads[path]])
        assert node.stop() == 0
