"""CLIP through open_clip, behind the `Encoder` protocol."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import torch

from vla_retrieval.encoders.batching import BatchLimit
from vla_retrieval.encoders.cache import EmbeddingCache
from vla_retrieval.encoders.checks import check_images, check_texts
from vla_retrieval.encoders.cuda_graphs import Tower
from vla_retrieval.encoders.devices import choose_device, set_threads
from vla_retrieval.encoders.engine_choice import Ingredients, choose_engine
from vla_retrieval.encoders.no_random_weights import NoRandomWeights
from vla_retrieval.encoders.preprocessing import Preprocessor, PreprocessSpec
from vla_retrieval.encoders.preprocessor_choice import make_preprocessor
from vla_retrieval.encoders.settings import EncoderSettings
from vla_retrieval.encoders.sources import ModelSource, resolve
from vla_retrieval.encoders.tokenizing import InstructionTokenizer
from vla_retrieval.encoders.torch_engine import Engine
from vla_retrieval.encoders.verification import Outputs, make_probe, reference
from vla_retrieval.encoders.weights import hash_weights, load_weights, read_state_dict
from vla_retrieval.errors import CheckpointError, EncoderError
from vla_retrieval.types import Embeddings, Fingerprint, RgbImage

_log = logging.getLogger(__name__)

_NAMED = 3
"""How many sizes of images a message names."""

_LEAST_LENGTH = 1e-12  # torch's own, of torch.nn.functional.normalize
_GREY = np.full((32, 32, 3), 128, np.uint8)
_MISLEADING = ("No pretrained weights loaded", "Local config loaded", "Multiple checkpoints found")


@dataclass(frozen=True)
class Parts:
    """What an `OpenClipEncoder` is made of."""

    engine: Engine
    engine_reason: str
    preprocessor: Preprocessor
    tokenizer: InstructionTokenizer
    fingerprint: Fingerprint


class OpenClipEncoder:
    """An encoder whose parts come from open_clip, and whose towers run in an `Engine`.

    Safe under concurrent calls: preprocessing, engine, tokenizer and cache guard what they keep.
    Two threads that ask for the same new instruction both compute it.

    Args:
        parts: The model, ready to run.
        batch_size: Most images or instructions in one pass.
        cached_instructions: How many instructions are kept embedded.
    """

    def __init__(self, parts: Parts, batch_size: int, cached_instructions: int) -> None:
        self._engine = parts.engine
        self._engine_reason = parts.engine_reason
        self._preprocessor = parts.preprocessor
        self._tokenizer = parts.tokenizer
        self._fingerprint = parts.fingerprint
        model = parts.fingerprint.model
        self._images, self._texts = (
            BatchLimit(model, parts.engine.device, batch_size, give_back=parts.engine.give_back)
            for _ in range(2)
        )
        self._cache = EmbeddingCache(cached_instructions)
        self._has_warned = False

    @property
    def fingerprint(self) -> Fingerprint:
        """What the embeddings are made with."""
        return self._fingerprint

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._fingerprint.dim

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:<index>"``."""
        return self._engine.device

    @property
    def engine(self) -> str:
        """``"torch"``, ``"openvino"`` or ``"onnxruntime"``."""
        return self._engine.name

    @property
    def engine_reason(self) -> str:
        """Why that engine was chosen, as a clause for people."""
        return self._engine_reason

    @property
    def precision(self) -> str:
        """``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"int8"``."""
        return self._engine.precision

    @property
    def warning(self) -> str:
        """That the GPU's memory does not do for the batches wanted, or nothing."""
        return self._images.warning or self._texts.warning or self._preprocessor.warning

    @property
    def context_length(self) -> int:
        """Tokens that the model reads of an instruction, those for start and end included."""
        return self._tokenizer.context_length

    def truncates(self, text: str) -> bool:
        """Return whether the model reads only the beginning of the text."""
        check_texts([text])
        return self._tokenizer.truncates(text)

    def encode_images(self, images: Sequence[RgbImage]) -> Embeddings:
        """Embed images, which may differ in size; see `Encoder.encode_images`."""
        check_images(images)
        batches = [images[batch] for batch in _batches(len(images), self._images.most)]
        rows = np.empty((len(images), self.dim), np.float32)
        done = 0
        for prepared in self._prepared(batches):
            end = done + len(prepared)
            rows[done:end] = self._run(self._images, self._engine.embed_pixels, prepared)
            done = end
        return rows

    def encode_instructions(self, texts: Sequence[str]) -> Embeddings:
        """Embed instructions, from the cache where possible; see `Encoder.encode_instructions`.

        What is longer than the model reads is cut at its end; the first time, a warning says so.
        """
        check_texts(texts)
        found = {text: self._cache.get(text) for text in texts}
        new = [text for text, row in found.items() if row is None]
        for batch in _batches(len(new), self._texts.most):
            tokens = self._tokenizer.tokenize(new[batch])
            rows = self._run(self._texts, self._engine.embed_tokens, tokens)
            for text, row in zip(new[batch], rows, strict=True):
                found[text] = row
                self._cache.put(text, row)
                self._warn_once_if_cut(text)
        out = np.empty((len(texts), self.dim), np.float32)
        for target, text in zip(out, texts, strict=True):
            target[:] = found[text]
        return out

    def warm_up(self) -> None:
        """Encode one image, and instructions of each length, past the cache."""
        self._run(self._images, self._engine.embed_pixels, self._preprocessor.prepare([_GREY]))
        for length in self._engine.text_lengths:
            # Two tokens are the start and the end, and "cup" is one in most vocabularies.
            text = " ".join(["cup"] * max(1, length - 2))
            tokens = self._tokenizer.tokenize([text])
            self._run(self._texts, self._engine.embed_tokens, tokens)

    def _prepared(self, batches: Sequence[Sequence[RgbImage]]) -> Iterator[torch.Tensor]:
        """Yield each batch prepared; for a GPU, the next one is while the caller has this one."""
        if len(batches) <= 1 or self.device == "cpu":
            yield from map(self._prepare, batches)
            return
        with ThreadPoolExecutor(1, "prepare") as ahead:
            coming = ahead.submit(self._prepare, batches[0])
            for batch, following in itertools.zip_longest(batches, batches[1:]):
                prepared = self._arrived(coming, batch)
                if following is not None:
                    coming = ahead.submit(self._prepare, following)
                yield prepared

    def _arrived(self, coming: Future[torch.Tensor], batch: Sequence[RgbImage]) -> torch.Tensor:
        """Return what was prepared ahead; where a pass left no room for it, prepare it now."""
        try:
            return coming.result()
        except EncoderError as error:
            _log.info("prepared again, with no pass beside it: %s", error)
        return self._prepare(batch)

    def _prepare(self, images: Sequence[RgbImage]) -> torch.Tensor:
        try:
            return self._preprocessor.prepare(images)
        except RuntimeError as error:  # also a GPU's memory that does not do
            sizes = sorted({f"{image.shape[1]}x{image.shape[0]}" for image in images})
            raise EncoderError(
                f"{self._fingerprint.model} cannot resize {len(images)} images of "
                f"{', '.join(sizes[:_NAMED])} on {self.device}: {error} Send smaller images, stop "
                "what else uses the device, or set device to cpu."
            ) from error

    def _run(self, limit: BatchLimit, tower: Tower, batch: torch.Tensor) -> Embeddings:
        """Return what the tower makes of the batch, float32, ``(n, dim)``, of unit length."""
        try:
            raw = limit.run(tower, batch)
        except EncoderError:
            raise
        except Exception as error:  # what runtimes raise shares no other base
            raise EncoderError(
                f"{self._fingerprint.model} failed on {len(batch)} inputs on {self.device}: {error}"
            ) from error
        rows: Embeddings = raw.numpy()
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        if not np.isfinite(lengths).all():
            raise EncoderError(
                f"{self._fingerprint.model} gave embeddings that are not finite: expected "
                f"numbers in {self.precision}, got NaN or infinity. Set precision to bf16 or fp32."
            )
        unit: Embeddings = rows / np.maximum(lengths, _LEAST_LENGTH)[:, None]
        return unit

    def _warn_once_if_cut(self, text: str) -> None:
        if not self._has_warned and self._tokenizer.truncates(text):
            self._has_warned = True
            _log.warning(
                "The model reads %d tokens of an instruction; %r... is longer and was cut. This "
                "is said once.", self.context_length, text[:40],
            )  # fmt: skip


