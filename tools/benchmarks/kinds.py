"""Which kind of approximate index finds the ten best scenes soonest, asked by either modality.

``python -m tools.benchmarks.kinds --size 100000`` fills FAISS indexes of several kinds with the
scenes of the benchmark's gallery and searches each a little harder until it finds enough, for
image queries and for text queries apart. It is what the memory's choice of an index rests on:
the first kind is the one in ``vla_retrieval/memory/codes.py``.

Each kind proposes some rows, and those are compared with the vectors themselves, as in the memory.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss as typed_faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from tools.benchmarks.bench import Bench, K, Settings
from tools.benchmarks.data import SETTINGS, FloatArray, IntArray, Recipe
from tools.benchmarks.measuring import BURST, interleave
from tools.benchmarks.truth import DIRECTIONS, Truth, half_of
from vla_retrieval.memory.codes import ROWS_TO_FIT, Codes

faiss: Any = typed_faiss  # its types leave out what is used here

_ENOUGH = 0.99
_OWN = "own"
_ROWS_PER_LIST = 24  # that train it


@dataclass(frozen=True)
class Kind:
    """One kind of index.

    Attributes:
        factory: FAISS's description of it, with ``{lists}`` for the number of lists; or the
            memory's own.
        efforts: Lists to look into, or nodes to visit, growing.
        depths: Rows to compare with their vectors, growing.
    """

    factory: str
    efforts: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512)
    depths: tuple[int, ...] = (64, 128, 256, 512)


KINDS: dict[str, Kind] = {
    "PQ4 on principal axes": Kind(_OWN, (0,), (32, 48, 64, 96, 128, 192, 256, 384, 512)),
    "IVF, PQ4 (128 x 4 bits)": Kind("IVF{lists},PQ128x4fs"),
    "IVF, PQ4 (64 x 4 bits)": Kind("IVF{lists},PQ64x4fs"),
    "IVF, RaBitQ": Kind("IVF{lists},RaBitQfs"),
    "IVF, 8-bit scalars": Kind("IVF{lists},SQ8", depths=(32,)),
    "IVF, whole vectors": Kind("IVF{lists},Flat", depths=(K,)),
    "HNSW, 16-bit scalars": Kind("HNSW32,SQfp16", (16, 32, 64, 128, 256, 512, 1024), (32,)),
    "PQ4 alone (128 x 4 bits)": Kind("PQ128x4fs", (0,)),
}


class Filled:
    """An index over a gallery's scenes.

    Args:
        kind: Of the index.
        scenes: Shape ``(n, dim)``.
    """

    def __init__(self, kind: Kind, scenes: FloatArray) -> None:
        self._scenes = scenes
        started = time.perf_counter()
        self._index: Any = _own(scenes) if kind.factory == _OWN else _made(kind, scenes)
        self.train_sec = time.perf_counter() - started
        started = time.perf_counter()
        whole = np.ascontiguousarray(scenes)
        (self._index.append if kind.factory == _OWN else self._index.add)(whole)
        self.add_sec = time.perf_counter() - started
        self.bytes_per_row = (
            self._index.to_bytes() if kind.factory == _OWN else faiss.serialize_index(self._index)
        ).nbytes / len(scenes)

    def search(self, query: FloatArray, effort: int, depth: int) -> IntArray:
        """The rows of the ten best among those that the index proposes."""
        if isinstance(self._index, Codes):
            rows = self._index.propose(query, depth, None)
        else:
            if hasattr(self._index, "nprobe"):
                self._index.nprobe = effort
            elif hasattr(self._index, "hnsw"):
                self._index.hnsw.efSearch = effort
            rows = self._index.search(query[None], depth)[1][0]
            rows = rows[rows >= 0]
        scores = self._scenes[rows] @ query
        return np.asarray(rows[np.argsort(-scores)[:K]], dtype=np.int64)


def _own(scenes: FloatArray) -> Codes:
    return Codes.trained(_sampled(scenes, ROWS_TO_FIT), squares=False)


def _made(kind: Kind, scenes: FloatArray) -> Any:
    lists = max(1, round(2048 * (len(scenes) / 1e5) ** 0.6))  # 8000 for a million
    index = faiss.index_factory(
        scenes.shape[1], kind.factory.format(lists=lists), faiss.METRIC_INNER_PRODUCT
    )
    index.train(_sampled(scenes, lists * _ROWS_PER_LIST))
    return index


def _sampled(scenes: FloatArray, rows: int) -> FloatArray:
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(scenes), min(rows, len(scenes)), replace=False)
    return np.ascontiguousarray(scenes[np.sort(chosen)])


def measure(bench: Bench, chosen: list[str]) -> Iterator[list[str]]:
    """Yield a line of the table for each kind and direction."""
    scenes = np.ascontiguousarray(bench.gallery.scenes)
    flat = faiss.IndexFlatIP(bench.dim)
    flat.add(scenes)
    truths = {
        name: Truth(bench.gallery, bench.queries, DIRECTIONS[name], K)
        for name in ("scenes by image", "scenes by text")
    }
    for name in chosen:
        filled = Filled(KINDS[name], scenes)
        faiss.omp_set_num_threads(1)
        for direction, truth in truths.items():
            queries = half_of(bench.queries, DIRECTIONS[direction][0].asked_by)
            yield [
                name,
                *_facts(filled),
                direction,
                *_cheapest(KINDS[name], filled, flat, queries, truth),
            ]


def _facts(filled: Filled) -> list[str]:
    rate = len(filled._scenes) / filled.add_sec
    return [f"{filled.bytes_per_row:.0f}", f"{filled.train_sec:.1f}", f"{rate:,.0f}"]


def _cheapest(
    kind: Kind, filled: Filled, flat: Any, queries: FloatArray, truth: Truth
) -> list[str]:
    """Effort, depth, recall and time of the fastest setting that finds enough, else of the best."""
    best: tuple[float, int, int] = (0.0, 0, 0)
    good: list[tuple[float, int, int, float]] = []
    for depth in kind.depths:
        for effort in kind.efforts:
            started = time.perf_counter()
            answers = [filled.search(query, effort, depth) for query in queries]
            seconds = time.perf_counter() - started
            recall = truth.recall(answers)
            best = max(best, (recall, effort, depth))
            if recall >= _ENOUGH:
                good.append((seconds, effort, depth, recall))
                break
    recall, effort, depth = best
    if good:
        _, effort, depth, recall = min(good)
    laps = interleave(
        {
            "kind": lambda turn: filled.search(queries[turn], effort, depth),
            "flat": lambda turn: flat.search(queries[turn][None], K),
        },
        rounds=len(queries),
        burst=BURST,
    )
    ratio = laps.ratio("kind", "flat")
    return [
        str(effort), str(depth), f"{recall:.4f}{'' if good else ' (short)'}",
        f"{laps.latency('kind')['p50_ms']:.3f}",
        f"{ratio['median']:.4f} [{ratio['p10']:.4f}, {ratio['p90']:.4f}]",
    ]  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Compare kinds of approximate indexes.")
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--setting", choices=SETTINGS, default="clustered")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "vla_retrieval_benchmark"
    )
    options = parser.parse_args()
    recipe = Recipe(options.size, options.setting)
    bench = Bench(Settings(recipe=recipe, work=options.work, queries=options.queries))
    table = Table(title=f"{options.size:,} scenes, {options.setting}; least effort for {_ENOUGH}")
    for column in (
        "kind", "bytes", "train s", "adds / s", "direction", "effort", "depth", "recall@10",
        "p50 ms", "time / exact [p10, p90]",
    ):  # fmt: skip
        table.add_column(column)
    for line in measure(bench, options.kinds):
        table.add_row(*line)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
