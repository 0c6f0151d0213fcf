"""Camera and instructions in, matches out, between two processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.srv import SetParameters
from rclpy import get_rmw_implementation_identifier
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from vla_retrieval.ros.conversions import to_ns, to_stamp
from vla_retrieval.ros.images import to_rgb
from vla_retrieval.ros.watch import CURE
from vla_retrieval.thumbnails import make_thumbnail
from vla_retrieval_msgs.msg import MatchArray, Query

from .harness import START_SEC, NodeProcess, Robot, ask, image_message, picture, wait_until
from .local_node import LocalNode
from .parameters import Manager

SECOND = 1_000_000_000
Start = Callable[..., NodeProcess]


@pytest.fixture
def compressed_robot(domain: int) -> Iterator[Robot]:
    """Return surroundings whose camera compresses."""
    robot = Robot(compressed=True)
    yield robot
    robot.close()


def begin(start: Start, robot: Robot, **parameters: Any) -> NodeProcess:
    """Start a node, and return it when it is active and hears the camera."""
    node = start(**parameters)
    assert robot.client.wait_until_active(node.is_alive, START_SEC), node.log
    robot.wait_until_heard()
    return node


def stamped(stamp_ns: int) -> Callable[[MatchArray], bool]:
    """Return a test for the answer about the image of a stamp."""
    return lambda message: to_ns(message.header.stamp) == stamp_ns


def show_until(robot: Robot, collector: Any, pixels: np.ndarray, stamp_ns: int) -> MatchArray:
    """Show a picture until its answer comes: a best-effort image may be lost."""
    accept = stamped(stamp_ns)

    def answered() -> bool:
        robot.show(pixels, stamp_ns)
        return any(map(accept, collector.messages))

    wait_until(answered, "matches", period_sec=0.1)
    answer: MatchArray = collector.wait_for(accept)
    return answer


def test_an_image_goes_in_and_ranked_matches_come_out(start: Start, robot: Robot) -> None:
    """The answer carries the image's header, the query, the matches and the times."""
    begin(start, robot, k=2)
    for seed in (1, 2, 3):
        image = image_message(picture(seed), seed)
        assert robot.call("remember", image=image, instruction=f"scene {seed}").success
    answers = robot.collect(MatchArray, "retrieval/matches")
    answer = show_until(robot, answers, picture(3), 5 * SECOND)
    assert answer.header.frame_id == "camera"
    assert [match.rank for match in answer.matches] == [1, 2]
    assert answer.matches[0].entry_id == 3
    assert answer.memory_size == 3
    assert answer.query.target == Query.TARGET_PAIR
    assert answer.query.has_image
    assert answer.query.instruction == ""
    assert answer.known == MatchArray.KNOWN_NOT_CALIBRATED
    times = answer.times
    assert 0 < times.encode_image_sec < times.total_sec
    assert 0 < times.search_sec < times.total_sec


def test_the_instruction_in_force_joins_the_query_until_it_is_cleared(
    start: Start, robot: Robot
) -> None:
    """A new instruction replaces the old one; an empty one ends it."""
    begin(start, robot)
    answers = robot.collect(MatchArray, "retrieval/matches")
    for turn, text in enumerate(("pick up the cup", "拿起桌子上的杯子", "", "again")):
        robot.say(text)
        wait_until(
            lambda turn=turn, text=text: (  # type: ignore[misc]
                show_until(robot, answers, picture(1), (turn + 1) * SECOND + len(answers.messages))
                .query.instruction == text
            ),
            f"a query with {text!r}",
        )  # fmt: skip


def test_a_huge_instruction_is_refused_and_the_old_one_stays(start: Start, robot: Robot) -> None:
    """The log says why; nothing else changes."""
    node = begin(start, robot)
    answers = robot.collect(MatchArray, "retrieval/matches")
    robot.say("good")
    robot.say("x" * 100_000)
    node.wait_for_log("instruction: expected at most 10000 bytes of UTF-8, got 100000 bytes")
    assert show_until(robot, answers, picture(1), SECOND).query.instruction == "good"


def test_compressed_frames_are_read_from_their_own_topic(
    start: Start, compressed_robot: Robot
) -> None:
    """image_transport chooses image/compressed."""
    robot = compressed_robot
    begin(start, robot, image_transport="compressed")
    answers = robot.collect(MatchArray, "retrieval/matches")
    header = Header(stamp=to_stamp(8 * SECOND), frame_id="camera")
    jpeg = CompressedImage(header=header, format="jpeg", data=make_thumbnail(picture(1), 64))

    def answered() -> bool:
        robot.camera.publish(jpeg)
        return bool(answers.messages)

    wait_until(answered, "matches", period_sec=0.1)
    assert to_ns(answers.messages[0].header.stamp) == 8 * SECOND


