"""Names of queries: in any script, and fit for a file whose columns are parted by spaces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vla_retrieval.errors import InvalidInputError


def checked_query_ids(query_ids: Sequence[str]) -> tuple[str, ...]:
    """Return query ids after a check, in their order.

    An id is printable text in any script, not empty, and without a space: TREC files part their
    columns by spaces. Printable leaves out every other white space (also the ideographic one), line
    breaks, byte order marks, and halves of surrogate pairs, which UTF-8 cannot hold.

    Raises:
        InvalidInputError: If an id is not such a text, or comes twice.
    """
    for query_id in query_ids:
        if not query_id or " " in query_id or not query_id.isprintable():
            raise InvalidInputError(
                "query_ids", "printable text without spaces", repr(query_id),
                "make_query_ids makes such ids from any text.",
            )  # fmt: skip
    if len(set(query_ids)) < len(query_ids):
        seen: set[str] = set()
        twice = next(q for q in query_ids if q in seen or seen.add(q))  # type: ignore[func-returns-value]
        raise InvalidInputError("query_ids", "each id once", f"{twice!r} twice")
    return tuple(query_ids)


def make_query_ids(texts: Iterable[str]) -> tuple[str, ...]:
    """Make one id for each text, as readable as the text: 拿起 杯子 becomes ``拿起_杯子``.

    Each run of characters that an id may not have becomes ``_``. From the second time on that an
    id would come, ``#2``, ``#3`` and so on is appended.
    """
    made: dict[str, None] = {}
    for text in texts:
        spaced = "".join(c if c.isprintable() else " " for c in text)
        stem = "_".join(spaced.split()) or "_"
        query_id, number = stem, 1
        while query_id in made:
            number += 1
            query_id = f"{stem}#{number}"
        made[query_id] = None
    return tuple(made)
