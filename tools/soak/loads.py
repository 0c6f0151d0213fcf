"""What happens around a node all day: each load is a thread with a rate of its own."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String
from visualization_msgs.msg import MarkerArray

from tools.soak.book import Book, Page
from vla_retrieval.ros.client import RetrievalClient
from vla_retrieval.ros.conversions import to_ns, to_stamp
from vla_retrieval.ros.images import to_image_message
from vla_retrieval_msgs.msg import Filter, MatchArray

CAMERA_HZ: Final = 30.0
_AT_ONCE: Final = 16
_MOST_ASKED: Final = 49  # matches
_ASKED_IN_CROWDS: Final = 64  # more than ever later: some scenes' thumbnails take more bytes
_SCENES: Final = 64
_LOOKS: Final = 6
_SHEETS_A_LOOK: Final = 8
_WINDOW_SEC: Final = 5.0  # that the contact sheet is shown, and hidden
_LOOP_SEC: Final = 20.0  # of the bag that the clock and the camera follow
_BAG_BEGIN_NS: Final = 1_000_000_000_000_000_000
_NS_PER_SEC: Final = 1_000_000_000
_BEST_EFFORT: Final = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_TEXTS: Final = ("pick up the cup", "拿起桌子上的杯子", "put the bowl next to the bottle", "")
# Live parameters and the values that they go through, the second of each out of its range.
_CHANGES: Final[dict[str, tuple[Any, ...]]] = {
    "k": (1, 0, 5, 20),
    "query_target": ("scenes", "everything", "instructions", "pair"),
    "scene_weight": (0.2, 1.5, 0.8, 0.5),
    "query_diversity": (0.3, 2.0, 0.0),
    "query_mode": ("timer", "always", "frame"),
    "remember_interval_sec": (0.5, -1.0, 1.0),
}


class Tally:
    """Counts, times and failures of all loads. Any thread may write.

    Attributes:
        counts: By what was done.
        times_sec: By what was called, in seconds from the call to its answer.
        failures: What went wrong, one line each.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.times_sec: defaultdict[str, list[float]] = defaultdict(list)
        self.failures: list[str] = []
        self._lock = threading.Lock()

    def count(self, what: str, many: int = 1) -> None:
        """Count."""
        with self._lock:
            self.counts[what] += many

    def time(self, what: str, seconds: float) -> None:
        """Note how long something took."""
        with self._lock:
            self.times_sec[what].append(seconds)

    def fail(self, text: str) -> None:
        """Note what went wrong."""
        with self._lock:
            self.failures.append(text)

    def forget_times(self) -> None:
        """Begin anew with counts and times, after the warm-up; failures stay."""
        with self._lock:
            self.counts.clear()
            self.times_sec.clear()


