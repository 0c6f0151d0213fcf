"""The folder of compiled engines: whole or not there, never growing without end."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from vla_retrieval.encoders.artefacts import ArtefactCache, default_cache_dir


class Builder:
    """Writes two files and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "a.blob").write_bytes(b"compiled" * 100)
        (folder / "b.blob").write_bytes(b"")


@pytest.fixture
def build() -> Builder:
    return Builder()


@pytest.fixture
def cache(tmp_path: Path) -> ArtefactCache:
    return ArtefactCache(tmp_path / "engines")


def read(cache: ArtefactCache, key: dict[str, str], build: Builder) -> bytes:
    with cache.folder(key, build) as folder:
        return (folder / "a.blob").read_bytes()


def places(cache: ArtefactCache) -> list[Path]:
    return sorted(path for path in cache._root.iterdir())


def test_artefact_is_built_once(cache, build):
    assert read(cache, {"cpu": "x"}, build) == read(cache, {"cpu": "x"}, build)
    assert build.calls == 1


def test_everything_in_the_key_counts(cache, build):
    for key in ({"cpu": "x"}, {"cpu": "y"}, {"cpu": "x", "weights": "w"}):
        read(cache, key, build)
    assert build.calls == 3


@pytest.mark.parametrize("damage", [
    lambda place: (place / "a.blob").write_bytes(b"compilee" * 100),
    lambda place: (place / "a.blob").write_bytes(b""),
    lambda place: (place / "a.blob").unlink(),
    lambda place: (place / "manifest.json").write_text("{"),
    lambda place: (place / "manifest.json").write_text("[]"),
    lambda place: (place / "manifest.json").write_text('{"crc32": {}}'),
])  # fmt: skip
def test_damaged_artefact_is_built_anew(cache, build, damage):
    expected = read(cache, {"cpu": "x"}, build)
    damage(places(cache)[0])
    assert read(cache, {"cpu": "x"}, build) == expected
    assert build.calls == 2
    assert read(cache, {"cpu": "x"}, build) == expected
    assert build.calls == 2


def test_artefact_that_another_process_has_built_meanwhile_stays_where_it_reads_it(cache, build):
    other = ArtefactCache(cache._root)
    found = []

    def be_second(folder: Path) -> None:
        build(folder)
        with other.folder({}, build) as place:
            found.append((place / "a.blob").stat().st_ino)

    with cache.folder({}, be_second) as place:
        assert [(place / "a.blob").stat().st_ino] == found
    assert places(cache) == [place]


def test_build_that_fails_leaves_nothing(cache):
    def fail(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise RuntimeError("no such operation")

    with pytest.raises(RuntimeError, match="no such operation"), cache.folder({}, fail):
        pass
    assert places(cache) == []


def test_least_recently_used_artefacts_make_room(cache, build):
    for number in range(4):
        read(cache, {"n": str(number)}, build)
        os.utime(cache._place({"n": str(number)}), (number, number))
    read(cache, {"n": "0"}, build)  # now the newest
    read(cache, {"n": "4"}, build)
    assert build.calls == 5
    read(cache, {"n": "0"}, build)
    assert build.calls == 5
    read(cache, {"n": "1"}, build)
    assert build.calls == 6
    assert len(places(cache)) == 4


def test_what_a_killed_process_left_goes_after_a_day(cache, build):
    cache._root.mkdir()
    for name, age in ((".old", 0), (".new", None)):
        (cache._root / name).mkdir()
        if age is not None:
            os.utime(cache._root / name, (age, age))
    read(cache, {}, build)
    assert {path.name for path in places(cache)} >= {".new"}
    assert ".old" not in {path.name for path in places(cache)}


def test_disk_that_takes_nothing_is_said_and_the_engine_made_anyway(tmp_path, build, caplog):
    (tmp_path / "file").write_text("not a folder")
    cache = ArtefactCache(tmp_path / "file" / "engines")
    assert read(cache, {}, build) == read(cache, {}, build)
    assert build.calls == 2
    [first, _] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "engine_cache_dir" in first.getMessage()


def test_artefact_of_no_use_is_dropped(cache, build):
    read(cache, {}, build)
    cache.drop({})
    assert places(cache) == []
    cache.drop({})


def test_folder_follows_the_users_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache_dir() == Path("/somewhere/vla_retrieval/engines")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path("~/.cache/vla_retrieval/engines").expanduser()
