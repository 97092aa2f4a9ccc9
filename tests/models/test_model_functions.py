"""cnn, plain, resmlp and rnn: parameters by closed formula, functions by independent ones, depth, members."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import from_yaml
from torch import nn

from bnexp.models import MODELS, Units
from bnexp.models.init import INITS, adjust, initialize
from bnexp.norms import NORMS
from bnexp.randomness import seed_streams

SHAPE, CLASSES = (2, 9, 7), 4


def build(name: str, *, norm: str = "bn", activation: str = "tanh", seed: int = 0, **changes: Any) -> nn.Module:
    units = Units(NORMS.bind(from_yaml("norm", norm)), activation, "before")
    model = MODELS.bind(from_yaml("model", name) | changes)(SHAPE, CLASSES, units)
    initialize(model, INITS.bind(from_yaml("init", "kaiming"))(), seed)
    seed_streams(model, seed)
    return model.double()


def images(*lead: int) -> torch.Tensor:
    return torch.randn(*lead, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("head", "inputs"), [("pool", 5), ("flatten", 5 * 3 * 2)])
def test_cnn_halves_the_sides_and_counts_its_parameters(head, inputs):
    model = build("cnn", widths=[3, 5], head=head)
    convolutions = 9 * (2 * 3 + 3 * 5) + 2 * (3 + 5)
    assert count(model) == convolutions + (inputs + 1) * CLASSES
    assert model[1](model[0](images(6))).shape == (6, 5, 3, 2)
    assert model(images(6)).shape == (6, CLASSES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": []}, r"model.widths=\[\]: empty"),
        ({"widths": [8, 0]}, r"model.widths=0: out of range; allowed is at least 1"),
        ({"kernel": 4}, "model.kernel=4: even kernels"),
    ],
)
def test_cnn_refuses_what_makes_no_net(changes, message):
    with pytest.raises(ValueError, match=message):
        build("cnn", **changes)


def test_the_plain_net_is_the_resnet_without_shortcuts():
    plain, resnet = build("plain", depth=14, width=3), build("resnet", depth=14, width=3)
    weights = [p for p in plain.parameters() if p.ndim == 4]
    assert [p.shape for p in weights] == [p.shape for p in resnet.parameters() if p.ndim == 4]
    assert count(plain) == count(resnet)
    x = images(4)
    h = x
    for unit in list(plain)[:-3]:
        h = torch.tanh(F.batch_norm(unit.linear(h), None, None, training=True))
    torch.testing.assert_close(plain(x), plain.head(h.mean((2, 3))), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="not 6n"):
        build("plain", depth=16)


def test_a_block_of_the_residual_perceptron_is_its_formula():
    block = build("resmlp", norm="none", width=5, blocks=1).block1
    x = torch.randn(3, 5, dtype=torch.float64)
    with torch.no_grad():
        block.first.linear.bias.normal_()
    inner = torch.tanh(torch.tanh(x) @ block.first.linear.weight.T + block.first.linear.bias)
    torch.testing.assert_close(block(x), x + inner @ block.linear.weight.T, rtol=0, atol=1e-12)


def test_fifty_blocks_pass_signal_and_gradient():
    model = build("resmlp", activation="relu", blocks=50, width=16)
    x = images(64)
    logits = model(x)
    assert 0.1 < logits.std() < 10
    F.cross_entropy(logits, torch.arange(64) % CLASSES).backward()
    norms = [p.grad.norm().item() for name, p in model.named_parameters() if name.endswith("first.linear.weight")]
    assert len(norms) == 50
    assert max(norms) < 100 * min(norms)


def recurrent_by_hand(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    cell = model.recurrent
    h = torch.zeros(len(x), cell.state.in_features, dtype=x.dtype)
    for row in range(SHAPE[1]):
        terms = []
        for norm, z in (
            (cell.input_norm, x[:, :, row].flatten(1) @ cell.input.weight.T),
            (cell.state_norm, h @ cell.state.weight.T),
        ):
            gain, bias = norm.steps[0].gain, norm.steps[0].bias
            terms.append((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() * gain + bias)
        h = torch.tanh(terms[0] + terms[1])
    return model.head(h)


@pytest.mark.parametrize("statistics", ["per_step", "shared"])
def test_the_recurrent_net_in_training_is_its_formula(statistics):
    model, x = build("rnn", statistics=statistics, noise=0.0, width=5), images(6)
    with torch.no_grad():
        for norm in (model.recurrent.input_norm, model.recurrent.state_norm):
            norm.steps[0].gain.uniform_(0.5, 1.5)
            norm.steps[0].bias.normal_()
    torch.testing.assert_close(model(x), recurrent_by_hand(model, x), rtol=0, atol=1e-10)


def test_statistics_of_each_time_step_are_its_own_and_gain_and_bias_are_not():
    model, x = build("rnn", statistics="per_step", noise=0.0, width=5), images(6)
    norms = model.recurrent.input_norm.steps
    model(x)
    assert len(norms) == SHAPE[1]
    assert len({norm.gain.data_ptr() for norm in norms}) == 1
    for row, norm in enumerate(norms):
        z = x[:, :, row].flatten(1) @ model.recurrent.input.weight.T
        torch.testing.assert_close(norm.running_mean, 0.1 * z.mean(0), rtol=0, atol=1e-12)
    assert len(build("rnn", statistics="shared").recurrent.input_norm.steps) == 1
    assert len(build("rnn", norm="ln").recurrent.input_norm.steps) == 1


def test_the_first_state_is_noise_in_training_and_zero_in_evaluation():
    model, again, x = build("rnn", norm="none", noise=0.5), build("rnn", norm="none", noise=0.5), images(6)
    first, second = model(x), model(x)
    assert (first - second).abs().max() > 1e-3
    assert torch.equal(first, again(x))
    states = [model.recurrent._first(images(500)) for _ in range(4)]
    assert abs(torch.stack(states).std().item() - 0.5) < 0.01
    assert torch.equal(model.eval()(x), model(x))
    assert torch.equal(model.recurrent._first(x), torch.zeros(6, 64, dtype=torch.float64))


def test_the_norms_of_all_time_steps_name_their_parameters_once():
    from bnexp.models.layers import norm_parameters

    assert norm_parameters(build("rnn", statistics="per_step")) == [
        f"recurrent.{norm}.steps.0.{leaf}" for norm in ("input_norm", "state_norm") for leaf in ("gain", "bias")
    ]


def test_each_recurrent_map_is_listed_with_its_own_norm():
    from bnexp.models.layers import layers

    found = {name: set(layer.parameters) for name, layer in layers(build("rnn", statistics="per_step")).items()}
    for name in ("input", "state"):
        norm = f"recurrent.{name}_norm.steps.0"
        assert found[f"recurrent.{name}"] == {f"recurrent.{name}.weight", f"{norm}.gain", f"{norm}.bias"}


@pytest.mark.parametrize(
    ("norm", "init", "restore", "message"),
    [
        ("bn", "lsuv", False, "init: this rule sets layers by their first input"),
        ("bn", "kaiming", True, "affine=identity: sets layers by their first input"),
        ("weight_norm", "kaiming", False, "norm.init=data: sets gain and bias by a layer's first input"),
        ("weight_norm_mbn", "kaiming", False, "norm.init=data: sets gain and bias by a layer's first input"),
    ],
)
def test_rules_for_a_first_input_are_refused_by_a_recurrent_net(norm, init, restore, message):
    model = build("rnn", norm=norm, statistics="per_step")
    with pytest.raises(ValueError, match=f"^{message}, and a recurrent one has an input a time step"):
        adjust(model, INITS.bind(from_yaml("init", init))(), images(6), restore=restore)


def test_each_time_step_has_frozen_statistics_of_its_own():
    frozen, bn = build("rnn", norm="frozen_bn", statistics="per_step"), build("rnn", statistics="per_step")
    x, others = images(6), 2 * images(6) + 1
    before = bn(x)
    adjust(frozen, INITS.bind(from_yaml("init", "kaiming"))(), x, restore=False)
    for norm in frozen.recurrent.input_norm.steps:
        assert norm.batches_seen == 1
    frozen(others)
    frozen.recurrent.stream.load_state_dict(build("rnn").recurrent.stream.state_dict())
    torch.testing.assert_close(frozen(x), before, rtol=0, atol=1e-10)


def test_the_schedule_of_renormalization_counts_batches_once_and_not_time_steps():
    for statistics in ("per_step", "shared"):
        units = Units(NORMS.bind(from_yaml("norm", "batch_renorm")), "tanh", "before", steps=10)
        model = MODELS.bind(from_yaml("model", "rnn") | {"statistics": statistics})(SHAPE, CLASSES, units).double()
        seed_streams(model, 0)
        for _ in range(5):
            model(images(6))
        norm = model.recurrent.input_norm.steps[0]
        assert norm.batches_trained / norm.steps == 0.5
