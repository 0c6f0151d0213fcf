"""The services: requests in, typed answers or typed reasons out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Header

from vla_retrieval.deadline import Deadline
from vla_retrieval.errors import DeadlineExceededError, InvalidInputError
from vla_retrieval.ros import conversions
from vla_retrieval.ros.alarms import Alarms
from vla_retrieval.ros.frames import Frame, ImageMessage
from vla_retrieval.ros.freshness import check_stale
from vla_retrieval.ros.images import is_empty
from vla_retrieval.ros.jobs import Job
from vla_retrieval.ros.limits import check_request_size, pictures_bytes
from vla_retrieval.ros.parameters import BYTES_PER_KB
from vla_retrieval.ros.pictures import NewestPicture, OwnPicture
from vla_retrieval.ros.replies import (
    NoFrameError,
    Reply,
    fail,
    send_when_settled,
)
from vla_retrieval.ros.session import COUNTS
from vla_retrieval.ros.worker import Priority, WorkerBusyError, effect
from vla_retrieval.types import Query, RgbImage, StageTimes
from vla_retrieval_msgs.msg import Status
from vla_retrieval_msgs.srv import Forget, GetEntry, GetStats, Pin, Remember, Retrieve

if TYPE_CHECKING:
    from vla_retrieval.ros.node import RetrievalNode
    from vla_retrieval.ros.session import Session

_TOO_LATE = (DeadlineExceededError, WorkerBusyError)
_NODES_FAULT = (Status.INTERNAL, Status.STALLED, Status.STORAGE)
_LONGEST_TIMEOUT_SEC = 3600.0
# ROS 2's default for services keeps ten requests and drops older ones without a word; a planner
# that asks many things at once waits for those for ever. Too many are refused with BUSY instead.
SERVICE_QOS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)


class ImageRequest(Protocol):
    """The image fields that two of the requests share."""

    image: Any
    compressed_image: Any
    use_newest_frame: bool


class Call(NamedTuple):
    """What is known of a request beside its fields.

    Attributes:
        received_sec: When it came, on the steady clock.
        deadline: Its own.
        picture: That it brings, or None.
    """

    received_sec: float
    deadline: Deadline
    picture: OwnPicture | None


class Services:
    """Offers the services on a node.

    Each request is answered in an inference thread. Its callback returns at once, with a reply that
    is sent when it is settled: the executor goes on meanwhile.
    """

    def __init__(self, node: RetrievalNode) -> None:
        """Create the services; they say NOT_ACTIVE until the node is active."""
        self._node = node
        self._alarms = Alarms()
        for kind, name, answer in (
            (Retrieve, "retrieve", self._retrieve),
            (Remember, "remember", self._remember),
            (Forget, "forget", self._forget),
            (Pin, "pin", self._pin),
            (GetEntry, "get_entry", self._get_entry),
            (GetStats, "get_stats", self._get_stats),
        ):
            service = node.create_service(
                kind, f"~/{name}", self._callback(kind, answer), qos_profile=SERVICE_QOS
            )
            send_when_settled(service, self._run_soon)

    def _run_soon(self, run: Callable[..., None], *arguments: Any) -> None:
        executor = self._node.executor
        if executor is not None:
            executor.create_task(run, *arguments)

    def _callback(self, kind: Any, answer: Callable[..., None]) -> Callable[..., Any]:
        def serve(request: Any, response: Any) -> Reply:
            reply = Reply()
            if kind is Retrieve:
                reply.then(self._count)
            self._serve(kind, answer, request, reply)
            return reply

        return serve

    def _count(self, response: Any) -> None:
        """Count a query by what its caller gets: an answer that came too late is none."""
        if not response.success:
            self._node.counters.add("queries_failed")
            return
        self._node.counters.add("queries_answered")
        if not response.result.stale:  # else its times are those of an earlier one
            self._node.pace.note(response.result.times.total_sec)

    def _serve(self, kind: Any, answer: Callable[..., None], request: Any, reply: Reply) -> None:
        """Have a request answered, or settle its reply with the reason why not."""
        try:
            deadline = _deadline(getattr(request, "timeout_sec", 0.0))
            session = self._node.active_session()
            check_request_size(request, session.settings.max_request_kb * BYTES_PER_KB)
            if kind is Retrieve:
                check_stale(request)
            _check_deadline(session, request, deadline)
            job = self._submit(session, kind, answer, request, deadline, reply)
        except Exception as error:  # every failure of a request becomes its answer
            reply.settle(self._failed(kind, request, error))
            return
        if math.isinf(deadline.at_sec):
            return

        def expire() -> None:
            error = DeadlineExceededError(
                f"timeout_sec: no answer within {deadline.timeout_sec:g} s. "
                "Allow more time, or ask less often."
            )
            # It makes room for others at once.
            session.lanes.withdraw(job)
            reply.settle(self._failed(kind, request, error))

        # On a steady clock: a deadline is the caller's time, also when simulated time stands still.
        alarm = self._alarms.at(deadline.at_sec, expire)
        reply.then(lambda _: alarm.cancel())

    def _submit(
        self, session: Session, kind: Any, answer: Callable[..., None], request: Any,
        deadline: Deadline, reply: Reply,
    ) -> Job:  # fmt: skip
        picture = _own_picture(request, session.settings.max_image_pixels)
        call = Call(time.monotonic(), deadline, picture)
        job_kind = _job_kind(request)

        def run() -> None:
            if reply.settled:  # its deadline passed as its turn came
                return
            response = kind.Response()
            start = time.monotonic()
            try:
                deadline.check("its turn")
                answer(session, request, response, call)
                response.success = True
                took_sec = time.monotonic() - start + (picture.took_sec if picture else 0.0)
                session.forecast.note(job_kind, took_sec, time.monotonic())
            except Exception as error:  # every failure of a request becomes its answer
                response = self._failed(kind, request, error)
            reply.settle(response)

        def give_up(error: Exception) -> None:
            reply.settle(self._failed(kind, request, error))

        return session.lanes.of(has_picture=_has_picture(request)).submit(
            run, give_up, Priority.INGEST if kind is Remember else Priority.REQUEST,
            self._inputs(session, request, picture),
            kind=job_kind, size_bytes=pictures_bytes(request),
        )  # fmt: skip

    def _failed(self, kind: Any, request: Any, error: Exception) -> Any:
        """Return the response to a request that failed: the reason, or an earlier answer."""
        response = kind.Response()
        session = self._node.session
        if kind is Retrieve and session is not None and isinstance(error, _TOO_LATE):
            earlier = session.last_answers.get(
                request, self._node.now_ns, simulated=self._node.is_simulated
            )
            if earlier is not None:
                response.success, response.result = True, earlier
                return response
        fail(response, error)
        if response.status.code in _NODES_FAULT:
            self._node.health.note_error(response.message)
        return response

    # Each of the following runs in an inference thread.

    def _retrieve(
        self, session: Session, request: Retrieve.Request, response: Retrieve.Response, call: Call
    ) -> None:
        picture = call.picture
        times = StageTimes(encode_image_sec=picture.took_sec if picture is not None else 0.0)
        times.queue_sec = time.monotonic() - call.received_sec - times.encode_image_sec
        query_filter = conversions.to_filter(request.filter)
        target = conversions.to_target(request.target)
        start = time.monotonic()
        image, frame, header = self._picture(session, request, call)
        decoded = time.monotonic()
        times.decode_sec = decoded - start
        scene = picture.scene if picture is not None else None
        if frame is not None:
            call.deadline.check("encoding the image")
            scene = session.reader.scene(frame)
            times.encode_image_sec = time.monotonic() - decoded
        query = Query(
            image=image,
            instruction=request.instruction or None,
            target=target,
            scene_weight=request.scene_weight,
            k=request.k,
            min_score=request.min_score,
            filter=query_filter,
            diversity=request.diversity,
        )
        retrieval = session.retriever.retrieve(
            query, scene=scene, thumbnails=request.with_thumbnails, deadline=call.deadline,
            times=times,
        )  # fmt: skip
        retrieval.times.total_sec = time.monotonic() - call.received_sec
        response.result = conversions.to_match_array(
            query, retrieval, header or self._now_header(), session.similarity,
            session.encoder.fingerprint.model, self._node.image_age_sec(header, frame),
        )  # fmt: skip
        with effect("the answer was noted"):
            session.last_answers.put(request, response.result, self._node.now_ns)

    def _remember(
        self, session: Session, request: Remember.Request, response: Remember.Response, call: Call
    ) -> None:
        image, frame, header = self._picture(session, request, call)
        if image is None or header is None:
            raise InvalidInputError(
                "image", "exactly one of image, compressed_image and use_newest_frame", "none"
            )
        if not conversions.to_ns(header.stamp):
            header = Header(stamp=self._node.get_clock().now().to_msg(), frame_id=header.frame_id)
        entry = conversions.to_new_entry(request, header)
        scene = call.picture.scene if call.picture is not None else None
        if frame is not None:
            scene = session.reader.scene(frame)
        remembered = session.remember(image, entry, scene)
        response.entry_id = remembered.entry_id
        response.merged = remembered.merged
        response.evicted_ids = remembered.evicted_ids
        self._node.counters.count_remembered(remembered)

    def _forget(
        self, session: Session, request: Forget.Request, response: Forget.Response, call: Call
    ) -> None:
        ids = _ids(request)
        with session.writing("the entries were forgotten"):
            session.memory.remove(ids)
        response.memory_size = session.memory.stats().entries
        self._node.counters.add("entries_forgotten", len(ids))

    def _pin(
        self, session: Session, request: Pin.Request, response: Pin.Response, call: Call
    ) -> None:
        ids = _ids(request)
        with session.writing("the entries were pinned"):
            session.memory.pin(ids, pinned=request.pinned)

    def _get_entry(
        self, session: Session, request: GetEntry.Request, response: GetEntry.Response, call: Call
    ) -> None:
        entry = session.memory.get(request.entry_id, thumbnail=request.with_thumbnail)
        response.entry = conversions.to_entry_message(entry)
        if request.with_embeddings:
            scene, instruction = session.memory.embeddings(request.entry_id)
            response.scene_embedding = scene
            response.instruction_embedding = instruction

    def _get_stats(
        self, session: Session, request: GetStats.Request, response: GetStats.Response, call: Call
    ) -> None:
        conversions.fill_stats(response, session.memory.stats())
        response.model = session.encoder.fingerprint.model
        response.fingerprint = str(session.encoder.fingerprint)
        response.embedding_dim = session.encoder.dim
        response.device = session.encoder.device
        response.engine = session.encoder.engine
        response.precision = session.encoder.precision
        response.worker_replaced = session.lanes.replaced
        response.worker_replaced_because = session.lanes.reasons
        response.worker_threads_stuck = session.lanes.stuck
        for name in COUNTS:
            setattr(response, name, self._node.counters.get(name))

    def _inputs(
        self, session: Session, request: Any, picture: OwnPicture | None
    ) -> tuple[Hashable, ...]:
        """Return what a request will have embedded."""
        inputs: list[Hashable] = [text] if (text := getattr(request, "instruction", "")) else []
        if picture is not None:
            inputs.append(picture)
        if getattr(request, "use_newest_frame", False):
            inputs.append(NewestPicture(self._node.newest_frame, session.reader))
        return tuple(inputs)

    def _picture(
        self, session: Session, request: ImageRequest, call: Call
    ) -> tuple[RgbImage | None, Frame | None, Header | None]:
        """Return the request's image, the frame if it is the newest one, and its header."""
        given = _given(request)
        names = [name for name, _ in given] + ["use_newest_frame"] * request.use_newest_frame
        if len(names) > 1:
            raise InvalidInputError(
                names[1], "at most one of image, compressed_image and use_newest_frame",
                " and ".join(names),
            )  # fmt: skip
        if request.use_newest_frame:
            frame = session.reader.newest(self._newest(), call.received_sec)
            return session.reader.image(frame), frame, frame.header
        if call.picture is None:
            return None, None, None
        return call.picture.image(), None, given[0][1].header

    def _newest(self) -> Frame:
        frame = self._node.newest_frame.get()
        if frame is None:
            raise NoFrameError(
                f"use_newest_frame: expected a frame on {self._node.image_topic}, none has arrived "
                "since this node was activated. Check that the camera publishes there, or send an "
                "image."
            )
        return frame

    def _now_header(self) -> Header:
        return Header(stamp=self._node.get_clock().now().to_msg())