def load_open_clip_encoder(settings: EncoderSettings) -> OpenClipEncoder:
    """Load a model through open_clip; see `vla_retrieval.encoders.load_encoder`.

    Raises:
        EncoderError: If the model cannot be found or run.
        CheckpointError: If its weights file cannot be used.
    """
    device = choose_device(settings.device)
    set_threads(settings.threads)
    source = resolve(settings)
    state = read_state_dict(source.checkpoint)
    model = build(source)
    load_weights(model, state, str(source.checkpoint), may_resize=source.is_published)
    weights = hash_weights(model)
    spec = PreprocessSpec.from_open_clip(open_clip.get_model_preprocess_cfg(model))
    tokenizer = _make_tokenizer(source, model)
    with _runs_on(device, source, RuntimeError):  # from the first step on: a GPU may be full
        preprocessor = make_preprocessor(spec, device)
        probe = make_probe(preprocessor, tokenizer)
    with _runs_on(device, source, RuntimeError, IndexError, ValueError, NotImplementedError):
        expected = reference(model, preprocessor, probe, device)
    _check(expected, source)
    identity = {"weights": weights, "architecture": json.dumps(dict(source.config), sort_keys=True)}
    ingredients = Ingredients(
        model, preprocessor, spec, tokenizer.context_length, device, identity
    )  # fmt: skip
    chosen = choose_engine(settings, ingredients, probe, expected)
    fingerprint = Fingerprint(source.name, weights, str(spec), expected.images.shape[1])
    _log.info("Loaded %s on %s.", fingerprint, chosen.engine.device)
    parts = Parts(chosen.engine, chosen.reason, preprocessor, tokenizer, fingerprint)
    return OpenClipEncoder(parts, settings.batch_size, settings.cached_instructions)


