"""Libraries that only a page needs, imported when one is made."""

from __future__ import annotations

import importlib
from types import ModuleType

from vla_retrieval.errors import MissingLibraryError

PAGE_LIBRARIES = ("jinja2", "matplotlib")


def library(name: str) -> ModuleType:
    """Import a module of a library that ``requirements/evaluation.txt`` names.

    Args:
        name: Of the module, with dots.

    Raises:
        MissingLibraryError: If it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingLibraryError(
            f"a page needs {name.partition('.')[0]}, and importing it failed: {error}. Install it:"
            " pip install -r requirements/evaluation.txt, or run scripts/setup. JSON, CSV and the"
            " table on the terminal do without."
        ) from error
