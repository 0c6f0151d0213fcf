"""Cutting the text context changes nothing: the oracle is open_clip's own ``encode_text``."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from vla_retrieval.encoders.towers import TextCut, TextTower  # noqa: E402


@pytest.fixture(scope="module")
def causal(torch_module):
    """Models whose text tower may be cut: open_clip's two forms, with both kinds of pooling."""
    made = []
    for seed, (custom, pool) in enumerate([(False, "argmax"), (True, "argmax"), (True, "eos")]):
        torch_module.manual_seed(seed)
        text = {
            "context_length": 40, "vocab_size": 1000, "width": 32, "heads": 2, "layers": 2,
            "pool_type": pool, "eos_id": 999,
        }  # fmt: skip
        kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
        vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
        made.append(kind(16, vision, text).eval())
    return made


def rows(lengths: list[int]):
    """Rows of 40 tokens with an end of text after so many, as a tokenizer makes them."""
    tokens = torch.zeros(len(lengths), 40, dtype=torch.int64)
    generator = torch.Generator().manual_seed(sum(lengths))
    for row, length in zip(tokens, lengths, strict=True):
        row[: length - 1] = torch.randint(1, 900, (length - 1,), generator=generator)
        row[length - 1] = 999
    return tokens


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=4))
def test_cut_rows_have_the_embeddings_of_whole_ones(causal, lengths):
    tokens = rows(lengths)
    for model in causal:
        tower = TextTower(model, 40)
        with torch.inference_mode():
            whole = model.encode_text(tokens, normalize=True)
            cut = torch.nn.functional.normalize(tower(tower.cut.cut(tokens)), dim=-1)
        assert float((whole - cut).abs().max()) < 1e-6


@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=4))
def test_rows_are_cut_to_the_next_length_after_the_longest(lengths):
    cut = TextCut(40, "argmax")
    assert cut.lengths == (8, 12, 16, 24, 32, 40)
    length = cut.cut(rows(lengths)).shape[1]
    assert length == min(step for step in cut.lengths if step >= max(lengths))


@pytest.mark.parametrize(
    "text", [{"no_causal_mask": True}, {"pool_type": "last"}, {"embed_cls": True}]
)
def test_tower_that_reads_the_rest_is_never_cut(torch_module, text):
    torch_module.manual_seed(5)
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    plain = {"context_length": 40, "vocab_size": 1000, "width": 32, "heads": 2, "layers": 1}
    model = open_clip.CustomTextCLIP(16, vision, {**plain, **text}).eval()
    tower = TextTower(model, 40)
    tokens = rows([5, 9])
    assert tower.cut.lengths == (40,)
    assert tower.cut.cut(tokens) is tokens
    with torch.inference_mode():
        assert torch.equal(tower(tokens), model.encode_text(tokens))
