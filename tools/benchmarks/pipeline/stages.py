"""Every stage and the whole, in one interleaved run, beside floors and a plain pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import faiss
import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from tools.benchmarks.data import Recipe, stored_gallery
from tools.benchmarks.measuring import Laps, interleave
from tools.benchmarks.pipeline.bench import SIZES, Settings, filled_memory, has_ros
from tools.benchmarks.pipeline.plain import plain_model
from vla_retrieval.encoders import load_encoder
from vla_retrieval.encoders.open_clip_encoder import OpenClipEncoder
from vla_retrieval.encoders.verification import draw_scene
from vla_retrieval.memory import Memory
from vla_retrieval.retriever import Retriever
from vla_retrieval.types import Modality, Probe, Query, Target

_K: Final = 10
_PICTURES: Final = 6
_INSTRUCTIONS: Final = (
    "pick up the cup on the table", "拿起杯子", "put the red block into the box",
    "open the left drawer", "wipe the table", "bring me the green bottle please",
)  # fmt: skip
"""All of them below 14 tokens with CLIP's vocabulary."""


@dataclass(frozen=True)
class Ratio:
    """One line of the table: how long something takes, in multiples of something else.

    Attributes:
        text: For people.
        above, below: Names of calls.
        bar: What it should stay below, or None.
    """

    text: str
    above: str
    below: str
    bar: float | None = None


RATIOS: Final = (
    Ratio("preprocessing VGA / PIL", "prepare VGA", "PIL VGA", 0.20),
    Ratio("preprocessing 720p / PIL", "prepare 720p", "PIL 720p", 0.12),
    Ratio("image encoding / eager fp32", "encode image", "eager image", 0.33),
    Ratio("text encoding, below 14 tokens / eager fp32", "encode text", "eager text", 0.15),
    Ratio("memory's search / bare exact FAISS", "search", "bare FAISS"),
    Ratio("callback to publish / encoding alone", "callback", "encode image", 1.12),
    Ratio("callback to publish / plain pipeline", "callback", "plain pipeline", 0.30),
    Ratio("deserialising VGA / memcpy", "deserialise VGA", "memcpy VGA", 8.0),
)


class Bench:
    """What the calls work on.

    Args:
        settings: What is measured.
    """

    def __init__(self, settings: Settings) -> None:
        encoder = load_encoder(settings.encoder)
        assert isinstance(encoder, OpenClipEncoder)
        encoder.warm_up()
        self.encoder = encoder
        self.device = torch.device(encoder.device)
        self.model = plain_model(settings.encoder, self.device)
        self.transform = image_transform_v2(
            PreprocessCfg(**open_clip.get_model_preprocess_cfg(self.model)), is_train=False
        )
        self.pictures = {
            name: [draw_scene(size, seed) for seed in range(_PICTURES)]
            for name, size in SIZES.items()
        }
        prepare = encoder._preprocessor.prepare
        self.prepared = [prepare([picture]) for picture in self.pictures["VGA"]]
        self.pixels = [
            encoder._preprocessor.normalize(one.to(self.device)) for one in self.prepared
        ]
        self.tokens = [encoder._tokenizer.tokenize([text]) for text in _INSTRUCTIONS]
        self.memory: Memory = filled_memory(settings, encoder)
        gallery = stored_gallery(Recipe(settings.entries, dim=encoder.dim), settings.work)
        self.flat = faiss.IndexFlatIP(encoder.dim)
        self.flat.add(np.ascontiguousarray(gallery.scenes))
        faiss.omp_set_num_threads(1)
        self.retriever = Retriever(encoder, self.memory, 0)
        self.queries = np.ascontiguousarray(encoder.encode_images(self.pictures["VGA"]))

    def calls(self) -> dict[str, Callable[[int], Any]]:
        """Every call that is timed, by name; each gets the number of its round."""
        engine, prepare = self.encoder._engine, self.encoder._preprocessor.prepare
        calls: dict[str, Callable[[int], Any]] = {}
        for size in SIZES:
            frames = self.pictures[size]
            calls[f"PIL {size}"] = lambda n, f=frames: self.transform(
                Image.fromarray(f[n % _PICTURES])
            )
            calls[f"prepare {size}"] = lambda n, f=frames: self.finished(
                prepare([f[n % _PICTURES]])
            )
        calls |= {
            "eager image": lambda n: self.eager_image(self.pixels[n % _PICTURES]),
            "encode image": lambda n: engine.embed_pixels(self.prepared[n % _PICTURES]),
            "eager text": lambda n: self.eager_text(self.tokens[n % len(self.tokens)]),
            "encode text": lambda n: engine.embed_tokens(self.tokens[n % len(self.tokens)]),
            "bare FAISS": lambda n: self.flat.search(self.queries[n % _PICTURES][None], _K),
            "search": self._search,
            "plain pipeline": self._plain,
            "callback": self._callback,
        }
        return calls

    def finished(self, prepared: torch.Tensor) -> torch.Tensor:
        """What a GPU may still be working at when the call for it returns."""
        if prepared.is_cuda:
            torch.cuda.synchronize(prepared.device)
        return prepared

    def eager_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """What open_clip's model makes of normalised pixels."""
        with torch.inference_mode():
            embedded: torch.Tensor = self.model.encode_image(pixels)
            return embedded.cpu()

    def eager_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """What open_clip's model makes of whole rows of tokens."""
        with torch.inference_mode():
            embedded: torch.Tensor = self.model.encode_text(tokens.to(self.device))
            return embedded.cpu()

    def _search(self, number: int) -> Any:
        probe = Probe(Modality.SCENE, self.queries[number % _PICTURES], 1.0, Modality.SCENE)
        return self.memory.search([probe], _K)

    def _plain(self, number: int) -> Any:
        """What one would write first: PIL, the eager model, exact search."""
        picture = Image.fromarray(self.pictures["VGA"][number % _PICTURES])
        raw = self.eager_image(self.transform(picture)[None].to(self.device))
        unit = torch.nn.functional.normalize(raw, dim=-1).numpy()
        return self.flat.search(unit, _K)

    def _callback(self, number: int) -> Any:
        query = Query(image=self.pictures["VGA"][number % _PICTURES], target=Target.SCENES, k=_K)
        return self.retriever.retrieve(query)


