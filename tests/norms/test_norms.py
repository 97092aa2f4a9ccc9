"""All norms: common tests that run for every registered name, then what is particular to one.

A norm's options are read from its yaml. Its reference stands in REFERENCES, as the sets of values S_i that share a mean
and a variance (Wu & He 2018, eq. 1-7), written with loops over single values and no function of ``torch.nn``.
"""

from __future__ import annotations

import io
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import formulas_batch
import formulas_sample
import formulas_weights
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from bnexp.norms import NORMS, BatchStatistics, Norm
from bnexp.norms.base import per_channel
from bnexp.norms.group import _largest_divisor, fitting_groups

CONFIGS = ROOT / "configs" / "norm"
CHANNELS = 9  # gn makes 3 groups of 3 of them; with 2 values a group, x_hat would be +-1 and nearly all gradients 0
SHAPES = {"vectors": (5, CHANNELS), "sequences": (4, CHANNELS, 3), "maps": (3, CHANNELS, 2, 2)}
# What the families say of themselves: common tests that a norm's definition contradicts.
FAMILIES = (formulas_batch, formulas_sample, formulas_weights)
# Norms that need more values than the others, with shapes that have them.
OWN_SHAPES = formulas_sample.OWN_SHAPES
EXACT = {"rtol": 0, "atol": 1e-10}


# ---------------------------------------------------------------------------------------------------------- references


