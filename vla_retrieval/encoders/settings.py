"""Which model is loaded, and how it runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from vla_retrieval.errors import InvalidInputError

DEMO_MODEL = "vla-retrieval-demo"
"""The small model that ships with the package."""

DOUBLE_MODEL = "double"
"""The test double, which needs no torch and no weights."""

SCHEMAS = ("hf-hub:", "local-dir:")
"""Prefixes of a model name that say where its configuration and weights lie."""

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
ENGINES = ("auto", "torch", "openvino", "onnxruntime")
"""What `EncoderSettings.engine` may be."""

PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")
"""What `EncoderSettings.precision` may be."""

_COMPUTES_IN = {
    "torch": ("fp32", "fp16", "bf16"),
    "openvino": ("fp32", "bf16"),
    "onnxruntime": ("fp32", "int8"),
}
_RANGES = {"batch_size": (1, 4096), "threads": (0, 1024), "cached_instructions": (0, 1_000_000)}


@dataclass(frozen=True)
class EncoderSettings:
    """Which model is loaded, and how it runs.

    Attributes:
        model: An open_clip model name (``ViT-B-32``), a name with its weights' tag
            (``ViT-B-32/laion2b_s34b_b79k``), ``hf-hub:<owner>/<name>``,
            ``local-dir:<path>`` of a folder with ``open_clip_config.json`` and weights,
            ``vla-retrieval-demo`` for the model that ships with the package, or ``double``
            for the test double.
        pretrained: One of open_clip's weight tags for the model; empty where the weights come
            from ``checkpoint``, from the folder or repository in ``model``, or are shipped.
        checkpoint: Path of a weights file (.safetensors, .pt, .pth or .bin) that is used
            instead; empty for none.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<index>``. ``auto`` is the first CUDA
            device, else the CPU with a warning that says why; ``cuda`` never becomes the CPU.
        engine: ``auto``, ``torch``, ``openvino`` or ``onnxruntime``. ``auto`` is torch on CUDA;
            on the CPU it is OpenVINO, else ONNX Runtime, else torch, by what is installed and
            computes what the model computes.
        precision: ``auto``, ``fp32``, ``fp16``, ``bf16`` or ``int8``. ``auto`` is fp16 on CUDA; on
            the CPU it is bf16 where OpenVINO runs the model and the CPU multiplies in bf16, and
            fp32 otherwise. ``int8`` is for ONNX Runtime.
        batch_size: Most images or instructions in one pass of the model, in [1, 4096].
        threads: Threads that the engine computes with, in [0, 1024]; 0 leaves its own choice.
            torch's counts for the whole process, because it has one number for all models.
        cached_instructions: How many embedded instructions are kept for when they come again,
            in [0, 1000000]; one takes about 4 bytes times the dimension.
        download_dir: Folder for downloaded weights; empty for that of the Hugging Face hub.
        engine_cache_dir: Folder for compiled engines; empty for ``vla_retrieval/engines`` in
            ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        InvalidInputError: If a field is out of its range, or two contradict each other.
    """

    model: str = DEMO_MODEL
    pretrained: str = ""
    checkpoint: str = ""
    device: str = "auto"
    engine: str = "auto"
    precision: str = "auto"
    batch_size: int = 32
    threads: int = 0
    cached_instructions: int = 1024
    download_dir: str = ""
    engine_cache_dir: str = ""

    def __post_init__(self) -> None:
        """Check each field, and the weights' source as a whole."""
        self._check_types()
        if not self.model.strip():
            raise InvalidInputError("model", "the name of a model", repr(self.model))
        if not _DEVICE.fullmatch(self.device):
            raise InvalidInputError(
                "device", "auto, cpu, cuda or cuda:<index>", repr(self.device)
            )  # fmt: skip
        self._check_engine()
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InvalidInputError(name, f"a whole number in [{low}, {high}]", str(value))
        self._check_one_source()

    def _check_types(self) -> None:
        for entry in fields(self):
            value, default = getattr(self, entry.name), entry.default
            if type(value) is not type(default):
                raise InvalidInputError(
                    entry.name, type(default).__name__, f"{type(value).__name__} {value!r}"
                )

    def _check_engine(self) -> None:
        if self.engine not in ENGINES:
            raise InvalidInputError("engine", "one of " + ", ".join(ENGINES), repr(self.engine))
        allowed = ("auto", *_COMPUTES_IN.get(self.engine, PRECISIONS[1:]))
        if self.precision not in allowed:
            of_engine = "" if self.engine == "auto" else f" for engine {self.engine}"
            raise InvalidInputError(
                "precision", f"one of {', '.join(allowed)}{of_engine}", repr(self.precision)
            )

    def _check_one_source(self) -> None:
        if self.pretrained and self.checkpoint:
            raise InvalidInputError(
                "pretrained", "only one of pretrained and checkpoint",
                f"pretrained={self.pretrained!r} and checkpoint={self.checkpoint!r}",
                "Leave the one empty that is not meant.",
            )  # fmt: skip
        if self.pretrained and self.model.startswith(SCHEMAS):
            raise InvalidInputError(
                "pretrained", f"nothing, because {self.model!r} brings its own weights",
                repr(self.pretrained), "Leave it empty.",
            )  # fmt: skip
