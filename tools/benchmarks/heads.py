"""What learned heads are worth on rendered scenes that the demonstration model never saw.

``python -m tools.benchmarks.heads --work FOLDER`` renders and embeds episodes once (ten minutes on
two cores; ``MUJOCO_GL=osmesa``), then trains every head on five splits by episode and prints, for
the held-out episodes: mean over splits with the 95% interval of Student's t, per direction. The
baselines see the same training episodes: PCA whitening, a plain fine-tuned projection, and FAISS's
own LSH and ITQ at the same number of bits.
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from tools.tabletop.episodes import Place, make_episodes
from vla_retrieval.encoders import load_encoder
from vla_retrieval.heads import METHODS, JointHead, MetricHead, WeightedHead
from vla_retrieval.training import Pairs, TrainingSettings, train
from vla_retrieval.training.closed import whitening
from vla_retrieval.training.learner import batch_of
from vla_retrieval.training.measuring import (
    DIRECTIONS,
    METRICS,
    SHORTLIST,
    Scores,
    by_codes,
    by_cosine,
    by_projection,
    kept,
    per_query,
    reranked,
)
from vla_retrieval.training.splitting import SIDES, split_episodes
from vla_retrieval.types import Modality

Matrix = npt.NDArray[np.float64]
Encode = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.uint8]]
Make = Callable[[], tuple[Scores, dict[str, Any]]]
Row = dict[str, dict[str, float]]
Split = dict[str, dict[str, Any]]

SEED: Final = 7
FRAMES: Final = 4
PER_TASK: Final[dict[Place, int]] = {"elsewhere": 36, "home": 12}
_PLAIN_EPOCHS: Final = 20
_TRAINING_QUERIES: Final = 250


def load_pairs(work: Path, place: Place, processes: int) -> Pairs:
    """The episodes of a place as pairs; the task is the label."""
    found = make_episodes(work, place, PER_TASK[place], FRAMES, SEED, processes)
    return Pairs(
        load_encoder().fingerprint, found.scenes, found.instructions, found.texts, found.tasks,
        found.episodes,
    )  # fmt: skip


def whitened(pairs: Pairs) -> MetricHead:
    """PCA whitening of the scenes, centred in each modality; no label is used."""
    means = {m: pairs.half(m).mean(axis=0, dtype=np.float64) for m in Modality}
    centred = pairs.scenes.astype(np.float64) - means[Modality.SCENE]
    weights = {"weight": whitening(centred, 0.05).astype(np.float32)}
    weights |= {f"{m.value}.centre": means[m].astype(np.float32) for m in Modality}
    return MetricHead(pairs.encoder, weights)


def plainly_tuned(pairs: Pairs, seed: int) -> JointHead:
    """A linear projection of each modality, tuned as CLIP is: every other pair is a negative.

    No validation, no regularisation towards the start, the last epoch counts.
    """
    torch.manual_seed(seed)
    dim = pairs.encoder.dim
    layers = {m: torch.nn.Linear(dim, dim) for m in Modality}
    for layer in layers.values():
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    parameters = [p for layer in layers.values() for p in layer.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=1e-3)
    batch = batch_of(pairs, "cpu")
    for _ in range(_PLAIN_EPOCHS):
        for part in torch.randperm(len(batch)).split(512):
            some = batch.rows(part)
            one, two = (
                torch.nn.functional.normalize(layers[m](some.halves[m]), dim=1) for m in Modality
            )
            logits = one @ two.T / 0.07
            right = torch.arange(len(part))
            loss = torch.nn.functional.cross_entropy(logits, right)
            loss = loss + torch.nn.functional.cross_entropy(logits.T, right)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    arrays = {}
    for m in Modality:
        arrays[f"{m.value}.weight"] = layers[m].weight.detach().numpy() - np.eye(dim, dtype="f4")
        arrays[f"{m.value}.bias"] = layers[m].bias.detach().numpy()
    return JointHead(pairs.encoder, arrays)


def faiss_codes(pairs: Pairs, kind: str) -> Encode:
    """FAISS's own binary codes, trained on both halves: ``LSH<bits>r`` or ``ITQ<bits>,LSH``."""
    index = faiss.index_factory(pairs.encoder.dim, kind)
    index.train(np.concatenate([pairs.scenes, pairs.instructions]))
    return lambda rows: np.asarray(index.sa_encode(np.ascontiguousarray(rows)))


def by_bits(encode: Encode) -> Scores:
    """Score by the number of equal bits of codes."""

    def scores(
        pairs: Pairs, asks: Modality, found: Modality, rows: npt.NDArray[np.int64]
    ) -> Matrix:
        signs = [
            np.unpackbits(encode(of), axis=1).astype(np.float32) * 2 - 1
            for of in (pairs.half(asks)[rows], pairs.half(found))
        ]
        return np.asarray(signs[0] @ signs[1].T, dtype=np.float64)

    return scores


