"""The live path: newest frame and current instruction in, ``~/matches`` out.

Frames and instructions only fill slots. A look at the newest frame is queued when one is due
and none is waiting, so however slow the encoder is, it always sees the newest frame.
"""

from __future__ import annotations

import secrets
import threading
import time
import traceback
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from vla_retrieval.contact_sheet import draw_contact_sheet, verdict_on
from vla_retrieval.errors import InvalidInputError, RetrievalError
from vla_retrieval.ros import conversions
from vla_retrieval.ros.frames import Frame, ImageMessage, Instruction
from vla_retrieval.ros.images import to_image_message
from vla_retrieval.ros.markers import make_markers
from vla_retrieval.ros.pictures import NewestPicture
from vla_retrieval.ros.worker import (
    Priority,
    WorkerBusyError,
    WorkerClosedError,
    WorkerStalledError,
    effect,
)
from vla_retrieval.types import (
    NewEntry,
    Query,
    Retrieval,
    StageTimes,
    Target,
    check_instruction,
)

if TYPE_CHECKING:
    from vla_retrieval.ros.node import RetrievalNode
    from vla_retrieval.ros.parameters import Settings
    from vla_retrieval.ros.session import Session

_NS_PER_SEC = 1_000_000_000
_REPEAT_LOG_SEC = 5.0
_KIND = "look at a frame"
_NO_THUMBNAIL = CompressedImage()


@dataclass
class _Look:
    """One look at the newest frame.

    Attributes:
        asks: Whether matches are wanted.
        remembers: Whether it is time to remember the frame.
        answered: Whether the matches were published.
    """

    asks: bool
    remembers: bool = False
    answered: bool = False


