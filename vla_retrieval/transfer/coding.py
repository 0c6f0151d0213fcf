"""Binary codes beside the embeddings of an export: the compact form of an entry.

A code of 256 bits has 32 bytes, where an embedding of 512 numbers has 2048. Codes of one head can
be compared with each other by Hamming distance, wherever they were made.
"""

from __future__ import annotations

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory.contents import Contents
from vla_retrieval.memory.entries import Portion
from vla_retrieval.projection import Codes, Head, check_head, name_of
from vla_retrieval.types import Modality


def check_codes(head: Head | None, contents: Contents) -> None:
    """Refuse a head that cannot make codes of a memory's embeddings; None is none.

    Raises:
        HeadMismatchError: If it was made for another encoder.
        InvalidInputError: If it makes no codes.
    """
    if head is None:
        return
    check_head(head, contents.fingerprint)
    if not head.bits:
        raise InvalidInputError(
            "head", "one that makes codes, of method hash", name_of(head),
            "Export without a head, or train one with --method hash.",
        )  # fmt: skip


def codes_of(portion: Portion, head: Head) -> tuple[Codes, Codes]:
    """Return the codes of scenes and of instructions, each of shape ``(n, bits / 8)``."""
    return (
        head.codes(portion.scenes, Modality.SCENE),
        head.codes(portion.instructions, Modality.INSTRUCTION),
    )
