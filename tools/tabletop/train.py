"""Train the demonstration model from nothing on rendered scenes, in six stages.

1. ``facts``, ``refine``: two stand-ins that read the truth learn to fit each other, without
   pictures or words, at a high rate and then at a lower one.
2. ``words``: the text tower learns to imitate the embedding of what each instruction means.
3. ``looks``: the image tower learns to tell what stands in each cell of the table.
4. ``sight``: the image tower learns to imitate the embedding of the facts that each picture shows.
5. ``both``: the towers learn together, pictures against instructions.

``python -m tools.tabletop.train --data FOLDER --work FOLDER`` reads what ``tools.tabletop.dataset``
rendered, runs all stages and writes the weights that ship. Each stage draws from random streams of
its own and leaves a checkpoint, so ``--stage`` runs one alone, and ``words`` may run beside
``looks``. Everything chosen by looking at results was chosen on the validation split.

Set ``OMP_WAIT_POLICY=passive`` where other work shares the processor: with busy waiting, a step
took six times as long beside one other process on two cores.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch

from tools.tabletop.model import WEIGHTS_PATH, export
from tools.tabletop.stages import STAGES, Course, Settings

_REPORT_EVERY: Final = 50


def run_stage(course: Course, name: str, work: Path) -> dict[str, float]:
    """Run one stage from the checkpoints of those before it; leave its own as ``work/NAME.pt``."""
    for part in STAGES[name].needs:
        course.load(torch.load(work / f"{part}.pt"))
    started = time.monotonic()
    losses: dict[str, float] = {}
    steps: Iterator[dict[str, float]] = STAGES[name].run(course)
    for step, losses in enumerate(steps, start=1):
        if step % _REPORT_EVERY == 0:
            parts = " ".join(f"{part} {value:.3f}" for part, value in losses.items())
            print(f"{name} {step:5d} {time.monotonic() - started:6.0f} s  {parts}", flush=True)
    torch.save(course.state(STAGES[name].trains), work / f"{name}.pt")
    return {"seconds": round(time.monotonic() - started), **losses}


def train(
    data: Path, work: Path, settings: Settings, weights: Path, stages: list[str]
) -> dict[str, Any]:
    """Run the given stages in order, write the weights after the last, return how it went."""
    work.mkdir(parents=True, exist_ok=True)
    course = Course(data, settings)
    report = {name: run_stage(course, name, work) for name in stages}
    if stages[-1] == "both":
        export(course.shipped_state(), course.tokenizer.tokens, weights)
    return {
        "settings": asdict(settings),
        "pictures": len(course.table),
        "tokens": len(course.tokenizer.tokens),
        "stages": report,
        "logit_scale": float(course.model.logit_scale.exp().detach()),
        "logit_bias": float(course.model.logit_bias.detach()),
    }


def main() -> None:
    """Train and write the weights."""
    parser = argparse.ArgumentParser(description="Train the demonstration model.")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder written by tools.tabletop.dataset"
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for checkpoints and reports"
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS_PATH)
    parser.add_argument(
        "--stage", choices=list(STAGES), action="append", help="only this stage (repeatable)"
    )
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args())
    settings = Settings(**{name: options[name] for name in asdict(Settings())})
    stages = options["stage"] or list(STAGES)
    report = train(options["data"], options["work"], settings, options["weights"], stages)
    (options["work"] / f"report_{'_'.join(stages)}.json").write_text(
        json.dumps(report, indent=2) + "\n"
    )
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
