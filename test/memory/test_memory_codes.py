"""Short codes: what they are fitted to, and what they propose."""

from __future__ import annotations

import numpy as np
import pytest

from vla_retrieval.memory import blocks, kernels, tuning
from vla_retrieval.memory.codes import Codes, Selection
from vla_retrieval.memory.columns import facts_of
from vla_retrieval.memory.halves import Half, Ready, scans_of
from vla_retrieval.memory.index import Addition, Index, IndexKind
from vla_retrieval.memory.tuning import held_out
from vla_retrieval.memory.vectors import WholeVectors
from vla_retrieval.types import Embeddings, Modality, NewEntry, Similarity

DIM, COUNT, FEW = 64, 1500, 16


def in_few_axes(seed: int, count: int = COUNT, axes: int = FEW) -> Embeddings:
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((DIM, axes)))[0]
    return (rng.standard_normal((count, axes)) @ basis.T).astype(np.float32)


def filled(vectors: Embeddings, *, squares: bool) -> Codes:
    codes = Codes.trained(vectors, squares=squares)
    codes.append(vectors)
    return codes


def share_found(codes: Codes, vectors: Embeddings, queries: Embeddings, *, squares: bool) -> float:
    shares = []
    for query in queries:
        scores = -np.square(vectors - query).sum(axis=1) if squares else vectors @ query
        best = np.argsort(-scores)[:10]
        shares.append(np.isin(best, codes.propose(query, 100, None)).mean())
    return float(np.mean(shares))


@pytest.mark.parametrize("squares", [False, True])
def test_a_direction_that_all_vectors_share_hides_nothing(squares: bool) -> None:
    shared = np.full(DIM, 5, dtype=np.float32)
    vectors, queries = in_few_axes(1) + shared, in_few_axes(2, 20) - shared
    assert share_found(filled(vectors, squares=squares), vectors, queries, squares=squares) > 0.9


@pytest.mark.parametrize("rows", [32, 64, 128])
def test_codes_are_found_however_many_are_scanned_together(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "fastest", lambda *_: rows)
    vectors, queries = in_few_axes(1), in_few_axes(2, 20)
    codes = filled(vectors, squares=False)
    assert share_found(codes, vectors, queries, squares=False) > 0.9
    again = Codes.from_bytes(codes.to_bytes())
    for query in queries:
        assert set(again.propose(query, 50, None)) == set(codes.propose(query, 50, None))


@pytest.mark.parametrize(("width", "parts"), [(1, 1), (3, 3), (5, 1), (16, 8), (144, 72)])
def test_the_fastest_block_is_one_that_can_be_scanned(width: int, parts: int) -> None:
    assert blocks.fastest(width, parts, 4) in (32, 64, 128)


def test_vectors_that_differ_along_few_axes_have_shorter_codes() -> None:
    few, many = (filled(in_few_axes(1, axes=n), squares=False) for n in (FEW, DIM))
    assert few.size_bytes < many.size_bytes


def test_entries_that_are_all_alike_are_found_all_the_same() -> None:
    alike = np.full((COUNT, DIM), 1 / 8, dtype=np.float32)
    halves = {
        m: Half(WholeVectors(DIM, squares=False), Codes.trained(alike, squares=False))
        for m in Modality
    }
    index = Index(DIM, Similarity.COSINE, IndexKind.PQ, halves)
    facts = [facts_of(NewEntry(instruction="stand", stamp_ns=0))] * COUNT
    index.add(Addition(range(COUNT), facts, alike, alike))
    with kernels.threads(1):
        scans = scans_of(
            Similarity.COSINE, [Ready(Modality.SCENE, alike[0], 1.0, Modality.SCENE, None)]
        )
        assert len(index.propose(scans, 10, None, COUNT)) >= 10
        mask = np.arange(COUNT) >= COUNT - 20
        assert set(index.propose(scans, 10, mask, 20)) <= set(range(COUNT - 20, COUNT))