def _given(request: Any) -> list[tuple[str, ImageMessage]]:
    """Return the pictures that a request brings, by the names of their fields."""
    return [
        (name, getattr(request, name))
        for name in ("image", "compressed_image")
        if hasattr(request, name) and not is_empty(getattr(request, name))
    ]


def _own_picture(request: Any, max_pixels: int) -> OwnPicture | None:
    """Return the picture that a request of any of the services brings, where it brings one."""
    given = _given(request)
    return OwnPicture(given[0][1], given[0][0], max_pixels) if len(given) == 1 else None


def _ids(request: Forget.Request | Pin.Request) -> list[int]:
    """Return the different ids of a request, ascending.

    Raises:
        InvalidInputError: If there is none.
    """
    ids = sorted({int(number) for number in request.entry_ids})
    if not ids:
        raise InvalidInputError("entry_ids", "at least one entry id", "none")
    return ids


def _job_kind(request: Any) -> str:
    """Return what a request is called where it is estimated how long such ones take."""
    return f"{type(request).__name__}{' with an image' if _has_picture(request) else ''}"


def _has_picture(request: Any) -> bool:
    """Return whether a request has a picture embedded, its own or the newest frame."""
    return bool(pictures_bytes(request)) or getattr(request, "use_newest_frame", False)


