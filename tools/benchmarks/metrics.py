"""How long scoring takes beside the search that it scores: ``python -m tools.benchmarks.metrics``.

Exact FAISS search in one gallery, then everything that a run goes through. Needs no GPU.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import faiss
import numpy as np

from vla_retrieval.evaluation import trec
from vla_retrieval.evaluation.averaging import average
from vla_retrieval.evaluation.comparing import compare
from vla_retrieval.evaluation.metrics import DEFAULT_KS, evaluate
from vla_retrieval.evaluation.qrels import Qrels
from vla_retrieval.evaluation.run import Run

Result = TypeVar("Result")
INSTRUCTIONS = 200


def timed(name: str, action: Callable[[], Result]) -> Result:
    """Runs an action and prints its wall time and the largest memory of the process so far."""
    start = time.perf_counter()
    result = action()
    took = time.perf_counter() - start
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{name:32} {took:8.3f} s   peak {peak_mib} MiB")
    return result


def main() -> None:
    """Measures, and prints a line for each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gallery", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--relevant", type=int, default=500, help="of each query")
    parser.add_argument("--dim", type=int, default=512)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    m = options.queries
    gallery = rng.standard_normal((options.gallery, options.dim), dtype=np.float32)
    queries = rng.standard_normal((m, options.dim), dtype=np.float32)
    names = tuple(f"q{number}" for number in range(m))
    instructions = [f"instruction {number % INSTRUCTIONS}" for number in range(m)]
    index = faiss.IndexFlatIP(options.dim)
    index.add(gallery)
    print(f"{m} queries, gallery of {options.gallery}, depth {options.depth}, K {DEFAULT_KS}")
    scores, ids = timed("search, exact FAISS", lambda: index.search(queries, options.depth))
    run = timed("Run.from_scores", lambda: Run.from_scores(names, ids, scores, options.depth))
    firsts = rng.integers(0, options.gallery - options.relevant, m)
    entries = (firsts[:, None] + np.arange(options.relevant)).ravel()
    rows = np.repeat(np.arange(m), options.relevant)
    grades = rng.integers(1, 4, rows.size)
    qrels = timed("Qrels.from_pairs", lambda: Qrels.from_pairs(names, rows, entries, grades))
    measured = timed("evaluate", lambda: evaluate(qrels, run))
    timed("average, 2000 resamples", lambda: average(measured, instructions))
    other = Run.from_scores(names, ids, scores + rng.normal(0, 5, scores.shape), options.depth)
    both = {"one": run, "other": other}
    timed("compare, 2 runs, 10 metrics", lambda: compare(qrels, both, list(measured.values)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.txt"
        timed("trec.write_run", lambda: trec.write_run(path, run, "flat"))
        timed("trec.read_run", lambda: trec.read_run(path))


if __name__ == "__main__":
    main()