def sets_of_gn(index: tuple[int, ...], options: dict[str, Any]) -> tuple[int, ...]:
    divisors = [d for d in range(1, options["groups"] + 1) if CHANNELS % d == 0 and CHANNELS // d >= 2]
    return index[0], index[1] // (CHANNELS // max(divisors))


SETS: dict[str, Callable[[tuple[int, ...], dict[str, Any]], Any]] = {
    "bn": lambda index, _: index[1],
    "bn_scratch": lambda index, _: index[1],
    "ln": lambda index, _: index[0],
    "ln_c": lambda index, _: (index[0], *index[2:]),
    "in": lambda index, _: index[:2],
    "gn": sets_of_gn,
}


def positions_of_sets(name: str, shape: tuple[int, ...]) -> list[tuple[Tensor, ...]]:
    sets = defaultdict(list)
    for index in np.ndindex(*shape):
        sets[SETS[name](index, config(name))].append(index)
    return [tuple(torch.tensor(axis) for axis in zip(*indices, strict=True)) for indices in sets.values()]


def standardized_by_sets(name: str) -> Callable[[Tensor], Tensor]:
    def x_hat(x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for where in positions_of_sets(name, tuple(x.shape)):
            values = x[where]
            mean = values.sum() / values.numel()
            var = ((values - mean) ** 2).sum() / values.numel()
            y = y.index_put(where, (values - mean) / (var + config(name)["eps"]) ** 0.5)
        return y

    return x_hat


REFERENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    **{name: standardized_by_sets(name) for name in SETS},
}


FORMULAS: dict[str, Callable[[Norm, Tensor], Tensor]] = {}
for family in FAMILIES:
    FORMULAS |= family.FORMULAS


def formula(norm: Norm, name: str, x: Tensor) -> Tensor:
    if name in FORMULAS:
        return FORMULAS[name](norm, x)
    x_hat = REFERENCES[name](x)
    scaled = x_hat if norm.gain is None else per_channel(norm.gain, x) * x_hat
    return scaled if norm.bias is None else scaled + per_channel(norm.bias, x)


# ------------------------------------------------------------------------------------------------------------- helpers


def config(name: str) -> dict[str, Any]:
    path = CONFIGS / f"{name}.yaml"
    if not path.exists():
        pytest.fail(f"norm={name} is registered but has no {path}: it holds the name and the number of every option")
    return yaml.safe_load(path.read_text())


def build(name: str, channels: int = CHANNELS, **changes: Any) -> Any:
    """A double precision norm in training mode with random parameters, options from the yaml but for the changes."""
    norm = NORMS.bind(config(name) | changes)(channels).double()
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return norm


def normal(*shape: int) -> Tensor:
    return 2 * torch.randn(*shape, dtype=torch.float64) + 1


def gradients(y: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Of a function of y whose derivative differs everywhere, with the same numbers at every call."""
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y).sin()
    return torch.autograd.grad((weights * y).sum(), inputs)


def buffers(norm: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in norm.named_buffers()}


def assert_close(a: Any, b: Any, **tolerance: float) -> None:
    torch.testing.assert_close(a, b, **({"check_dtype": False, **EXACT} | tolerance))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def cases(names: Any) -> list[Any]:
    return [
        pytest.param(name, OWN_SHAPES.get((name, rank), shape), id=f"{name}-{rank}")
        for name in names
        for rank, shape in SHAPES.items()
        if rank in NORMS.capabilities(name).ranks
    ]


def every_norm(law: str) -> Any:
    """All norms but those whose definition contradicts this law."""
    names = [name for name in NORMS if not any(name in family.EXEMPT.get(law, ()) for family in FAMILIES)]
    return pytest.mark.parametrize(("name", "shape"), cases(names))


every_reference = pytest.mark.parametrize(("name", "shape"), cases(sorted({**REFERENCES, **FORMULAS})))
every_statistic = pytest.mark.parametrize(("name", "shape"), cases(sorted(SETS)))
both_modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
batch_norms = pytest.mark.parametrize("name", ["bn", "bn_scratch"])


# ------------------------------------------------------------------------------------------------------- every norm


def test_built_in_norms_have_a_reference_and_a_yaml():
    built_in = {name for name in NORMS if NORMS[name].__module__.startswith("bnexp.")}
    missing = built_in - set(REFERENCES) - set(FORMULAS)
    assert not missing, f"add the formula of {sorted(missing)} to SETS or REFERENCES, or to a family's FORMULAS"
    for name in built_in:
        assert config(name)["name"] == name
        NORMS.bind(config(name))


def test_yamls_have_a_builder_and_say_where_they_come_from():
    for path in CONFIGS.glob("*.yaml"):
        assert path.stem in list(NORMS), f"{path} names no registered norm"
        assert path.stem == "none" or path.read_text().startswith("# "), f"{path} does not begin with a comment"


@every_norm("gradcheck")
@both_modes
def test_gradients_match_finite_differences(name, shape, training):
    norm = build(name).train(training)
    parameters = dict(norm.named_parameters())

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(norm, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (normal(*shape).requires_grad_(), *parameters.values()))


@every_norm("modes")
def test_only_batch_statistics_make_training_and_evaluation_differ(name, shape):
    norm, x = build(name), normal(*shape)
    trained = norm.train()(x)
    before = buffers(norm)
    evaluated = norm.eval()(x)
    assert_close(buffers(norm), before, atol=0)
    if isinstance(norm, BatchStatistics):
        assert (trained - evaluated).abs().max() > 0.1
    else:
        assert_close(trained, evaluated, atol=0)


@every_norm("alone")
def test_in_evaluation_no_sample_sees_another(name, shape):
    norm, x = build(name), normal(*shape)
    norm(x)
    norm.eval()
    alone = torch.cat([norm(sample[None]) for sample in x])
    assert_close(alone, norm(x))


@every_norm("order")
def test_order_of_the_batch_does_not_matter(name, shape):
    norm, x = build(name), normal(*shape)
    assert_close(norm(x.flip(0)), norm(x).flip(0))


@every_norm("stacked")
@both_modes
@pytest.mark.parametrize("shared", [True, False], ids=["shared_x", "own_x"])
def test_stacked_population_equals_members_one_by_one(name, shape, training, shared):
    members = [build(name).train(training) for _ in range(3)]
    for member in members:
        member.train()(normal(*shape))
        member.train(training)
    parameters, stacked_buffers = stack_module_state(members)
    x_M = normal(*shape).expand(3, *shape) if shared else normal(3, *shape)
    y_M = vmap(lambda p, b, x: functional_call(members[0], (p, b), (x,)), in_dims=(0, 0, None if shared else 0))(
        parameters, stacked_buffers, x_M[0] if shared else x_M
    )
    grad_M = torch.autograd.grad(y_M.sin().sum(), list(parameters.values()))
    for m, member in enumerate(members):
        y = member(x_M[m])
        assert_close(y_M[m], y)
        assert_close([g[m] for g in grad_M], list(torch.autograd.grad(y.sin().sum(), list(member.parameters()))))
        assert_close({key: value[m] for key, value in stacked_buffers.items()}, buffers(member))


@every_norm("state")
def test_state_dict_round_trip(name, shape):
    norm, other = build(name), build(name)
    norm(normal(*shape))
    file = io.BytesIO()
    torch.save(norm.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = normal(*shape)
    assert_close(other.eval()(x), norm.eval()(x), atol=0)
    assert_close(dict(other.state_dict()), dict(norm.state_dict()), atol=0)


@every_norm("constant")
@both_modes
def test_constant_input_stays_finite(name, shape, training):
    norm = build(name).train(training)
    x = torch.full(shape, 3.0, dtype=torch.float64, requires_grad=True)
    y = norm(x)
    for tensor in (y, *gradients(y, x, *norm.parameters())):
        assert tensor.isfinite().all()


@every_norm("meta")
@both_modes
def test_meta_tensors_pass(name, shape, training):
    norm = build(name).train(training).to("meta")
    assert norm(torch.empty(shape, dtype=torch.float64, device="meta")).shape == shape


@every_norm("bfloat16")
@both_modes
def test_bfloat16_autocast(name, shape, training):
    norm = NORMS.bind(config(name))(CHANNELS).train(training)
    x = normal(*shape).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
    assert_close(y.float(), norm(x.float()).float(), atol=0.03)
    assert all(g.isfinite().all() for g in gradients(y.float(), x, *norm.parameters()))
    assert all(buffer.dtype in (torch.float32, torch.int64) for buffer in norm.buffers())


# ------------------------------------------------------------------------------------------- every norm with a formula


@every_reference
def test_output_and_gradients_match_the_formula(name, shape):
    norm, x = build(name), normal(*shape).requires_grad_()
    given, wanted = norm(x), formula(norm, name, x)
    assert_close(given, wanted)
    assert_close(gradients(given, x, *norm.parameters()), gradients(wanted, x, *norm.parameters()))


@every_statistic
def test_without_affine_the_layer_has_no_parameters(name, shape):
    norm, x = build(name, affine=False), normal(*shape).requires_grad_()
    assert list(norm.parameters()) == []
    assert_close(norm(x), REFERENCES[name](x))
    assert_close(gradients(norm(x), x), gradients(REFERENCES[name](x), x))
    norm.eval()(x)


@every_statistic
def test_mean_and_variance_over_the_documented_axes(name, shape):
    norm = build(name, affine=False)
    x_hat = norm(normal(*shape))
    for where in positions_of_sets(name, shape):
        assert_close(x_hat[where].mean().item(), 0.0)
        assert_close(x_hat[where].var(correction=0).item(), 1.0, atol=1e-3)  # eps takes a little


@every_statistic
def test_values_depend_on_their_own_set_and_on_no_other(name, shape):
    norm = build(name)
    jacobian = torch.autograd.functional.jacobian(norm, normal(*shape)).reshape(np.prod(shape), -1)
    label = torch.zeros(shape, dtype=torch.int64)
    for number, where in enumerate(positions_of_sets(name, shape)):
        label[where] = number
    assert_close(jacobian != 0, label.view(-1, 1) == label.view(1, -1))


@every_statistic
def test_large_mean_in_float32(name, shape):
    # E[x^2] - E[x]^2 would give a variance of 0.0625 or nan here, not 0.01 (U5).
    x = (1000 + 0.1 * torch.randn(4 * shape[0], *shape[1:])).float()
    norm = NORMS.bind(config(name))(CHANNELS)
    assert_close(norm(x).double(), norm.double()(x.double()), atol=0.02)


@pytest.mark.parametrize("name", SETS)
def test_large_mean_in_float32_channels_last(name):
    x = (1000 + 0.1 * torch.randn(3, CHANNELS, 16, 16)).float().contiguous(memory_format=torch.channels_last)
    norm = NORMS.bind(config(name))(CHANNELS)
    assert_close(norm(x).double(), norm.double()(x.double()), atol=0.02)


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("in", (4, 9), {"vectors": "refuse"}),
        ("in", (4, 9, 1), {}),
        ("in", (4, 9, 1, 1), {}),
        ("gn", (4, 9), {"groups": 9}),
        ("gn", (4, 9, 1, 1), {"groups": 9}),
        ("ln", (4, 1), {}),
        ("ln", (4, 1, 1, 1), {}),
        ("ln_c", (4, 1), {}),
        ("ln_c", (4, 1, 2, 2), {}),
    ],
)
@both_modes
def test_a_statistic_over_one_value_is_refused(name, shape, options, training):
    norm = build(name, shape[1], **options).train(training)
    with pytest.raises(
        ValueError, match=rf"^norm={name}: an input of shape .* one value per .*, whose variance is 0; "
    ):
        norm(normal(*shape))


@both_modes
def test_instance_norm_skips_vectors_or_is_layer_norm_there(training):
    x, skipping, layer = normal(4, 9), build("in").train(training), build("in", vectors="ln").train(training)
    assert_close(skipping(x), skipping.gain * x + skipping.bias)
    assert skipping.skipped
    centred = x - x.mean(1, keepdim=True)
    x_hat = centred / ((centred**2).mean(1, keepdim=True) + layer.eps).sqrt()
    assert_close(layer(x), layer.gain * x_hat + layer.bias)
    assert not layer.skipped


# ------------------------------------------------------------------------------------- batch statistics: bn, bn_scratch


def torchs_batch_norm(norm: BatchStatistics, shape: tuple[int, ...]) -> nn.Module:
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    twin = kind(shape[1], eps=norm.eps, momentum=norm.momentum).double()
    with torch.no_grad():
        twin.weight.copy_(norm.gain)
        twin.bias.copy_(norm.bias)
    return twin


@batch_norms
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_equals_torchs_batch_norm(name, shape, momentum):
    norm = build(name, momentum=momentum)
    twin = torchs_batch_norm(norm, shape)

    def compare(x: Tensor) -> None:
        y, wanted = norm(x), twin(x)
        assert_close(y, wanted)
        assert_close(gradients(y, x, *norm.parameters()), gradients(wanted, x, *twin.parameters()))

    for _ in range(3):
        compare(normal(*shape).requires_grad_())
    assert_close(norm.running_mean, twin.running_mean)
    assert_close(norm.running_var, twin.running_var)
    assert norm.batches_seen == twin.num_batches_tracked == 3
    norm.eval()
    twin.eval()
    compare(normal(*shape).requires_grad_())
    norm.source, twin.training = "batch", True
    compare(normal(*shape).requires_grad_())


@batch_norms
@pytest.mark.parametrize("momentum", [0.1, None])
def test_evaluation_by_the_batch_at_hand_touches_no_buffer(name, momentum):
    norm, x = build(name, momentum=momentum), normal(5, CHANNELS)
    trained = norm(x)
    before = buffers(norm)
    norm.eval().source = "batch"
    assert_close(norm(x), trained)
    assert_close(buffers(norm), before, atol=0)


@batch_norms
@pytest.mark.parametrize("momentum", [0.1, None])
def test_stacked_population_evaluates_by_the_batch_at_hand(name, momentum):
    members = [build(name, momentum=momentum).eval() for _ in range(3)]
    for member in members:
        member.source = "batch"
    parameters, stacked_buffers = stack_module_state(members)
    x_M = normal(3, 5, CHANNELS)
    y_M = vmap(lambda p, b, x: functional_call(members[0], (p, b), (x,)))(parameters, stacked_buffers, x_M)
    assert_close(y_M, torch.stack([member(x) for member, x in zip(members, x_M, strict=True)]))


@batch_norms
def test_stacked_population_with_cumulative_average(name):
    members = [build(name, momentum=None) for _ in range(2)]
    parameters, stacked_buffers = stack_module_state(members)
    for _ in range(3):
        x_M = normal(2, 5, CHANNELS)
        vmap(lambda p, b, x: functional_call(members[0], (p, b), (x,)))(parameters, stacked_buffers, x_M)
        for member, x in zip(members, x_M, strict=True):
            member(x)
    for m, member in enumerate(members):
        assert_close({key: value[m] for key, value in stacked_buffers.items()}, buffers(member))


@batch_norms
@pytest.mark.parametrize("momentum", [0.1, None])
def test_buffers_are_updated_in_place(name, momentum):
    norm = build(name, momentum=momentum)
    before = {key: (buffer.data_ptr(), buffer.clone()) for key, buffer in norm.named_buffers()}
    norm(normal(5, CHANNELS))
    assert set(before) == {"running_mean", "running_var", "batches_seen"}
    for key, (address, value) in before.items():
        buffer = norm.get_buffer(key)
        assert buffer.data_ptr() == address
        assert (buffer != value).all()


@batch_norms
def test_statistics_follow_training_mode_not_gradients(name):
    # Not so in D2L's batch norm from scratch, which looks at torch.is_grad_enabled() (U17).
    norm = build(name).requires_grad_(False)
    with torch.no_grad():
        norm(normal(5, CHANNELS))
    assert norm.batches_seen == 1
    assert not norm.running_mean.requires_grad
    norm.requires_grad_(True).eval()(normal(5, CHANNELS).requires_grad_())
    assert norm.batches_seen == 1


@batch_norms
def test_statistics_of_bfloat16_are_taken_in_float32(name):
    norm, wide = (NORMS.bind(config(name))(CHANNELS) for _ in range(2))
    x = normal(64, CHANNELS).bfloat16()
    wide(x.float())
    assert norm(x).dtype == torch.bfloat16
    assert_close(buffers(norm), buffers(wide), atol=1e-5)


@batch_norms
@pytest.mark.parametrize("shape", [(1, CHANNELS), (1, CHANNELS, 1, 1)])
def test_one_value_per_channel_is_refused_where_the_batch_gives_the_statistics(name, shape):
    norm = build(name)
    sentence = (
        rf"^norm={name}: .* one value per channel, whose variance is 0; use a larger batch_size, and drop_last=true"
    )
    with pytest.raises(ValueError, match=sentence):
        norm(normal(*shape))
    assert norm.batches_seen == 0
    assert norm.eval()(normal(*shape)).isfinite().all()
    norm.source = "batch"
    with pytest.raises(ValueError, match=sentence):
        norm(normal(*shape))


@batch_norms
def test_a_batch_of_one_map_is_instance_norm(name):
    x = normal(1, CHANNELS, 3, 3)
    assert_close(build(name, affine=False)(x), build("in", affine=False)(x))


@batch_norms
def test_worked_example(name):
    # U4 and U3: arange(24) as two maps of three channels.
    norm, x = build(name, channels=3, affine=False), torch.arange(24.0, dtype=torch.float64).view(2, 3, 2, 2)
    x_hat = norm(x)
    assert_close(x_hat[0, 0].flatten(), torch.tensor([-1.22884772, -1.06500135, -0.90115499, -0.73730863]), atol=1e-7)
    assert_close(x_hat[:, 0], -x_hat[:, 0].flip(0, 1, 2))
    assert_close(norm.running_mean, torch.tensor([0.75, 1.15, 1.55]), atol=1e-7)
    assert_close(norm.running_var, torch.full((3,), 5.157143), atol=1e-6)
    last = build(name, channels=3, affine=False, momentum=1.0)
    last(x)
    assert_close(last.running_mean, torch.tensor([7.5, 11.5, 15.5]))
    assert_close(last.running_var, torch.full((3,), 37.25 * 8 / 7, dtype=torch.float64))


@batch_norms
def test_the_variance_is_the_mean_of_squared_deviations_and_not_what_one_article_prints(name):
    # Article 003 prints (1/m) sum (z - mean^2), which is mean - mean^2: below zero for 0, 1, 2, 3, 12, 13, 14, 15.
    z = torch.tensor([0, 1, 2, 3, 12, 13, 14, 15], dtype=torch.float64)
    printed = (z - z.mean() ** 2).mean().item()
    assert printed == 7.5 - 7.5**2 == -48.75
    norm = build(name, channels=1, affine=False, eps=1e-14)
    assert_close(norm(z.view(8, 1)).flatten(), (z - 7.5) / 37.25**0.5)


@pytest.mark.parametrize(("variance", "average"), [("unbiased", 1 / 4), ("biased", 1 / 8)])
def test_only_the_unbiased_variance_of_small_batches_averages_to_that_of_all(variance, average):
    # All equally likely batches of two from a fair coin, whose variance is 1/4.
    norm = build("bn_scratch", channels=1, momentum=None, variance=variance)
    for pair in itertools.product([0.0, 1.0], repeat=2):
        norm(torch.tensor(pair, dtype=torch.float64).view(2, 1))
    assert_close(norm.running_var, torch.tensor([average]))


@batch_norms
def test_cumulative_average_weighs_unequal_batches_equally(name):
    norm = build(name, momentum=None)
    batches = [normal(size, CHANNELS) for size in (8, 8, 3)]
    for x in batches:
        norm(x)
    assert_close(norm.running_mean, sum(x.mean(0) for x in batches) / 3)
    assert_close(norm.running_var, sum(x.var(0) for x in batches) / 3)


@batch_norms
def test_gain_and_bias_can_restore_the_input(name):
    # U2: the standard deviation with eps inside the root, and the mean.
    norm, x = build(name), normal(6, CHANNELS, 2, 2)
    with torch.no_grad():
        norm.gain.copy_((x.var((0, 2, 3), correction=0) + norm.eps).sqrt())
        norm.bias.copy_(x.mean((0, 2, 3)))
    assert_close(norm(x), x, atol=1e-12)


@batch_norms
def test_gradient_has_no_part_along_the_mean_nor_along_x_hat(name):
    # U1: sum dx = 0; sum dx * x_hat = 0 but for eps.
    norm, x = build(name, affine=False, eps=1e-14), normal(7, CHANNELS, 2, 2).requires_grad_()
    x_hat = norm(x)
    (dx,) = gradients(x_hat, x)
    assert dx.abs().max() > 1e-3
    assert_close(dx.sum((0, 2, 3)), torch.zeros(CHANNELS), atol=1e-12)
    assert_close((dx * x_hat).sum((0, 2, 3)), torch.zeros(CHANNELS), atol=1e-10)


@batch_norms
def test_bias_before_the_norm_learns_nothing_and_weights_only_turn(name):
    # U1: the loss does not depend on the bias, nor on the length of a unit's weights.
    linear, norm, x = nn.Linear(4, CHANNELS).double(), build(name, eps=1e-14), normal(16, 4)
    weight_grad, bias_grad = gradients(norm(linear(x)), linear.weight, linear.bias)
    assert weight_grad.abs().max() > 1e-2
    assert_close(bias_grad, torch.zeros(CHANNELS), atol=1e-12)
    assert_close((linear.weight * weight_grad).sum(1), torch.zeros(CHANNELS), atol=1e-10)
    with torch.no_grad():
        linear.weight.mul_(4)
    (scaled_grad,) = gradients(norm(linear(x)), linear.weight)
    assert_close(scaled_grad, weight_grad / 4)


@batch_norms
def test_evaluation_folds_into_the_convolution(name):
    # U17.
    conv, norm, x = nn.Conv2d(2, CHANNELS, 3).double(), build(name), normal(4, 2, 6, 6)
    norm(conv(x))
    norm.eval()
    scale = norm.gain / (norm.running_var + norm.eps).sqrt()
    bias = norm.bias + (conv.bias - norm.running_mean) * scale
    folded = nn.functional.conv2d(x, conv.weight * scale.view(-1, 1, 1, 1), bias)
    assert_close(norm(conv(x)), folded)


# ----------------------------------------------------------------------------------------------------- bn_scratch alone


@pytest.mark.parametrize("eps", [0.0, 1e-5, 0.1])
def test_explicit_backward_equals_autograd_of_the_same_lines(eps):
    norm, x = build("bn_scratch", eps=eps), normal(6, CHANNELS, 2, 2).requires_grad_()
    mean = x.mean((0, 2, 3), keepdim=True)
    std = (((x - mean) ** 2).mean((0, 2, 3), keepdim=True) + eps).sqrt()
    wanted = per_channel(norm.gain, x) * (x - mean) / std + per_channel(norm.bias, x)
    y = norm(x)
    assert_close(y, wanted, atol=1e-12)
    assert_close(gradients(y, x, *norm.parameters()), gradients(wanted, x, *norm.parameters()), atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives_raise_rather_than_mislead(training):
    norm, x = build("bn_scratch").train(training), normal(6, CHANNELS).requires_grad_()
    (dx,) = torch.autograd.grad(norm(x).sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_backward_after_another_batch_moved_the_running_statistics():
    norm, x = build("bn_scratch"), normal(6, CHANNELS).requires_grad_()
    wanted = gradients(norm.eval()(x), x)
    y = norm(x)
    norm.train()(normal(6, CHANNELS))
    assert_close(gradients(y, x), wanted)


@pytest.mark.parametrize(("torch_momentum", "tf_momentum"), [(0.1, 0.9), (0.01, 0.99), (1.0, 0.0), (None, None)])
def test_tensorflows_momentum_is_one_minus_torchs(torch_momentum, tf_momentum):
    norm = build("bn_scratch", momentum=torch_momentum, convention="torch")
    other = build("bn_scratch", momentum=tf_momentum, convention="tf")
    for _ in range(3):
        x = normal(6, CHANNELS)
        norm(x)
        other(x)
    assert_close(buffers(other), buffers(norm))


@pytest.mark.parametrize(("convention", "momentum"), [("torch", 0), ("tf", 1)])
def test_running_statistics_that_never_move_are_refused(convention, momentum):
    with pytest.raises(ValueError, match=rf"^norm.momentum={momentum}.*never move; allowed is .*{convention}"):
        build("bn_scratch", convention=convention, momentum=momentum)


@pytest.mark.parametrize(("variance", "running_var"), [("unbiased", 5.157143), ("biased", 4.625)])
def test_running_variance_of_either_kind(variance, running_var):
    norm = build("bn_scratch", channels=3, variance=variance)
    norm(torch.arange(24.0, dtype=torch.float64).view(2, 3, 2, 2))
    assert_close(norm.running_var, torch.full((3,), running_var), atol=1e-6)


# ---------------------------------------------------------------------------------------------- layer, instance, group


def test_layer_norm_over_the_sample_is_not_layer_norm_by_position():
    # U6: the same on vectors, not on maps.
    ln, ln_c = (build(name, affine=False) for name in ("ln", "ln_c"))
    vectors, maps = normal(4, CHANNELS), normal(4, CHANNELS, 3, 3)
    assert_close(ln(vectors), ln_c(vectors))
    assert (ln(maps) - ln_c(maps)).abs().max() > 0.5


@pytest.mark.parametrize(
    ("channels", "asked", "groups"),
    [(16, 8, 8), (6, 8, 3), (6, 4, 3), (6, 6, 6), (6, 5, 3), (84, 8, 7), (120, 8, 8), (7, 8, 1), (7, 5, 1), (1, 8, 1)],
)
def test_rule_for_uneven_groups(channels, asked, groups):
    assert fitting_groups(channels, asked=asked, uneven="largest_divisor") == groups


def test_an_uneven_choice_is_announced_once(caplog):
    _largest_divisor.cache_clear()
    with caplog.at_level(logging.INFO):
        for channels in (6, 6, 10, 6, 16):
            build("gn", channels, groups=8)
    assert [record.getMessage() for record in caplog.records] == [
        "norm=gn: 8 groups do not divide 6 channels; groups=3 there",
        "norm=gn: 8 groups do not divide 10 channels; groups=5 there",
    ]


def test_uneven_groups_can_be_refused():
    assert build("gn", 16, groups=8, uneven="refuse").groups == 8
    with pytest.raises(ValueError, match=r"^norm.groups=8: does not divide 6 channels; allowed is 1, 2, 3, 6"):
        build("gn", 6, groups=8, uneven="refuse")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gn", {"groups": 0}, "norm.groups=0: out of range"),
        ("gn", {"uneven": "refus"}, "norm.uneven=refus: not known; did you mean refuse"),
        ("bn", {"eps": 0}, "norm.eps=0.0: out of range"),
        ("bn", {"momentum": 0}, "norm.momentum=0.0: out of range"),
        ("bn", {"momentum": 1.1}, "norm.momentum=1.1: out of range"),
        ("bn_scratch", {"eps": -1}, "norm.eps=-1.0: out of range"),
        ("ln", {"groups": 2}, "norm.groups: ln has no such option"),
    ],
)
def test_options_are_checked(name, changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        NORMS.bind(config(name) | changes)


# ------------------------------------------------------------------------------------------- invariances, by hypothesis

some = settings(max_examples=25, deadline=None, derandomize=True, database=None)
scales = st.floats(0.01, 100)


@st.composite
def maps(draw: st.DrawFn) -> Tensor:
    torch.manual_seed(draw(st.integers(0, 99)))
    return normal(draw(st.integers(2, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.integers(2, 3)))


@batch_norms
@some
@given(x=maps(), scale=scales, sign=st.sampled_from([-1, 1]), shift=st.floats(-10, 10))
def test_batch_norm_ignores_scale_and_shift(name, x, scale, sign, shift):
    norm = build(name, x.shape[1], affine=False, eps=1e-14)
    assert_close(norm(sign * scale * x + shift), sign * norm(x), atol=1e-6)


@some
@given(x=maps(), scale=scales, name=st.sampled_from(["ln", "in", "gn"]))
def test_sample_norms_ignore_the_scale_of_each_sample(x, scale, name):
    norm = build(name, x.shape[1], affine=False, eps=1e-14)
    scale_B = scale ** torch.linspace(0, 1, len(x), dtype=torch.float64).view(-1, 1, 1, 1)
    assert_close(norm(scale_B * x), norm(x), atol=1e-6)


@some
@given(x=maps())
def test_group_norm_ends_in_layer_norm_and_instance_norm(x):
    channels = x.shape[1]
    for groups, name, axes in ((1, "ln", (1, 2, 3)), (channels, "in", (2, 3))):
        y = build("gn", channels, groups=groups, affine=False)(x)
        assert_close(y, build(name, channels, affine=False)(x))
        assert_close(y, (x - x.mean(axes, keepdim=True)) / (x.var(axes, keepdim=True, correction=0) + 1e-5).sqrt())


@some
@given(channels=st.integers(1, 200), asked=st.integers(1, 64))
def test_groups_always_divide_and_hold_two_channels_where_they_can(channels, asked):
    groups = fitting_groups(channels, asked=asked, uneven="largest_divisor")
    assert channels % groups == 0
    assert groups <= asked
    assert groups == asked or channels // groups >= min(2, channels)


# ------------------------------------------------------------------------------------------------------------- your own


class Doubling(Norm):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x * per_channel(self.gain, x) + per_channel(self.bias, x)


@pytest.fixture
def doubling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A norm of the user's: one function and one yaml."""

    (tmp_path / "doubling.yaml").write_text("name: doubling\naffine: true\n")
    monkeypatch.setitem(globals(), "CONFIGS", tmp_path)
    with NORMS.temporarily():

        @NORMS.register("doubling")
        def doubling(channels: int, *, affine: bool) -> Norm:
            return Doubling(channels, affine=affine)

        yield "doubling"


def test_one_function_and_one_yaml_add_a_norm(doubling):
    assert doubling in list(NORMS)
    for shape in SHAPES.values():
        test_gradients_match_finite_differences(doubling, shape, training=True)
        test_only_batch_statistics_make_training_and_evaluation_differ(doubling, shape)
        test_stacked_population_equals_members_one_by_one(doubling, shape, training=True, shared=False)
        test_state_dict_round_trip(doubling, shape)


def test_a_norm_without_a_yaml_fails_with_a_sentence(doubling, tmp_path):
    (tmp_path / "doubling.yaml").unlink()
    with pytest.raises(pytest.fail.Exception, match=r"norm=doubling is registered but has no .*doubling\.yaml"):
        config(doubling)
