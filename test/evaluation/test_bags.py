"""Any bag gives the same frames, and a damaged one what is left of it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mcap", reason="bags of other tools need mcap (requirements/dev.txt)")

import yaml
from mcap.writer import CompressionType
from mcap_ros2.writer import Writer as McapRos2Writer

from test.evaluation import writers
from test.evaluation.writers import Recorded, two_tasks, write_mcap, write_rosbags, write_sqlite
from vla_retrieval.errors import InvalidInputError
from vla_retrieval.evaluation.frames import Frame, ReadOptions, Recording
from vla_retrieval.evaluation.recordings import image_type, read_recordings
from vla_retrieval.evaluation.topics import TopicOptions

DEMO = Path(__file__).parents[2] / "demo" / "bag"


def read(path: Path, **options: object) -> Recording:
    return read_recordings([path], ReadOptions(**options))[0]


def facts(frame: Frame) -> tuple[object, ...]:
    """What a frame is, whatever its bag is called."""
    return (
        frame.topic, frame.stamp_ns, frame.received_ns, frame.frame_id, frame.instruction,
        frame.episode_id.rpartition("-")[2], frame.index, frame.query_id.partition(":")[2],
        frame.image().tobytes(),
    )  # fmt: skip


def without_metadata(folder: Path) -> Path:
    (folder / "metadata.yaml").unlink()
    return folder


def split_bag(folder: Path, recorded: Recorded) -> Path:
    """Three files, the second cut in the middle of an episode; number 10 comes after number 2."""
    folder.mkdir()
    parts = [slice(0, 7), slice(7, 12), slice(12, None)]
    for number, part in zip((1, 2, 10), parts, strict=True):
        write_mcap(folder / f"bag_{number}.mcap", Recorded(recorded.in_order()[part]))
    return folder


WAYS = {
    "rosbags sqlite3": lambda at, r: write_rosbags(at / "bag", r),
    "rosbags mcap": lambda at, r: write_rosbags(at / "bag", r, "mcap"),
    "rosbags sqlite3 by file": lambda at, r: write_rosbags(at / "bag", r, "sqlite3", "file"),
    "rosbags mcap by file": lambda at, r: write_rosbags(at / "bag", r, "mcap", "file"),
    "rosbags sqlite3 by message": lambda at, r: write_rosbags(at / "bag", r, "sqlite3", "message"),
    "rosbags mcap by message": lambda at, r: write_rosbags(at / "bag", r, "mcap", "message"),
    "rosbags mcap by storage": lambda at, r: write_rosbags(at / "bag", r, "mcap", "storage"),
    "no metadata, by message": lambda at, r: without_metadata(
        write_rosbags(at / "bag", r, "sqlite3", "message")
    ),
    "no metadata, by file": lambda at, r: without_metadata(
        write_rosbags(at / "bag", r, "mcap", "file")
    ),
    "mcap zstd": lambda at, r: write_mcap(at / "bag.mcap", r),
    "mcap lz4": lambda at, r: write_mcap(at / "bag.mcap", r, CompressionType.LZ4),
    "mcap plain": lambda at, r: write_mcap(at / "bag.mcap", r, CompressionType.NONE),
    "mcap without chunks": lambda at, r: write_mcap(at / "bag.mcap", r, chunked=False),
    "mcap without profile": lambda at, r: write_mcap(at / "bag.mcap", r, profile=""),
    "mcap without definitions": lambda at, r: write_mcap(at / "bag.mcap", r, definitions=False),
    "Humble's sqlite3": lambda at, r: write_sqlite(at / "bag.db3", r),
    "split": lambda at, r: split_bag(at / "bag", r),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    folder = tmp_path_factory.mktemp("reference")
    return [facts(f) for f in read(write_sqlite(folder / "bag.db3", two_tasks())).frames]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_record_gives_the_same_frames(
    way: str, tmp_path: Path, reference: list[tuple[object, ...]]
) -> None:
    recording = read(WAYS[way](tmp_path, two_tasks()))

    assert [facts(frame) for frame in recording.frames] == reference
    assert len(reference) == 16
    assert recording.before_instruction == 1
    assert not any("damage" in note or "cannot" in note for note in recording.notes)


def test_pictures_and_words_are_those_that_were_recorded(tmp_path: Path) -> None:
    recording = read(write_sqlite(tmp_path / "bag.db3", two_tasks(2)))

    first, last = recording.frames[0], recording.frames[-1]
    np.testing.assert_array_equal(first.image(), writers.picture(0.1))
    np.testing.assert_array_equal(last.image(), writers.picture(30.2))
    assert (first.instruction, last.instruction) == ("pick up the cup", "拿起桌子上的杯子。")
    assert (first.stamp_ns, first.index) == (writers.ns(0.1), 1)
    assert len({frame.query_id for frame in recording.frames}) == 8
    assert not any(c.isspace() for frame in recording.frames for c in frame.query_id)


def test_messages_without_chunks_may_be_out_of_order(tmp_path: Path) -> None:
    recorded = Recorded().say(0, "go").see(0.3).see(0.1).see(0.2)
    path = write_mcap(tmp_path / "bag.mcap", recorded, chunked=False, arrange=False)

    frames = read(path).frames

    assert [f.stamp_ns for f in frames] == [writers.ns(at) for at in (0.1, 0.2, 0.3)]
    for frame, at in zip(frames, (0.1, 0.2, 0.3), strict=True):
        np.testing.assert_array_equal(frame.image(), writers.picture(at))


def test_a_type_that_is_not_installed_is_read_with_the_bags_definition(tmp_path: Path) -> None:
    recorded = Recorded().see(1.0).see(3.0)
    said = writers.stamped_instruction(0.5, "open the drawer")
    # It is received late; its header says when it was given.
    recorded.add("/robot/instruction", writers.STAMPED, 2.0, said)

    recording = read(write_mcap(tmp_path / "bag.mcap", recorded))

    assert [f.instruction for f in recording.frames] == ["open the drawer"] * 2


def test_the_mcap_ros2_writer_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    with path.open("wb") as file:
        writer = McapRos2Writer(file)
        string = writer.register_msgdef("std_msgs/String", "string data")
        definition, _ = writers.TYPES.generate_msgdef(writers.COMPRESSED, ros_version=2)
        image = writer.register_msgdef(writers.COMPRESSED, definition)
        writer.write_message("/instruction", string, {"data": "go"}, writers.ns(0))
        at = {"sec": writers.ns(1) // writers.SEC, "nanosec": 0}
        png = {"header": {"stamp": at, "frame_id": "eye"}, "format": "png"}
        png["data"] = list(writers.png_image(1.0).data)
        writer.write_message("/camera/compressed", image, png, writers.ns(1.5))
        writer.finish()

    (frame,) = read(path).frames

    assert (frame.stamp_ns, frame.received_ns) == (writers.ns(1), writers.ns(1.5))
    assert frame.frame_id == "eye"
    np.testing.assert_array_equal(frame.image(), writers.picture(1.0))


def test_padding_is_no_part_of_the_picture(tmp_path: Path) -> None:
    recorded = Recorded().say(0, "go").see(1, padding=3)

    (frame,) = read(write_sqlite(tmp_path / "bag.db3", recorded)).frames

    np.testing.assert_array_equal(frame.image(), writers.picture(1))


def test_pictures_can_be_asked_for_in_any_order_and_again(tmp_path: Path) -> None:
    frames = read(split_bag(tmp_path / "bag", two_tasks())).frames

    for number in [3, 15, 0, 0, 7, 8, 9, 2]:
        at = (frames[number].stamp_ns - writers.START_NS) / writers.SEC
        np.testing.assert_array_equal(frames[number].image(), writers.picture(at))


def test_images_without_a_stamp_have_that_of_their_receipt(tmp_path: Path) -> None:
    recorded = Recorded().say(0, "go").see(1, stamp_ns=0)

    (frame,) = read(write_sqlite(tmp_path / "bag.db3", recorded)).frames

    assert frame.stamp_ns == writers.ns(1)


def test_headers_of_another_clock_are_told(tmp_path: Path) -> None:
    recorded = Recorded().say(0, "go").see(1, stamp_ns=5 * writers.SEC)
    path = write_sqlite(tmp_path / "bag.db3", recorded)

    with pytest.raises(InvalidInputError, match=r"1 before any instruction.*--stamps received"):
        read(path)
    assert read(path, stamps="received").frames[0].stamp_ns == writers.ns(1)


@pytest.mark.parametrize("compression", [CompressionType.ZSTD, CompressionType.LZ4])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_mcap_gives_what_is_there_and_says_so(
    tmp_path: Path, compression: CompressionType, share: float
) -> None:
    whole = write_mcap(tmp_path / "bag.mcap", two_tasks(20), compression)
    expected = [facts(frame) for frame in read(whole).frames]
    end = whole.read_bytes().index(b"\x0f\x04\x00\x00\x00\x00\x00\x00\x00")
    whole.write_bytes(whole.read_bytes()[: int(end * share)])

    recording = read(whole)
    found = [facts(frame) for frame in recording.frames]

    assert 0 < len(found) < len(expected)
    assert found == expected[: len(found)]
    assert len(found) > share * len(expected) - 10
    assert any("ends within the recording" in note for note in recording.notes)


def test_a_damaged_chunk_is_left_out_and_named(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "bag.mcap", two_tasks(20), CompressionType.NONE)
    expected = [facts(frame) for frame in read(path).frames]
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(b ^ 0xFF for b in data[middle : middle + 8])
    path.write_bytes(data)

    recording = read(path)
    found = [facts(frame)[:4] for frame in recording.frames]

    lost = [f[:4] for f in expected if f[:4] not in found]
    assert 0 < len(lost) < 10
    assert found == [f[:4] for f in expected if f[:4] not in lost]
    assert any("checksum" in note for note in recording.notes)


def test_a_damaged_message_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    recorded = Recorded().say(0, "go").see(1).see(3)
    recorded.add("/camera/image_raw", writers.IMAGE, 2, b"\x00\x01\x00\x00rubbish")

    recording = read(write_mcap(tmp_path / "bag.mcap", recorded))

    assert len(recording.frames) == 2
    assert recording.refused == {"unreadable message": 1}
    assert any("1 image(s) left out for unreadable message" in n for n in recording.notes)


def test_an_unknown_encoding_is_counted_by_its_name(tmp_path: Path) -> None:
    recorded = Recorded().say(0, "go").see(1).see(4)
    recorded.see(2, encoding="16UC1").see(3, encoding="32FC1").see(3.5, encoding="16UC1")

    recording = read(write_sqlite(tmp_path / "bag.db3", recorded))

    assert len(recording.frames) == 2
    assert recording.refused == {"image.encoding '16UC1'": 2, "image.encoding '32FC1'": 1}
    assert recording.images == 5


def test_a_file_named_by_the_metadata_may_be_missing(tmp_path: Path) -> None:
    bag = write_rosbags(tmp_path / "bag", two_tasks())
    path = bag / "metadata.yaml"
    content = yaml.safe_load(path.read_text())
    content["rosbag2_bagfile_information"]["relative_file_paths"].append("bag_1.db3")
    path.write_text(yaml.safe_dump(content))

    recording = read(bag)

    assert len(recording.frames) == 16
    assert any("bag_1.db3" in note for note in recording.notes)


def test_metadata_that_is_rubbish_is_passed_over(tmp_path: Path) -> None:
    bag = write_rosbags(tmp_path / "bag", two_tasks())
    (bag / "metadata.yaml").write_text("{")

    recording = read(bag)

    assert len(recording.frames) == 16
    assert any("metadata.yaml cannot be read" in note for note in recording.notes)


def test_the_type_of_images_is_known_without_reading_the_bag_through(tmp_path: Path) -> None:
    raw = write_rosbags(tmp_path / "raw", two_tasks())

    assert image_type([DEMO]) == "sensor_msgs/msg/CompressedImage"
    assert image_type([raw]) == "sensor_msgs/msg/Image"
    with pytest.raises(InvalidInputError, match=r"--image-topic: expected topics of one type"):
        image_type([raw, DEMO])


def killed_recorder(folder: Path) -> tuple[Path, list[int]]:
    """A bag whose last messages lie in the write-ahead log only, and their times of receipt."""
    whole = write_sqlite(folder / "whole.db3", two_tasks())
    folder = folder / "bag"
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(whole)) as database:
        database.execute("PRAGMA journal_mode=WAL").fetchone()
        late = database.execute(
            "SELECT topic_id, timestamp, data FROM messages ORDER BY timestamp DESC LIMIT 5"
        ).fetchall()
        with database:
            database.executemany(
                "DELETE FROM messages WHERE timestamp = ?", [(row[1],) for row in late]
            )
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        with database:
            database.executemany(
                "INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", late[::-1]
            )
        # Copied while it is open: closing brings the log in.
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{whole}{suffix}", folder / f"bag.db3{suffix}")
    return folder / "bag.db3", [row[1] for row in late]


@pytest.mark.parametrize("given", ["file", "folder"])
def test_what_a_killed_recorder_left_in_its_write_ahead_log_is_read_too(
    tmp_path: Path, given: str
) -> None:
    path, late = killed_recorder(tmp_path)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}

    recording = read(path if given == "file" else path.parent)

    whole = read(write_sqlite(tmp_path / "again.db3", two_tasks()))
    assert [facts(frame) for frame in recording.frames] == [facts(f) for f in whole.frames]
    assert {frame.received_ns for frame in recording.frames} & set(late)
    assert any("bag.db3-wal" in note and "read too" in note for note in recording.notes)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_without_the_write_ahead_log_the_last_messages_would_be_missing(tmp_path: Path) -> None:
    path, late = killed_recorder(tmp_path)
    path.with_name("bag.db3-wal").unlink()

    assert not {frame.received_ns for frame in read(path).frames} & set(late)


def test_a_write_ahead_log_of_rubbish_changes_nothing_and_is_named(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path / "bag.db3", two_tasks())
    (tmp_path / "bag.db3-wal").write_bytes(b"x")

    recording = read(path)

    assert len(recording.frames) == 16
    assert any("bag.db3-wal holds nothing" in note for note in recording.notes)


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        (Recorded().say(0, "go"), "a topic of sensor_msgs/msg/Image"),
        (Recorded().see(0), "instruction"),
        (Recorded().say(0, "go").see(1, encoding="16UC1"), "16UC1"),
        (Recorded().say(0, "  ").see(1), "only empty ones"),
        (Recorded().say(2, "go").see(1), "1 before any instruction"),
    ],
)
def test_a_bag_without_anything_to_evaluate_says_what_is_missing(
    tmp_path: Path, recorded: Recorded, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read(write_sqlite(tmp_path / "bag.db3", recorded))


@pytest.mark.parametrize("name", ["bag.mcap", "bag.db3", "bag.txt", "folder"])
def test_what_is_no_bag_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"rubbish of some length, more than an end needs" * 3)

    with pytest.raises(InvalidInputError, match=name):
        read(path)
    with pytest.raises(InvalidInputError, match="does not exist"):
        read(tmp_path / "nothing")


def test_an_empty_instruction_ends_the_one_in_force(tmp_path: Path) -> None:
    recorded = Recorded().say(0, "go").see(1).say(2, " ").see(3).say(4, "go").see(5)

    recording = read(write_sqlite(tmp_path / "bag.db3", recorded))

    assert [f.stamp_ns for f in recording.frames] == [writers.ns(1), writers.ns(5)]
    assert recording.after_instruction == 1
    assert len(recording.episodes) == 2


def test_the_same_words_written_in_another_way_begin_no_episode(tmp_path: Path) -> None:
    """Frames before and after are nearly one picture, and would be on both sides of a split."""
    recorded = Recorded().say(0, "pick it up").see(1).say(1.5, "Pick  it up.").see(2)
    recorded.say(3, "put it down").see(4)

    recording = read(write_sqlite(tmp_path / "bag.db3", recorded))

    said = [(frame.instruction, frame.episode_id) for frame in recording.frames]
    assert said == [
        ("pick it up", "bag-0001"), ("Pick  it up.", "bag-0001"), ("put it down", "bag-0002"),
    ]  # fmt: skip


def test_several_cameras_share_the_instruction_and_the_episode(tmp_path: Path) -> None:
    recorded = Recorded().say(0, "go")
    for at in (1, 2):
        recorded.see(at, topic="/left/image").see(at, topic="/right/image")
    path = write_sqlite(tmp_path / "bag.db3", recorded)

    with pytest.raises(InvalidInputError, match=r"/left/image.*/right/image.*--image-topic"):
        read(path)
    both = read(path, topics=TopicOptions(images=("/left/image", "right/image")))

    assert [f.topic for f in both.frames] == ["/left/image", "/right/image"] * 2
    assert len({f.query_id for f in both.frames}) == 4
    assert len(both.episodes) == 1


def test_bags_of_one_name_get_different_ids(tmp_path: Path) -> None:
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(write_sqlite(tmp_path / folder / "my bag.db3", two_tasks(1)))

    recordings = read_recordings(paths)

    assert [r.bag for r in recordings] == ["my_bag", "my_bag#2"]
    frames = [f for r in recordings for f in r.frames]
    assert len({f.query_id for f in frames}) == len({f.episode_id for f in frames}) == 8


def test_what_was_unpacked_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    from vla_retrieval.evaluation.bags import Bag

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    bag = Bag(write_rosbags(tmp_path / "bag", two_tasks(), "sqlite3", "file"))
    unpacked = list((tmp_path / "temp").iterdir())

    bag.close()

    assert len(unpacked) == 1
    assert not list((tmp_path / "temp").iterdir())
    assert bag.topics


def test_a_bag_that_is_changed_under_the_frames_is_noticed(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path / "bag.db3", two_tasks())
    frame = read(path).frames[0]
    path.unlink()
    write_sqlite(path, Recorded().say(0, "go").see(50))

    with pytest.raises(InvalidInputError, match="changed"):
        frame.image()


def test_the_demonstration_bag_has_its_known_counts(tmp_path: Path) -> None:
    recording = read(DEMO)

    assert (len(recording.frames), recording.before_instruction, recording.refused) == (170, 0, {})
    assert len(recording.episodes) == 32
    assert recording.frames[0].instruction == "pick up the cup on the table"
    assert recording.frames[-1].image().shape == (480, 640, 3)
    copy = tmp_path / "bag"
    copy.mkdir()
    shutil.copy(DEMO / "bag.mcap", copy)
    assert list(read(copy).frames) == list(recording.frames)


@pytest.mark.parametrize("again", ["bag", "elsewhere/../bag", "link", "bag/bag.mcap"])
def test_a_recording_that_comes_twice_is_refused_because_it_would_find_itself(
    again: str, tmp_path: Path
) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write_mcap(tmp_path / "bag" / "bag.mcap", two_tasks())
    (tmp_path / "link").symlink_to(tmp_path / "bag")
    with pytest.raises(InvalidInputError, match="expected each bag once"):
        read_recordings([tmp_path / "bag", tmp_path / again])


def test_a_message_record_too_short_for_its_head_is_passed_over(tmp_path: Path) -> None:
    whole = write_mcap(tmp_path / "bag.mcap", two_tasks(), CompressionType.NONE, chunked=False)
    ends = b"\x0f" + (4).to_bytes(8, "little") + bytes(4)  # the record that ends the data
    content = whole.read_bytes()
    short = b"\x05" + (4).to_bytes(8, "little") + bytes(4)
    (tmp_path / "short.mcap").write_bytes(content[: content.rindex(ends)] + short)
    found = read(tmp_path / "short.mcap")
    assert len(found.frames) == len(read(whole).frames)
