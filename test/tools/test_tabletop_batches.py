from collections.abc import Iterator

import pytest

pytest.importorskip("torch")
pytest.importorskip("open_clip")

from tools.tabletop.batches import prefetched


def torn(whole: int) -> Iterator[int]:
    """Yield some items, then fail as a file that is cut off does."""
    yield from range(whole)
    raise OSError("cut off")


@pytest.mark.timeout(30)
def test_items_made_ahead_come_in_order_and_end():
    assert list(prefetched(iter(range(10)), depth=2)) == list(range(10))


@pytest.mark.timeout(30)
def test_what_goes_wrong_while_an_item_is_made_ends_training_and_does_not_hang_it():
    items = prefetched(torn(3), depth=2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="cut off"):
        next(items)
