"""What a replay asks of the running node beside its answers: its memory and its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from diagnostic_msgs.msg import KeyValue
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from vla_retrieval.errors import InvalidInputError, RetrievalError
from vla_retrieval.evaluation.frames import Frame
from vla_retrieval.experiments.frame_store import Progress
from vla_retrieval.ros.client import RetrievalClient, wait_for
from vla_retrieval.ros.conversions import to_stamp
from vla_retrieval.ros.images import to_image_message
from vla_retrieval.types import Embeddings

_ANSWER_WITHIN_SEC = 120.0
_ELSEWHERE = "Start the node with another memory_dir."


class Gallery:
    """The frames that a node remembered, by position.

    Attributes:
        frames: In the order of the bags.
        refused: Why others have no picture -> how many.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.frames: list[Frame] = []
        self.refused: dict[str, int] = {}
        self._entry_ids: list[int] = []
        self._position_of: dict[int, int] = {}

    def add(self, frame: Frame, entry_id: int) -> None:
        """Give a frame the next position."""
        self._position_of[entry_id] = len(self.frames)
        self.frames.append(frame)
        self._entry_ids.append(entry_id)

    def refuse(self, error: InvalidInputError) -> None:
        """Count a frame without a picture."""
        self.refused[error.field] = self.refused.get(error.field, 0) + 1

    def position(self, entry_id: int) -> int:
        """Return an entry's position.

        Raises:
            RetrievalError: If somebody else put it there.
        """
        if entry_id not in self._position_of:
            raise RetrievalError(
                f"entry {entry_id} was found, which this replay did not remember: another program "
                f"fills the node's memory. {_ELSEWHERE}"
            )
        return self._position_of[entry_id]

    def entry_id(self, position: int) -> int:
        """Return the entry at a position."""
        return self._entry_ids[position]


def fill_memory(client: RetrievalClient, frames: Sequence[Frame], progress: Progress) -> Gallery:
    """Have a node with an empty memory remember frames, in order.

    Raises:
        InvalidInputError: If its memory is not empty, or it does not keep every frame by itself.
        RetrievalError: If it refuses one.
        TimeoutError: If it does not answer.
    """
    held = checked(client.call("get_stats", _ANSWER_WITHIN_SEC)).memory_size
    if held:
        raise InvalidInputError(
            "memory_size", "0 in the node, so that it finds what the bags have", str(held),
            _ELSEWHERE,
        )  # fmt: skip
    gallery = Gallery()
    for done, frame in enumerate(frames):
        progress("remembering", done, len(frames))
        try:
            picture = frame.image()
        except InvalidInputError as error:
            gallery.refuse(error)
            continue
        header = Header(stamp=to_stamp(max(0, frame.stamp_ns)), frame_id=frame.frame_id)
        answer = checked(
            client.call(
                "remember", _ANSWER_WITHIN_SEC,
                image=to_image_message(picture, Image(header=header)),
                instruction=frame.instruction, episode_id=frame.episode_id,
                metadata=[KeyValue(key="query_id", value=frame.query_id)],
            )
        )  # fmt: skip
        _check_kept(answer)
        gallery.add(frame, answer.entry_id)
    progress("remembering", len(frames), len(frames))
    return gallery


def _check_kept(answer: Any) -> None:
    if answer.merged:
        raise InvalidInputError(
            "merge_scene_similarity", "above 1, so that near-duplicates are entries of their own",
            "a node that merges them", "Start the node without it.",
        )  # fmt: skip
    if len(answer.evicted_ids):
        raise InvalidInputError(
            "max_entries, max_memory_mb", "room for all frames that make the memory",
            "a node that removed some to make room", "Start the node with larger bounds, or none.",
        )  # fmt: skip


def embeddings_of(client: RetrievalClient, entry_ids: Sequence[int]) -> tuple[Embeddings, ...]:
    """Return scenes and instructions of entries as a node holds them, each shape ``(n, dim)``.

    Raises:
        RetrievalError: If one is not there.
        TimeoutError: If the node does not answer.
    """
    answers = [
        checked(client.call("get_entry", entry_id=entry_id, with_embeddings=True))
        for entry_id in entry_ids
    ]
    return (
        np.array([answer.scene_embedding for answer in answers], np.float32),
        np.array([answer.instruction_embedding for answer in answers], np.float32),
    )


def checked(response: Any) -> Any:
    """Return a response that succeeded.

    Raises:
        RetrievalError: With the node's own words, if it did not.
    """
    if not response.success:
        raise RetrievalError(f"the node refused: {response.message}")
    return response


class NodeParameters:
    """A running node's parameters."""

    def __init__(self, client: RetrievalClient) -> None:
        """Connect to those of the node that a client talks to."""
        self._client = AsyncParameterClient(client.node, "retrieval")

    def get(self, names: Sequence[str]) -> dict[str, Any]:
        """Return values.

        Raises:
            TimeoutError: If the node does not answer.
        """
        response = wait_for(self._client.get_parameters(list(names)), _ANSWER_WITHIN_SEC)
        values = map(parameter_value_to_python, response.values)
        return dict(zip(names, values, strict=True))

    def set(self, values: Mapping[str, Any]) -> None:
        """Change live parameters.

        Raises:
            InvalidInputError: If the node refuses one.
            TimeoutError: If it does not answer.
        """
        wanted = [Parameter(name, value=value) for name, value in values.items()]
        response = wait_for(self._client.set_parameters(wanted), _ANSWER_WITHIN_SEC)
        for (name, value), result in zip(values.items(), response.results, strict=True):
            if not result.successful:
                raise InvalidInputError(name, "a value that the node takes", f"{value}: "
                                        f"{result.reason}")  # fmt: skip

    @contextmanager
    def changed(self, values: Mapping[str, Any]) -> Iterator[None]:
        """Change live parameters for the body of a ``with`` statement, and put them back."""
        before = self.get(list(values))
        try:
            self.set(values)
            yield
        finally:
            self.set(before)
