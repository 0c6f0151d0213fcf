"""Directories, files and disks that cannot be used, and the lock."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from vla_retrieval.errors import (
    MemoryFormatError,
    MemoryLockedError,
    MemoryMismatchError,
    StorageError,
)
from vla_retrieval.memory import Memory
from vla_retrieval.memory.lock import check_free
from vla_retrieval.memory.schema import FORMAT
from vla_retrieval.types import Fingerprint, Modality, NewEntry, Probe, Similarity

from .conftest import DIM, OpenMemory, child_environment
from .oracle import fingerprint, unit_vectors

DATABASE = "memory.sqlite3"
Filling = Callable[[Memory], AbstractContextManager[None]]
HOLDER = """
import sys
from pathlib import Path
from vla_retrieval.memory import Memory
memory = Memory.open(Path(sys.argv[1]), None)
print("open", flush=True)
sys.stdin.read()
"""


def filled(memory: Memory, count: int = 3) -> Memory:
    entries = [NewEntry(f"do {n}", n, thumbnail=b"jpeg" * 100) for n in range(count)]
    memory.add(entries, unit_vectors(count, DIM, 1), unit_vectors(count, DIM, 2))
    return memory


@contextmanager
def database(directory: Path) -> Iterator[sqlite3.Connection]:
    """Work on the file behind the memory's back."""
    with closing(sqlite3.connect(directory / DATABASE)) as connection:
        yield connection
        connection.commit()