def test_frames_are_remembered_with_the_instruction_and_an_episode_each(
    start: Start, robot: Robot
) -> None:
    """Frames of an episode closer than the interval are not; an instruction starts an episode."""
    begin(start, robot, remember_mode="interval", remember_interval_sec=1.0)
    answers = robot.collect(MatchArray, "retrieval/matches")
    robot.say("first task")
    for stamp_ns in (10 * SECOND, 10 * SECOND + SECOND // 2, 11 * SECOND):
        show_until(robot, answers, picture(1), stamp_ns)
    robot.say("second task")
    soon = 11 * SECOND + SECOND // 5
    show_until(robot, answers, picture(2), soon)
    wait_until(lambda: robot.call("get_stats").memory_size == 3, "three pairs")
    matches = robot.call("retrieve", instruction="task").result.matches
    stored = sorted((m.instruction, to_ns(m.stamp), m.episode_id) for m in matches)
    assert [(text, stamp) for text, stamp, _ in stored[:2]] == [
        ("first task", 10 * SECOND), ("first task", 11 * SECOND),
    ]  # fmt: skip
    # A frame that was shown again may have come after the instruction.
    assert stored[2][0] == "second task"
    assert stored[2][1] in (11 * SECOND, soon)
    episodes = [episode for _, _, episode in stored]
    assert episodes[0] == episodes[1] != episodes[2]


def test_frames_without_a_stamp_are_remembered_as_of_when_they_came(
    start: Start, robot: Robot
) -> None:
    """With a stamp of zero each, all but the first would be too soon after it."""
    begin(start, robot, remember_mode="interval", remember_interval_sec=0.05)
    before_ns = time.time_ns()
    robot.say("task")

    def remembered() -> bool:
        robot.show(picture(1), 0)
        return bool(robot.call("get_stats").memory_size >= 2)

    wait_until(remembered, "two pairs", period_sec=0.1)
    matches = robot.call("retrieve", instruction="task").result.matches
    assert len({match.episode_id for match in matches}) == 1
    assert all(before_ns <= to_ns(match.stamp) <= time.time_ns() for match in matches)


def test_frames_are_remembered_with_the_frame_of_their_camera(start: Start, robot: Robot) -> None:
    begin(start, robot, remember_mode="interval")
    robot.say("task")

    def remembered() -> bool:
        robot.show(picture(1), SECOND)
        return bool(robot.call("get_stats").memory_size)

    wait_until(remembered, "a pair", period_sec=0.1)
    (match,) = robot.call("retrieve", instruction="task").result.matches
    assert match.frame_id == "camera"


def test_frames_of_a_camera_at_rest_are_merged_and_counted_apart(
    start: Start, robot: Robot
) -> None:
    """One entry stands for all of an episode that look the same."""
    begin(
        start, robot, remember_mode="interval", remember_interval_sec=0.0,
        merge_scene_similarity=0.999,
    )  # fmt: skip
    answers = robot.collect(MatchArray, "retrieval/matches")
    robot.say("wait")
    for stamp_ns in (SECOND, 2 * SECOND, 3 * SECOND):
        show_until(robot, answers, picture(1), stamp_ns)

    def settled() -> bool:
        # The memory counts a pair when it is stored, the node just after: frames that were
        # shown more than once may be between the two.
        stats = robot.call("get_stats")
        return bool(2 <= stats.merged == stats.entries_merged)

    wait_until(settled, "two merged pairs that memory and node both counted")
    stats = robot.call("get_stats")
    assert (stats.entries_remembered, stats.memory_size) == (1, 1)


def test_a_malformed_frame_is_counted_and_the_next_one_is_answered(
    start: Start, robot: Robot
) -> None:
    """Rubbish from a camera driver does not stop the node."""
    node = begin(start, robot)
    answers = robot.collect(MatchArray, "retrieval/matches")
    rubbish = image_message(picture(1), SECOND)
    rubbish.data = b"too short"

    def rejected() -> bool:
        robot.camera.publish(rubbish)
        return bool(robot.call("get_stats").frames_rejected)

    wait_until(rejected, "a rejected frame", period_sec=0.1)
    node.wait_for_log("frame rejected: image.data: expected at least step * height")
    show_until(robot, answers, picture(1), 2 * SECOND)


def test_the_newest_frame_is_used_and_old_ones_are_not_queued(start: Start, robot: Robot) -> None:
    """After a burst, an on-demand query is about the last frame."""
    begin(start, robot, query_mode="never")
    for number in range(1, 51):
        robot.show(picture(number), number)
    last = 51

    def is_last() -> bool:
        robot.show(picture(last), last)
        response = robot.call("retrieve", use_newest_frame=True)
        return bool(response.success and to_ns(response.result.header.stamp) == last)

    wait_until(is_last, "the newest frame", period_sec=0.1)
    stored = robot.call("remember", use_newest_frame=True, instruction="what I see now")
    entry = robot.call("get_entry", entry_id=stored.entry_id).entry
    assert to_ns(entry.stamp) == last


def test_the_timer_asks_once_about_each_frame(start: Start, robot: Robot) -> None:
    """An unchanged frame is not asked about again."""
    begin(start, robot, query_mode="timer", query_rate_hz=50.0)
    answers = robot.collect(MatchArray, "retrieval/matches")
    show_until(robot, answers, picture(1), SECOND)
    shown = robot.call("get_stats").frames_received
    assert len(answers.messages) <= shown


def test_a_higher_rate_of_the_timer_does_not_wait_for_the_lower_one(
    start: Start, robot: Robot
) -> None:
    """Otherwise the first answer would come after 100 s."""
    begin(start, robot, query_mode="timer", query_rate_hz=0.01)
    answers = robot.collect(MatchArray, "retrieval/matches")
    assert Manager(robot).set(query_rate_hz=50.0)[0].successful
    show_until(robot, answers, picture(1), SECOND)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1280, 720)])