def systems(learned: Pairs, pairs: Pairs, seed: int, bits: int) -> dict[str, Make]:
    """Everything that is compared on one split: name to what makes its scores, and notes."""
    heads = {
        method: cache(lambda method=method: _trained(pairs, method, seed, bits))
        for method in METHODS
    }
    return {
        "zero-shot": lambda: (by_cosine, {}),
        "PCA whitening": lambda: (by_projection(whitened(learned)), {}),
        "plain fine-tuned projection": lambda: (by_projection(plainly_tuned(learned, seed)), {}),
        "joint": lambda: (by_projection(heads["joint"]()[0]), heads["joint"]()[1]),
        "metric": lambda: (by_projection(heads["metric"]()[0]), heads["metric"]()[1]),
        f"FAISS LSH, {bits} bits": lambda: (by_bits(faiss_codes(learned, f"LSH{bits}r")), {}),
        f"FAISS ITQ, {bits} bits": lambda: (by_bits(faiss_codes(learned, f"ITQ{bits},LSH")), {}),
        f"hash, {bits} bits": lambda: (by_codes(heads["hash"]()[0]), heads["hash"]()[1]),
        f"hash, {bits} bits, rerank {SHORTLIST}": lambda: (
            reranked(by_codes(heads["hash"]()[0])), {}
        ),
    }  # fmt: skip


def _trained(
    pairs: Pairs, method: str, seed: int, bits: int
) -> tuple[WeightedHead, dict[str, Any]]:
    started, used = time.perf_counter(), time.process_time()
    trained = train(pairs, TrainingSettings(method, bits=bits, seed=seed, device="cpu"))
    return trained.head, {
        "fit_sec": trained.record["seconds"],
        "total_sec": round(time.perf_counter() - started, 3),
        "total_cpu_sec": round(time.process_time() - used, 3),
        "start": trained.record["start"],
        "epoch": trained.record["curves"]["best_epoch"],
    }


def measure_split(job: tuple[Pairs, int, int, str]) -> Split:
    """Measure every system on the training and on the held-out episodes of one split."""
    pairs, seed, bits, wanted = job
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    rows = split_episodes(pairs, seed)
    sides = {side: pairs.rows(getattr(rows, side)) for side in SIDES}
    found: Split = {}
    for name, make in systems(sides["train"], pairs, seed, bits).items():
        if name != "zero-shot" and not any(word in name for word in wanted.split(",")):
            continue
        scores, notes = make()
        found[name] = {
            "notes": notes,
            "train": _means(sides["train"], scores, _TRAINING_QUERIES),
            "test": _means(sides["test"], scores, len(sides["test"])),
        }
        if name.endswith("bits"):
            found[name]["kept"] = _kept(sides["test"], scores)
        shown = ", ".join(
            f"{d} {of['ndcg@10']:.3f} / {of['hit@1']:.3f} / {of['recall@10']:.3f}"
            for d, of in found[name]["test"].items()
        )
        print(f"  split {seed}, {name}: {shown} {notes or ''}", flush=True)
    return found


def _means(pairs: Pairs, scores: Scores, most: int) -> Row:
    return {
        direction: {
            m: float(v.mean()) for m, v in per_query(pairs, direction, scores, most=most).items()
        }
        for direction in DIRECTIONS
    }


def _kept(pairs: Pairs, codes: Scores) -> dict[str, float]:
    return {d: float(kept(pairs, d, codes, most=len(pairs)).mean()) for d in DIRECTIONS}


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of the 95% interval of Student's t over splits."""
    spread = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1) if len(values) > 1 else np.nan
    return float(np.mean(values)), float(spread)


def print_table(splits: list[Split]) -> None:
    """Print each direction: every system's metrics, and its gain over zero-shot, split by split."""
    for direction in DIRECTIONS:
        print(
            f"\n{direction}\n{'':30}"
            + "".join(f"{m:>20}" for m in METRICS)
            + f"{'gain ' + METRICS[0]:>20}{'gain ' + METRICS[1]:>20}{'train ' + METRICS[0]:>18}"
        )
        for name in splits[0]:
            cells = [_cell([s[name]["test"][direction][m] for s in splits]) for m in METRICS]
            cells += [
                _cell([s[name]["test"][direction][m] - s["zero-shot"]["test"][direction][m]
                       for s in splits]) for m in METRICS[:2]]  # fmt: skip
            learned = np.mean([s[name]["train"][direction][METRICS[0]] for s in splits])
            print(f"{name:30}" + "".join(f"{c:>20}" for c in cells) + f"{learned:>18.3f}")


