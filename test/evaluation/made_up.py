"""A made-up evaluation as large as one of 10 000 frames, with all that is awkward in real ones."""

from __future__ import annotations

import base64
import hashlib
import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from vla_retrieval.evaluation.comparing import Comparison, Difference
from vla_retrieval.evaluation.results import (
    Agreement,
    DirectionResult,
    Estimate,
    Evaluation,
    Example,
    InstructionRow,
    KnownResult,
    LiveResult,
    MapPoint,
    Shown,
    StageSummary,
)

KS = (1, 5, 10, 20)
NAN = math.nan
NO_ESTIMATE = Estimate(NAN, NAN, NAN)
ATTACK = "<script>alert(1)</script><img src=http://example.com/x.png onerror=alert(2)>"
OBJECTS = ["杯子", "苹果", "书", "盘子", "钥匙", "遥控器", "毛巾", "螺丝刀", "牛奶盒", "海绵"]
THINGS = [
    "cup",
    "apple",
    "book",
    "plate",
    "key",
    "remote",
    "towel",
    "screwdriver",
    "milk",
    "sponge",
]
COLOURS = [
    ("红色", "red", "#c0392b"),
    ("蓝色", "blue", "#2f6fb0"),
    ("绿色", "green", "#3c8d5a"),
    ("黄色", "yellow", "#d8b52a"),
    ("白色", "white", "#e8e6e0"),
]
PLACES = [("桌子上", "on the table"), ("架子上", "on the shelf"), ("抽屉里", "in the drawer")]


def instruction_texts() -> list[str]:
    """Returns 303 instructions, half of them Chinese, one of them an attack, one very long."""
    texts = []
    for chinese, english in zip(OBJECTS, THINGS, strict=True):
        for colour, of_colour, _ in COLOURS:
            for place, at in PLACES:
                texts += [
                    f"拿起{place}的{colour}{chinese}",
                    f"pick up the {of_colour} {english} {at}",
                ]
    return [*texts, ATTACK, "把所有东西都放进箱子里，" * 60, "ضع الكوب الأحمر على الطاولة"]


