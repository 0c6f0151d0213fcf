"""One HTML file about a trained head: what it is worth, how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_retrieval.evaluation.report import plots, view
from vla_retrieval.evaluation.report.libraries import library
from vla_retrieval.evaluation.report.page import render
from vla_retrieval.evaluation.results import Estimate
from vla_retrieval.publishing import published
from vla_retrieval.training.measuring import DIRECTIONS, SHORTLIST
from vla_retrieval.training.train import Trained

_COLUMNS = (
    ("held out, before", "test", "before"),
    ("held out, after", "test", "after"),
    ("validation, after", "validation", "after"),
    ("learned from, before", "train", "before"),
    ("learned from, after", "train", "after"),
)


def render_page(trained: Trained) -> str:
    """Return the page of a trained head.

    Returns:
        HTML without references to anything outside it.

    Raises:
        MissingLibraryError: If matplotlib or Jinja2 is not installed.
    """
    record, head = trained.record, trained.head
    markup = library("markupsafe").Markup
    curves = record["curves"]
    drawn = [
        ("validation by epoch", plots.epochs("validation", curves["validation"], 0)),
        ("loss by epoch", plots.epochs("loss", curves["loss"], 1)),
    ]
    data = record["data"]
    settings = record["settings"] | {
        "labels": data["labelled_by"], "data": data["fingerprint"], "start": record["start"],
    }  # fmt: skip
    return render(
        "training", f"Training of a {head.method} head",
        {
            "digest": head.digest, "encoder": str(head.encoder), "sides": data["sides"],
            "notes": _notes(trained), "directions": _directions(record["metrics"]),
            "told": _told(record), "curves": [(name, markup(svg)) for name, svg in drawn if svg],
            "settings": [(name, str(value)) for name, value in settings.items()],
        },
    )  # fmt: skip


def write_page(trained: Trained, target: Path) -> None:
    """Write ``render_page`` to a new file, which appears when it is whole.

    Raises:
        InvalidInputError: If the file exists or its folder does not.
        MissingLibraryError: If matplotlib or Jinja2 is not installed.
        StorageError: If the disk refuses.
    """
    page = render_page(trained)
    with published(target) as partial:
        partial.write_text(page, encoding="utf-8", errors="replace")


def _directions(metrics: dict[str, Any]) -> list[tuple[str, Any, list[view.Column]]]:
    found = []
    for direction in DIRECTIONS:
        columns: list[view.Column] = [
            (name, "", {m: Estimate(**of) for m, of in metrics[side][when][direction].items()})
            for name, side, when in _COLUMNS
        ]
        found.append((direction, view.kinds_in(columns), columns))
    return found


def _notes(trained: Trained) -> Sequence[str]:
    judged = "codes alone, by Hamming distance" if trained.head.bits else "projected embeddings"
    before = "random hyperplanes" if trained.head.bits else "the encoder's own embeddings"
    notes = (
        "Held-out episodes were neither learned from nor used to choose anything: they say what to"
        " expect. Where numbers on episodes that were learned from are far better, the head has"
        " learned those by heart.",
        "Each query is a pair of its side, and is to find the other episodes of its side that have"
        " its label. Its own episode is left out.",
        f"What is ranked are {judged}; before training, {before}.",
    )
    proposing = trained.record.get("proposing")
    return notes if proposing is None else (*notes, told_of_proposing(proposing["test"]))


def told_of_proposing(held_out: Mapping[str, Mapping[str, float]]) -> str:
    """Return one sentence about what is kept where codes propose, of ``record["proposing"]``."""
    each = ", ".join(
        f"{of['recall']:.3f} and {of['best']:.3f} ({direction})"
        for direction, of in held_out.items()
    )
    return (
        f"Where the {SHORTLIST} nearest codes (a tenth of fewer than {10 * SHORTLIST}) propose and"
        " the encoder's embeddings rank, what is kept of the encoder's own Recall@10 and of its"
        f" ten best, held out: {each}."
    )


def _told(record: dict[str, Any]) -> str:
    curves = record["curves"]
    ended = "stopped early" if curves["stopped_early"] else "ran to the last epoch"
    validated = ", ".join(record["validated"]["directions"])
    if not record["untrained"]:
        kept = (
            f"The head is that after epoch {curves['best_epoch']}, at share {curves['share']:g} of"
            " the way from the start."
        )
    elif record["settings"]["method"] == "hash":
        kept = "The untrained head validated better, and is what the file holds."
    else:
        kept = "Nothing was surely better than the untrained head, which is what the file holds."
    return (
        f"Began with {record['start']}; {ended}. {kept}"
        f" Validation is the {record['validated']['metric']}, of: {validated}."
        f" {record['seconds']:.1f} s."
    )