def measure(settings: Settings) -> dict[str, Any]:
    """Run every call in turn.

    Returns:
        ``ratios`` and ``milliseconds`` with spreads, ``cosine`` to eager fp32, and what ran.
    """
    bench = Bench(settings)
    calls = bench.calls()
    if has_ros():
        from tools.benchmarks.pipeline.messages import with_messages

        calls |= with_messages(bench.encoder, bench.retriever, bench.pictures["VGA"])
    laps = interleave(calls, settings.rounds, settings.limit_sec)
    bench.memory.close()
    encoder = bench.encoder
    return {
        "engine": encoder.engine,
        "precision": encoder.precision,
        "device": encoder.device,
        "index": settings.index,
        "with messages": has_ros(),
        "rounds": laps.rounds,
        "ratios": [_line(ratio, laps) for ratio in RATIOS if ratio.above in laps.seconds],
        "milliseconds": {name: _milliseconds(laps, name) for name in laps.seconds},
        "cosine": _agreement(bench),
    }


def _line(ratio: Ratio, laps: Laps) -> dict[str, Any]:
    return {"text": ratio.text, "bar": ratio.bar, **laps.ratio(ratio.above, ratio.below)}


def _milliseconds(laps: Laps, name: str) -> dict[str, float]:
    low, middle, high = np.quantile(laps.seconds[name] * 1e3, [0.1, 0.5, 0.9])
    return {"median": float(middle), "p10": float(low), "p90": float(high)}


def _agreement(bench: Bench) -> dict[str, float]:
    """The worst cosines to eager fp32, and what preprocessing costs of the distance of images."""
    cosine, engine = torch.nn.functional.cosine_similarity, bench.encoder._engine
    image = [
        cosine(bench.eager_image(p).float(), engine.embed_pixels(u))
        for p, u in zip(bench.pixels, bench.prepared, strict=True)
    ]
    text = [cosine(bench.eager_text(t).float(), engine.embed_tokens(t)) for t in bench.tokens]
    unit = torch.nn.functional.normalize
    ours = unit(torch.cat([bench.eager_image(pixels) for pixels in bench.pixels]), dim=-1)
    by_pil = [bench.transform(Image.fromarray(one))[None] for one in bench.pictures["VGA"]]
    theirs = unit(torch.cat([bench.eager_image(p.to(bench.device)) for p in by_pil]), dim=-1)
    between = torch.pdist(theirs).mean()
    error = (ours - theirs).norm(dim=-1).mean() / between
    return {
        "image": float(torch.cat(image).min()),
        "text": float(torch.cat(text).min()),
        "preprocessing error / distance between images": float(error),
    }
