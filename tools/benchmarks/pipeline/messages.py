"""The calls that need ROS messages: from one that arrives to one that is ready to leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from vla_retrieval.encoders import Encoder
from vla_retrieval.retriever import Retriever
from vla_retrieval.ros.allocation import keep_large_blocks
from vla_retrieval.ros.conversions import to_match_array
from vla_retrieval.ros.images import to_image_message, to_rgb
from vla_retrieval.types import Query, RgbImage, Similarity, Target

_K = 10


def with_messages(
    encoder: Encoder, retriever: Retriever, pictures: Sequence[RgbImage]
) -> dict[str, Callable[[int], Any]]:
    """Return the calls by name; the allocator is set as in the node.

    Args:
        encoder: The encoder of the retriever.
        retriever: Answers.
        pictures: VGA.
    """
    keep_large_blocks()
    messages = [to_image_message(picture, Image(header=Header())) for picture in pictures]
    raw = [serialize_message(message) for message in messages]
    sources = [np.frombuffer(one, np.uint8) for one in raw]
    target = np.empty_like(sources[0])
    model = encoder.fingerprint.model

    def callback(number: int) -> bytes:
        message = messages[number % len(messages)]
        query = Query(image=to_rgb(message, "image"), target=Target.SCENES, k=_K)
        answer = to_match_array(
            query, retriever.retrieve(query), message.header, Similarity.COSINE, model
        )
        return serialize_message(answer)  # what publishing does with it here

    return {
        "memcpy VGA": lambda n: np.copyto(target, sources[n % len(sources)]),
        "deserialise VGA": lambda n: deserialize_message(raw[n % len(raw)], Image),
        "callback": callback,
    }
