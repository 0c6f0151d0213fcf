"""The executable ``memory``: exit codes, what it prints, and what it leaves behind."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from test.learned import turned_head, written
from vla_retrieval.calibration import Calibration
from vla_retrieval.encoders import DoubleEncoder
from vla_retrieval.memory import Memory
from vla_retrieval.memory.schema import FORMAT
from vla_retrieval.projection import projected_fingerprint, short_digest
from vla_retrieval.thumbnails import make_thumbnail
from vla_retrieval.types import NewEntry

ENCODER = DoubleEncoder()
ROOT = Path(__file__).parents[2]
COUNT = 20


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "vla_retrieval.cli.memory", *map(str, arguments)]


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def answer(*arguments: object, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json", code=code).stdout)
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return the directory of a closed memory with entries 1 to 20; the third is pinned."""
    images = [
        np.random.default_rng(n).integers(0, 255, (24, 32, 3)).astype(np.uint8)
        for n in range(COUNT)
    ]
    entries = [
        NewEntry(
            f"拿起 {n}", n, thumbnail=make_thumbnail(images[n], 32), pinned=n == 2, tags=("a",)
        )
        for n in range(COUNT)
    ]
    texts = ENCODER.encode_instructions([entry.instruction for entry in entries])
    with Memory.open(tmp_path / "memory", ENCODER.fingerprint, durable=False) as memory:
        memory.add(entries, ENCODER.encode_images(images), texts)
        memory.write_snapshot()
    return tmp_path / "memory"


def damage(directory: Path) -> None:
    with closing(sqlite3.connect(directory / "memory.sqlite3")) as connection:
        connection.execute("UPDATE entries SET stamp_ns = 99 WHERE entry_id = 4")
        connection.execute("UPDATE thumbnails SET checksum = 0 WHERE entry_id = 7")
        connection.commit()


def entry_ids(directory: Path) -> list[int]:
    with Memory.open(directory, None, read_only=True) as memory:
        return memory.entry_ids()


