"""How old what an answer shows is, and earlier answers for those who take one rather than none."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections import OrderedDict
from typing import NamedTuple

from std_msgs.msg import Header

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.ros.conversions import to_ns
from vla_retrieval.ros.frames import Frame
from vla_retrieval.ros.images import is_empty
from vla_retrieval_msgs.msg import MatchArray
from vla_retrieval_msgs.srv import Retrieve

_NS_PER_SEC = 1_000_000_000
_KEPT = 64
_MATCHES_KEPT = 10_000  # of all answers together; each may have a thumbnail of several kB


def image_age_sec(
    header: Header | None, frame: Frame | None, now_ns: int, *, simulated: bool = False
) -> float:
    """Return how old a query image is, in seconds; NaN where nothing says so.

    It is never below 0: an image that a clock ahead of the node's has stamped counts as new. How
    long the node has a frame is measured on the steady clock, which nobody sets; only in simulated
    time it is the simulation's own, as long as that runs forward: a bag that starts over leaves a
    frame behind whose time has not come.

    Args:
        header: Of the query image, or None without one.
        frame: The same as the node received it, or None for one that came with a request.
        now_ns: The node's clock, nanoseconds since the epoch.
        simulated: Whether that is simulated time.
    """
    if header is None:
        return math.nan
    stamp_ns = to_ns(header.stamp)
    if frame is None:
        return max(0.0, (now_ns - stamp_ns) / _NS_PER_SEC) if stamp_ns else math.nan
    if simulated and now_ns >= frame.received_ns:
        return max(0.0, (now_ns - (stamp_ns or frame.received_ns)) / _NS_PER_SEC)
    held_sec = time.monotonic() - frame.received_sec
    return held_sec + max(0.0, -ahead_sec(frame))


class _Kept(NamedTuple):
    """An answer, and when it was given: on the node's clock and on the steady one."""

    answer: MatchArray
    given_ns: int
    given_sec: float

    def aged_sec(self, now_ns: int, *, simulated: bool) -> float:
        """Return how long ago that was, by the rule of `image_age_sec`."""
        if simulated and now_ns >= self.given_ns:
            return (now_ns - self.given_ns) / _NS_PER_SEC
        return time.monotonic() - self.given_sec


def ahead_sec(frame: Frame) -> float:
    """Return how far a frame's stamp was ahead of the node's clock when it came, in seconds.

    Mostly that is below 0: the time on the way. It is 0 where the frame has no stamp.
    """
    stamp_ns = to_ns(frame.header.stamp)
    return (stamp_ns - frame.received_ns) / _NS_PER_SEC if stamp_ns else 0.0


def check_stale(request: Retrieve.Request) -> None:
    """Refuse a request that cannot be answered with an earlier answer and would accept one.

    Raises:
        InvalidInputError: If it has an image of its own.
    """
    if request.accept_stale and _has_image(request):
        raise InvalidInputError(
            "accept_stale", "false for a request with an image of its own", "true",
            "Ask with use_newest_frame or with an instruction, or wait for a new answer.",
        )  # fmt: skip


class LastAnswers:
    """The last answer to each of the last few different requests that accept stale ones.

    Any thread may put and get.
    """

    def __init__(self) -> None:
        """Start without an answer."""
        # An inference thread puts, the executor's thread gets.
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, _Kept] = OrderedDict()

    def put(self, request: Retrieve.Request, answer: MatchArray, now_ns: int) -> None:
        """Keep an answer, if its request accepts stale ones and has no image of its own.

        Args:
            request: That it answers.
            answer: Is not changed later.
            now_ns: The node's clock, nanoseconds since the epoch.
        """
        if not _may_be_stale(request):
            return
        key = _key(request)
        with self._lock:
            self._answers[key] = _Kept(answer, now_ns, time.monotonic())
            self._answers.move_to_end(key)
            while len(self._answers) > 1 and self._too_much():
                self._answers.popitem(last=False)

    def get(
        self, request: Retrieve.Request, now_ns: int, *, simulated: bool = False
    ) -> MatchArray | None:
        """Return the last answer to the same request, marked as stale, or None.

        Its image has aged since as `image_age_sec` says.

        Args:
            request: To be answered.
            now_ns: The node's clock, nanoseconds since the epoch.
            simulated: Whether that is simulated time.
        """
        if not _may_be_stale(request):
            return None
        key = _key(request)
        with self._lock:
            kept = self._answers.get(key)
        if kept is None:
            return None
        stale = copy.copy(kept.answer)
        stale.stale = True
        stale.image_age_sec = stale.image_age_sec + kept.aged_sec(now_ns, simulated=simulated)
        return stale

    def _too_much(self) -> bool:
        matches = sum(len(kept.answer.matches) for kept in self._answers.values())
        return len(self._answers) > _KEPT or matches > _MATCHES_KEPT


def _has_image(request: Retrieve.Request) -> bool:
    return not (is_empty(request.image) and is_empty(request.compressed_image))


def _may_be_stale(request: Retrieve.Request) -> bool:
    # A key of all pixels takes half a second for a picture of 1920x1080, without a pause for
    # any other thread.
    return bool(request.accept_stale) and not _has_image(request)


def _key(request: Retrieve.Request) -> str:
    """Return what makes two requests the same: everything but how long they wait.

    Not what is sent: between fields, that has bytes of no meaning.
    """
    same = copy.copy(request)
    same.timeout_sec = 0.0
    return repr(same)
