"""A warning that lasts is told at once, and then ever more seldom."""

from __future__ import annotations

from vla_retrieval.ros.reminder import Reminder


def told(reminder: Reminder, warnings: dict[int, str], seconds: int) -> list[int]:
    """Return the seconds at which a line was due; a warning lasts until the next one."""
    due, warning = [], ""
    for second in range(seconds):
        warning = warnings.get(second, warning)
        if reminder.is_due(warning.replace("N", str(second)), float(second)):
            due.append(second)
    return due


def test_pauses_double_up_to_the_longest() -> None:
    reminder = Reminder(10.0, 60.0)
    assert told(reminder, {3: "no images for N s"}, 300) == [3, 13, 33, 73, 133, 193, 253]


def test_another_warning_is_told_at_once_but_for_the_first_pause() -> None:
    reminder = Reminder(10.0, 600.0)
    assert told(reminder, {0: "no images", 50: "another QoS", 52: "lost 3"}, 80) == [
        0, 10, 30, 50, 60, 70,
    ]  # fmt: skip


def test_after_all_was_well_a_warning_is_new() -> None:
    reminder = Reminder(10.0, 600.0)
    assert told(reminder, {0: "no images", 31: "", 45: "no images"}, 60) == [0, 10, 30, 45, 55]


def test_what_comes_and_goes_is_no_flood() -> None:
    reminder = Reminder(10.0, 600.0)
    flicker = {second: "no images" if second % 2 else "" for second in range(100)}
    assert len(told(reminder, flicker, 100)) == 10


def test_nothing_is_told_while_all_is_well() -> None:
    assert told(Reminder(10.0, 60.0), {}, 100) == []
