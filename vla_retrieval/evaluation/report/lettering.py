"""The typeface for Chinese inside of a page: of the one that ships, what the page's text needs."""

from __future__ import annotations

import base64
import io

from vla_retrieval import typeface
from vla_retrieval.evaluation.report.libraries import library

NAME = "Shipped"
"""What the style sheet calls it."""


def lettering(text: str) -> str:
    """Return the CSS rule that brings the typeface, or nothing where a text has no Chinese.

    Some 100 bytes a character; 0.1 s for a few of them, 0.3 s for 1500, 3 s for all that there are.
    Other scripts, and the characters that the typeface lacks, are left to the reader's own fonts.

    Args:
        text: All that is shown.

    Raises:
        MissingLibraryError: If fontTools is not installed, which matplotlib brings.
    """
    if not typeface.is_wanted_for(text):
        return ""
    subset = library("fontTools.subset")
    options = subset.Options(
        flavor="woff", layout_features=[], name_IDs=[], hinting=False, notdef_outline=True
    )
    font = subset.load_font(str(typeface.TYPEFACE), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text=text)
    subsetter.subset(font)
    content = io.BytesIO()
    subset.save_font(font, content, options)
    coded = base64.b64encode(content.getvalue()).decode()
    return typeface.face(NAME, f"data:font/woff;base64,{coded}")
