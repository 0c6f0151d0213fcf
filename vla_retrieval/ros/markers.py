"""The matches of an answer as markers for RViz and Foxglove, where their cameras stood.

Each match with a remembered pose becomes a small camera pyramid in the frame that the pose was
remembered in, and a ball at its tip; what lies at one place shares one label. A pyramid opens
along the optical frame's z axis, with x to the right and y down, as REP 103 has it for the frames
of images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from vla_retrieval_msgs import msg as messages

MOST_DRAWN = 50
"""Most matches that are drawn, by rank: an answer may have ten thousand."""

_FIRST_DEPTH_M, _LAST_DEPTH_M, _SHRINK = 0.30, 0.10, 0.85
# Half of the width and of the height against the depth: a 4:3 image of 60 degrees.
_HALF_WIDTH = math.tan(math.radians(30))
_HALF_HEIGHT = 0.75 * _HALF_WIDTH
_LINE_M, _BALL_M, _TEXT_M = 0.008, 0.05, 0.06
_NEAR_M = 0.25  # labels that are closer would cover each other
_MOST_LINES, _MOST_CHARACTERS, _MOST_NAMED = 6, 60, 8
_NOTE_AHEAD_M = 0.5

# From the best rank to the last one drawn. Both ends can be told from the background, dark in
# RViz and light or dark in Foxglove, and from each other without seeing red and green.
_BEST, _WORST = (1.0, 0.78, 0.10), (0.25, 0.45, 0.85)
_OUTCOMES = {
    messages.Entry.OUTCOME_UNKNOWN: ("", (0.65, 0.65, 0.65)),
    messages.Entry.OUTCOME_SUCCESS: (", success", (0.15, 0.75, 0.35)),
    messages.Entry.OUTCOME_FAILURE: (", failure", (0.90, 0.20, 0.20)),
}
_WHITE = (1.0, 1.0, 1.0)


def make_markers(answer: messages.MatchArray) -> MarkerArray:
    """Return what replaces all markers that were drawn before.

    Args:
        answer: Matches, best first. The first `MOST_DRAWN` are drawn, those of them that have a
            pose. A note in the query image's frame, or else in that of the best pose, names the
            others; without any such frame there is none.

    Returns:
        First a marker that deletes all. Then namespaces ``cameras`` (pyramids, larger and more
        yellow at better ranks), ``places`` (balls in the colour of the outcome; both with the
        rank as id), ``labels`` (rank, score, entry, outcome and instruction; the id is the best
        rank at the place) and ``note``. Stamps are zero: drawn where their frame is now.
    """
    drawn = answer.matches[:MOST_DRAWN]
    placed = [match for match in drawn if _has_place(match)]
    frame_id = answer.header.frame_id or (placed[0].camera_pose.header.frame_id if placed else "")
    markers = no_markers(frame_id).markers
    for match in placed:
        markers += [_camera(match, len(drawn)), _ball(match)]
    markers += [_label(matches) for matches in _by_place(placed)]
    note = _note(answer, drawn)
    if note and frame_id:
        markers.append(_note_marker(note, frame_id))
    return MarkerArray(markers=markers)


def no_markers(frame_id: str) -> MarkerArray:
    """Return what deletes all markers that were drawn before.

    Args:
        frame_id: Any frame that tf may know. Nothing is drawn in it, but Foxglove takes each
            marker's frame for one of the robot's, and complains that tf does not connect "".
    """
    everything = Marker(header=Header(frame_id=frame_id), action=Marker.DELETEALL)
    return MarkerArray(markers=[everything])


def depth_m(rank: int) -> float:
    """Return how deep the pyramid of a rank is, in metres."""
    return float(max(_LAST_DEPTH_M, _FIRST_DEPTH_M * _SHRINK ** (rank - 1)))


def _has_place(match: messages.Match) -> bool:
    # A pose without a frame is nowhere.
    return bool(match.has_camera_pose and match.camera_pose.header.frame_id)


def _camera(match: messages.Match, count: int) -> Marker:
    marker = _marker("cameras", match.rank, Marker.LINE_LIST, match.camera_pose)
    marker.pose.orientation = _unit(match.camera_pose.pose.orientation)
    marker.scale.x = _LINE_M
    marker.color = _shade((match.rank - 1) / max(1, count - 1))
    depth = depth_m(match.rank)
    tip = Point()
    corners = [
        Point(x=x * _HALF_WIDTH * depth, y=y * _HALF_HEIGHT * depth, z=depth)
        for x, y in ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
    ]
    for corner, after in zip(corners, corners[1:] + corners[:1], strict=True):
        marker.points += [tip, corner, corner, after]
    # A tick above the upper edge says which way is up.
    upper = Point(x=0.0, y=-_HALF_HEIGHT * depth, z=depth)
    marker.points += [upper, Point(x=0.0, y=1.3 * upper.y, z=depth)]
    return marker


def _ball(match: messages.Match) -> Marker:
    marker = _marker("places", match.rank, Marker.SPHERE, match.camera_pose)
    marker.scale = Vector3(x=_BALL_M, y=_BALL_M, z=_BALL_M)
    marker.color = _color(_outcome(match)[1])
    return marker


def _by_place(placed: Sequence[messages.Match]) -> list[list[messages.Match]]:
    """Return the matches of each place together; a place is where its best match is."""
    places: list[list[messages.Match]] = []
    for match in placed:
        for place in places:
            if _is_near(place[0].camera_pose, match.camera_pose):
                place.append(match)
                break
        else:
            places.append([match])
    return places


def _is_near(one: PoseStamped, other: PoseStamped) -> bool:
    if one.header.frame_id != other.header.frame_id:
        return False
    a, b = one.pose.position, other.pose.position
    return math.dist((a.x, a.y, a.z), (b.x, b.y, b.z)) <= _NEAR_M


def _label(matches: Sequence[messages.Match]) -> Marker:
    lines = [_line(match) for match in matches[:_MOST_LINES]]
    if len(matches) > _MOST_LINES:
        lines.append(f"and {len(matches) - _MOST_LINES} more here")
    best = matches[0]
    marker = _marker("labels", best.rank, Marker.TEXT_VIEW_FACING, best.camera_pose)
    marker.text = "\n".join(lines)
    # The text is centred on its pose: above the pyramids, however they are turned.
    marker.pose.position.z += depth_m(best.rank) + (0.5 + len(lines) / 2) * _TEXT_M
    marker.scale = _text_scale()
    marker.color = _color(_WHITE)
    return marker


def _line(match: messages.Match) -> str:
    text = " ".join(match.instruction.split())
    if len(text) > _MOST_CHARACTERS:
        text = text[: _MOST_CHARACTERS - 1] + "…"
    # In front of the instruction: RViz's font has no Chinese, and leaves it out.
    return f"{match.rank}. {match.score:.3f} #{match.entry_id}{_outcome(match)[0]}: {text}"


def _note(answer: messages.MatchArray, drawn: Sequence[messages.Match]) -> str:
    if not answer.matches:
        return "no match"
    lines = []
    homeless = [match for match in drawn if not _has_place(match)]
    if homeless:
        named = ", ".join(f"{match.rank}. #{match.entry_id}" for match in homeless[:_MOST_NAMED])
        more = f" and {len(homeless) - _MOST_NAMED} more" if len(homeless) > _MOST_NAMED else ""
        lines.append(
            f"{len(homeless)} of {len(drawn)} matches remembered without a camera pose: "
            f"{named}{more}"
        )
    if len(answer.matches) > len(drawn):
        lines.append(f"the best {len(drawn)} of {len(answer.matches)} matches are drawn")
    return "\n".join(lines)


def _note_marker(text: str, frame_id: str) -> Marker:
    place = PoseStamped(header=Header(frame_id=frame_id))
    # In front of the camera, along its optical axis.
    place.pose.position.z = _NOTE_AHEAD_M
    marker = _marker("note", 0, Marker.TEXT_VIEW_FACING, place)
    marker.text = text
    marker.scale = _text_scale()
    marker.color = _color(_WHITE)
    return marker


def _marker(namespace: str, number: int, kind: int, at: PoseStamped) -> Marker:
    position = at.pose.position
    return Marker(
        header=Header(frame_id=at.header.frame_id),
        ns=namespace,
        id=number,
        type=kind,
        action=Marker.ADD,
        pose=Pose(position=Point(x=position.x, y=position.y, z=position.z)),
        frame_locked=True,  # a frame that moves takes what was remembered in it along
    )


def _unit(turn: Quaternion) -> Quaternion:
    """Return a quaternion of length 1; a memory takes any that has a length."""
    numbers = (turn.x, turn.y, turn.z, turn.w)
    largest = max(map(abs, numbers))  # squares of numbers as small as 1e-200 would vanish
    x, y, z, w = (number / largest for number in numbers)
    length = math.hypot(x, y, z, w)
    return Quaternion(x=x / length, y=y / length, z=z / length, w=w / length)


def _text_scale() -> Vector3:
    # RViz takes x for the width of a space, and without it one of a letter a metre high. It draws
    # letters and lines twice as high as z.
    return Vector3(x=0.6 * _TEXT_M, z=_TEXT_M)


def _outcome(match: messages.Match) -> tuple[str, tuple[float, float, float]]:
    return _OUTCOMES[match.outcome]


def _shade(worse: float) -> ColorRGBA:
    """Return the colour of a rank: 0 is the best, 1 the last one drawn."""
    red, green, blue = (b + worse * (w - b) for b, w in zip(_BEST, _WORST, strict=True))
    return _color((red, green, blue))


def _color(rgb: tuple[float, float, float]) -> ColorRGBA:
    red, green, blue = rgb
    return ColorRGBA(r=red, g=green, b=blue, a=1.0)
