"""An index from the database: chosen, filled, fitted, and kept up with what is committed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vla_retrieval.memory import entries as store
from vla_retrieval.memory import kernels
from vla_retrieval.memory.codes import ROWS_TO_FIT as ROWS_FOR_CODES
from vla_retrieval.memory.codes import Codes
from vla_retrieval.memory.columns import facts_of
from vla_retrieval.memory.database import Database
from vla_retrieval.memory.halves import Half
from vla_retrieval.memory.hashing import ROWS_TO_FIT, HashCodes, Planes
from vla_retrieval.memory.index import Addition, Index, IndexKind
from vla_retrieval.memory.options import AUTO, MemoryOptions
from vla_retrieval.memory.tuning import held_out, tune
from vla_retrieval.memory.vectors import ByteVectors, Vectors, WholeVectors
from vla_retrieval.projection import Head
from vla_retrieval.types import Embeddings, Modality, Similarity

_log = logging.getLogger(__name__)

EXACT_UP_TO = 50_000
"""Rows up to which everything is compared: below 5 ms a query, and nothing to fit or to tune."""

FEWEST_TO_FIT = 2_000
"""Rows below which codes are not worth fitting, whatever was chosen."""

_COLUMN_BYTES = 100  # of an entry with a few tags (columns.py)
_CODE_BYTES_PER_NUMBER = 1 / 4  # where vectors differ along all axes
_DEAD_WORTH_REMOVING = 1 / 4
_BY_SIZE = (IndexKind.EXACT, IndexKind.HASH, IndexKind.PQ, IndexKind.PQ_SQ8)
_CLEARLY = 2  # times the rows that would still have the same kind
_GROWN = 1.5  # times the rows that the codes were fitted to
_ROWS_COPIED = 8_192
_PAUSE_SEC = 0.0005  # lets queries at the interpreter between two portions

GiveUp = Callable[[], bool]


class GivenUpError(Exception):
    """The memory is closing: what was begun is dropped. It never leaves the memory."""


def choose(options: MemoryOptions, rows: int, dim: int) -> IndexKind:
    """Return the kind of index for so many rows.

    ``auto`` compares everything while that is quick and fits into ``index_bytes``; then codes
    propose, beside whole vectors while those fit, else beside 8 bits per number.
    """
    if rows < FEWEST_TO_FIT:
        return IndexKind.EXACT
    if options.index != AUTO:
        return IndexKind(options.index)
    if rows <= EXACT_UP_TO and _fits_whole(options, rows, dim, 0):
        return IndexKind.EXACT
    coded = _fits_whole(options, rows, dim, dim * _CODE_BYTES_PER_NUMBER + 8)
    return IndexKind.PQ if coded else IndexKind.PQ_SQ8


def in_bytes(options: MemoryOptions, rows: int, dim: int, kind: IndexKind) -> bool:
    """Return whether an index of a kind over so many rows keeps vectors in 8 bits per number."""
    if kind is IndexKind.HASH:
        return not _fits_whole(options, rows, dim, dim / 8)
    return kind is IndexKind.PQ_SQ8


def _fits_whole(options: MemoryOptions, rows: int, dim: int, code_bytes: float) -> bool:
    return rows * (2 * (4 * dim + code_bytes) + _COLUMN_BYTES) <= options.index_bytes


def outgrown(index: Index, options: MemoryOptions) -> str:
    """Return why an index should be built anew, or ''."""
    rows = len(index)
    wanted = choose(options, rows, index.width)
    simpler = _BY_SIZE.index(wanted) < _BY_SIZE.index(index.kind)
    # Going back to a simpler kind needs a clear reason, or a memory at a limit would flap.
    clear = choose(options, _CLEARLY * rows, index.width) is wanted
    if wanted is not index.kind and (clear or not simpler):
        return f"{rows} entries are for {wanted.value}, not {index.kind.value}"
    if index.kind is IndexKind.HASH:
        # Back to whole vectors only with room to spare, for the same reason.
        some = rows if index.whole else _CLEARLY * rows
        if in_bytes(options, some, index.width, index.kind) is index.whole:
            return f"{rows} entries are for {'bytes' if index.whole else 'whole vectors'}"
    if index.kind is not IndexKind.EXACT and rows >= _GROWN * index.built_rows:
        return f"it was fitted to {index.built_rows} entries and there are {rows}"
    if index.columns.dead > max(1_000, _DEAD_WORTH_REMOVING * index.columns.rows):
        return f"{index.columns.dead} of its {index.columns.rows} rows are of removed entries"
    return ""


def build(
    database: Database,
    dim: int,
    similarity: Similarity,
    options: MemoryOptions,
    *,
    give_up: GiveUp = lambda: False,
    exact: bool = False,
    head: Head | None = None,
) -> Index:
    """Return an index over all entries.

    Entries may come and go meanwhile; ``catch_up`` puts that right.

    Args:
        database: Is read in many short transactions: SQLite's log could not be folded into the
            database during a long one.
        dim: Length of a stored embedding.
        similarity: How embeddings are compared.
        options: Which kind, and how fast and sure it must be.
        give_up: Asked now and then.
        exact: Whether to build an exact one whatever the options say.
        head: Projects the embeddings before they are compared, or None.

    Raises:
        GivenUpError: If ``give_up`` said yes.
        MemoryFormatError: If an entry is damaged.
    """
    with database.reading() as connection:
        ids = store.all_ids_in_order(connection, database.path)
    threads, vectors_in = options.search_threads, options.vectors_in
    index = Index.exact(dim, similarity, threads, head, vectors_in)
    kind = IndexKind.EXACT if exact else choose(options, len(ids), index.width)
    if kind is IndexKind.EXACT:
        add_after(index, database, give_up)
        return index
    started = time.perf_counter()
    bytewise = in_bytes(options, len(ids), index.width, kind)
    drawn, not_fitted = held_out(len(ids))
    with kernels.threads(options.build_threads):
        fit_to = np.delete(ids, not_fitted)
        planes = None
        if kind is IndexKind.HASH:
            halves, planes = _hashing(database, fit_to, index, give_up, bytewise=bytewise)
        else:
            halves = _quantizing(database, fit_to, index, give_up, bytewise=bytewise)
    index = replace(index, kind=kind, halves=halves, planes=planes, threads=options.build_threads)
    add_after(index, database, give_up)
    index.settle()
    index.built_rows = len(index)
    filled = time.perf_counter()
    tune(index, options.recall_target, drawn)
    index.threads = options.search_threads
    _log.info(
        "built index %s over %d entries: %.1f s to fit and fill, %.1f s to tune",
        kind.value, len(index), filled - started, time.perf_counter() - filled,
    )  # fmt: skip
    return index


def add_after(index: Index, database: Database, give_up: GiveUp = lambda: False) -> None:
    """Add the entries that come after the last one of an index which nobody else uses yet.

    Raises:
        GivenUpError: If ``give_up`` said yes.
        MemoryFormatError: If an entry is damaged.
    """
    last = int(index.columns.entry_ids[-1]) if index.columns.rows else 0
    while True:
        with database.reading() as connection:
            part = next(store.read_portions(connection, index.dim, database.path, last), None)
        if part is None:
            return
        if give_up():
            raise GivenUpError
        facts = [facts_of(entry) for entry in part.entries]
        index.add(Addition(part.entry_ids, facts, part.scenes, part.instructions))
        last = part.entry_ids[-1]
        time.sleep(_PAUSE_SEC)


def catch_up(index: Index, database: Database, *, removed: bool = True) -> None:
    """Make an index that nobody else uses yet hold what is committed, while nobody commits.

    Args:
        index: To be changed.
        database: What is committed.
        removed: Whether entries may have been removed since; where not, the ids of all need not
            be read, which takes seconds from a disk at a million entries.

    Raises:
        MemoryFormatError: If an entry is damaged.
    """
    add_after(index, database)
    if not removed:
        return
    with database.reading() as connection:
        stored = store.all_ids_in_order(connection, database.path)
    held = index.columns.entry_ids[index.columns.alive]
    index.remove(np.setdiff1d(held, stored, assume_unique=True).tolist())


def without_dead_rows(index: Index) -> Index:
    """Return a copy of an exact index without the rows of removed entries."""
    rows = np.flatnonzero(index.columns.alive).astype(np.int64)
    copy = Index.exact(index.dim, index.similarity, index.threads, index.head)
    copy.columns = index.columns.only(rows)
    for modality, half in copy.halves.items():
        old = index.halves[modality]
        assert isinstance(old.vectors, WholeVectors)
        half.vectors = old.vectors.empty()
        for start in range(0, len(rows), _ROWS_COPIED):
            half.vectors.append(old.vectors.take(rows[start : start + _ROWS_COPIED]))
        half.longest = old.longest
    return copy


def _quantizing(
    database: Database, ids: NDArray[np.int64], like: Index, give_up: GiveUp, *, bytewise: bool
) -> dict[Modality, Half]:
    """Return empty halves whose codes are fitted to samples of stored embeddings.

    Args:
        database: Where they are.
        ids: Of the entries that may be fitted to.
        like: An empty index that compares as that one will.
        give_up: Asked for each half.
        bytewise: Whether vectors are kept in 8 bits per number.
    """
    squares = like.similarity is Similarity.NEGATIVE_L2
    halves = {}
    for modality in Modality:
        sample = _sample(database, modality, ids, like, ROWS_FOR_CODES, give_up)
        codes = Codes.trained(sample, squares=squares)
        halves[modality] = Half(
            _empty(sample, like.halves[modality], squares=squares, bytewise=bytewise), codes
        )
    return halves


def _hashing(
    database: Database, ids: NDArray[np.int64], like: Index, give_up: GiveUp, *, bytewise: bool
) -> tuple[dict[Modality, Half], Planes | None]:
    """Return empty halves for binary codes, and planes where the head does not make those.

    Args are those of ``_quantizing``.
    """
    squares = like.similarity is Similarity.NEGATIVE_L2
    samples = {m: _sample(database, m, ids, like, ROWS_TO_FIT, give_up) for m in Modality}
    planes, bits = None, like.head.bits if like.head is not None else 0
    if not bits:
        planes = Planes.fitted(samples)
        bits = planes.bits
    halves = {
        modality: Half(
            _empty(sample, like.halves[modality], squares=squares, bytewise=bytewise),
            HashCodes(bits),
        )
        for modality, sample in samples.items()
    }
    return halves, planes


def _empty(sample: Embeddings, like: Half, *, squares: bool, bytewise: bool) -> Vectors:
    """Return where vectors like those of a sample are kept; whole ones as in a half."""
    if bytewise:
        return ByteVectors.fitted(sample, squares=squares)
    assert isinstance(like.vectors, WholeVectors)
    return like.vectors.empty()


def _sample(
    database: Database,
    modality: Modality,
    ids: NDArray[np.int64],
    like: Index,
    rows: int,
    give_up: GiveUp,
) -> Embeddings:
    """Return some stored embeddings as an index compares them."""
    if give_up():
        raise GivenUpError
    rng = np.random.default_rng(len(ids))
    chosen = np.sort(rng.choice(ids, min(rows, len(ids)), replace=False))
    parts = []
    for start in range(0, len(chosen), 256):
        some = chosen[start : start + 256].tolist()
        with database.reading() as connection:
            path = database.path
            parts.append(store.read_embeddings(connection, some, modality, like.dim, path)[1])
        time.sleep(_PAUSE_SEC)
    return like.compared(np.concatenate(parts), modality)