def build(source: ModelSource) -> Any:
    """Return the model without weights, in fp32 on the CPU.

    Raises:
        EncoderError: If open_clip cannot build it.
    """
    try:
        # Forked: the random weights that are replaced here must not shift a seeded training.
        no_draws = NoRandomWeights()  # type: ignore[no-untyped-call]
        with _open_clip_is_quiet(), torch.random.fork_rng(devices=[]), no_draws:
            return open_clip.create_model(
                source.architecture, load_weights=False, pretrained_text=False,
                force_preprocess_cfg=dict(source.preprocess),
            )  # fmt: skip
    except Exception as error:
        raise EncoderError(
            f"open_clip {open_clip.__version__} cannot build {source.name!r}: {error} "
            f"{_needed(error)}"
        ) from error


def _make_tokenizer(source: ModelSource, model: Any) -> InstructionTokenizer:
    text_cfg = source.config.get("text_cfg", {})
    try:
        with _open_clip_is_quiet():
            tokenizer = open_clip.get_tokenizer(source.tokenizer, cache_dir=source.cache_dir)
    except Exception as error:
        raise EncoderError(
            f"The tokenizer of {source.name!r} cannot be loaded: {error} {_needed(error)}"
        ) from error
    length = text_cfg.get("context_length") or getattr(tokenizer, "context_length", None)
    return InstructionTokenizer(tokenizer, int(length or model.context_length))


def _needed(error: Exception) -> str:
    if isinstance(error, ImportError) or "transformers" in str(error):
        return "Install what it needs: pip install transformers sentencepiece"
    return (
        "Check the model's configuration; where it needs files from the network, download them "
        "beforehand (hf download <owner>/<name>)."
    )


@contextlib.contextmanager
def _runs_on(device: torch.device, source: ModelSource, *errors: type[Exception]) -> Iterator[None]:
    """Say it as an EncoderError where a model does not run on its device."""
    try:
        yield
    except errors as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise EncoderError(
            f"{source.name!r} does not run on {device}: {said[0].rstrip('.')}. Stop what else "
            "uses the device, or choose another one or a smaller model."
        ) from error


def _check(expected: Outputs, source: ModelSource) -> None:
    """Check that embeddings can be compared at all."""
    images, texts = expected.images, expected.texts
    if images.shape != texts.shape:
        raise EncoderError(
            f"{source.name!r} has no common space: expected one dimension, got {images.shape[1]} "
            f"for images and {texts.shape[1]} for instructions. Choose another model."
        )
    if not (torch.isfinite(images).all() and torch.isfinite(texts).all()):
        raise CheckpointError(
            f"{source.checkpoint} gives embeddings that are not finite: expected numbers, got NaN "
            "or infinity in fp32. The weights are damaged: copy or download them again."
        )


def _batches(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


@contextlib.contextmanager
def _open_clip_is_quiet() -> Iterator[None]:
    """Keep open_clip from configuring the root logger, and drop what would mislead.

    It logs each step through ``logging.info``, which installs a handler on the root logger
    where there is none, and warns of missing weights, which are loaded here afterwards.
    """

    def is_right(record: logging.LogRecord) -> bool:
        is_news = record.levelno >= logging.WARNING
        return is_news and not record.getMessage().startswith(_MISLEADING)

    root, placeholder = logging.getLogger(), logging.NullHandler()
    root.addHandler(placeholder)
    root.addFilter(is_right)
    try:
        yield
    finally:
        root.removeFilter(is_right)
        root.removeHandler(placeholder)
