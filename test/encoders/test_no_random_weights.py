from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from vla_retrieval.encoders.no_random_weights import NoRandomWeights  # noqa: E402


@pytest.mark.parametrize("draw", [
    torch.nn.init.normal_, torch.nn.init.uniform_, torch.nn.init.trunc_normal_,
    torch.nn.init.xavier_uniform_, torch.nn.init.kaiming_normal_,
])  # fmt: skip
def test_nothing_is_drawn(draw):
    tensor, state = torch.full((4, 4), 0.5), torch.get_rng_state()
    with NoRandomWeights():
        draw(tensor)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_computed_stays_computed(torch_module):
    import open_clip

    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 10, "width": 32, "heads": 2, "layers": 1}
    plain = open_clip.CLIP(16, vision, text)
    with NoRandomWeights():
        quick = open_clip.CLIP(16, vision, text)
    assert torch.equal(quick.attn_mask, plain.attn_mask)
    assert torch.equal(quick.visual.ln_pre.weight, plain.visual.ln_pre.weight)
    assert torch.equal(quick.logit_scale, plain.logit_scale)


def test_drawing_goes_on_afterwards(torch_module):
    with NoRandomWeights():
        pass
    assert torch_module.zeros(3).normal_().abs().sum() > 0
