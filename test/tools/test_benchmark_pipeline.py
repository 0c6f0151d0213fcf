"""The benchmark of the whole path: it runs, and its report says what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("open_clip")

from tools.benchmarks.pipeline import report
from tools.benchmarks.pipeline.bars import bars_of
from tools.benchmarks.pipeline.stages import RATIOS

ROOT = Path(__file__).parents[2]


def made_up() -> dict:
    """A result in which one bar is met and one is missed."""
    spread = {"median": 0.25, "p10": 0.2, "p90": 0.4}
    return {
        "engine": "torch", "precision": "fp32", "device": "cpu", "index": "exact", "rounds": 3,
        "with messages": False, "cosine": {"image": 0.999912},
        "ratios": [
            {"text": "first / second", "bar": 0.3, **spread},
            {"text": "third / fourth", "bar": 0.2, **spread},
        ],
        "milliseconds": {"first": spread},
    }  # fmt: skip


def test_table_says_spread_bar_and_whether_it_is_met(capsys):
    report.show({"stages": made_up()})
    lines = [line for line in capsys.readouterr().out.splitlines() if " / " in line]
    assert "0.25 [0.2, 0.4]" in lines[0]
    assert "met" in lines[0]
    assert "missed" in lines[1]


def load_of(latency: float, query: float, lost: int = 0) -> dict:
    """One load as it is measured: every percentile of a row is the same, but for p90 and p99."""
    tail = {"p50": latency, "p90": 1.2 * latency, "p95": latency, "p99": latency, "max": latency}
    return {
        "alone: stamp to match [ms]": tail,
        "alone: stamp to match, less encoding [ms]": {**tail, "p50": 3.0},
        "stamp to match [ms]": tail,
        "text query, idle [ms]": {**tail, "p50": 10.0},
        "text query [ms]": {**tail, "p99": query},
        "frames older than two periods when work began": lost,
        "calls failed": 0, "calls unanswered": lost,
    }  # fmt: skip


def test_a_load_is_held_against_its_bars_and_shown_with_its_units(capsys):
    found = {
        "quiet": load_of(40.0, 29.0),
        "hogged": load_of(120.0, 31.0, lost=2),
        "delivery": {"share delivered, least": 0.995},
    }
    found["bars"] = bars_of(found)
    met = {line["text"]: line["met"] for line in found["bars"]}
    assert [text for text, is_met in met.items() if not is_met] == [
        "alone: stamp to match p50, hogged / quiet",
        "under load: stamp to match p50, hogged / quiet",
        "hogged: text query, p99 under load / p50 idle",
        "hogged: frames older than two periods when work began",
        "hogged: calls failed or unanswered",
    ]
    assert len(met) == 11
    report.show({"load": found})
    shown = capsys.readouterr().out
    assert "stamp to match [ms]" in shown
    assert ">= 0.99" in shown


def test_starts_are_shown_of_an_encoder_and_where_there_is_ros_of_a_node(capsys):
    encoder = {"first": {"load": 31.25, "first answer": 32.5}}
    report.show({"starts": {"encoder": encoder}})
    assert "a node" not in capsys.readouterr().out
    report.show({"starts": {"encoder": encoder, "node": {"first": 45.67, "second": 21.0}}})
    shown = capsys.readouterr().out
    for words in ("first answer", "31.2", "32.5", "a node", "45.7", "21.0"):
        assert words in shown


def test_throughput_is_shown_in_images_a_second_with_its_bars(capsys):
    spread = {"median": 12345.0, "p10": 12000.0, "p90": 13000.0}
    bar = {"text": "frames / bare", "value": 0.55, "bar": 0.6, "below": False, "met": False}
    report.show({"throughput": {
        "device": "some card", "precision": "fp16", "batch": 256, "rates": {"frames": spread},
        "matrix rate [TFLOP/s]": {"median": 700.0, "p10": 690.0, "p90": 710.0},
        "share of the matrix rate": {"median": 0.2, "p10": 0.1, "p90": 0.3}, "bars": [bar],
    }})  # fmt: skip
    shown = capsys.readouterr().out
    for words in ("some card", "12345 [12000, 13000]", "700", ">= 0.6", "missed"):
        assert words in shown


def test_plot_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    report.plot(made_up(), tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_quick_run_measures_every_ratio(tmp_path):
    done = subprocess.run(
        [
            sys.executable, "-m", "tools.benchmarks.pipeline", "--quick", "--part", "stages",
            "--work", str(tmp_path), "--device", "cpu", "--engine", "torch",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "pipeline.json").read_text(encoding="utf-8"))["stages"]
    needs_ros = {"deserialising VGA / memcpy"}
    wanted = {r.text for r in RATIOS} - (set() if found["with messages"] else needs_ros)
    assert {line["text"] for line in found["ratios"]} == wanted
    assert all(0 < line["p10"] <= line["median"] <= line["p90"] for line in found["ratios"])
    assert found["cosine"]["image"] > 0.9999
    assert found["cosine"]["preprocessing error / distance between images"] < 0.01
