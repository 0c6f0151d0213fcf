"""The executable ``train``: from a memory or a bag to a head, its record and its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import html5lib
import pytest

from test.training import made_up
from vla_retrieval.cli.train import main
from vla_retrieval.encoders import DoubleEncoder, EncoderSettings
from vla_retrieval.errors import EncoderError, HeadMismatchError
from vla_retrieval.heads import load_head, read_record
from vla_retrieval.memory import Memory
from vla_retrieval.training import Pairs
from vla_retrieval.types import NewEntry

pytest.importorskip("pytorch_metric_learning")

ROOT = Path(__file__).parents[2]
QUICK = ("--epochs", "3", "--batch", "64", "--device", "cpu")


def remember(directory: Path, pairs: Pairs, **changes: Any) -> Path:
    """Stores pairs as entries; each has its label as metadata too."""
    entries = [
        NewEntry(
            **(
                {
                    "instruction": text,
                    "stamp_ns": number,
                    "episode_id": episode,
                    "metadata": {"task": label},
                }
                | changes
            )
        )
        for number, (text, label, episode) in enumerate(
            zip(pairs.texts, pairs.labels, pairs.episodes, strict=True)
        )
    ]
    with Memory.open(directory, pairs.encoder, durable=False) as memory:
        memory.add(entries, pairs.scenes, pairs.instructions)
    return directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return remember(tmp_path / "memory", made_up.with_nuisance())


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == code


@pytest.mark.parametrize("method", ["joint", "metric", "hash"])
def test_head_of_a_memory_is_written_with_its_record_and_page(
    method: str, directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "head.safetensors"
    bits = ("--bits", 64) if method == "hash" else ()
    run("--method", method, "--memory", directory, "--output", output, *bits, "--json",
        *QUICK)  # fmt: skip
    printed = json.loads(capsys.readouterr().out)
    head = load_head(output, made_up.with_nuisance().encoder)
    page = html5lib.HTMLParser(strict=True).parse(output.with_suffix(".html").read_text("utf-8"))

    assert (head.method, head.digest) == (method, printed["digest"])
    assert head.bits == (64 if method == "hash" else 0)
    assert read_record(output)["metrics"] == printed["metrics"]
    text = "".join(page.itertext())
    assert "nan" not in text.lower().split()
    assert f"{read_record(output)['seconds']:.1f} s." in text  # the end of the longest sentence
    with pytest.raises(HeadMismatchError):
        load_head(output, DoubleEncoder().fingerprint)


def test_table_has_training_and_held_out_numbers_before_and_after(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--method", "metric", "--memory", directory, "--output", tmp_path / "h.safetensors",
        "--no-page", *QUICK)  # fmt: skip
    lines = capsys.readouterr().out.splitlines()

    for side in ("train", "test"):
        found = [line for line in lines if line.startswith(f"{side} ") and "ndcg@10" in line]
        assert len(found) == 3
        assert all(line.count("[") == 2 for line in found)
    assert not (tmp_path / "h.html").exists()


def test_the_memory_is_not_changed(directory: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    run("--method", "metric", "--memory", directory, "--output", tmp_path / "h.safetensors",
        "--no-page", *QUICK)  # fmt: skip

    assert {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()} == before


def test_metadata_key_gives_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = remember(tmp_path / "memory", made_up.with_nuisance(), instruction="always this")
    usual = ("--method", "metric", "--memory", directory, "--no-page", *QUICK)

    run(*usual, "--output", tmp_path / "a.safetensors", code=1)
    assert "two different instructions or labels" in capsys.readouterr().err
    run(*usual, "--output", tmp_path / "b.safetensors", "--label-key", "nothing", code=1)
    assert "pairs with labels" in capsys.readouterr().err
    run(*usual, "--output", tmp_path / "c.safetensors", "--label-key", "task")
    assert read_record(tmp_path / "c.safetensors")["data"]["labelled_by"] == "metadata key 'task'"


def test_one_episode_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = remember(tmp_path / "memory", made_up.with_nuisance(), episode_id="")
    run("--method", "joint", "--memory", directory, "--output", tmp_path / "h.safetensors",
        "--json", *QUICK, code=1)  # fmt: skip
    said = capsys.readouterr()

    assert "store each pair with its episode_id" in said.err
    assert json.loads(said.out)["error"]["type"] == "InvalidInputError"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memory"]


def test_existing_output_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "h.html").write_text("mine")
    run("--method", "joint", "--memory", tmp_path / "none", "--output",
        tmp_path / "h.safetensors", code=1)  # fmt: skip

    assert "h.html, which does" in capsys.readouterr().err
    assert (tmp_path / "h.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "said"),
    [("none/h.safetensors", "Make its parent folder first"), ("h.html", "not called as its page"),
     ("/", "a path that does not exist yet")],
)  # fmt: skip
def test_output_that_cannot_be_written_is_refused_before_anything_is_read(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--method", "joint", "--memory", tmp_path / "none", "--output", tmp_path / name, code=1)

    assert said in capsys.readouterr().err


def test_a_setting_that_is_out_of_range_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--method", "hash", "--bits", "100", "--memory", tmp_path / "none", "--output",
        tmp_path / "h.safetensors", code=2)  # fmt: skip

    assert "bits: expected a multiple of 8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "joint", "--bits", "128"), "--bits: expected none without --method hash"),
        (
            ("--method", "hash", "--temperature", "0.1"),
            "expected none without --method joint, got 0.1",
        ),
        (("--method", "joint", "--model", "ViT-B-32"), "--model: expected none without --bag"),
        (("--method", "joint", "--image-topic", "/c"), "--image-topic: expected none without"),
        (("--method", "joint", "--every-sec", "1"), "--every-sec: expected none without --bag"),
        (("--method", "joint", "--work", "w"), "--work: expected none without --bag"),
    ],
)
def test_an_option_that_would_be_ignored_is_wrong_usage(
    options: tuple[str, ...], said: str, directory: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run("--memory", directory, "--output", tmp_path / "h.safetensors", *options, code=2)

    assert said in capsys.readouterr().err


def test_a_metadata_key_with_a_bag_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--method", "joint", "--bag", ROOT / "demo" / "bag", "--label-key", "task", "--output",
        tmp_path / "h.safetensors", code=2)  # fmt: skip

    assert "--label-key: expected none with --bag" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("at", "said"), [("save_head", "no head is written"), ("write_page", "the head is written")]
)
def test_an_interrupted_call_says_whether_there_is_a_head(
    at: str, said: str, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def interrupt(*of: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"vla_retrieval.cli.train.{at}", interrupt)
    output = tmp_path / "h.safetensors"
    run("--method", "metric", "--memory", directory, "--output", output, *QUICK, code=130)

    assert said in capsys.readouterr().err
    assert output.exists() == (said == "the head is written")


def test_every_option_of_the_model_reaches_the_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"model": "ViT-B-32", "pretrained": "x", "checkpoint": "", "device": "cpu",
             "engine": "onnxruntime", "precision": "int8"}  # fmt: skip

    def note(settings: EncoderSettings) -> None:
        assert {name: getattr(settings, name) for name in asked} == asked
        raise EncoderError("seen")

    monkeypatch.setattr("vla_retrieval.cli.train.load_encoder", note)
    options = [text for name, value in asked.items() for text in (f"--{name}", value)]
    run("--method", "joint", "--bag", ROOT / "demo" / "bag", "--output",
        tmp_path / "h.safetensors", *options, code=1)  # fmt: skip


def test_no_memory_is_an_error_and_no_memory_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--method", "joint", "--memory", tmp_path / "none", "--output",
        tmp_path / "h.safetensors", code=1)  # fmt: skip

    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_head_is_trained_on_the_demo_bag_with_its_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "head.safetensors"
    usual = ("--method", "joint", "--bag", ROOT / "demo" / "bag", "--model", "double",
             "--no-page", "--labels", ROOT / "demo" / "tasks.yaml", *QUICK)  # fmt: skip
    run(*usual, "--output", output, "--json")
    record = json.loads(capsys.readouterr().out)
    head = load_head(output, DoubleEncoder().fingerprint)

    assert head.digest == record["digest"]
    assert record["data"]["sides"]["test"]["answerable"] >= 1
    # What was embedded is kept, and gives the same head again.
    run(*usual, "--output", tmp_path / "again.safetensors", "--work",
        tmp_path / "head.safetensors.work")  # fmt: skip
    assert load_head(tmp_path / "again.safetensors").digest == head.digest