def test_large_best_effort_images_arrive_between_two_processes(
    start: Start, robot: Robot, width: int, height: int
) -> None:
    """With the transport that is shipped, nearly every frame is delivered."""
    middleware = get_rmw_implementation_identifier()
    if "fastrtps" not in middleware:
        pytest.skip(f"the transport that is shipped is Fast DDS's, and this is {middleware}")
    begin(start, robot, query_mode="never")
    pixels = picture(1, height, width)
    sent = 30
    for number in range(1, sent + 1):
        before = robot.call("get_stats").frames_received
        robot.show(pixels, number)
        wait_until(
            lambda before=before: robot.call("get_stats").frames_received > before,  # type: ignore[misc]
            f"frame {number} of {width} x {height}",
            timeout_sec=10.0,
        )


def test_the_contact_sheet_is_drawn_for_those_who_listen(start: Start, robot: Robot) -> None:
    """A picture of the query beside its matches."""
    begin(start, robot)
    image = image_message(picture(1), 1)
    assert robot.call("remember", image=image, instruction="拿起杯子").success
    answers = robot.collect(MatchArray, "retrieval/matches")
    sheets = robot.collect(Image, "retrieval/contact_sheet")
    wait_until(
        lambda: bool(
            show_until(robot, answers, picture(1), SECOND + len(answers.messages))
            and sheets.messages
        ),
        "a contact sheet",
    )
    sheet = to_rgb(sheets.messages[0])
    assert sheet.shape[0] > 300
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 50
    assert not len(answers.messages[-1].matches[0].thumbnail.data)


def test_diagnostics_tell_state_and_counts(start: Start, robot: Robot) -> None:
    """An active node is OK, and says what it holds."""
    begin(start, robot, diagnostics_period_sec=0.2, device="cpu")
    robot.wait_until_heard()
    reports = robot.collect(DiagnosticArray, "/diagnostics")
    report = reports.wait_for(lambda m: m.status[0].level == DiagnosticStatus.OK)
    facts = {pair.key: pair.value for pair in report.status[0].values}
    assert report.status[0].name == "/retrieval: retrieval"
    assert facts["model"] == "double"
    assert facts["entries_merged"] == "0"
    assert facts["image_topic"] == "/image"
    assert facts["frames_lost"] == "0"
    of_memory = {pair.key: pair.value for pair in report.status[1].values}
    assert report.status[1].name == "/retrieval: memory"
    assert of_memory["memory_size"] == "0"
    assert of_memory["index_kind"] == "exact"
    assert int(of_memory["disk_free_bytes"]) > 0


def test_a_shorter_period_of_the_diagnostics_does_not_wait_for_the_longer_one(
    start: Start, robot: Robot
) -> None:
    """Otherwise the next ones would come after an hour."""
    begin(start, robot, diagnostics_period_sec=3600.0)
    reports = robot.collect(DiagnosticArray, "/diagnostics")
    assert Manager(robot).set(diagnostics_period_sec=0.1)[0].successful
    assert reports.wait_for()


def test_a_camera_that_is_matched_but_not_heard_is_reported_with_the_cure(
    start: Start, robot: Robot
) -> None:
    """The log and the diagnostics name the transport setting."""
    node = begin(start, robot, frame_timeout_sec=0.5, diagnostics_period_sec=0.2, device="cpu")
    reports = robot.collect(DiagnosticArray, "/diagnostics")
    node.wait_for_log(CURE)
    report = reports.wait_for(lambda m: m.status[0].level == DiagnosticStatus.WARN)
    assert "publisher is matched on /image" in report.status[0].message


