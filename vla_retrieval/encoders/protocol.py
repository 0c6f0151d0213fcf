"""What every encoder can do, whatever computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vla_retrieval.types import Embeddings, Fingerprint, RgbImage


class Encoder(Protocol):
    """Turns images and instructions into unit vectors of one space.

    Implementations are safe under concurrent calls. Everything they return belongs to the
    caller: writing to it changes no later result.
    """

    @property
    def fingerprint(self) -> Fingerprint:
        """What the embeddings are made with; equal fingerprints make comparable embeddings.

        Device and precision are no part of it: bf16 keeps a cosine of 0.99995 to fp32, which
        is closer than two frames of a camera at rest, so a memory made on one device stays
        usable on another.
        """
        ...

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        ...

    @property
    def device(self) -> str:
        """Where it computes: ``"cpu"`` or ``"cuda:<index>"``."""
        ...

    @property
    def engine(self) -> str:
        """What computes it: ``"torch"``, ``"openvino"``, ``"onnxruntime"`` or ``"double"``."""
        ...

    @property
    def engine_reason(self) -> str:
        """Why that engine was chosen, as a clause for people."""
        ...

    @property
    def precision(self) -> str:
        """What it computes in: ``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"int8"``."""
        ...

    @property
    def warning(self) -> str:
        """What a person should know about how it runs, with the next step; mostly nothing."""
        ...

    def encode_images(self, images: Sequence[RgbImage]) -> Embeddings:
        """Embed images, which may differ in size.

        Args:
            images: Each uint8, shape ``(height, width, 3)``, RGB.

        Returns:
            Float32, shape ``(len(images), dim)``, rows of unit length.

        Raises:
            InvalidInputError: If an image is not of that form; the field is ``images[i]``.
            EncoderError: If the model gives no finite embedding.
        """
        ...

    def encode_instructions(self, texts: Sequence[str]) -> Embeddings:
        """Embed instructions.

        Args:
            texts: Each as `vla_retrieval.types.check_instruction` allows it.

        Returns:
            Float32, shape ``(len(texts), dim)``, rows of unit length.

        Raises:
            InvalidInputError: If a text is not of that form; the field is ``instruction``.
            EncoderError: If the model gives no finite embedding.
        """
        ...

    def warm_up(self) -> None:
        """Encode one image, and an instruction of each length that the engine distinguishes.

        The first real ones are not slow then.

        Raises:
            EncoderError: If the model does not run.
        """
        ...
