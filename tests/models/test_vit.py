"""The vision transformer against torch's own blocks, and the places of its norms."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL, composed, from_yaml
from torch import Tensor, nn

from bnexp.config.compose import plain
from bnexp.experiment.setup import build
from bnexp.models import MODELS, Units
from bnexp.models.vit import Attention, positions
from bnexp.norms import NORMS, Norm

CLOSE = {"rtol": 0, "atol": 1e-12}


def vit(norm: str = "ln_c", shape: tuple[int, ...] = (1, 8, 8), **changes) -> nn.Module:
    """A transformer with random numbers everywhere, in float64."""
    units = Units(NORMS.bind(from_yaml("norm", norm)), "gelu", "before")
    torch.manual_seed(0)
    model = MODELS.bind(from_yaml("model", "vit") | {"patch": 2, "width": 8, "heads": 2} | changes)(shape, 3, units)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1, 1)
    return model.double()


def tokens(seed: int = 0) -> Tensor:
    return torch.randn(5, 8, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("order", ["pre", "post"])
def test_a_block_is_torchs(order):
    block = vit(order=order).block1
    theirs = nn.TransformerEncoderLayer(
        *(8, 2, 32), dropout=0.0, activation="gelu", batch_first=True, norm_first=order == "pre", dtype=torch.float64
    )
    attention, perceptron = block.attention, block.perceptron
    first, second = (each.before if order == "pre" else each.behind for each in (attention, perceptron))
    for layer in (first, second):
        layer.eps = 1e-5
    pairs = [
        (theirs.self_attn.in_proj_weight, attention.inner.qkv.weight.squeeze(2)),
        (theirs.self_attn.in_proj_bias, attention.inner.qkv.bias),
        (theirs.self_attn.out_proj.weight, attention.inner.out.weight.squeeze(2)),
        (theirs.self_attn.out_proj.bias, attention.inner.out.bias),
        *((getattr(layer, name), getattr(own, other)) for layer, own in ((theirs.norm1, first), (theirs.norm2, second))
          for name, other in (("weight", "gain"), ("bias", "bias"))),
        (theirs.linear1.weight, perceptron.inner.first.weight.squeeze(2)),
        (theirs.linear1.bias, perceptron.inner.first.bias),
        (theirs.linear2.weight, perceptron.inner.second.weight.squeeze(2)),
        (theirs.linear2.bias, perceptron.inner.second.bias),
    ]  # fmt: skip
    with torch.no_grad():
        for their, own in pairs:
            their.copy_(own)
    x = tokens()
    torch.testing.assert_close(block(x), theirs(x.transpose(1, 2)).transpose(1, 2), **CLOSE)


def test_a_sandwich_normalizes_a_branch_on_both_sides():
    half = vit(order="sandwich").block1.perceptron
    x = tokens()
    inner = half.inner(half.before(x))
    torch.testing.assert_close(half(x), x + half.inside(inner), **CLOSE)
    mean, var = inner.mean(1, keepdim=True), inner.var(1, keepdim=True, correction=0)
    wanted = (inner - mean) / (var + half.inside.eps).sqrt()
    gain, bias = half.inside.gain[:, None], half.inside.bias[:, None]
    torch.testing.assert_close(half.inside(inner), gain * wanted + bias, **CLOSE)


@pytest.mark.parametrize(("order", "count"), [("pre", 5), ("post", 4), ("sandwich", 9)])
def test_how_many_norms_an_order_has(order, count):
    assert len([layer for layer in vit(order=order).modules() if isinstance(layer, Norm)]) == count


def test_normalized_queries_and_keys_make_attention_blind_to_their_size():
    attention = Attention(8, 2, qk_norm=True).double()
    x, before = tokens(), attention(tokens())
    with torch.no_grad():
        attention.qkv.weight[:16] *= 1000
        attention.qkv.bias[:16] *= 1000
    torch.testing.assert_close(attention(x), before, rtol=0, atol=1e-4)
    bare = Attention(8, 2, qk_norm=False).double()
    bare.load_state_dict(attention.state_dict(), strict=False)
    assert not torch.allclose(bare(x), before, atol=1e-2)


def test_norms_of_queries_and_keys_have_a_gain_and_no_bias():
    attention = Attention(8, 2, qk_norm=True)
    names = {name for name, _ in attention.named_parameters() if "norm" in name}
    assert names == {"q_norm.gain", "k_norm.gain"}


def test_positions_tell_rows_from_columns():
    found = positions(8, 3, 4, like=torch.empty(0, dtype=torch.float64))
    rates = [1.0, 0.01]  # 10000^(-i / 2), i = 0, 1
    for row in range(3):
        for column in range(4):
            angles = [[rate * at for rate in rates] for at in (row, column)]
            wanted = torch.cat([torch.cat([a.sin(), a.cos()]) for a in torch.tensor(angles, dtype=torch.float64)])
            torch.testing.assert_close(found[:, row, column], wanted, **CLOSE)


@pytest.mark.parametrize(
    ("norm", "order"),
    [*((norm, "pre") for norm in ("ln_c", "rms_c", "dyt", "bn", "none")), ("ln_c", "post"), ("bn", "sandwich")],
)
def test_a_stack_learns_as_its_members_do(norm, order):
    words = (*SMALL[3:], "model=vit", "model.patch=2", "model.width=8", "model.qk_norm=true", f"model.order={order}")
    gradients = []
    for stacked in (False, True):
        configs = [plain(composed(*words, f"norm={norm}", "precision=fp64", f"seed={seed}")) for seed in (0, 1)]
        training = build(configs, stacked=stacked).training
        loss_M, _ = training.population.learn(*training.batches(0), training.precision)
        gradients.append((loss_M, training.population.gradient_MP.clone()))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)
    assert gradients[0][1].abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 3}, r"^model.patch=3: does not divide 8x8 images \(allowed: \[1, 2, 4, 8\]\)$"),
        ({"width": 6}, r"^model.width=6: not a multiple of 4 and of model.heads=2$"),
        ({"heads": 3}, r"^model.width=8: not a multiple of 4 and of model.heads=3$"),
        ({"norm": "weight_norm"}, r"^norm=weight_norm: acts on weights or branches"),
    ],
)
def test_sizes_and_norms_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        vit(**changes)