def print_proposals(splits: list[Split]) -> None:
    """Print what of the encoder's finds is kept where codes propose, of held-out episodes."""
    ranked = [name for name in splits[0] if "rerank" in name]
    codes = [name for name in splits[0] if "kept" in splits[0][name]]
    for direction in DIRECTIONS:
        for name in ranked:
            shares = [s[name]["test"][direction]["recall@10"]
                      / s["zero-shot"]["test"][direction]["recall@10"] for s in splits]  # fmt: skip
            each = ", ".join(f"{share:.3f}" for share in shares)
            print(f"{direction}, {name}, share of the encoder's recall@10: {_cell(shares)}; {each}")
        for name in codes:
            shares = [s[name]["kept"][direction] for s in splits]
            print(f"{direction}, {name}, of its ten best among {SHORTLIST}: {_cell(shares)}")


def _cell(values: list[float]) -> str:
    mean, half = interval(values)
    return f"{mean:.3f} ±{half:.3f}"


def print_times(pairs: Pairs, bits: int, seed: int) -> None:
    """Print what training takes with one thread, and searching with what it leaves."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    print("\ntraining, one thread, seconds: fitting; with all measuring; of the CPU with that")
    heads = {}
    for method in METHODS:
        heads[method], notes = _trained(pairs, method, seed, bits)
        print(f"{method:24}{notes['fit_sec']:8.1f}{notes['total_sec']:8.1f}"
              f"{notes['total_cpu_sec']:8.1f}", flush=True)  # fmt: skip
    print_searches(pairs, heads["hash"], seed)


def print_searches(pairs: Pairs, head: WeightedHead, seed: int) -> None:
    """Print bytes per entry and query times over all pairs, one thread, interleaved."""
    scenes, bits = pairs.scenes, head.bits
    flat = faiss.IndexFlatIP(pairs.encoder.dim)
    flat.add(scenes)
    binary = faiss.IndexBinaryFlat(bits)
    binary.add(head.codes(scenes, Modality.SCENE))
    queries = pairs.instructions[np.random.default_rng(seed).permutation(len(pairs))[:300]]

    def by_hash(query: npt.NDArray[np.float32]) -> None:
        codes = head.codes(query, Modality.INSTRUCTION)
        near = binary.search(codes, SHORTLIST)[1][0]
        np.argsort(-(scenes[near] @ query[0]))[:10]

    calls: dict[str, Callable[[npt.NDArray[np.float32]], object]] = {
        "float32": lambda query: flat.search(query, 10),
        f"codes, rerank {SHORTLIST}": by_hash,
    }
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for query in queries:
        for name, call in calls.items():
            started = time.perf_counter()
            call(query[None])
            taken[name].append((time.perf_counter() - started) * 1e3)
    sizes = {"float32": 4 * pairs.encoder.dim, f"codes, rerank {SHORTLIST}": bits // 8}
    print(f"\nsearch among {len(pairs)} entries, one thread, ms: median [p10, p90]")
    for name, times in taken.items():
        low, middle, high = np.quantile(times, [0.1, 0.5, 0.9])
        print(f"{name:24}{sizes[name]:>6} bytes in the index  {middle:.3f} [{low:.3f}, {high:.3f}]")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="What learned heads are worth.")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps embeddings")
    parser.add_argument("--place", choices=list(PER_TASK), default="elsewhere")
    parser.add_argument("--seeds", type=int, default=5, help="splits by episode")
    parser.add_argument("--bits", type=int, default=256)
    parser.add_argument("--only", default="", help="systems whose name has one of these words")
    parser.add_argument("--times", action="store_true", help="times instead of quality")
    parser.add_argument("--processes", type=int, default=2, help="that render, and that train")
    parser.add_argument("--json", type=Path, help="also write all numbers here")
    options = parser.parse_args()
    pairs = load_pairs(options.work, options.place, options.processes)
    print(f"{options.place}: {len(pairs)} pairs, {len(set(pairs.episodes))} episodes,"
          f" {len(set(pairs.labels))} tasks, {len(set(pairs.texts))} instructions")  # fmt: skip
    if options.times:
        print_times(pairs, options.bits, 0)
        return
    jobs = [(pairs, seed, options.bits, options.only) for seed in range(options.seeds)]
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        splits = []
        for split in pool.map(measure_split, jobs):
            splits.append(split)
            if options.json:
                options.json.write_text(json.dumps(splits, indent=1) + "\n", encoding="utf-8")
    print_table(splits)
    print_proposals(splits)


if __name__ == "__main__":
    main()