def thumbnail(rng: np.random.Generator, side: int = 256) -> str:
    """Returns a table with something on it, as a camera with some noise sees it."""
    picture = Image.new("RGB", (side, side * 3 // 4), "#8d8a83")
    draw = ImageDraw.Draw(picture)
    draw.rectangle([0, side // 3, side, side], fill="#a98b6a")
    for _ in range(4):
        x, y = rng.integers(0, side - 50), rng.integers(side // 4, side * 3 // 4 - 30)
        size = int(rng.integers(18, 56))
        colour = COLOURS[rng.integers(len(COLOURS))][2]
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        draw.ellipse([x - 3, y + size - 12, x + size + 12, y + size + 4], fill="#6f5b45")
        shape([x, y, x + size, y + size], fill=colour, outline="#333333")
    array = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.8))).astype(np.int16)
    noisy = np.clip(array + rng.normal(0, 4, array.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()


def estimate(value: float, width: float) -> Estimate:
    """Returns a mean from 0 to 1 with an interval around it."""
    value = float(np.clip(value, 0, 1))
    return Estimate(value, max(0.0, value - width), min(1.0, value + 1.1 * width))


def metrics(rng: np.random.Generator, skill: float, width: float) -> dict[str, Estimate]:
    """Returns metrics that grow with K as real ones do."""
    found = {}
    for k in KS:
        hit = 1 - (1 - skill) ** (k**0.55)
        wobble = float(rng.normal(0, 0.004))
        found[f"accuracy@{k}"] = estimate(hit * 0.9 / k**0.55, width)
        found[f"hit@{k}"] = estimate(hit + wobble, width)
        found[f"recall@{k}"] = estimate(hit * (0.25 + 0.7 * (1 - 1 / k**0.7)) + wobble, width)
        found[f"ndcg@{k}"] = estimate(hit * 0.86, width)
    found["mrr"] = estimate(skill + 0.12, width)
    return found


def example(
    rng: np.random.Generator, texts: list[str], pictures: list[str], number: int, first: int
) -> Example:
    """Returns a query whose first relevant entry is at a rank, 0 for none."""
    own = texts[number % len(texts)]
    scores = np.sort(rng.uniform(0.2, 0.42, 10))[::-1]
    matches = tuple(
        Shown(
            int(rng.integers(1, 10_000)),
            own if first and rank >= first else texts[int(rng.integers(len(texts)))],
            float(score),
            int(first > 0 and rank >= first) * int(rng.integers(1, 4)),
            pictures[int(rng.integers(len(pictures)))],
        )
        for rank, score in enumerate(scores, start=1)
    )
    return Example(
        f"kitchen_{number % 7}/{number:05d}",
        own,
        1_763_900_000_000_000_000 + number * 10**8,
        1 / first if first else 0.0,
        matches,
        pictures[number % len(pictures)],
    )


def direction(
    rng: np.random.Generator, skill: float, texts: list[str], pictures: list[str]
) -> DirectionResult:
    """Returns a direction of 9 940 queries and 20 examples of each sort."""
    rows = []
    for text in texts:
        means = metrics(rng, float(np.clip(rng.normal(skill, 0.2), 0.02, 0.97)), 0.0)
        rows.append(
            InstructionRow(
                text,
                int(rng.integers(5, 60)),
                float(rng.uniform(1, 12)),
                {name: of.value for name, of in means.items()},
            )
        )
    rows[3] = InstructionRow(texts[3], 0, NAN, dict.fromkeys(rows[0].metrics, NAN))
    lists = [
        tuple(example(rng, texts, pictures, int(rng.integers(300, 9000)), first) for _ in range(20))
        for first in (1, 0, 4)
    ]
    attacked = example(rng, texts, pictures, 300, 0)
    return DirectionResult(
        9_940,
        60,
        metrics(rng, skill, 0.009),
        metrics(rng, skill - 0.04, 0.03),
        tuple(rows),
        lists[0],
        (attacked, *lists[1]),
        lists[2],
    )


def stage(rng: np.random.Generator, centre_ms: float, calls: int = 10_000) -> StageSummary:
    """Returns log-normal times with a histogram of growing bins."""
    times = rng.lognormal(math.log(centre_ms), 0.3, calls)
    edges = np.geomspace(times.min(), times.max() * 1.0001, 41)
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    return StageSummary(
        calls,
        float(p50),
        float(p90),
        float(p99),
        float(times.sum() / 1000),
        tuple(edges.tolist()),
        tuple(np.histogram(times, edges)[0].tolist()),
    )


def embedding_map(
    rng: np.random.Generator, texts: list[str], points: int = 6000
) -> tuple[MapPoint, ...]:
    """Returns clusters of scenes and, beside them, of instructions; one point is NaN."""
    centres = rng.normal(0, 1, (len(texts), 2))
    often = rng.zipf(1.6, points) % len(texts)
    found = [MapPoint(NAN, 0.0, "scene", "nowhere")]
    for number, which in enumerate(often):
        kind = "instruction" if number % 8 == 0 else "scene"
        gap = 3.5 if kind == "instruction" else 0.0
        x, y = centres[which] * (0.5 if gap else 1) + rng.normal(0, 0.12, 2)
        found.append(MapPoint(float(x + gap), float(y), kind, texts[which]))
    return tuple(found)


def evaluation(seed: int = 0, boost: float = 0.0) -> Evaluation:
    """Returns an evaluation with five directions, of which one is empty.

    Args:
        seed: Of everything random in it.
        boost: Added to how well each direction does.
    """
    rng = np.random.default_rng(seed)
    texts = instruction_texts()
    pictures = [thumbnail(rng) for _ in range(60)]
    skills = {
        "scene to instructions": 0.46,
        "scene to scenes": 0.81,
        "instruction to scenes": 0.39,
        "instruction to instructions": 0.93,
    }
    found = {name: direction(rng, skill + boost, texts, pictures) for name, skill in skills.items()}
    nothing = dict.fromkeys(next(iter(found.values())).micro, NO_ESTIMATE)
    found["pair"] = DirectionResult(0, 120, nothing, nothing)
    return Evaluation(
        hash=hashlib.sha256(f"{seed} {boost}".encode()).hexdigest(),
        settings={
            "bags": "kitchen_2025_11, 厨房_二",
            "encoder": "ViT-B-16-SigLIP2, bf16",
            "seed": str(seed),
            "similarity": "cosine",
            "relevance": "same instruction, another episode",
            "split": "by episode",
            "boost": f"{boost:g}",
            "attack": ATTACK,
        },
        counts={
            "frames": 10_000,
            "episodes": 212,
            "gallery": 10_000,
            "queries": 10_000,
            "instructions": len(texts),
            "frames refused": 3,
        },
        notes=(
            "An entry is relevant to a query if it has the same instruction and is of another "
            "episode: neighbours in time are nearly the same picture.",
            "Queries and gallery are split by episode; no episode is on both sides.",
            "3 frames could not be decoded and were left out (camera/compressed, 厨房_二).",
            ATTACK,
        ),
        directions=found,
        known={
            name: KnownResult(
                9_940,
                1_800,
                0.2714 + 0.2 * place,
                estimate(0.081 - 0.03 * place, 0.012),
                estimate(0.05, 0.004),
                estimate(0.931 + 0.03 * place, 0.008),
            )
            for place, name in enumerate(list(skills)[:2])
        }
        | {"pair": KnownResult(0, 0, math.inf, NO_ESTIMATE, NO_ESTIMATE, NO_ESTIMATE)},
        times={
            "decode": stage(rng, 4.1),
            "image tower": stage(rng, 22.0),
            "text tower": stage(rng, 6.5, 303),
            "search": stage(rng, 0.8),
            "never ran": StageSummary(0, NAN, NAN, NAN, 0.0),
        },
        embedding_map=embedding_map(rng, texts),
        live=LiveResult(
            3_000,
            2_871,
            stage(rng, 41.0, 2_871),
            stage(rng, 55.0, 2_871),
            {"replaced by a newer frame before their turn": 129},
            stage(rng, 180.0, 2_870),
            {
                "scene to scenes": Agreement(2_790, 3_000, 2_790, 2_788, 3.1e-5, 1e-5),
                ATTACK: Agreement(0, 3_000, 0, 0, 0.0, 1e-5),
            },
            f"ros2 bag {ATTACK}",
        ),
        wall_sec={"encoding": 265.0, "searching": 24.0, "thumbnails": 8.25, "the <rest>": 2.75},
    )


def small() -> Evaluation:
    """Returns an evaluation of one full and one empty direction, without pictures."""
    means = {
        "accuracy@1": Estimate(0.3, 0.2, 0.4),
        "hit@1": Estimate(0.3, 0.2, 0.4),
        "hit@5": Estimate(0.5, 0.4, 0.6),
        "recall@5": Estimate(1 / 3, 0.3, 0.35),
        "mrr": Estimate(0.4, 0.35, 0.45),
    }
    values = {name: of.value for name, of in means.items()}
    result = DirectionResult(
        7, 2, means, means, (InstructionRow("拿起桌子上的红色杯子", 7, 1.5, values),)
    )
    empty = DirectionResult(0, 4, dict.fromkeys(means, NO_ESTIMATE), {})
    return Evaluation(
        hash="0123abcd",
        settings={"seed": "0"},
        counts={"frames": 11},
        notes=(),
        directions={"scene to scenes": result, "pair": empty},
    )


def comparison(seed: int = 0, baseline: str = "clip", run: str = "头_二 <b>") -> Comparison:
    """Returns differences up, down and within chance."""
    rng = np.random.default_rng(seed)
    rows = []
    for metric in (
        *(f"{name}@{k}" for name in ("hit", "recall", "ndcg") for k in (1, 5, 10)),
        "mrr",
    ):
        base, moved = float(rng.uniform(0.3, 0.9)), float(rng.normal(0.005, 0.02))
        p = float(np.exp(-abs(moved) * 300))
        rows.append(
            Difference(
                run,
                metric,
                base,
                base + moved,
                Estimate(moved, moved - 0.009, moved + 0.01),
                p,
                min(1.0, p * 10),
            )
        )
    return Comparison(
        baseline, 9_940, 60, 303, {baseline: 0, run: 4}, {baseline: 0, run: 0}, tuple(rows)
    )
