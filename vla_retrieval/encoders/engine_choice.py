"""Which engine runs a model: what was asked for, what is installed, and what computes rightly."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch

import vla_retrieval.encoders.no_telemetry  # noqa: F401  (before OpenVINO)
from vla_retrieval.encoders.artefacts import ArtefactCache, Key, default_cache_dir
from vla_retrieval.encoders.compiled_engine import Order
from vla_retrieval.encoders.exporting import programs
from vla_retrieval.encoders.preprocessing import Preprocessor, PreprocessSpec
from vla_retrieval.encoders.settings import EncoderSettings
from vla_retrieval.encoders.torch_engine import Engine, TorchEngine
from vla_retrieval.encoders.towers import TextTower
from vla_retrieval.encoders.verification import Agreement, Outputs, Probe, verify
from vla_retrieval.errors import EncoderError

_log = logging.getLogger(__name__)

_LIBRARIES = {
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
}
_FORMAT = "1"
"""Counts changes of how towers are exported, so that older artefacts are not used."""


@dataclass(frozen=True)
class Candidate:
    """An engine that may run the model, and in what arithmetic."""

    engine: str
    precision: str


@dataclass(frozen=True)
class Chosen:
    """The engine that runs the model.

    Attributes:
        engine: Ready, and verified.
        agreement: How near it comes to the reference.
        reason: Why it was chosen, as a clause for people.
    """

    engine: Engine
    agreement: Agreement
    reason: str


@dataclass(frozen=True)
class Ingredients:
    """What engines are made of.

    Attributes:
        model: open_clip's, in fp32 on the CPU or on `device`.
        preprocessor: Normalises pixels.
        spec: What the preprocessor does.
        context_length: Tokens in a row.
        device: Where the model runs.
        identity: Names model, weights and architecture.
    """

    model: Any
    preprocessor: Preprocessor
    spec: PreprocessSpec
    context_length: int
    device: torch.device
    identity: Key


def missing_library(engine: str) -> str:
    """Return the name of a library that the engine needs and that cannot be imported, or ''."""
    for library in _LIBRARIES.get(engine, ()):
        try:
            importlib.import_module(library)
        except (ImportError, OSError):
            return library
        except Exception as error:  # releases that do not belong together fail as they like
            _log.warning("engine %s: importing %s failed: %s", engine, library, _first_line(error))
            return library
    return ""


def candidates(settings: EncoderSettings, device: torch.device) -> tuple[list[Candidate], str]:
    """Return the engines that may run the model, best first, and why it is these.

    Args:
        settings: What was asked for.
        device: Where the model runs.

    Raises:
        EncoderError: If the engine that was asked for by name cannot run here.
    """
    wanted, precision = settings.engine, settings.precision
    if wanted == "torch" or device.type == "cuda":
        if wanted not in ("auto", "torch"):
            raise EncoderError(
                f"engine {wanted} runs on the CPU: expected device cpu, got {device}. Set device "
                "to cpu, or engine to auto or torch."
            )
        if precision == "int8":
            raise EncoderError(
                f"precision int8 is computed on the CPU: expected device cpu, got {device}. Set "
                "device to cpu, or precision to auto."
            )
        half = "fp16" if device.type == "cuda" else "fp32"
        reason = "asked for" if wanted == "torch" else "the only engine for a GPU"
        return [Candidate("torch", half if precision == "auto" else precision)], reason
    if wanted != "auto":
        return [_by_name(wanted, precision)], "asked for"
    return _automatic(precision)


def choose_engine(
    settings: EncoderSettings, ingredients: Ingredients, probe: Probe, expected: Outputs
) -> Chosen:
    """Return the best engine that computes what the model computes.

    Args:
        settings: What was asked for.
        ingredients: What engines are made of.
        probe: What each engine is tried with.
        expected: What it must find.

    Raises:
        EncoderError: If an engine that was asked for by name cannot be made or is refused, or
            if torch, the last resort, is.
    """
    choice, reason = candidates(settings, ingredients.device)
    for last, candidate in ((c is choice[-1], c) for c in choice):
        try:
            engine = _make(candidate, settings, ingredients)
            agreement = _verified(engine, probe, expected)
        except EncoderError as error:
            if last:
                raise
            _log.warning("engine auto passes over %s: %s", candidate.engine, error)
            reason = f"after {candidate.engine} in {candidate.precision} was refused"
            continue
        _log.info(
            "engine %s in %s (%s), %s.", engine.name, engine.precision, reason, agreement
        )  # fmt: skip
        return Chosen(engine, agreement, reason)
    raise AssertionError("there is always a candidate")


def _by_name(wanted: str, precision: str) -> Candidate:
    library = missing_library(wanted)
    if library:
        raise EncoderError(
            f"engine {wanted} needs {library}, which cannot be imported. Install it (pip install "
            "-r requirements/cpu_engines.txt), or set engine to auto or torch."
        )
    if wanted == "openvino" and precision in ("auto", "bf16"):
        from vla_retrieval.encoders.openvino_engine import cpu_name, has_fast_bf16

        if has_fast_bf16():
            return Candidate(wanted, "bf16")
        if precision == "bf16":
            raise EncoderError(
                "precision: expected one that the CPU computes in, got bf16, which needs AVX-512 "
                f"BF16 or AMX, and this is {cpu_name()}. Set precision to auto or fp32."
            )
    return Candidate(wanted, "fp32" if precision == "auto" else precision)


def _automatic(precision: str) -> tuple[list[Candidate], str]:
    """Return the candidates on a CPU where the user leaves the choice."""
    absent = {engine: missing_library(engine) for engine in _LIBRARIES}
    if precision == "int8":  # nothing else computes in it
        return [_by_name("onnxruntime", precision)], "the only engine for int8"
    found = []
    if precision in ("auto", "bf16") and not absent["openvino"]:
        from vla_retrieval.encoders.openvino_engine import has_fast_bf16

        found += [Candidate("openvino", "bf16")] * has_fast_bf16()
    if precision in ("auto", "fp32"):
        found += [Candidate(engine, "fp32") for engine in _LIBRARIES if not absent[engine]]
    reason = "the fastest that is installed"
    if not found:
        names = ", ".join(library for library in absent.values() if library)
        is_missed = names and precision != "fp16"  # which none of them computes in
        reason = f"{names} not installed" if is_missed else f"the only engine for {precision} here"
    found.append(Candidate("torch", "fp32" if precision == "auto" else precision))
    return found, reason


def _make(candidate: Candidate, settings: EncoderSettings, parts: Ingredients) -> Engine:
    """Make a candidate's engine.

    Raises:
        EncoderError: If that fails, for whatever reason.
    """
    if candidate.engine == "torch":
        return _make_torch(candidate, parts, settings.batch_size)
    load: Callable[[Order], Engine]
    if candidate.engine == "openvino":
        from vla_retrieval.encoders.openvino_engine import load_openvino_engine as load
    else:
        from vla_retrieval.encoders.onnxruntime_engine import load_onnxruntime_engine as load
    text = TextTower(parts.model, parts.context_length)
    order = Order(
        programs(parts.model, (parts.spec.height, parts.spec.width), text), text.cut,
        parts.preprocessor, candidate.precision, settings.threads,
        ArtefactCache(cache_dir(settings)), _key(parts, text),
    )  # fmt: skip
    try:
        return load(order)
    except Exception as error:  # exporters and runtimes raise what they like
        raise EncoderError(
            f"engine {candidate.engine} in {candidate.precision} cannot run this model: "
            f"{_first_line(error)}. Set engine to auto or torch."
        ) from error


def _verified(engine: Engine, probe: Probe, expected: Outputs) -> Agreement:
    """Compare an engine with the reference.

    Raises:
        EncoderError: If it computes something else, or cannot compute the probe at all.
    """
    try:
        return verify(engine, probe, expected)
    except EncoderError:
        raise
    except Exception as error:  # what runtimes raise shares no other base
        raise EncoderError(
            f"engine {engine.name} in {engine.precision} was made, and fails on the probe: "
            f"{_first_line(error)}. Set engine to auto or torch, or device to cpu."
        ) from error


def _make_torch(candidate: Candidate, parts: Ingredients, batch_size: int) -> Engine:
    try:
        return TorchEngine(
            parts.model, parts.preprocessor, parts.device, candidate.precision,
            parts.context_length, batch_size,
        )  # fmt: skip
    except RuntimeError as error:
        raise EncoderError(
            f"The model does not fit on {parts.device} in {candidate.precision}: {error} Choose "
            "a smaller model, or free memory on the device."
        ) from error


def cache_dir(settings: EncoderSettings) -> Path:
    """Return the folder of compiled engines."""
    if settings.engine_cache_dir:
        return Path(settings.engine_cache_dir).expanduser()
    return default_cache_dir()


def _key(parts: Ingredients, text: TextTower) -> Key:
    # Some text towers are those of transformers, which open_clip imports where it is installed.
    libraries: Sequence[Any] = (torch, open_clip, timm, sys.modules.get("transformers"))
    return {
        **parts.identity,
        **{library.__name__: str(library.__version__) for library in libraries if library},
        "format": _FORMAT,
        "input": f"{parts.spec.height}x{parts.spec.width}",
        "text": str(text.cut),
        "machine": os.uname().machine,
    }


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__} ({lines[0][:200]})" if lines else type(error).__name__