def snapshot(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


class TestTheLock:
    def test_a_second_process_is_refused_and_told_who_holds_it(
        self, open_memory: OpenMemory, directory: Path
    ) -> None:
        filled(open_memory()).close()
        with subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(directory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=child_environment(),
        ) as holder:  # fmt: skip
            assert holder.stdout is not None
            assert holder.stdout.readline() == "open\n"
            said = rf"in use by process {holder.pid} on .+ since \d{{4}}-\d\d-\d\dT[\d:]+\+00:00"
            with pytest.raises(MemoryLockedError, match=said):
                open_memory()
            holder.send_signal(signal.SIGKILL)
        assert open_memory().stats().entries == 3

    def test_a_second_open_in_one_process_is_refused(self, memory: Memory, directory: Path) -> None:
        with pytest.raises(MemoryLockedError, match=f"in use by process {os.getpid()} "):
            Memory.open(directory, fingerprint(DIM))
        assert filled(memory).stats().entries == 3

    def test_an_open_that_fails_leaves_no_lock(self, open_memory: OpenMemory) -> None:
        open_memory()
        with pytest.raises(MemoryMismatchError):
            open_memory(fingerprint=fingerprint(DIM + 1))
        open_memory()

    def test_a_holder_without_a_name_is_still_a_holder(
        self, memory: Memory, directory: Path
    ) -> None:
        (directory / "lock").write_bytes(b"")
        with pytest.raises(MemoryLockedError, match="another process that is just starting"):
            Memory.open(directory, fingerprint(DIM))

    def test_whether_it_is_held_can_be_asked_beforehand(
        self, open_memory: OpenMemory, directory: Path
    ) -> None:
        check_free(directory)  # there is nothing yet
        memory = open_memory()
        with pytest.raises(MemoryLockedError, match=f"in use by process {os.getpid()} "):
            check_free(directory)
        memory.close()
        before = snapshot(directory)
        check_free(directory)
        assert snapshot(directory) == before

    def test_a_place_that_may_not_be_looked_at_is_a_storage_error_beforehand_too(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(self: Path) -> bool:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "exists", refuse)
        with pytest.raises(StorageError, match="Permission denied"):
            check_free(directory)


class TestTheFingerprint:
    @pytest.mark.parametrize("field", ["model", "weights", "preprocessing", "dim", "normalized"])
    def test_another_encoder_is_refused_with_both_sides_in_full(
        self, open_memory: OpenMemory, field: str
    ) -> None:
        stored = fingerprint(DIM)
        filled(open_memory())
        changed = {"dim": 9, "normalized": False}.get(field, "sha256:" + "1" * 64)
        given = Fingerprint(**{**vars(stored), field: changed})
        with pytest.raises(MemoryMismatchError) as caught:
            open_memory(fingerprint=given)
        assert f"different: {field}." in str(caught.value)
        for side in (stored, given):
            for value in vars(side).values():
                assert repr(value) in str(caught.value)

    def test_without_one_the_stored_one_is_taken(self, open_memory: OpenMemory) -> None:
        filled(open_memory())
        assert open_memory(fingerprint=None).stats().fingerprint == fingerprint(DIM)

    def test_without_one_no_memory_is_created(
        self, open_memory: OpenMemory, directory: Path
    ) -> None:
        with pytest.raises(MemoryFormatError, match="got nothing there"):
            open_memory(fingerprint=None)
        assert not directory.exists()


class TestTheDirectory:
    def test_missing_parents_are_made(self, open_memory: OpenMemory, directory: Path) -> None:
        deep = directory / "a" / "b"
        filled(open_memory(directory=deep, durable=True)).close()
        assert open_memory(directory=deep).stats().entries == 3

    def test_no_memory_is_made_where_none_is_wanted(
        self, open_memory: OpenMemory, directory: Path
    ) -> None:
        with pytest.raises(MemoryFormatError, match="got nothing there"):
            open_memory(create=False)
        directory.mkdir()
        with pytest.raises(MemoryFormatError, match="got an empty directory"):
            open_memory(create=False)
        assert list(directory.iterdir()) == []

    def test_a_file_is_refused(self, open_memory: OpenMemory, directory: Path) -> None:
        directory.write_text("mine")
        with pytest.raises(MemoryFormatError, match=r"expected a directory, got a file"):
            open_memory()
        with pytest.raises(StorageError, match="cannot use"):
            open_memory(directory=directory / "below")
        assert directory.read_text() == "mine"

    def test_a_directory_with_other_things_is_refused_and_left_alone(
        self, open_memory: OpenMemory, directory: Path
    ) -> None:
        directory.mkdir()
        (directory / "holiday.jpg").write_bytes(b"jpeg")
        with pytest.raises(MemoryFormatError, match=r"empty directory, got holiday\.jpg"):
            open_memory()
        assert snapshot(directory) == {"holiday.jpg": b"jpeg"}

    def test_what_file_systems_and_killed_starts_leave_is_no_other_thing(
        self, open_memory: OpenMemory, directory: Path
    ) -> None:
        (directory / "lost+found").mkdir(parents=True)
        for name in (".hidden", "lock", DATABASE):
            (directory / name).write_bytes(b"")
        assert filled(open_memory()).stats().entries == 3

    @pytest.mark.parametrize("place", ["parent", "directory", "database"])
    def test_a_place_without_permission_is_a_storage_error(
        self, open_memory: OpenMemory, directory: Path, place: str
    ) -> None:
        if place != "parent":
            filled(open_memory()).close()
        path = {"parent": directory.parent, "directory": directory}.get(place, directory / DATABASE)
        path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            error = as_somebody_else(directory)
        finally:
            path.chmod(0o755 if path.is_dir() else 0o644)
        assert re.match(r"StorageError: cannot .*(denied|readonly|unable to open)", error)
        assert str(directory) in error


def as_somebody_else(directory: Path) -> str:
    """Open and fill the memory without root's rights, in a fork, and return what it raised."""
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside BLAS's threads
        child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            if os.getuid() == 0:
                for path in (directory.parent, directory, *directory.glob("*")):
                    if path.exists():
                        os.chown(path, 65534, 65534)
                # pytest's directories are closed to others.
                for path in directory.parents[1:-1]:
                    path.chmod(path.stat().st_mode | 0o011)
                os.setuid(65534)
            filled(Memory.open(directory, fingerprint(DIM)))
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write_end, said.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


class TestTheDatabase:
    def test_one_of_another_program_is_refused_and_left_alone(
        self, open_memory: OpenMemory, directory: Path
    ) -> None:
        directory.mkdir()
        with database(directory) as connection:
            connection.execute("CREATE TABLE photos (name TEXT)")
        before = (directory / DATABASE).read_bytes()
        with pytest.raises(MemoryFormatError, match="belongs to another program"):
            open_memory()
        assert (directory / DATABASE).read_bytes() == before

    def test_one_of_a_newer_format_is_refused(
        self, open_memory: OpenMemory, directory: Path
    ) -> None:
        filled(open_memory()).close()
        with database(directory) as connection:
            connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
        said = f"expected format {FORMAT}, got format {FORMAT + 1}"
        with pytest.raises(MemoryFormatError, match=said):
            open_memory()

    @pytest.mark.parametrize("content", [b"not SQLite" * 1000, b"SQLite format 3\0" + b"\0" * 5000])
    def test_what_is_no_database_is_refused(
        self, open_memory: OpenMemory, directory: Path, content: bytes
    ) -> None:
        directory.mkdir()
        (directory / DATABASE).write_bytes(content)
        with pytest.raises(MemoryFormatError, match=DATABASE):
            open_memory()
        assert (directory / DATABASE).read_bytes() == content

    def test_a_truncated_one_is_refused(self, open_memory: OpenMemory, directory: Path) -> None:
        filled(open_memory(), 100).close()
        path = directory / DATABASE
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(MemoryFormatError, match=r"malformed|damaged"):
            open_memory()

    def test_a_flipped_bit_in_an_embedding_is_found(
        self, open_memory: OpenMemory, directory: Path
    ) -> None:
        filled(open_memory()).close()
        with database(directory) as connection:
            scene = bytearray(unit_vectors(3, DIM, 1)[1].tobytes())
            scene[5] ^= 4
            connection.execute(
                "UPDATE entries SET scene_embedding = ? WHERE entry_id = 2", (scene,)
            )
        with pytest.raises(MemoryFormatError, match="entry 2: its scene embedding differs"):
            open_memory()

    @pytest.mark.parametrize(
        "damage",
        [
            "UPDATE entries SET scene_embedding = x'00' WHERE entry_id = 2",
            "UPDATE entries SET stamp_ns = 0 WHERE entry_id = 2",
        ],
    )
    def test_one_that_contradicts_itself_is_refused(
        self, open_memory: OpenMemory, directory: Path, damage: str
    ) -> None:
        filled(open_memory()).close()
        with database(directory) as connection:
            connection.execute(damage)  # foreign keys are off in this connection
        with pytest.raises(MemoryFormatError, match="damaged"):
            open_memory()

    @pytest.mark.parametrize("seed", range(12))
    def test_random_damage_never_gives_a_wrong_match(
        self, open_memory: OpenMemory, directory: Path, seed: int
    ) -> None:
        """Each life ends in a clear error or in answers that are right."""
        filled(open_memory(), 50).close()
        path = directory / DATABASE
        rng = np.random.default_rng(seed)
        content = bytearray(path.read_bytes())
        for at in rng.integers(100, len(content), size=3):
            content[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            memory = open_memory()
            found = memory.search([Probe(Modality.SCENE, unit_vectors(50, DIM, 1)[7])], 50)
        except StorageError:
            return
        assert found.candidates[0].entry_id == 8
        assert sorted(c.entry_id for c in found.candidates) == list(range(1, 51))


class TestAFullDisk:
    @pytest.fixture(params=["pages", "file size"])
    def full(self, request: pytest.FixtureRequest, directory: Path) -> Filling:
        """Return a context in which a memory cannot grow."""

        @contextmanager
        def no_more_pages(memory: Memory) -> Iterator[None]:
            writer = memory._database._writer
            pages = writer.execute("PRAGMA page_count").fetchone()[0]
            before = writer.execute("PRAGMA max_page_count").fetchone()[0]
            writer.execute(f"PRAGMA max_page_count = {pages}")
            yield
            writer.execute(f"PRAGMA max_page_count = {before}")

        @contextmanager
        def no_longer_files(memory: Memory) -> Iterator[None]:
            largest = max(path.stat().st_size for path in directory.iterdir())
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 20_000, before[1]))
            yield
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

        return no_more_pages if request.param == "pages" else no_longer_files

    def test_nothing_is_half_written_and_reading_goes_on(
        self, open_memory: OpenMemory, full: Filling
    ) -> None:
        memory = filled(open_memory())
        large = [NewEntry("large", 0, thumbnail=bytes(100_000), tags=("a",)) for _ in range(5)]
        vectors = unit_vectors(5, DIM, 3)
        with full(memory):
            with pytest.raises(StorageError, match=r"(full|disk I/O error)\..*Nothing was changed"):
                memory.add(large, vectors, vectors)
            found = memory.search([Probe(Modality.SCENE, vectors[0])], 10)
            assert sorted(c.entry_id for c in found.candidates) == [1, 2, 3]
            assert memory.get(2, thumbnail=True).thumbnail == b"jpeg" * 100
        assert memory.add(large[:1], vectors[:1], vectors[:1]) == [4]
        again = open_memory(similarity=Similarity.DOT)
        assert [e.instruction for e in again.get_many([1, 2, 3, 4])][-1] == "large"
        assert again.stats().entries == 4


