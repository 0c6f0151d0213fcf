"""A live evaluation from bags and a running node to an outcome."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.experiments.assembling import Outcome
from vla_retrieval.experiments.live import score_heard
from vla_retrieval.experiments.planning import check_sides, make_plan
from vla_retrieval.experiments.settings import ExperimentSettings
from vla_retrieval.projection import Head, projected_fingerprint, short_digest
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.player_choice import choose_player
from vla_retrieval.ros.playing import Progress, ReplayOptions
from vla_retrieval.ros.replay import Replay, fill
from vla_retrieval.types import Fingerprint


def evaluate_node(
    bags: Sequence[Path],
    namespace: str,
    fingerprint: Fingerprint,
    settings: ExperimentSettings,
    options: ReplayOptions,
    start_sec: float,
    progress: Progress,
    head: Head | None = None,
) -> Outcome:
    """Fill a running node's memory with one side of the bags' frames, and ask it with the other.

    Args:
        bags: rosbag2 folders or files.
        namespace: Of the node.
        fingerprint: Of the encoder that the node should have.
        settings: What is wanted.
        options: How frames are played.
        start_sec: Longest wait for the node to be active.
        progress: Told how far it is.
        head: That the node should have, or None.

    Raises:
        InvalidInputError: If a bag cannot be evaluated, or the node is not one that can be: its
            memory is not empty, or it has another encoder, head or similarity; or if the player
            that was asked for by name cannot play the bags.
        RetrievalError: If the node refuses what it is given, or the player fails.
        TimeoutError: If it does not become active or does not answer.
    """
    plan = make_plan(bags, settings)
    split = plan.split
    check_sides(split.gallery, split)
    with RetrievalClient(namespace, "replay_evaluation") as client:
        if not client.wait_until_active(lambda: True, start_sec):
            where = f"{namespace.rstrip('/')}/retrieval"
            raise TimeoutError(
                f"no active node {where} within {start_sec:g} s: start it, in this ROS domain"
            )
        _check(client, fingerprint, head, settings)
        frames = [*split.queries, *split.absent]
        player, why = choose_player(
            client, bags, plan.recordings, frames, settings.reading, options
        )
        reason = f", not by ros2 bag: {why}" if why else ""
        client.node.get_logger().info(f"frames are played by {player.name}{reason}")
        filled = fill(client, split.gallery, progress)
        check_sides(filled.gallery, split)
        heard = Replay(client, filled.position_of, settings, player).run(frames, progress)
    if why:
        heard.notes.append(f"`ros2 bag play` was not the player: {why}.")
    heard.notes += [
        f"{count} image(s) of the memory's side were refused by the node: {reason}."
        for reason, count in sorted(filled.refused.items())
    ]
    return score_heard(plan, filled.gallery, heard, projected_fingerprint(fingerprint, head))


def _check(
    client: RetrievalClient,
    fingerprint: Fingerprint,
    head: Head | None,
    settings: ExperimentSettings,
) -> None:
    """Refuse a node whose numbers would not be comparable."""
    stats = client.call("get_stats")
    for field, wanted, got in (
        ("model", str(fingerprint), stats.fingerprint),
        (
            "head",
            "none" if head is None else short_digest(head.digest),
            stats.head_digest or "none",
        ),
        ("similarity", settings.similarity.value, stats.similarity),
    ):
        if wanted != got:
            raise InvalidInputError(
                field, wanted, f"{got} in the node", "Give this command and the node the same one."
            )