def test_diagnostics_tell_how_long_answers_take_and_how_old_the_newest_frame_is(
    start: Start, robot: Robot
) -> None:
    """Percentiles are there once something was answered, and the age grows without frames."""
    begin(start, robot, diagnostics_period_sec=0.1, device="cpu")
    robot.wait_until_heard()
    answers = robot.collect(MatchArray, "retrieval/matches")
    show_until(robot, answers, picture(1), SECOND)
    reports = robot.collect(DiagnosticArray, "/diagnostics")

    def age(message: Any) -> float:
        facts = {pair.key: pair.value for pair in message.status[0].values}
        assert 0.0 < float(facts["answer_p50_sec"]) <= float(facts["answer_p99_sec"])
        assert 0 < int(facts["process_allocated_bytes"]) < int(facts["process_resident_bytes"])
        assert int(facts["process_python_blocks"]) > 100_000
        return float(facts["newest_frame_age_sec"])

    first = age(reports.wait_for())
    assert reports.wait_for(lambda message: age(message) > first + 0.15)


def test_a_cpu_that_nobody_asked_for_is_a_warning(start: Start, robot: Robot) -> None:
    """Device auto on a machine without a GPU; the test double computes on the CPU anyway."""
    begin(start, robot, diagnostics_period_sec=0.1, device="auto")
    reports = robot.collect(DiagnosticArray, "/diagnostics")
    report = reports.wait_for(lambda m: m.status[0].level == DiagnosticStatus.WARN)
    assert "device auto chose the CPU" in report.status[0].message


def test_live_parameters_follow_and_the_others_are_refused_with_the_reason(
    start: Start, robot: Robot
) -> None:
    """K changes at once; the model does not, and a bad value never."""
    begin(start, robot, k=3)
    for seed in (1, 2, 3):
        image = image_message(picture(seed), seed)
        assert robot.call("remember", image=image, instruction=f"{seed}").success
    answers = robot.collect(MatchArray, "retrieval/matches")
    node = robot.client.node
    service = node.create_client(SetParameters, "retrieval/set_parameters")
    assert service.wait_for_service(START_SEC)

    def set_to(name: str, value: Any) -> Any:
        message = Parameter(name, value=value).to_parameter_msg()
        return ask(service, SetParameters.Request(parameters=[message])).results[0]

    assert len(show_until(robot, answers, picture(1), SECOND).matches) == 3
    assert set_to("k", 1).successful
    assert set_to("query_diversity", 0.5).successful
    answer = show_until(robot, answers, picture(1), 2 * SECOND)
    assert (len(answer.matches), answer.query.diversity) == (1, 0.5)
    for name, value, reason in (
        ("model", "ViT-B-32", "read at configure"),
        ("query_target", "everything", "expected one of scenes, instructions, pair"),
        ("k", 0, "k"),
        ("query_diversity", 2.0, "query_diversity"),
        ("max_entries", 5, "read at configure"),
    ):
        result = set_to(name, value)
        assert not result.successful
        assert reason in result.reason


def test_the_weight_of_the_scene_follows_its_parameter(start: Start, robot: Robot) -> None:
    begin(start, robot)
    answers = robot.collect(MatchArray, "retrieval/matches")
    assert Manager(robot).set(scene_weight=0.25)[0].successful
    assert show_until(robot, answers, picture(1), SECOND).query.scene_weight == 0.25


def test_matches_below_the_minimum_score_of_the_parameter_are_not_published(
    start: Start, robot: Robot
) -> None:
    begin(start, robot)
    image = image_message(picture(1), 1)
    assert robot.call("remember", image=image, instruction="cup").success
    answers = robot.collect(MatchArray, "retrieval/matches")
    assert len(show_until(robot, answers, picture(1), SECOND).matches) == 1
    assert Manager(robot).set(min_score=999.0)[0].successful
    answer = show_until(robot, answers, picture(1), 2 * SECOND)
    assert (answer.query.min_score, answer.matches) == (999.0, [])


def test_live_answers_do_not_count_as_use(domain: int, tmp_path: Path, robot: Robot) -> None:
    """A camera at rest would make what it looks at the most used."""
    local = LocalNode(tmp_path / "memory")
    try:
        assert robot.client.wait_until_active(lambda: True, START_SEC)
        robot.wait_until_heard()
        image = image_message(picture(1), 1)
        assert robot.call("remember", image=image, instruction="cup").success
        answers = robot.collect(MatchArray, "retrieval/matches")
        assert len(show_until(robot, answers, picture(1), SECOND).matches) == 1
        assert local.node.active_session().memory._standing.unsaved == 0
    finally:
        local.close()