class LivePath:
    """Asks about the newest frame, and remembers it, as the parameters say."""

    def __init__(self, node: RetrievalNode, session: Session) -> None:
        """Start without an instruction; frames that came before count as seen."""
        self._node = node
        self._session = session
        # The time is for people. It may come again: two activations in one second, a robot whose
        # clock begins anew at each start.
        time_utc = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S")
        self._episodes = f"{time_utc}-{secrets.token_hex(4)}"
        # Protects the five fields below: both the ROS thread and an inference thread use them.
        self._lock = threading.Lock()
        self._instruction: Instruction | None = None
        self._instructions = 0
        self._look_waits = False
        self._ask_wanted = False
        self._unwanted = 0  # number of the last frame that was not to be looked at
        # Used by the inference thread for pictures alone.
        self._looked_at = node.newest_frame.number
        self._asked_about = (self._looked_at, 0)
        self._ended = False  # set once, and read by the inference thread
        self._remembered_number, self._remembered_ns, self._remembered_episode = 0, 0, ""

    def end(self) -> None:
        """Publish and remember nothing any more, whatever waits or is in hand.

        The node may be active again by then, and has forgotten the instruction.
        """
        self._ended = True

    def on_frame(self, message: ImageMessage) -> None:
        """Keep the frame, and have it looked at if that is due."""
        now_ns = self._node.get_clock().now().nanoseconds
        frame = self._node.newest_frame.put(message, now_ns)
        self._node.counters.add("frames_received")
        settings = self._node.settings
        if settings.query_mode == "frame" or settings.remember_mode == "interval":
            self._queue_look(ask=settings.query_mode == "frame")
        elif settings.query_mode == "never":
            with self._lock:
                self._unwanted = frame.number

    def on_timer(self) -> None:
        """Have the newest frame looked at."""
        if self._node.settings.query_mode == "timer":
            self._queue_look(ask=True)

    def on_instruction(self, message: String) -> None:
        """Take an instruction; an empty one ends the episode. It starts a new episode."""
        if not message.data.strip():
            with self._lock:
                self._instruction = None
                self._instructions += 1
            return
        try:
            check_instruction(message.data)
        except InvalidInputError as error:
            self._node.get_logger().error(f"instruction ignored: {error}")
            return
        with self._lock:
            self._instructions += 1
            episode_id = f"{self._episodes}-{self._instructions:04d}"
            self._instruction = Instruction(message.data, episode_id)

    def _queue_look(self, *, ask: bool) -> None:
        with self._lock:
            self._ask_wanted |= ask
            if self._look_waits:
                return
            self._look_waits = True
        look = _Look(asks=ask)

        def given_up(error: Exception) -> None:
            with self._lock:
                self._look_waits = False
            if isinstance(error, WorkerStalledError):
                self._count_failed(look)

        try:
            picture = NewestPicture(self._node.newest_frame, self._session.reader)
            self._session.lanes.pictures.submit(
                partial(self._look, look), given_up, Priority.FRAME, (picture,), kind=_KIND
            )
        except (WorkerBusyError, WorkerClosedError, WorkerStalledError) as error:
            given_up(error)  # requests go first; the next frame tries again

    # What follows runs in the inference thread for pictures.

    def _look(self, look: _Look) -> None:
        with self._lock:
            ask, self._ask_wanted, self._look_waits = self._ask_wanted, False, False
            instruction, turn = self._instruction, self._instructions
            seen = max(self._looked_at, self._unwanted)
        frame = self._node.newest_frame.get()
        if frame is None or self._ended:
            return
        # Those between were replaced by a newer one before their turn came.
        self._node.counters.add("frames_skipped", max(0, frame.number - seen - 1))
        self._looked_at = frame.number
        look.asks = ask and (frame.number, turn) != self._asked_about
        look.remembers = self._is_pair_due(frame, instruction)
        start = time.monotonic()
        try:
            if look.asks:
                self._asked_about = (frame.number, turn)
                self._ask(frame, instruction, look)
            elif look.remembers:
                self._session.reader.scene(frame)  # what is no image is rejected, whoever wants it
        except WorkerStalledError:
            return  # this thread was replaced, and another one looks at newer frames
        except Exception as error:
            self._on_failed(error, look)
            return
        if instruction is not None and look.remembers:
            self._try_to_remember(frame, instruction, look)
        took_sec = time.monotonic() - start + self._session.reader.took_ahead_sec(frame)
        self._session.forecast.note(_KIND, took_sec, time.monotonic())

    def _on_failed(self, error: Exception, look: _Look) -> None:
        """Tell of a frame that is no image, or that could not be answered or read."""
        if isinstance(error, InvalidInputError) and not look.answered:
            self._node.counters.add("frames_rejected")
            self._node.get_logger().error(
                f"frame rejected: {error}", throttle_duration_sec=_REPEAT_LOG_SEC
            )
            return
        self._count_failed(look)
        if said := self._note(error):
            self._node.get_logger().error(said, throttle_duration_sec=_REPEAT_LOG_SEC)

    def _count_failed(self, look: _Look) -> None:
        """Count a look that failed, as what it had still to do."""
        if look.asks and not look.answered:
            self._node.counters.add("queries_failed")
        elif look.remembers:
            self._node.counters.add("frames_not_remembered")

    def _note(self, error: Exception) -> str:
        """Note an error for the diagnostics, and return what the log is to say, or nothing."""
        if isinstance(error, (RetrievalError, WorkerBusyError)):
            self._node.health.note_error(error)
            return str(error)
        if not self._node.context.ok():  # it was told to stop, and its publishers are gone
            return ""
        self._node.health.note_error(f"a frame failed: {error!r}. The log says more.")
        return f"a frame failed:\n{''.join(traceback.format_exception(error))}"

    def _ask(self, frame: Frame, instruction: Instruction | None, look: _Look) -> None:
        start = time.perf_counter()
        settings = self._node.settings
        session = self._session
        image = session.reader.image(frame)
        times = StageTimes(decode_sec=time.perf_counter() - start)
        encode_start = time.perf_counter()
        scene = session.reader.scene(frame)
        ahead_sec = session.reader.took_ahead_sec(frame)
        times.encode_image_sec = time.perf_counter() - encode_start + ahead_sec
        query = _make_query(settings, image, instruction)
        sheet_wanted = self._node.sheet_publisher.get_subscription_count() > 0
        retrieval = session.retriever.retrieve(
            query,
            scene=scene,
            thumbnails=settings.with_thumbnails or sheet_wanted,
            times=times,
            counts_as_use=False,  # a camera at rest would make what it looks at the most used
        )
        retrieval.times.total_sec = time.perf_counter() - start + ahead_sec
        answer = conversions.to_match_array(
            query, retrieval, frame.header, session.similarity, session.encoder.fingerprint.model,
            self._node.image_age_sec(frame.header, frame),
        )  # fmt: skip
        if not settings.with_thumbnails:
            for match in answer.matches:
                match.thumbnail = _NO_THUMBNAIL
        if self._ended:
            return
        with effect("the matches were published"):
            self._node.match_publisher.publish(answer)
            self._node.pace.note(retrieval.times.total_sec)
            self._node.counters.add("queries_answered")
            look.answered = True
            if self._node.marker_publisher.get_subscription_count() > 0:
                self._node.marker_publisher.publish(make_markers(answer))
        if sheet_wanted:
            self._publish_sheet(frame, query, retrieval)

    def _publish_sheet(self, frame: Frame, query: Query, retrieval: Retrieval) -> None:
        sheet = draw_contact_sheet(
            query.image,
            query.instruction,
            retrieval.matches,
            verdict_on(retrieval, query.min_score),
        )
        message = Image(header=frame.header)
        to_image_message(np.asarray(sheet), message)
        with effect("the contact sheet was published"):
            self._node.sheet_publisher.publish(message)

    def _is_pair_due(self, frame: Frame, instruction: Instruction | None) -> bool:
        settings = self._node.settings
        if settings.remember_mode != "interval" or instruction is None:
            return False
        # A stamp before the last one is a bag that starts over, or a clock that was set.
        since_ns = _stamp_ns(frame) - self._remembered_ns
        too_soon = (
            instruction.episode_id == self._remembered_episode
            and 0 <= since_ns < settings.remember_interval_sec * _NS_PER_SEC
        )
        return frame.number != self._remembered_number and not too_soon

    def _try_to_remember(self, frame: Frame, instruction: Instruction, look: _Look) -> None:
        """Remember a frame; where that fails, its matches were published all the same."""
        try:
            self._remember(frame, instruction)
        except WorkerStalledError:
            return  # who replaced this thread has counted it
        except Exception as error:
            self._count_failed(look)
            if said := self._note(error):
                self._node.get_logger().error(
                    f"a frame is not remembered: {said}", throttle_duration_sec=_REPEAT_LOG_SEC
                )

    def _remember(self, frame: Frame, instruction: Instruction) -> None:
        image = self._session.reader.image(frame)
        scene = self._session.reader.scene(frame)
        if self._ended:
            return
        entry = NewEntry(
            instruction=instruction.text,
            stamp_ns=_stamp_ns(frame),
            frame_id=frame.header.frame_id,
            episode_id=instruction.episode_id,
        )
        remembered = self._session.remember(image, entry, scene)
        self._remembered_number, self._remembered_ns = frame.number, entry.stamp_ns
        self._remembered_episode = instruction.episode_id
        self._node.counters.count_remembered(remembered)


def _stamp_ns(frame: Frame) -> int:
    return conversions.to_ns(frame.header.stamp) or frame.received_ns


def _make_query(settings: Settings, image: np.ndarray, instruction: Instruction | None) -> Query:
    return Query(
        image=image,
        instruction=instruction.text if instruction else None,
        target=Target(settings.query_target),
        scene_weight=settings.scene_weight,
        k=settings.k,
        min_score=settings.min_score,
        diversity=settings.query_diversity,
    )