class Loads:
    """Camera, clock, instructions, calls and parameters, from their start to their end."""

    def __init__(self, client: RetrievalClient, tally: Tally, book: Book) -> None:
        """Create what publishes and calls; nothing is sent yet."""
        self._client, self._tally, self._book = client, tally, book
        node = client.node
        self._camera = node.create_publisher(Image, "image", _BEST_EFFORT)
        self._instructions = node.create_publisher(String, "instruction", 10)
        self._clock = node.create_publisher(Clock, "/clock", _BEST_EFFORT)
        self._parameters = node.create_client(SetParameters, "retrieval/set_parameters")
        self._sent: dict[int, float] = {}  # bag time of a frame -> when it was sent
        node.create_subscription(MatchArray, "retrieval/matches", self._on_matches, 10)
        node.create_subscription(
            MarkerArray, "retrieval/markers", lambda _: tally.count("markers received"), 10
        )
        self._sheets: Any = None
        self._window: Any = None
        self._pictures = [_picture(seed) for seed in range(_SCENES)]
        self._free = threading.Semaphore(_AT_ONCE)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._remembered = 0

    def start(self) -> None:
        """Begin with all of it."""
        loads: tuple[tuple[Callable[[int, np.random.Generator], None], float], ...] = (
            (self._film, CAMERA_HZ), (self._ask, 10.0), (self._remember, 5.0), (self._read, 2.0),
            (self._forget, 0.5), (self._set_parameter, 0.5), (self._instruct, 0.2),
        )  # fmt: skip
        for seed, (do, rate_hz) in enumerate(loads):
            thread = threading.Thread(
                target=self._repeat, args=(do, 1.0 / rate_hz, seed), name=do.__name__, daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._window = self._client.node.create_timer(_WINDOW_SEC, self._look)

    def stop(self, within_sec: float) -> None:
        """End all of it, and wait for the answers that are on their way."""
        self._stop.set()
        if self._window is not None:
            self._window.cancel()
        for thread in self._threads:
            thread.join(within_sec)
        self._settle(within_sec)

    def fill(self, entries: int, within_sec: float) -> None:
        """Remember pairs without pause until so many were acknowledged.

        Raises:
            RuntimeError: If they were not in time: a memory that fills looks like a leak.
        """
        random = np.random.default_rng(99)
        end = time.monotonic() + within_sec
        while self._book.acknowledged < entries:
            if time.monotonic() >= end:
                raise RuntimeError(
                    f"the memory could not be filled: {self._book.acknowledged} of {entries} "
                    f"entries were remembered within {within_sec:g} s; ask for fewer --entries"
                )
            self._remember(0, random, from_frame=False)

    def crowd(self, held: Callable[[], AbstractContextManager[None]], within_sec: float) -> None:
        """Let as many of the largest calls come together as there ever are, and wait for them.

        Fast DDS keeps room for as many messages as once waited together, each as large as the
        largest that it held. A busy machine lets more come together late in a day, and a larger
        answer meets the room of a smaller one now and then for hours: both look like a leak.

        Args:
            held: Holds the node back in its block.
            within_sec: That the answers may take.
        """
        random = np.random.default_rng(98)
        asked = {"k": _ASKED_IN_CROWDS, "with_thumbnails": True}
        self._settle(within_sec)  # else who waits for them in the block waits for nothing
        with held():
            for _ in range(_AT_ONCE):
                self._call("retrieve", lambda _: None, image=self._any_picture(random), **asked)
        self._settle(within_sec)
        with held():
            for _ in range(_AT_ONCE):
                self._remember(0, random, from_frame=False)
        self._settle(within_sec)

    def show_largest(self, within_sec: float) -> None:
        """Look at the largest contact sheets that there will be and look away again, some times.

        As with ``crowd``: a place in a pool that meets the largest one late grows by megabytes.

        Raises:
            RuntimeError: If not enough of them come in time.
        """
        random, number = np.random.default_rng(97), 0
        end = time.monotonic() + within_sec
        self._put("k", max(_CHANGES["k"]), within_sec)
        for _ in range(_LOOKS):
            self._in_the_clients_thread(self._look, within_sec)
            wanted = self._tally.counts["sheets received"] + _SHEETS_A_LOOK
            while self._tally.counts["sheets received"] < wanted:
                if time.monotonic() >= end:
                    raise RuntimeError(f"too few contact sheets came within {within_sec:g} s")
                self._film(number, random)
                number += 1
                time.sleep(1.0 / CAMERA_HZ)
            self._in_the_clients_thread(self._look, within_sec)
        self._put("k", _CHANGES["k"][0], within_sec)

    def _put(self, name: str, value: Any, within_sec: float) -> None:
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        if not self._parameters.wait_for_service(within_sec):
            raise RuntimeError(f"{name} could not be set within {within_sec:g} s")
        _wait_for(self._parameters.call_async(request), within_sec)

    def _in_the_clients_thread(self, do: Callable[[], None], within_sec: float) -> None:
        """A subscription must not go while another thread waits for it."""
        executor = self._client.node.executor
        assert executor is not None
        _wait_for(executor.create_task(do), within_sec)

    def _settle(self, within_sec: float) -> None:
        """Wait for the answers that are on their way."""
        end = time.monotonic() + within_sec
        come = [
            self._free.acquire(timeout=max(0.0, end - time.monotonic())) for _ in range(_AT_ONCE)
        ]
        for is_free in come:
            if is_free:
                self._free.release()
            else:
                self._tally.fail(f"a call had no answer within {within_sec:g} s")

    def _repeat(
        self, do: Callable[[int, np.random.Generator], None], period_sec: float, seed: int
    ) -> None:
        random = np.random.default_rng(seed)
        begun, number = time.monotonic(), 0
        while not self._stop.wait(max(0.0, begun + number * period_sec - time.monotonic())):
            try:
                do(number, random)
            except Exception as error:  # a load that dies would leave the node in peace
                self._tally.fail(f"{do.__name__}: {error!r}")
            number += 1
            # What a busy machine missed is not made up for all at once.
            number = max(number, int((time.monotonic() - begun) / period_sec))

    def _film(self, number: int, random: np.random.Generator) -> None:
        bag_ns = _BAG_BEGIN_NS + int(number / CAMERA_HZ % _LOOP_SEC * _NS_PER_SEC)
        self._clock.publish(Clock(clock=to_stamp(bag_ns)))
        message = self._pictures[number // 15 % _SCENES]
        message.header = Header(stamp=to_stamp(bag_ns), frame_id="camera")
        self._sent[bag_ns] = time.perf_counter()
        self._camera.publish(message)
        self._tally.count("frames sent")

    def _on_matches(self, message: MatchArray) -> None:
        sent = self._sent.get(to_ns(message.header.stamp))
        self._tally.count("frames answered")
        if sent is not None:
            self._tally.time("frame to matches", time.perf_counter() - sent)

    def _ask(self, number: int, random: np.random.Generator) -> None:
        k = int(random.integers(1, _MOST_ASKED + 1))
        fields: dict[str, Any] = {"k": k, "target": number % 3}
        kind = number % 4
        if kind == 0:
            fields["instruction"] = f"task {random.integers(1000)}"
        elif kind == 1:
            fields |= {"use_newest_frame": True, "diversity": 0.3}
        elif kind == 2:
            fields |= {"image": self._any_picture(random), "with_thumbnails": True}
        else:
            fields |= {"instruction": "cup", "filter": Filter(tags=[f"tag {number % 5}"])}
        if kind == 1 and not self._tally.counts["frames answered"]:
            return  # no frame has come yet
        self._call("retrieve", lambda answer: None, **fields)

    def _remember(
        self, number: int, random: np.random.Generator, *, from_frame: bool = True
    ) -> None:
        self._remembered += 1
        stamp_ns = time.time_ns()
        page = Page(f"task {self._remembered}", stamp_ns)
        image = self._any_picture(random)
        image.header = Header(stamp=to_stamp(stamp_ns), frame_id="camera")
        pose = PoseStamped(header=Header(frame_id="map"))
        pose.pose.position.x, pose.pose.orientation.w = float(random.normal()), 1.0

        def note(answer: Any) -> None:
            self._book.note(answer.entry_id, page, [int(gone) for gone in answer.evicted_ids])
            if from_frame:
                self._tally.count("entries remembered")

        self._call(
            "remember", note, image=image, instruction=page.instruction, has_camera_pose=True,
            camera_pose=pose, outcome=int(random.integers(3)),
            episode_id=f"{self._remembered // 9}",
            tags=[f"tag {self._remembered % 5}"],
        )  # fmt: skip

    def _read(self, number: int, random: np.random.Generator) -> None:
        if number % 4 == 0:
            self._call("get_stats", lambda answer: None)
            return
        chosen = self._book.any_page(random)
        if chosen is None:
            return
        entry_id, page = chosen

        def compare(answer: Any) -> None:
            if answer.entry.instruction != page.instruction:
                self._tally.fail(f"entry {entry_id} reads {answer.entry.instruction!r}")

        self._call("get_entry", compare, entry_id=entry_id)

    def _forget(self, number: int, random: np.random.Generator) -> None:
        entry_ids = self._book.take(random, 1 + number % 3)
        if entry_ids:
            self._call(
                "forget", lambda _: self._book.confirm_forgotten(len(entry_ids)),
                entry_ids=entry_ids,
            )  # fmt: skip

    def _set_parameter(self, number: int, random: np.random.Generator) -> None:
        names = list(_CHANGES)
        name = names[number % len(names)]
        values = _CHANGES[name]
        # Each starts elsewhere, so that good and bad values mix also in a short soak.
        which = (number // len(names) + number % len(names)) % len(values)
        is_good = which != 1
        message = Parameter(name, value=values[which]).to_parameter_msg()

        def done(future: Future[Any]) -> None:
            if future.result().results[0].successful != is_good:
                self._tally.fail(f"{name} = {values[which]}: {future.result().results[0].reason}")
            self._tally.count("parameters set" if is_good else "parameters refused")

        request = SetParameters.Request(parameters=[message])
        if self._parameters.service_is_ready():
            self._parameters.call_async(request).add_done_callback(done)

    def _instruct(self, number: int, random: np.random.Generator) -> None:
        self._instructions.publish(String(data=_TEXTS[number % len(_TEXTS)]))

    def _look(self) -> None:
        """Open and close a window that shows the contact sheet."""
        if self._sheets is None:
            self._sheets = self._client.node.create_subscription(
                Image, "retrieval/contact_sheet", lambda _: self._tally.count("sheets received"), 1
            )
        else:
            self._client.node.destroy_subscription(self._sheets)
            self._sheets = None

    def _any_picture(self, random: np.random.Generator) -> Image:
        source = self._pictures[int(random.integers(_SCENES))]
        return Image(
            height=source.height, width=source.width, encoding=source.encoding, step=source.step,
            data=source.data,
        )  # fmt: skip

    def _call(self, service: str, use: Callable[[Any], None], **fields: Any) -> None:
        """Call a service, with so many calls on their way at most; note what comes of it."""
        if not self._free.acquire(timeout=5.0):
            self._tally.count("calls held back")
            return
        begun = time.perf_counter()

        def done(future: Future[Any]) -> None:
            answer = future.result()
            self._tally.time(service, time.perf_counter() - begun)
            if answer.success:
                use(answer)
            else:
                self._tally.fail(f"{service}: {answer.message}")
            self._free.release()

        self._client.call_async(service, **fields).add_done_callback(done)


def _wait_for(future: Future[Any], within_sec: float) -> None:
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    if not done.wait(within_sec):
        raise RuntimeError(f"no answer within {within_sec:g} s")
    future.result()


def _picture(seed: int) -> Image:
    """Return a VGA picture of coloured patches that is like no other seed's."""
    patches: NDArray[np.uint8] = np.random.default_rng(seed).integers(
        0, 256, (12, 16, 3), dtype=np.uint8
    )
    pixels = np.ascontiguousarray(patches.repeat(40, axis=0).repeat(40, axis=1))
    return to_image_message(pixels, Image())
