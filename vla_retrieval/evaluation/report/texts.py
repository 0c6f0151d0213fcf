"""Texts from outside, made fit to be shown: bounded, and without characters that nobody sees."""

from __future__ import annotations

import re
from datetime import datetime, timezone

MOST_CHARS = 300

# Control characters (not tab and line break) and halves of characters, which HTML cannot hold,
# and the two that Unicode reserves.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_PLANE_ENDS = re.compile(f"[{''.join(chr(p << 16 | e) for p in range(1, 17) for e in (0xFFFE, 0xFFFF))}]")  # fmt: skip # noqa: E501
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_KANA_OR_HANGUL = re.compile("[\u3040-\u30ff\uac00-\ud7af]")


def readable(text: str, most_chars: int = MOST_CHARS) -> str:
    """Return text as it can be shown, cut with an ellipsis; unfit characters become U+FFFD."""
    if len(text) > most_chars:
        text = text[: most_chars - 1] + "…"
    return _PLANE_ENDS.sub("\ufffd", _UNFIT.sub("\ufffd", text))


def is_chinese(text: str) -> bool:
    """Tell whether text has Chinese characters, and neither kana nor hangul.

    A browser chooses between the Chinese and the Japanese form of a character by the language.
    """
    return bool(_HAN.search(text)) and not _KANA_OR_HANGUL.search(text)


def spell_stamp(stamp_ns: int) -> str:
    """Return a stamp as UTC to the millisecond; what no calendar has, as nanoseconds."""
    try:
        when = datetime.fromtimestamp(stamp_ns // 10**9, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"{stamp_ns} ns"
    return f"{when:%Y-%m-%d %H:%M:%S}.{stamp_ns // 10**6 % 1000:03d} UTC"
