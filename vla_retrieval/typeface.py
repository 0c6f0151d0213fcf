"""The typeface that ships with the package, for Chinese where a machine's own fonts have none."""

from __future__ import annotations

import re
from pathlib import Path

_FOLDER = Path(__file__).parent / "fonts"
TYPEFACE = _FOLDER / "NotoSansCJKsc-Subset.otf"
LICENCE = _FOLDER / "OFL.txt"

_RANGES = ((0x2E80, 0x303F), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0xFF00, 0xFFEF))
_CHINESE = re.compile("[" + "".join(f"\\u{low:04x}-\\u{high:04x}" for low, high in _RANGES) + "]")


def is_wanted_for(text: str) -> bool:
    """Return whether a text has Chinese characters or punctuation."""
    return _CHINESE.search(text) is not None


def face(name: str, source: str) -> str:
    """Return the CSS rule that gives a page the typeface under a name.

    Args:
        name: For ``font-family``. It comes first there, and is only for Chinese: behind other
            names, Chromium leaves the first text of a page as it was before it had the file.
        source: Its file, relative to the page. It is read only where a character needs it.
    """
    ranges = ", ".join(f"U+{low:04X}-{high:04X}" for low, high in _RANGES)
    return (
        f'@font-face {{ font-family: "{name}"; src: url("{source}"); unicode-range: {ranges} }}\n'
    )
