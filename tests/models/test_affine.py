"""Where gains and biases start: constants, and the identity on the first batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from conftest import from_yaml
from torch import Tensor, nn

from bnexp.models import MODELS, Units
from bnexp.models.affine import AFFINES
from bnexp.models.init import INITS, adjust, initialize
from bnexp.norms import NORMS, Norm

IMAGES = (2, 12, 12)
RESTORABLE = [name for name in NORMS if NORMS.capabilities(name).restorable]


def model(name: str, norm: str, **changes: Any) -> nn.Module:
    units = Units(NORMS.bind(from_yaml("norm", norm) | changes), "relu", "before")
    config = {"depth": 8, "width": 4} if name == "resnet" else {}
    built = MODELS.bind(from_yaml("model", name) | config)(IMAGES, 3, units)
    initialize(built, INITS.bind(from_yaml("init", "kaiming"))(), 0)
    return built


def norms(net: nn.Module) -> list[Norm]:
    return [layer for layer in net.modules() if isinstance(layer, Norm)]


def start(net: nn.Module, affine: str, x: Tensor, **changes: Any) -> None:
    """What building does with a model."""
    rule = AFFINES.bind(from_yaml("affine", affine) | changes)()
    rule.fill(net)
    adjust(net, INITS.bind(from_yaml("init", "kaiming"))(), x, restore=rule.restore)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return 2 * torch.randn(16, *IMAGES) + 1


@pytest.mark.parametrize("norm", sorted(set(RESTORABLE) - {"weight_norm_mbn"}))  # its weights are others, too
@pytest.mark.parametrize("name", ["lenet", "mlp", "resnet"])
def test_identity_makes_a_batch_norm_net_the_net_without_norms_on_its_first_batch(name, norm, x):
    net, plain = model(name, norm), model(name, "none")
    assert (copy.deepcopy(net)(x) - plain(x)).abs().max() > 0.1
    start(net, "identity", x)
    wanted = plain(x)
    torch.testing.assert_close(net(x), wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())
    assert (net(x + 1) - plain(x + 1)).abs().max() > 1e-2


def test_the_variance_as_gain_does_not_restore_the_input():
    # A widely copied slip: the gain that restores is the root of variance and eps.
    layer, x = NORMS.bind(from_yaml("norm", "bn"))(5).double(), 3 * torch.randn(50, 5, dtype=torch.float64)
    layer.restore(x)
    right = layer.gain.detach().clone()
    torch.testing.assert_close(right, (x.var(0, correction=0) + 1e-5).sqrt(), rtol=0, atol=1e-12)
    with torch.no_grad():
        layer.gain.copy_(right**2)
    assert (layer(x) - x).abs().max() > 1


@pytest.mark.parametrize("norm", RESTORABLE)
def test_identity_needs_gain_and_bias(norm, x):
    changes = {"affine": False} | ({"init": "unit"} if "init" in NORMS.options(norm) else {})
    with pytest.raises(ValueError, match=r"^affine=identity: needs (a gain and )?a bias; use norm\.affine=true$"):
        start(model("lenet", norm, **changes), "identity", x)


@pytest.mark.parametrize("last_gain", [None, 0.0, 0.2])
@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_constant_fills_gains_and_biases_and_treats_last_ones_apart(norm, last_gain, x):
    net = model("resnet", norm)
    start(net, "constant", x, gain=0.5, bias=0.1, last_gain=last_gain)
    last = [layer for layer in norms(net) if layer.closes_branch]
    assert len(last) == 3
    assert len(norms(net)) == 7
    for layer in norms(net):
        expected = last_gain if layer in last and last_gain is not None else 0.5
        assert (layer.gain == expected).all()
        assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.1))


def test_a_last_gain_of_zero_makes_every_block_the_identity(x):
    net = model("resnet", "bn")
    start(net, "constant", x, gain=1.0, bias=0.0, last_gain=0.0)
    hidden = torch.rand(16, 4, 12, 12)
    assert torch.equal(net.stage1_block1(hidden), hidden)


def test_constant_leaves_out_what_a_norm_has_not(x):
    net = model("lenet", "none")
    start(net, "constant", x, gain=0.5, bias=0.1)
    assert all(
        layer.gain is None and torch.equal(layer.shift, torch.full_like(layer.shift, 0.1)) for layer in norms(net)
    )


def test_usual_leaves_what_the_norm_prescribes(x):
    net = model("resnet", "skipinit", alpha=0.25)
    start(net, "usual", x)
    assert [layer.gain.item() for layer in norms(net) if layer.gain is not None] == [0.25] * 3
    start(net, "constant", x, gain=1.0, bias=0.0, last_gain=0.5)
    assert [layer.gain.item() for layer in norms(net) if layer.gain is not None] == [0.5] * 3