def _check_deadline(session: Session, request: Any, deadline: Deadline) -> None:
    """Refuse a request at once whose deadline cannot be met, by how long the last ones took.

    Raises:
        DeadlineExceededError: If it cannot.
    """
    if math.isinf(deadline.at_sec):
        return
    in_front = session.lanes.of(has_picture=_has_picture(request)).in_front()
    expected_sec = session.forecast.answer_in_sec(_job_kind(request), in_front, time.monotonic())
    if expected_sec > deadline.timeout_sec:
        raise DeadlineExceededError(
            f"timeout_sec: no answer within {deadline.timeout_sec:g} s can be expected: "
            f"{len(in_front)} others run before this request, and by the last ones it would be "
            f"answered after about {expected_sec:.3g} s. Allow more time, ask less often, or "
            "accept a stale answer."
        )


def _deadline(timeout_sec: float) -> Deadline:
    """Return the deadline that a request's timeout sets from now on.

    Raises:
        InvalidInputError: If the timeout is not a sensible number of seconds.
    """
    if not 0.0 <= timeout_sec <= _LONGEST_TIMEOUT_SEC:
        raise InvalidInputError(
            "timeout_sec", f"seconds from 0 (no limit) to {_LONGEST_TIMEOUT_SEC:g}",
            str(timeout_sec),
        )  # fmt: skip
    return Deadline.after(timeout_sec) if timeout_sec else Deadline()