def test_rows_that_have_no_code_yet_are_proposed_with_the_others() -> None:
    vectors = in_few_axes(1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    halves = {m: Half(WholeVectors(DIM, squares=False), Codes.trained(vectors, squares=False))
              for m in Modality}  # fmt: skip
    index = Index(DIM, Similarity.COSINE, IndexKind.PQ, halves)
    facts = [facts_of(NewEntry(instruction="go", stamp_ns=0))]
    last = COUNT - 5
    index.add(Addition(range(last), facts * last, vectors[:last], vectors[:last]))
    for row in range(last, COUNT):
        one = vectors[row : row + 1]
        index.add(Addition([row], facts, one, one))
    assert halves[Modality.SCENE].coded == last
    with kernels.threads(1):
        scans = scans_of(
            Similarity.COSINE, [Ready(Modality.SCENE, vectors[-1], 1.0, Modality.SCENE, None)]
        )
        assert set(range(last, COUNT)) <= set(index.propose(scans, 10, None, COUNT, 32).tolist())
        mask = np.arange(COUNT) % 2 == 0
        found = index.propose(scans, 10, mask, COUNT // 2, 32)
        assert set(found.tolist()) >= {row for row in range(last, COUNT) if row % 2 == 0}
        assert mask[found].all()
        assert (np.diff(found) > 0).all()
        index.settle()
        assert halves[Modality.SCENE].coded == COUNT
        assert COUNT - 1 in index.propose(scans, 10, None, COUNT, 32)


def coded(vectors: Embeddings) -> Index:
    """Return an index of both halves alike, each row with its code."""
    halves = {m: Half(WholeVectors(DIM, squares=False), Codes.trained(vectors, squares=False))
              for m in Modality}  # fmt: skip
    index = Index(DIM, Similarity.COSINE, IndexKind.PQ, halves)
    facts = [facts_of(NewEntry(instruction="go", stamp_ns=0))] * len(vectors)
    index.add(Addition(range(len(vectors)), facts, vectors, vectors))
    index.settle()
    return index


def test_the_more_are_wanted_the_more_are_proposed() -> None:
    """Depths are tuned for ten: where nearly as many are wanted as those are, many are missed."""
    vectors, queries, wanted, depth = in_few_axes(1), in_few_axes(2, 20), 30, 32
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = coded(vectors)
    shares = []
    with kernels.threads(1):
        for query in queries:
            ready = Ready(Modality.SCENE, query, 1.0, Modality.SCENE, None)
            scans = scans_of(Similarity.COSINE, [ready])
            best = np.argsort(-vectors @ query)[:wanted]
            found = index.propose(scans, wanted, None, COUNT, depth)
            shares.append(np.isin(best, found).mean())
    assert np.mean(shares) > 0.9


def test_with_a_filter_more_rows_are_proposed_the_fewer_pass() -> None:
    """The best of a part lie farther from a query, where codes tell less apart."""
    vectors = in_few_axes(1, 4000)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    halves = {m: Half(WholeVectors(DIM, squares=False), Codes.trained(vectors, squares=False))
              for m in Modality}  # fmt: skip
    index = Index(DIM, Similarity.COSINE, IndexKind.PQ, halves)
    facts = [facts_of(NewEntry(instruction="go", stamp_ns=0))] * 4000
    index.add(Addition(range(4000), facts, vectors, vectors))
    index.settle()
    ready = Ready(Modality.SCENE, vectors[7], 1.0, Modality.SCENE, None)
    scans, proposed = scans_of(Similarity.COSINE, [ready]), []
    with kernels.threads(1):
        for share in (1.0, 0.9, 0.5, 0.1):
            mask = np.random.default_rng(3).random(4000) < share
            count = int(mask.sum())
            proposed.append(len(index.propose(scans, 10, mask, count, 40)))
    assert proposed == sorted(proposed)
    assert proposed[0] < 100
    assert proposed[-1] > 200


@pytest.mark.parametrize("share", [0.9, 0.5, 0.3, 0.1])
@pytest.mark.parametrize("with_the_query", [True, False, None])
def test_what_passes_a_filter_is_proposed_as_if_nothing_else_were_there(
    share: float, with_the_query: bool | None
) -> None:
    """Also where a filter lets just those pass that look best, or worst."""
    vectors = in_few_axes(1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = coded(vectors)
    query, depth, count = vectors[7], 40, int(share * COUNT)
    order = np.random.default_rng(3).permutation(COUNT)
    if with_the_query is not None:
        order = np.argsort(vectors @ query if not with_the_query else -vectors @ query)
    mask = np.zeros(COUNT, dtype=np.bool_)
    mask[order[:count]] = True
    scans = scans_of(Similarity.COSINE, [Ready(Modality.SCENE, query, 1.0, Modality.SCENE, None)])
    codes = index.halves[Modality.SCENE].codes
    assert isinstance(codes, Codes)
    with kernels.threads(1):
        found = index.propose(scans, 10, mask, count, depth)
        alone = codes.propose(query, depth, Selection(mask))
    assert mask[found].all()
    assert len(found) >= depth
    assert len(np.setdiff1d(alone, found)) <= 3  # that tie in the codes with others


def test_codes_from_their_bytes_propose_and_grow_as_before() -> None:
    before = filled(in_few_axes(1), squares=False)
    after = Codes.from_bytes(before.to_bytes())
    for codes in (before, after):
        codes.append(in_few_axes(3, 100))
    for query in in_few_axes(2, 5):
        proposed = [np.sort(c.propose(query, 50, None)) for c in (before, after)]
        np.testing.assert_array_equal(*proposed)


@pytest.mark.parametrize("rows", [2_000, 100_000])
def test_codes_are_not_fitted_to_the_rows_that_they_are_tuned_with(rows: int) -> None:
    drawn, not_fitted = held_out(rows)
    assert np.isin(drawn, not_fitted).all()
    assert 0 < len(not_fitted) <= rows / 8
    assert not_fitted.min() >= 0
    assert not_fitted.max() < rows


def test_a_depth_is_taken_only_where_it_surely_reaches_the_recall(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By chance the mean over some queries lies above what new ones will find."""

    def measured(_: object, __: object, depth: int) -> tuple[float, float]:
        return 0.995, 0.004 if depth < 512 else 0.001

    monkeypatch.setattr(tuning, "_measure", measured)
    assert tuning._least(Index.exact(DIM, Similarity.COSINE), [], 0.99) == (512, 0.995)