class TestInfo:
    def test_says_what_the_memory_holds(self, directory: Path) -> None:
        found = answer("info", directory)
        assert found["stats"]["entries"] == COUNT
        assert found["stats"]["fingerprint"]["model"] == "double"
        assert found["stats"]["index"]["kind"] == "exact"
        assert (found["pinned"], found["rows"]["thumbnails"], found["format"]) == (1, COUNT, FORMAT)
        assert {"memory.sqlite3", "index.snapshot"} <= set(found["file_bytes"])

    def test_is_readable(self, directory: Path) -> None:
        said = run("info", directory).stdout
        assert "20, 1 of them pinned" in said
        assert "index.snapshot" in said

    def test_of_a_memory_in_use_names_the_holder(self, directory: Path) -> None:
        with Memory.open(directory, None):
            done = run("info", directory, "--json", code=1)
        assert f"in use by process {os.getpid()} on" in done.stderr
        assert json.loads(done.stdout)["error"]["type"] == "MemoryLockedError"

    def test_of_a_memory_that_others_read_works(self, directory: Path) -> None:
        with Memory.open(directory, None, read_only=True):
            assert answer("info", directory)["stats"]["entries"] == COUNT

    def test_works_where_nothing_may_be_written(self, directory: Path) -> None:
        if os.getuid() != 0:
            pytest.skip("needs root, to become somebody else")
        for name in ("memory.sqlite3-wal", "memory.sqlite3-shm"):
            (directory / name).unlink(missing_ok=True)
        for path in (directory, *directory.parents[:4]):
            path.chmod(path.stat().st_mode | 0o055)
        before = sorted(path.name for path in directory.iterdir())
        script = (
            "import os, sys\n"
            "from vla_retrieval.cli.memory import main\n"
            "os.setgid(65534); os.setuid(65534); sys.exit(main(sys.argv[1:]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, "info", str(directory), "--json"],
            cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["stats"]["entries"] == COUNT
        assert sorted(path.name for path in directory.iterdir()) == before

    def test_of_no_memory_fails(self, tmp_path: Path) -> None:
        assert "nothing there" in run("info", tmp_path / "absent", code=1).stderr


class TestCheck:
    def test_of_a_sound_memory_is_0(self, directory: Path) -> None:
        assert answer("check", directory) == {
            "ok": True, "entries": COUNT, "thumbnails": COUNT, "findings": [],
        }  # fmt: skip

    def test_of_a_damaged_memory_is_1_and_names_all_of_it(self, directory: Path) -> None:
        damage(directory)
        found = answer("check", directory, code=1)
        assert not found["ok"]
        assert [(f["part"], f["entry_id"]) for f in found["findings"]] == [
            ("entry", 4), ("thumbnail", 7),
        ]  # fmt: skip
        assert "entry 7, thumbnail: differs" in run("check", directory, code=1).stdout

    def test_a_missing_snapshot_is_0_and_a_note(self, directory: Path) -> None:
        (directory / "index.snapshot").unlink()
        assert "note: snapshot: there is none" in run("check", directory).stdout

    def test_drops_nothing_without_yes(self, directory: Path) -> None:
        damage(directory)
        said = run("check", directory, "--drop-damaged", code=1).stdout
        assert "would remove: entries 4; thumbnails alone of entries 7" in said
        assert "give --yes" in said
        assert len(answer("check", directory, code=1)["findings"]) == 2

    def test_drops_what_is_damaged_with_yes(self, directory: Path) -> None:
        damage(directory)
        found = answer("check", directory, "--drop-damaged", "--yes")
        assert found["dropped"]["entry_ids"] == [4]
        assert found["dropped"]["thumbnail_ids"] == [7]
        assert found["after"]["ok"]
        assert entry_ids(directory) == [i for i in range(1, COUNT + 1) if i != 4]

    def test_yes_alone_is_wrong_usage(self, directory: Path) -> None:
        assert "--drop-damaged" in run("check", directory, "--yes", code=2).stderr


class TestCompact:
    def test_says_the_sizes(self, directory: Path) -> None:
        with Memory.open(directory, None) as memory:
            memory.remove(range(1, COUNT))
        found = answer("compact", directory)
        assert found["after_bytes"] < found["before_bytes"]
        assert entry_ids(directory) == [COUNT]

    def test_leaves_the_snapshot_of_the_head_that_is_named(
        self, directory: Path, tmp_path: Path
    ) -> None:
        head = turned_head(ENCODER.fingerprint, 1)
        file = written(head, tmp_path / "head.safetensors")
        assert not run("compact", directory, "--head", file).stderr
        with Memory.open(directory, None, head=head) as memory:
            assert memory.stats().index.opened_from.startswith("the snapshot, 0 changes behind")

        assert short_digest(head.digest) in run("compact", directory).stderr
        with Memory.open(directory, None) as memory:
            assert memory.stats().index.opened_from.startswith("the snapshot, 0 changes behind")

    def test_makes_no_memory_where_none_is(self, tmp_path: Path) -> None:
        run("compact", tmp_path / "absent", code=1)
        assert not (tmp_path / "absent").exists()


class TestExportAndImport:
    @pytest.mark.parametrize("form", ["parquet", "directory"])
    def test_make_the_same_memory_again(self, directory: Path, tmp_path: Path, form: str) -> None:
        if form == "parquet":
            pytest.importorskip("pyarrow")
        out, new, ids = tmp_path / "out", tmp_path / "new", tmp_path / "ids.csv"
        assert answer("export", directory, out, "--format", form)["entries"] == COUNT
        found = answer("import", new, out, "--ids", ids)
        assert found == {"entries": COUNT, "first_id": 1, "last_id": COUNT}
        rows = list(csv.reader(ids.open(encoding="utf-8")))
        assert rows[:2] == [["old_entry_id", "new_entry_id"], ["1", "1"]]
        assert len(rows) == COUNT + 1
        said = run("import", new, out).stdout
        assert "20 (ids 21 to 40) of 20 entries" in said
        assert run("check", new).returncode == 0

    def test_onto_something_is_1(self, directory: Path, tmp_path: Path) -> None:
        done = run("export", directory, tmp_path, "--format", "directory", code=1)
        assert "which does" in done.stderr

    def test_an_import_that_stops_says_how_far_it_got(
        self, directory: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        run("export", directory, out, "--format", "directory")
        (out / "thumbnails" / "9.jpg").unlink()
        done = run("import", tmp_path / "new", out, code=1)
        assert "stopped; stored 0 of 20" in done.stderr
        assert "9.jpg" in done.stderr
        assert not (tmp_path / "new").exists()

    def test_of_an_ids_file_that_exists_stores_nothing(
        self, directory: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        run("export", directory, out, "--format", "directory")
        run("import", tmp_path / "new", out, "--ids", out / "README.txt", code=1)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["info", "compact", "calibrate", "check"])
def test_a_name_that_is_too_long_is_an_error_like_another(command: str, tmp_path: Path) -> None:
    done = run(command, tmp_path / ("x" * 300), code=1)
    assert "File name too long" in done.stderr
    assert "Traceback" not in done.stderr


class TestReembed:
    def test_makes_a_memory_with_the_same_ids(self, directory: Path, tmp_path: Path) -> None:
        with Memory.open(directory, None) as memory:
            memory.remove([2])
        found = answer("reembed", directory, tmp_path / "new", "--model", "double")
        assert found == {"entries": COUNT - 1, "from_images": 0, "skipped": []}
        assert entry_ids(tmp_path / "new") == entry_ids(directory)

    @pytest.mark.parametrize(
        "options", [["--device", "gpu"], ["--model", " "], ["--precision", "int4"]]
    )
    def test_with_a_wrong_setting_is_wrong_usage(
        self, directory: Path, tmp_path: Path, options: list[str]
    ) -> None:
        done = run("reembed", directory, tmp_path / "new", "--model", "double", *options, code=2)
        assert f"{options[0].strip('-')}: expected" in done.stderr

    def test_that_is_ended_leaves_no_half_memory(self, directory: Path, tmp_path: Path) -> None:
        out = tmp_path / "out" / "new"
        out.parent.mkdir()
        script = (
            "import sys, time\n"
            "from vla_retrieval.encoders import DoubleEncoder\n"
            "def wait(self, images):\n"
            "    print('encoding', flush=True); time.sleep(100)\n"
            "DoubleEncoder.encode_images = wait\n"
            "from vla_retrieval.cli.memory import main; sys.exit(main(sys.argv[1:]))"
        )
        arguments = ["reembed", str(directory), str(out), "--model", "double"]
        with subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stdout.readline() == "encoding\n"
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert list(out.parent.iterdir()) == []


class TestCalibrate:
    @pytest.fixture
    def visited(self, tmp_path: Path) -> Path:
        """Return the directory of a closed memory with ten visits to each of three colours."""
        colours = {"red": (220, 30, 30), "green": (30, 170, 50), "blue": (30, 60, 210)}
        rng = np.random.default_rng(0)
        entries = [
            NewEntry(f"the {name} cup", 0, episode_id=f"{name} {n}")
            for n in range(10)
            for name in colours
        ]
        noise = rng.integers(-20, 20, (len(entries), 16, 16, 3))
        images = [
            np.clip(np.array(colours[entry.instruction.split()[1]]) + some, 0, 255).astype(np.uint8)
            for entry, some in zip(entries, noise, strict=True)
        ]
        texts = ENCODER.encode_instructions([entry.instruction for entry in entries])
        with Memory.open(tmp_path / "visited", ENCODER.fingerprint, durable=False) as memory:
            memory.add(entries, ENCODER.encode_images(images), texts)
        return tmp_path / "visited"

    def test_prints_and_stores_what_scores_mean(self, visited: Path) -> None:
        found = answer("calibrate", visited, "--alpha", 0.1, "--queries", 28, "--seed", 4)
        assert (found["alpha"], found["queries"], found["seed"]) == (0.1, 28, 4)
        assert (found["memory_size"], found["episodes"], found["instructions"]) == (30, 30, 3)
        of = found["directions"]["instruction to scenes"]["held_out"]
        assert of["answerable"] == of["absent"] == 28
        assert of["auroc"]["value"] == 1.0
        assert set(found["left_out"]) == {"instruction to instructions"}
        with Memory.open(visited, None, read_only=True) as memory:
            stored = json.loads(memory.calibration() or "")
        assert set(stored["directions"]) == set(found["directions"])
        assert stored["date"] == found["date"]

    def test_is_readable(self, visited: Path) -> None:
        said = run("calibrate", visited, "--alpha", 0.1).stdout
        assert "instruction to scenes" in said
        assert "not calibrated: instruction to instructions" in said
        assert "30 entries of 30 episodes and 3 instructions" in said

    def test_is_told_by_info(self, visited: Path) -> None:
        assert "calibration:     none" in run("info", visited).stdout
        assert answer("info", visited)["calibration"] is None
        run("calibrate", visited, "--alpha", 0.1)
        said = run("info", visited).stdout
        assert "alpha 0.1, cosine, scene weight 0.5, head none, of 30 entries" in said
        assert json.loads(answer("info", visited)["calibration"])["alpha"] == 0.1

    def test_with_a_head_says_what_scores_of_that_head_mean(
        self, visited: Path, tmp_path: Path
    ) -> None:
        head = turned_head(ENCODER.fingerprint, 1)
        file = written(head, tmp_path / "head.safetensors")
        said = run("calibrate", visited, "--alpha", 0.1, "--head", file).stdout
        assert f"with head {short_digest(head.digest)}" in said
        with Memory.open(visited, None, read_only=True) as memory:
            stored = Calibration.from_json(memory.calibration() or "")
        assert stored.fingerprint == projected_fingerprint(ENCODER.fingerprint, head)

    def test_with_the_head_of_another_encoder_is_1_and_stores_nothing(
        self, visited: Path, tmp_path: Path
    ) -> None:
        other = replace(ENCODER.fingerprint, model="another model")
        file = written(turned_head(other, 1), tmp_path / "head.safetensors")
        assert "another model" in run("calibrate", visited, "--head", file, code=1).stderr
        with Memory.open(visited, None, read_only=True) as memory:
            assert memory.calibration() is None

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("same.csv", "the red cup,the green cup,\n红,blue\n"),
            ("same.yaml", "cup: [the red cup, the green cup]\n红: colour\nblue: colour\n"),
        ],
    )
    def test_takes_instructions_that_mean_the_same(
        self, visited: Path, tmp_path: Path, name: str, content: str
    ) -> None:
        file = tmp_path / name
        file.write_text(content, encoding="utf-8")
        found = answer("calibrate", visited, "--alpha", 0.2, "--same", file)
        assert found["instructions"] == 2

    @pytest.mark.parametrize("content", [None, b"\xff\xfe\xff", b"a,b\nb,c\n"])
    def test_of_an_unreadable_file_of_groups_is_1(
        self, visited: Path, tmp_path: Path, content: bytes | None
    ) -> None:
        file = tmp_path / "same.csv"
        if content is not None:
            file.write_bytes(content)
        said = run("calibrate", visited, "--same", file, code=1).stderr
        assert "same" in said
        assert "disk" not in said  # that is the memory's next step

    def test_of_yaml_without_labels_is_1(self, visited: Path, tmp_path: Path) -> None:
        file = tmp_path / "same.yaml"
        file.write_text("- a list\n")
        said = run("calibrate", visited, "--same", file, code=1).stderr
        assert "label: [instruction, ...]" in said

    def test_of_too_little_data_is_1_and_stores_nothing(self, directory: Path) -> None:
        done = run("calibrate", directory, "--json", code=1)
        assert "at least 19 episodes" in done.stderr
        assert json.loads(done.stdout)["error"]["type"] == "InvalidInputError"
        with Memory.open(directory, None, read_only=True) as memory:
            assert memory.calibration() is None

    @pytest.mark.parametrize(
        "options", [["--alpha", "0"], ["--alpha", "x"], ["--scene-weight", "2"],
                    ["--queries", "0"], ["--seed", "-1"], ["--similarity", "near"]],
    )  # fmt: skip
    def test_with_a_wrong_setting_is_wrong_usage(self, visited: Path, options: list[str]) -> None:
        assert options[0] in run("calibrate", visited, *options, code=2).stderr


class TestTheCommandLine:
    @pytest.mark.parametrize(
        "arguments",
        [[], ["open"], ["info"], ["export", "a", "b"], ["export", "a", "b", "--format", "x"]],
    )
    def test_that_is_wrong_is_2(self, arguments: list[str]) -> None:
        assert "usage: memory" in run(*arguments, code=2).stderr

    @pytest.mark.parametrize("arguments", [[], ["check"], ["reembed"]])
    def test_help_says_the_exit_codes(self, arguments: list[str]) -> None:
        assert "exit codes:" in run(*arguments, "--help").stdout

    def test_needs_neither_ros_nor_torch_nor_pyarrow(self, directory: Path) -> None:
        script = (
            "import sys\n"
            "from vla_retrieval.cli.memory import main\n"
            "code = main(sys.argv[1:])\n"
            "loaded = {'rclpy', 'torch', 'open_clip', 'pyarrow'} & set(sys.modules)\n"
            "sys.exit(code or sorted(loaded) or 0)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, "check", str(directory)],
            cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
