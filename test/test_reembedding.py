"""A memory made anew with another encoder keeps everything but its embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.errors import InvalidInputError, MemoryFormatError, StorageError
from vla_retrieval.memory import Memory, MemoryOptions, counters
from vla_retrieval.memory.checking import check
from vla_retrieval.memory.contents import open_contents
from vla_retrieval.memory.rows import COLUMNS
from vla_retrieval.reembedding import Reembedded, find_images, reembed
from vla_retrieval.thumbnails import make_thumbnail, read_thumbnail
from vla_retrieval.types import Action, CameraPose, Embeddings, NewEntry, Outcome, RgbImage

OLD, NEW = DoubleEncoder(32), DoubleEncoder(48)
COUNT = 300


def scene(n: int) -> RgbImage:
    colours = np.random.default_rng(n).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    return np.kron(colours, np.ones((10, 10, 1), np.uint8))


def entry(n: int, thumbnail: bytes) -> NewEntry:
    return NewEntry(
        f"把红色的碗 {n}", n, "camera", f"episode {n}", Outcome(n % 3),
        Action("xyz", (2,), np.array([n, -n], np.float32)),
        CameraPose("map", n, (n, 0.0, 1.0), (0.0, 0.0, 0.0, 1.0)),
        (f"tag {n % 4}",), {"n": str(n)}, thumbnail, n % 50 == 0,
    )  # fmt: skip


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return the directory of a memory with the ids 2 to 299, each with a thumbnail."""
    path = tmp_path / "old"
    options = MemoryOptions(merge_scene=0.999)
    with Memory.open(path, OLD.fingerprint, durable=False, options=options) as memory:
        entries = [entry(n, make_thumbnail(scene(n), 64)) for n in range(1, COUNT + 1)]
        scenes = OLD.encode_images([scene(n) for n in range(1, COUNT + 1)])
        memory.add(entries, scenes, OLD.encode_instructions([e.instruction for e in entries]))
        memory.add(
            [entries[9]], scenes[9:10], OLD.encode_instructions([entries[9].instruction])
        )  # fmt: skip
        memory.remove([1, COUNT])
        memory.note_use([5, 5, 6])
    return path