def test_the_lock_file_says_who_holds_it_only_while_it_is_held(
    open_memory: OpenMemory, directory: Path
) -> None:
    memory = open_memory()
    assert json.loads((directory / "lock").read_text())["pid"] == os.getpid()
    memory.close()
    assert (directory / "lock").read_text() == ""


def test_a_file_that_is_renamed_while_sizes_are_read_fails_no_statistics(
    memory: Memory, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = directory / "index.snapshot.new"
    new.write_bytes(b"new")
    stat = Path.stat

    def gone_by_now(path: Path, **options: bool) -> os.stat_result:
        found = stat(path, **options)
        if path == new:
            new.unlink(missing_ok=True)  # between two looks at it
        return found

    monkeypatch.setattr(Path, "stat", gone_by_now)
    for _ in range(2):
        assert memory.stats().size_bytes > 0
    new.write_bytes(b"new")
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([new, self / "long gone"]))
    assert memory.stats().size_bytes == len(b"new")


def test_a_memory_whose_thread_cannot_start_gives_its_directory_free(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("vla_retrieval.memory.memory.Maintenance", refuse)
        with pytest.raises(RuntimeError, match="new thread") as refused:
            open_memory()
    assert open_memory().stats().entries == 0
    assert refused  # and with it, the frames that hold what was opened


def test_a_database_that_was_cut_off_before_its_tables_says_what_to_do(
    open_memory: OpenMemory, directory: Path
) -> None:
    directory.mkdir()
    (directory / DATABASE).touch()
    with pytest.raises(MemoryFormatError, match=r"holds no memory yet: expected .* Start a node"):
        open_memory(read_only=True)
    assert open_memory().stats().entries == 0
