"""A running node is evaluated with the demonstration bag, and ranks as the offline evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vla_retrieval.evaluation.report.json_file import read_json
from vla_retrieval.experiments.folder import read_trec
from vla_retrieval.experiments.searching import DIRECTIONS

from .harness import START_SEC, NodeProcess, Robot, image_message, picture
from .replaying import parameters, run

FOLDERS = ("live", "offline")


@pytest.fixture
def ready(start: Callable[..., NodeProcess], robot: Robot) -> NodeProcess:
    """Return an active node for compressed images whose parameters are unlike a replay's."""
    node = start(image_transport="compressed", k=3, query_target="scenes", scene_weight=0.25)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    return node


def test_what_a_node_has_to_read_is_told_without_one(tmp_path: Path) -> None:
    done = run("replay_evaluation", tmp_path / "live", "--show-image-transport")

    assert (done.returncode, done.stdout) == (0, "compressed\n"), done.stderr
    assert not (tmp_path / "live").exists()


def test_a_node_ranks_every_frame_that_it_answered_as_the_offline_evaluation(
    ready: NodeProcess, robot: Robot, tmp_path: Path
) -> None:
    before = parameters(robot)
    done = run(
        "replay_evaluation", tmp_path / "live", "--rate", "0", "--player", "own", "--no-offline"
    )
    assert done.returncode == 0, done.stderr + ready.log
    assert parameters(robot) == before
    assert run("evaluate", tmp_path / "offline").returncode == 0
    found, expected = (read_json(tmp_path / name / "evaluation.json") for name in FOLDERS)
    assert found.live is not None
    assert found.live.frames_answered == found.live.frames_played == found.counts["queries frames"]
    for direction in DIRECTIONS:
        (qrels, run_), (other_qrels, other) = (
            read_trec(tmp_path / name, direction) for name in FOLDERS
        )
        assert qrels.query_ids == other_qrels.query_ids
        other = other.aligned(run_.query_ids)
        # The double encodes an image alone as it does in a batch, so only float32 is between them.
        assert abs(run_.scores - other.scores).max() < 1e-6
        same = (run_.entry_ids == other.entry_ids).all(axis=1)
        tied = (abs(other.scores[:, 1:] - other.scores[:, :-1]) < 1e-6).any(axis=1)
        assert (same | tied).all(), direction
        assert same.any(), direction
        means = (e.directions[direction].micro["ndcg@10"].value for e in (found, expected))
        assert next(means) == pytest.approx(next(means), abs=1e-6)


def test_frames_without_an_answer_are_counted_by_cause_and_the_page_shows_how_long_answers_took(
    ready: NodeProcess, tmp_path: Path
) -> None:
    done = run("replay_evaluation", tmp_path / "live", "--rate", "12", "--player", "own")
    assert done.returncode == 0, done.stderr + ready.log
    found = read_json(tmp_path / "live" / "evaluation.json")
    live = found.live
    assert live is not None
    assert live.frames_played == found.counts["queries frames"]
    assert live.frames_played == live.frames_answered + sum(live.drops.values())
    assert live.frames_answered == found.directions["pair"].queries > 0
    assert live.frame_age_ms.p50_ms <= live.latency_ms.p50_ms
    assert list(live.agreement) == list(DIRECTIONS)
    for direction, one in live.agreement.items():
        assert one.live == one.both >= one.same > 0, direction
        assert one.offline >= one.both, direction
    page = (tmp_path / "live" / "index.html").read_text("utf-8")
    assert '<h2 id="live">' in page
    assert 'id="agreement-table"' in page
    assert "same ranking" in done.stdout
    assert "taleness" in page


def test_a_node_that_remembers_something_is_not_filled(
    ready: NodeProcess, robot: Robot, tmp_path: Path
) -> None:
    assert robot.call("remember", image=image_message(picture(1), 1), instruction="go").success
    done = run("replay_evaluation", tmp_path / "live", "--no-offline", "--json")
    assert done.returncode == 1
    assert "remembers nothing yet" in json.loads(done.stdout)["error"]["message"]
    assert "new memory_dir" in done.stderr
    assert robot.call("get_stats").memory_size == 1
    assert not (tmp_path / "live").exists()


@pytest.mark.slow
def test_another_model_than_the_nodes_is_refused_before_anything_is_remembered(
    ready: NodeProcess, robot: Robot, tmp_path: Path
) -> None:
    done = run("replay_evaluation", tmp_path / "live", "--model", "vla-retrieval-demo")
    assert done.returncode == 1
    assert "in the node" in done.stderr
    assert robot.call("get_stats").memory_size == 0
