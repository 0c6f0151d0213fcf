"""Between the library's types and the messages. Nothing is decided here."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import KeyValue
from geometry_msgs.msg import PointStamped, PoseStamped
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory import IndexStats, MemoryStats
from vla_retrieval.projection import short_digest
from vla_retrieval.types import (
    Action,
    CameraPose,
    Entry,
    Filter,
    Match,
    Nearby,
    NewEntry,
    Outcome,
    Query,
    Retrieval,
    Similarity,
    StageTimes,
    Target,
)
from vla_retrieval_msgs import msg as messages
from vla_retrieval_msgs.srv import GetStats, Remember

_NS_PER_SEC = 1_000_000_000
_LAST_STAMP_NS = (1 << 31) * _NS_PER_SEC - 1  # an entry's may be later; int32 would turn it over
_TARGETS = {
    messages.Query.TARGET_SCENES: Target.SCENES,
    messages.Query.TARGET_INSTRUCTIONS: Target.INSTRUCTIONS,
    messages.Query.TARGET_PAIR: Target.PAIR,
}
_TARGET_NUMBERS = {target: number for number, target in _TARGETS.items()}
# Stands for "any score" in messages, where a request's default cannot be minus infinity.
ANY_SCORE = -1e6

# To make a message with others inside takes seven times as long as to copy one. Copies share what
# is inside, which nobody may write to; fields are set as a whole.
_EMPTY_MATCH, _EMPTY_QUERY, _NO_FILTER = messages.Match(), messages.Query(), messages.Filter()

EntryOrMatch = TypeVar("EntryOrMatch", messages.Entry, messages.Match)


def to_ns(stamp: Time) -> int:
    """Return a stamp in nanoseconds since the epoch."""
    return int(stamp.sec) * _NS_PER_SEC + int(stamp.nanosec)


def _given_ns(stamp: Time, field: str) -> int:
    """Return a request's stamp in nanoseconds.

    Raises:
        InvalidInputError: If its nanoseconds are a second or more, so that what was meant is not
            known, or its seconds are negative, which no entry's are.
    """
    if stamp.sec < 0:
        raise InvalidInputError(f"{field}.sec", "0 or more", str(stamp.sec))
    if stamp.nanosec >= _NS_PER_SEC:
        raise InvalidInputError(f"{field}.nanosec", f"less than {_NS_PER_SEC}", str(stamp.nanosec))
    return to_ns(stamp)


def to_stamp(stamp_ns: int) -> Time:
    """Return nanoseconds since the epoch as a stamp; its seconds end in 2038, and so does it."""
    sec, nanosec = divmod(min(stamp_ns, _LAST_STAMP_NS), _NS_PER_SEC)
    return Time(sec=sec, nanosec=nanosec)


def to_target(number: int, field: str = "target") -> Target:
    """Return the target that a request's number names.

    Raises:
        InvalidInputError: If it names none.
    """
    try:
        return _TARGETS[number]
    except KeyError:
        raise InvalidInputError(
            field, "Query.TARGET_SCENES (0), TARGET_INSTRUCTIONS (1) or TARGET_PAIR (2)",
            str(number),
        ) from None  # fmt: skip


def to_outcome(number: int, field: str = "outcome") -> Outcome:
    """Return the outcome that a request's number names.

    Raises:
        InvalidInputError: If it names none.
    """
    try:
        return Outcome(number)
    except ValueError:
        raise InvalidInputError(
            field, "OUTCOME_UNKNOWN (0), OUTCOME_SUCCESS (1) or OUTCOME_FAILURE (2)", str(number)
        ) from None


def to_metadata(pairs: Iterable[KeyValue], field: str = "metadata") -> dict[str, str]:
    """Return key-value messages as a dictionary.

    Raises:
        InvalidInputError: If a key comes twice.
    """
    metadata: dict[str, str] = {}
    for pair in pairs:
        if pair.key in metadata:
            raise InvalidInputError(field, "each key at most once", f"{pair.key!r} twice")
        metadata[pair.key] = pair.value
    return metadata


def to_filter(message: messages.Filter) -> Filter:
    """Return the filter in a message; zero stamps are open ends.

    Raises:
        InvalidInputError: If an outcome is none, a key comes twice, a stamp is none, the time range
            is empty or the ball is none.
    """
    return Filter(
        stamp_from_ns=_given_ns(message.stamp_from, "filter.stamp_from") or None,
        stamp_to_ns=_given_ns(message.stamp_to, "filter.stamp_to") or None,
        episode_ids=tuple(message.episode_ids),
        outcomes=tuple(to_outcome(number, "filter.outcomes") for number in message.outcomes),
        frame_ids=tuple(message.frame_ids),
        tags=tuple(message.tags),
        metadata=to_metadata(message.metadata, "filter.metadata"),
        exclude_ids=tuple(int(number) for number in message.exclude_ids),
        near=_to_nearby(message) if message.has_near else None,
    )


def to_new_entry(request: Remember.Request, header: Header) -> NewEntry:
    """Return what a request wants remembered, without its image.

    Args:
        request: The request.
        header: The image's header, which gives stamp and frame.

    Raises:
        InvalidInputError: If a field is missing or out of range.
    """
    return NewEntry(
        instruction=request.instruction,
        stamp_ns=_given_ns(header.stamp, "image.header.stamp"),
        frame_id=header.frame_id,
        episode_id=request.episode_id,
        outcome=to_outcome(request.outcome),
        action=_to_action(request.action),
        camera_pose=_to_pose(request.camera_pose) if request.has_camera_pose else None,
        tags=tuple(request.tags),
        metadata=to_metadata(request.metadata),
        pinned=request.pinned,
    )


def to_entry_message(entry: Entry) -> messages.Entry:
    """Return an entry as a message."""
    message = _fill_entry(messages.Entry(), entry)
    message.pinned = entry.pinned
    message.merged = entry.merged
    return message


def to_match_message(match: Match) -> messages.Match:
    """Return a match as a message."""
    message = _fill_entry(copy.copy(_EMPTY_MATCH), match.entry)
    message.rank = match.rank
    message.score = match.score
    message.scene_score = match.scene_score
    message.instruction_score = match.instruction_score
    return message


def to_match_array(
    query: Query,
    retrieval: Retrieval,
    header: Header,
    similarity: Similarity,
    model: str,
    image_age_sec: float = math.nan,
) -> messages.MatchArray:
    """Return the answer to a query as a message."""
    return messages.MatchArray(
        header=header,
        query=_to_query_message(query, similarity, model),
        matches=[to_match_message(match) for match in retrieval.matches],
        known=int(retrieval.known),
        known_confidence=retrieval.known_confidence,
        memory_size=retrieval.memory_size,
        eligible_size=retrieval.eligible_size,
        exact=retrieval.exact,
        head_method=retrieval.head_method,
        head_digest=short_digest(retrieval.head),
        image_age_sec=image_age_sec,
        times=_to_times_message(retrieval.times),
    )


def fill_stats(response: GetStats.Response, stats: MemoryStats) -> None:
    """Fill in what the memory says about itself and its index."""
    response.memory_dir = str(stats.directory)
    response.memory_size = stats.entries
    response.size_bytes = stats.size_bytes
    response.oldest_stamp = to_stamp(stats.oldest_stamp_ns or 0)
    response.newest_stamp = to_stamp(stats.newest_stamp_ns or 0)
    response.similarity = stats.similarity.value
    response.merged = stats.merged
    response.evicted = stats.evicted
    response.evicted_over_entries = stats.evicted_over_entries
    response.evicted_over_bytes = stats.evicted_over_bytes
    _fill_index_stats(response, stats.index)


def _fill_index_stats(response: GetStats.Response, index: IndexStats) -> None:
    response.index_kind = index.kind
    response.index_ram_bytes = index.ram_bytes
    response.index_rows = index.rows
    response.index_dead_rows = index.dead_rows
    response.index_directions = [
        messages.IndexDirection(**dataclasses.asdict(direction)) for direction in index.directions
    ]
    response.index_error = index.last_error
    if index.head is not None:
        response.head_method = index.head.method
        response.head_digest = short_digest(index.head.digest)
    if index.wanted_head is not None:
        response.wanted_head_method = index.wanted_head.method
        response.wanted_head_digest = short_digest(index.wanted_head.digest)
    response.head_switching = index.switching


def _to_query_message(query: Query, similarity: Similarity, model: str) -> messages.Query:
    message = copy.copy(_EMPTY_QUERY)
    message.target = _TARGET_NUMBERS[query.target]
    message.has_image = query.image is not None
    message.instruction = query.instruction or ""
    message.scene_weight = query.scene_weight
    message.k = query.k
    message.min_score = max(query.min_score, ANY_SCORE)
    message.filter = _to_filter_message(query.filter)
    message.diversity = query.diversity
    message.similarity = similarity.value
    message.model = model
    return message


def _to_filter_message(filter_: Filter) -> messages.Filter:
    if filter_.passes_all:
        return _NO_FILTER
    message = messages.Filter(
        stamp_from=to_stamp(filter_.stamp_from_ns or 0),
        stamp_to=to_stamp(filter_.stamp_to_ns or 0),
        episode_ids=list(filter_.episode_ids),
        outcomes=[int(outcome) for outcome in filter_.outcomes],
        frame_ids=list(filter_.frame_ids),
        tags=list(filter_.tags),
        metadata=_to_key_values(filter_.metadata),
        exclude_ids=list(filter_.exclude_ids),
    )
    if filter_.near is not None:
        message.has_near = True
        message.near = _to_point_message(filter_.near)
        message.near_radius_m = filter_.near.radius_m
    return message


def _to_times_message(times: StageTimes) -> messages.StageTimes:
    return messages.StageTimes(**vars(times))


def _fill_entry(message: EntryOrMatch, entry: Entry) -> EntryOrMatch:
    message.entry_id = entry.entry_id
    message.instruction = entry.instruction
    message.stamp = to_stamp(entry.stamp_ns)
    message.frame_id = entry.frame_id
    message.episode_id = entry.episode_id
    message.outcome = int(entry.outcome)
    message.tags = list(entry.tags)
    message.metadata = _to_key_values(entry.metadata)
    if entry.action is not None:
        message.action = messages.ActionPayload(
            space=entry.action.space, shape=list(entry.action.shape), values=entry.action.values
        )
    if entry.camera_pose is not None:
        message.has_camera_pose = True
        message.camera_pose = _to_pose_message(entry.camera_pose)
    if entry.thumbnail:
        message.thumbnail = _to_thumbnail_message(entry)
    return message


def _to_thumbnail_message(entry: Entry) -> CompressedImage:
    header = Header(stamp=to_stamp(entry.stamp_ns), frame_id=entry.frame_id)
    return CompressedImage(header=header, format="jpeg", data=entry.thumbnail)


def _to_key_values(metadata: Mapping[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=value) for key, value in metadata.items()]


def _to_action(message: messages.ActionPayload) -> Action | None:
    if not (message.space or len(message.shape) or len(message.values)):
        return None
    return Action(
        message.space,
        tuple(int(side) for side in message.shape),
        np.array(message.values, np.float32),
    )


def _to_nearby(message: messages.Filter) -> Nearby:
    point = message.near.point
    return Nearby((point.x, point.y, point.z), message.near_radius_m, message.near.header.frame_id)


def _to_point_message(near: Nearby) -> PointStamped:
    message = PointStamped(header=Header(frame_id=near.frame_id))
    message.point.x, message.point.y, message.point.z = near.position
    return message


def _to_pose(message: PoseStamped) -> CameraPose:
    position, orientation = message.pose.position, message.pose.orientation
    return CameraPose(
        frame_id=message.header.frame_id,
        stamp_ns=_given_ns(message.header.stamp, "camera_pose.header.stamp"),
        position=(position.x, position.y, position.z),
        orientation=(orientation.x, orientation.y, orientation.z, orientation.w),
    )


def _to_pose_message(pose: CameraPose) -> PoseStamped:
    message = PoseStamped()
    message.header = Header(stamp=to_stamp(pose.stamp_ns), frame_id=pose.frame_id)
    position, orientation = message.pose.position, message.pose.orientation
    position.x, position.y, position.z = pose.position
    orientation.x, orientation.y, orientation.z, orientation.w = pose.orientation
    return message
