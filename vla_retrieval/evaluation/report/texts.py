"""Texts from outside, made fit to be shown: bounded, and without characters that nobody sees."""

from __future__ import annotations

import re
from datetime import datetime, timezone

MOST_CHARS = 300

# Control characters (not tab and line feed) and halves of characters, which HTML cannot hold, and
# those that Unicode keeps for programs: 32 of them, and the last two of each plane.
_LAST_TWO = "".join(chr(plane << 16 | end) for plane in range(17) for end in (0xFFFE, 0xFFFF))
_UNFIT = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_LAST_TWO}]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_KANA_OR_HANGUL = re.compile("[\u3040-\u30ff\uac00-\ud7af]")


def readable(text: str, most_chars: int = MOST_CHARS) -> str:
    """Return text as it can be shown, cut with an ellipsis; unfit characters become U+FFFD.

    Line breaks of other systems become line feeds.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if len(text) > most_chars:
        text = text[: most_chars - 1] + "…"
    return _UNFIT.sub("\ufffd", text)


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