def rows(directory: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return all of every entry but its embeddings, and the last id that was given out."""
    columns = {"entries": COLUMNS, "thumbnails": "*", "usage": "*"}
    with open_contents(directory) as contents, contents.database.reading() as connection:
        return {
            **{
                table: connection.execute(f"SELECT {wanted} FROM {table} ORDER BY 1, 2").fetchall()
                for table, wanted in columns.items()
            },
            "given out": [(counters.last_given_out(connection),)],
        }


def run(old: Path, new: Path, **options: object) -> Reembedded:
    with open_contents(old) as contents:
        return reembed(contents, new, NEW, **options)  # type: ignore[arg-type]  # as in the call


def embeddings(directory: Path, entry_id: int) -> tuple[Embeddings, Embeddings]:
    with Memory.open(directory, None, read_only=True) as memory:
        return memory.embeddings(entry_id)


def forget_thumbnails(directory: Path, *entry_ids: int) -> None:
    with (
        open_contents(directory, write=True) as contents,
        contents.database.writing() as connection,
    ):
        for entry_id in entry_ids:
            connection.execute("DELETE FROM thumbnails WHERE entry_id = ?", (entry_id,))


@pytest.fixture
def untouched(old: Path) -> Iterator[None]:
    """Check that the old memory is as it was, whatever happens."""
    before = rows(old), embeddings(old, 5)[0].tobytes()
    yield
    assert (rows(old), embeddings(old, 5)[0].tobytes()) == before


@pytest.mark.usefixtures("untouched")
class TestTheNewMemory:
    def test_keeps_every_id_field_pin_and_count(self, old: Path, tmp_path: Path) -> None:
        made = run(old, tmp_path / "new")
        assert made == Reembedded(COUNT - 2, 0, ())
        assert rows(tmp_path / "new") == rows(old)
        with (
            Memory.open(tmp_path / "new", NEW.fingerprint) as new,
            Memory.open(old, None, read_only=True) as memory,
        ):
            assert new.stats().merged == memory.stats().merged == 1
            assert new.get(10).merged == 1

    def test_has_the_embeddings_of_the_new_encoder(self, old: Path, tmp_path: Path) -> None:
        run(old, tmp_path / "new")
        jpeg = make_thumbnail(scene(17), 64)
        found = embeddings(tmp_path / "new", 17)
        np.testing.assert_array_equal(found[0], NEW.encode_images([read_thumbnail(jpeg)])[0])
        np.testing.assert_array_equal(found[1], NEW.encode_instructions(["把红色的碗 17"])[0])

    def test_never_gives_out_an_id_that_the_old_one_gave_out(
        self, old: Path, tmp_path: Path
    ) -> None:
        run(old, tmp_path / "new")
        vectors = NEW.encode_images([scene(1)])
        with Memory.open(tmp_path / "new", NEW.fingerprint) as memory:
            assert memory.add([NewEntry("do", 1)], vectors, vectors) == [COUNT + 1]

    def test_opens_from_a_snapshot_and_agrees_with_itself(self, old: Path, tmp_path: Path) -> None:
        run(old, tmp_path / "new")
        with open_contents(tmp_path / "new") as contents:
            assert check(contents).findings == ()
        with Memory.open(tmp_path / "new", NEW.fingerprint) as memory:
            assert memory.stats().index.opened_from.startswith("the snapshot, 0 changes behind")

    def test_takes_source_images_before_thumbnails(self, old: Path, tmp_path: Path) -> None:
        images = tmp_path / "images"
        images.mkdir()
        Image.fromarray(scene(900)).save(images / "17.png")
        Image.fromarray(scene(901)).save(images / "18.JPG", quality=95)
        (images / "notes.txt").write_text("not a picture")
        (images / "99999.png").write_bytes(b"of no entry")
        made = run(old, tmp_path / "new", images=find_images(images))
        assert made.from_images == 2
        found = embeddings(tmp_path / "new", 17)[0]
        np.testing.assert_array_equal(found, NEW.encode_images([scene(900)])[0])


class TestEntriesWithoutAPicture:
    def test_refuse_the_run_and_are_named(self, old: Path, tmp_path: Path) -> None:
        forget_thumbnails(old, 5, 7)
        with pytest.raises(InvalidInputError, match=r"none of 2 of 298: 5, 7\..*--skip-missing"):
            run(old, tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_are_left_out_if_that_is_wanted(self, old: Path, tmp_path: Path) -> None:
        forget_thumbnails(old, 5, 7)
        made = run(old, tmp_path / "new", skip_missing=True)
        assert made == Reembedded(COUNT - 4, 0, (5, 7))
        with Memory.open(tmp_path / "new", NEW.fingerprint) as memory:
            assert memory.entry_ids() == [2, 3, 4, 6, *range(8, COUNT)]

    def test_are_those_whose_thumbnail_does_not_decode_too(self, old: Path, tmp_path: Path) -> None:
        vectors = OLD.encode_images([scene(1)])
        with Memory.open(old, None) as memory:
            memory.add([NewEntry("do", 1, thumbnail=b"no picture")], vectors, vectors)
        assert run(old, tmp_path / "new", skip_missing=True).skipped == (COUNT + 1,)

    def test_may_have_an_image_instead(self, old: Path, tmp_path: Path) -> None:
        forget_thumbnails(old, 5)
        (tmp_path / "images").mkdir()
        Image.fromarray(scene(5)).save(tmp_path / "images" / "5.png")
        made = run(old, tmp_path / "new", images=find_images(tmp_path / "images"))
        assert made == Reembedded(COUNT - 2, 1, ())


@pytest.mark.usefixtures("untouched")
class TestAFailedRun:
    def names(self, folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    def test_that_is_interrupted_leaves_nothing(self, old: Path, tmp_path: Path) -> None:
        def interrupt(doing: str, done: int, total: int) -> None:
            if doing == "entries":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(old, tmp_path / "new", progress=interrupt)
        assert self.names(tmp_path) == ["old"]

    def test_onto_something_is_refused(self, old: Path, tmp_path: Path) -> None:
        (tmp_path / "new").mkdir()
        with pytest.raises(InvalidInputError, match="out: expected a path that does not exist"):
            run(old, tmp_path / "new")
        assert self.names(tmp_path) == ["new", "old"]

    def test_on_an_image_that_is_none_names_it(self, old: Path, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "200.png").write_bytes(b"no picture")
        with pytest.raises(StorageError, match=r"200\.png as a picture"):
            run(old, tmp_path / "new", images=find_images(tmp_path / "images"))
        assert self.names(tmp_path) == ["images", "old"]

    def test_with_a_folder_that_cannot_be_looked_at_says_why(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="name too long"):
            find_images(tmp_path / ("x" * 300))

    def test_without_the_folder_of_images_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="images: expected a folder"):
            find_images(tmp_path / "absent")


def test_a_damaged_memory_is_refused_and_leaves_nothing(old: Path, tmp_path: Path) -> None:
    with open_contents(old, write=True) as contents, contents.database.writing() as connection:
        connection.execute("UPDATE thumbnails SET checksum = 0 WHERE entry_id = 250")
    with pytest.raises(MemoryFormatError, match="entry 250: its thumbnail differs"):
        run(old, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_new_memory_is_not_calibrated(old: Path, tmp_path: Path) -> None:
    """Scores of another encoder mean something else."""
    with Memory.open(old, None) as memory:
        memory.set_calibration("text")
    with open_contents(old) as contents:
        reembed(contents, tmp_path / "new", NEW, skip_missing=True)
    with Memory.open(tmp_path / "new", None) as memory:
        assert memory.calibration() is None
