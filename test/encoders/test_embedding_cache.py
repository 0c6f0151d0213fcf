from __future__ import annotations

import threading

import numpy as np
import pytest

from vla_retrieval.encoders.cache import EmbeddingCache


def row(value: float) -> np.ndarray:
    return np.full(4, value, np.float32)


def test_text_unused_for_longest_makes_room():
    cache = EmbeddingCache(2)
    cache.put("a", row(1))
    cache.put("b", row(2))
    assert cache.get("a") is not None
    cache.put("c", row(3))
    assert cache.get("b") is None
    assert cache.get("a")[0] == 1
    assert len(cache) == 2


def test_cached_row_cannot_be_changed_through_either_end():
    cache, given = EmbeddingCache(2), row(1)
    cache.put("a", given)
    given[:] = 9
    kept = cache.get("a")
    assert kept[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 5


def test_capacity_of_nothing_keeps_nothing():
    cache = EmbeddingCache(0)
    cache.put("a", row(1))
    assert cache.get("a") is None


def test_cache_stays_whole_under_many_threads():
    cache = EmbeddingCache(8)

    def work(seed: int) -> None:
        for i in range(2000):
            key = str((i * seed) % 20)
            found = cache.get(key)
            assert found is None or found[0] == float(key)
            cache.put(key, row(float(key)))

    failures: list[BaseException] = []

    def guarded(seed: int) -> None:
        try:
            work(seed)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(seed,)) for seed in (3, 7, 11, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(cache) == 8
