"""Norms of weights and norms without statistics, together with the linear map that they act on.

The common tests of test_norms.py see these layers alone. Here the map and the norm are one layer, compared with loops
over single filters and receptive fields.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import from_yaml
from formulas_weights import FORMULAS
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from bnexp.models import MODELS, Units
from bnexp.models.affine import AFFINES
from bnexp.models.init import INITS, adjust, initialize
from bnexp.models.layers import stored_weight
from bnexp.norms import NORMS, Branch, Norm
from bnexp.training.population import Population
from bnexp.training.precision import Precision

ON_BRANCHES = [name for name in NORMS if NORMS.capabilities(name).needs_branches]
ON_MAPS = [name for name in FORMULAS if name not in ON_BRANCHES]
SCALE_FREE = ["weight_norm", "scaled_ws", "cosine", "centered_cosine"]
LINEARS = {
    "linear": (lambda: nn.Linear(7, 6, bias=False), (5, 7)),
    "conv1d": (lambda: nn.Conv1d(2, 6, 3, padding=1, bias=False), (3, 2, 5)),
    "conv2d": (lambda: nn.Conv2d(2, 6, (3, 2), stride=(2, 1), padding=(1, 0), bias=False), (3, 2, 5, 4)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), (3, 4, 3, 3)),
}
EXACT = {"rtol": 0, "atol": 1e-10}


def normal(*shape: int) -> Tensor:
    return 2 * torch.randn(*shape, dtype=torch.float64) + 1


def layer(
    name: str, kind: str = "linear", *, branch: Branch | None = None, gives_bias: bool = True, **changes: Any
) -> nn.Sequential:
    """A linear map with its norm, which gives its bias where it can, in double precision, all parameters random."""
    linear = LINEARS[kind][0]()
    norm = NORMS.bind(from_yaml("norm", name) | changes)(6, branch=branch)
    norm.attach(linear)
    if gives_bias and NORMS.capabilities(name).bias_in_linear:
        norm.give_bias(linear)
    both = nn.Sequential(linear, norm).double()
    for parameter in both.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    nn.init.normal_(stored_weight(linear))
    return both


def model(norm: str, name: str = "resnet", *, width: int = 4, drawn: str = "kaiming", **changes: Any) -> nn.Module:
    units = Units(NORMS.bind(from_yaml("norm", norm) | changes), "relu", "before")
    config = {"resnet": {"depth": 8, "width": width}, "mlp": {"depth": 2, "width": width, "dropout": 0.0}}.get(name, {})
    built = MODELS.bind(from_yaml("model", name) | config)((2, 8, 8), 3, units)
    initialize(built, INITS.bind(from_yaml("init", drawn))(), 0)
    return built


def fields(kind: str, x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(output unit, what it sees at each position [B, positions, fan_in]), one unit after the other."""
    linear = LINEARS[kind][0]()
    if kind == "linear":
        yield from ((unit, x.unsqueeze(1)) for unit in range(6))
        return
    if kind == "conv1d":
        x = F.pad(x, (1, 1))
        seen = [x[:, :, p : p + 3].flatten(1) for p in range(x.shape[2] - 2)]
        yield from ((unit, torch.stack(seen, 1)) for unit in range(6))
        return
    (rows, columns), (down, right), (top, left) = linear.kernel_size, linear.stride, linear.padding
    x = F.pad(x, (left, left, top, top))
    channels = x.shape[1] // linear.groups
    for unit in range(6):
        group = unit // (6 // linear.groups)
        own = x[:, group * channels : (group + 1) * channels]
        corners = [
            (row, column)
            for row in range(0, x.shape[2] - rows + 1, down)
            for column in range(0, x.shape[3] - columns + 1, right)
        ]
        yield unit, torch.stack([own[:, :, r : r + rows, c : c + columns].flatten(1) for r, c in corners], 1)


def answer(name: str, w: Tensor, x: Tensor) -> Tensor:
    """What a map with one filter answers, [B, positions], before gain and bias: w [K], x [B, positions, K]."""
    n = w.numel()
    if name in ("weight_norm", "weight_norm_mbn"):
        return x @ w / (w**2).sum() ** 0.5
    if name in ("weight_standardization", "ws_gn"):
        return x @ (w - w.sum() / n) / ((((w - w.sum() / n) ** 2).sum() / (n - 1)) ** 0.5 + 1e-5)
    if name == "scaled_ws":
        sd = (((w - w.sum() / n) ** 2).sum() / n) ** 0.5
        return x @ (w - w.sum() / n) / (n**0.5 * sd) * math.sqrt(2 / (1 - 1 / math.pi))
    if name == "centered_cosine":
        x, w = x - x.mean(-1, keepdim=True), w - w.mean()
    return n**0.5 * (x @ w) / ((w**2).sum() ** 0.5 * (x**2).sum(-1) ** 0.5)


def reference(name: str, kind: str, both: nn.Sequential, x: Tensor) -> Tensor:
    linear, norm = both
    weight = stored_weight(linear)
    y = torch.stack([answer(name, weight[unit].flatten(), seen) for unit, seen in fields(kind, x)], 1)  # (B, C, P)
    if name == "weight_norm_mbn":
        y = y - y.mean((0, 2), keepdim=True)
    if name == "ws_gn":
        # Three groups of two channels: 8 are asked for, 6 channels there.
        grouped = y.unflatten(1, (3, 2)).flatten(2)
        mean, var = grouped.mean(2, keepdim=True), grouped.var(2, keepdim=True, correction=0)
        y = ((grouped - mean) / (var + 1e-5).sqrt()).view_as(y)
    y = norm.gain.view(-1, 1) * y + norm.shift.view(-1, 1)
    with torch.no_grad():
        shape = linear(x).shape
    return y.view(shape)


def gradients(y: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y).sin()
    return torch.autograd.grad((weights * y).sum(), inputs)


def assert_close(a: Any, b: Any, **tolerance: float) -> None:
    torch.testing.assert_close(a, b, **({"check_dtype": False, **EXACT} | tolerance))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


every_map = pytest.mark.parametrize("kind", LINEARS)
every_norm = pytest.mark.parametrize("name", ON_MAPS)


# ------------------------------------------------------------------------------------------------- the map and its norm


@every_norm
@every_map
@pytest.mark.parametrize("gives_bias", [True, False])
def test_map_and_norm_match_the_formula(name, kind, gives_bias):
    both, x = layer(name, kind, gives_bias=gives_bias), normal(*LINEARS[kind][1]).requires_grad_()
    given, wanted = both(x), reference(name, kind, both, x)
    assert_close(given, wanted)
    assert_close(gradients(given, x, *both.parameters()), gradients(wanted, x, *both.parameters()))


@every_norm
@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_gradients_match_finite_differences(name, kind):
    both = layer(name, kind)
    parameters = dict(both.named_parameters())

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(both, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (normal(*LINEARS[kind][1]).requires_grad_(), *parameters.values()))


@every_norm
@every_map
def test_stacked_layers_equal_single_ones(name, kind):
    members = [layer(name, kind) for _ in range(3)]
    parameters, buffers = stack_module_state(members)
    skeleton = copy.deepcopy(members[0]).to("meta")
    x_M = normal(3, *LINEARS[kind][1])
    y_M = vmap(lambda p, b, x: functional_call(skeleton, (p, b), (x,)))(parameters, buffers, x_M)
    grad_M = torch.autograd.grad(y_M.sin().sum(), list(parameters.values()))
    for m, member in enumerate(members):
        y = member(x_M[m])
        assert_close(y_M[m], y)
        assert_close([g[m] for g in grad_M], list(torch.autograd.grad(y.sin().sum(), list(member.parameters()))))


@pytest.mark.parametrize("name", SCALE_FREE)
def test_the_length_of_filters_does_not_matter_and_gradients_turn_them_only(name):
    both, x = layer(name), normal(*LINEARS["linear"][1])
    weight, y = stored_weight(both[0]), both(x)
    (gradient,) = gradients(y, weight)
    assert gradient.abs().max() > 1e-3
    assert_close((weight * gradient).sum(1), torch.zeros(6), atol=1e-12)
    with torch.no_grad():
        weight.mul_(3)
    assert_close(both(x), y)
    assert_close(gradients(both(x), weight)[0], gradient / 3)


@pytest.mark.parametrize("name", ["weight_standardization", "scaled_ws", "ws_gn", "centered_cosine"])
def test_a_constant_added_to_filters_does_not_matter(name):
    both, x = layer(name, "conv2d"), normal(*LINEARS["conv2d"][1])
    y = both(x)
    with torch.no_grad():
        stored_weight(both[0]).add_(5)
    assert_close(both(x), y)


@every_norm
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_constant_filters_and_blank_inputs_stay_finite(name, value):
    both, x = layer(name, "conv2d", **{"init": "unit"} if "weight_norm" in name else {}), torch.zeros(2, 2, 5, 4)
    nn.init.constant_(stored_weight(both[0]), value)
    y = both(x.double().requires_grad_())
    assert y.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(y, *both.parameters()))


@every_norm
def test_bfloat16_autocast(name):
    both, x = layer(name, "conv2d").float(), normal(*LINEARS["conv2d"][1]).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = both(x)
    assert_close(y.float(), both(x), atol=0.3)
    assert (y.float() - both(x)).abs().mean() < 0.05


@every_norm
@every_map
def test_initial_weights_are_those_of_an_ordinary_map(name, kind):
    plain, both = nn.Sequential(LINEARS[kind][0](), nn.Identity()), layer(name, kind).float()
    rule = INITS.bind(from_yaml("init", "kaiming"))()
    initialize(plain, rule, 3)
    initialize(both, rule, 3)
    assert torch.equal(stored_weight(both[0]), plain[0].weight)


@every_norm
def test_the_norm_stands_right_behind_its_map(name):
    units = Units(NORMS.bind(from_yaml("norm", name)), "relu", "after")
    with pytest.raises(ValueError, match=r"^placement=after: .* \(allowed: before\)"):
        units.linear(7, 6)


@pytest.mark.parametrize("name", ["weight_standardization", "scaled_ws", "ws_gn", "centered_cosine"])
def test_filters_of_one_weight_have_no_spread(name):
    norm = NORMS.bind(from_yaml("norm", name))(6)
    with pytest.raises(ValueError, match=f"^norm={name}: a filter of a single weight has no spread"):
        norm.attach(nn.Linear(1, 6))
    norm.attach(nn.Linear(2, 6))


# ---------------------------------------------------------------------------------------------------- weight norm alone


@every_map
def test_weight_norm_is_that_of_torch(kind):
    both, x = layer("weight_norm", kind), normal(*LINEARS[kind][1])
    other = LINEARS[kind][0]().double()
    other.weight.data.copy_(stored_weight(both[0]))
    nn.utils.parametrizations.weight_norm(other)
    other.parametrizations.weight.original0.data.copy_(both[1].gain.view(-1, *[1] * (other.weight.ndim - 1)))
    shift = both[1].shift.view(-1, *[1] * (x.ndim - 2))
    assert_close(both(x), other(x) + shift)
    (gradient,) = gradients(both(x), stored_weight(both[0]))
    assert_close(gradient, gradients(other(x) + shift, other.parametrizations.weight.original1)[0])


@pytest.mark.parametrize("name", ["weight_norm", "weight_norm_mbn"])
@pytest.mark.parametrize("kind", ["linear", "conv2d"])
@pytest.mark.parametrize("gives_bias", [True, False])
def test_the_first_batch_comes_out_with_mean_0_and_variance_1(name, kind, gives_bias):
    both, x = layer(name, kind, gives_bias=gives_bias), normal(16, *LINEARS[kind][1][1:])
    nn.init.ones_(both[1].gain)
    if both[1].bias is not None:
        nn.init.zeros_(both[1].bias)
    adjust(both, INITS.bind(from_yaml("init", "kaiming"))(), x, restore=False)
    y = both(x).transpose(0, 1).flatten(1)
    assert_close(y.mean(1), torch.zeros(6), atol=1e-12)
    assert_close(y.var(1, correction=0), torch.ones(6), atol=1e-12)


def test_init_unit_and_given_gains_ignore_the_first_batch():
    for changes, affine in (({"init": "unit"}, "usual"), ({}, "constant")):
        net = model("weight_norm", "mlp", **changes)
        AFFINES.bind(from_yaml("affine", affine))().fill(net)
        adjust(net, INITS.bind(from_yaml("init", "kaiming"))(), torch.randn(8, 2, 8, 8), restore=False)
        assert all(
            (norm.gain == 1).all() and (norm.shift == 0).all() for norm in net.modules() if isinstance(norm, Norm)
        )


@pytest.mark.parametrize("name", ["weight_norm", "weight_norm_mbn"])
def test_what_the_start_from_data_cannot_do_is_refused(name):
    with pytest.raises(ValueError, match=r"^norm.affine=false: .*norm.init=unit"):
        NORMS.bind(from_yaml("norm", name) | {"affine": False})(6)
    with pytest.raises(ValueError, match=r"^norm.init=data: .*use norm.init=unit, a larger batch_size"):
        layer(name)[1].adjust(torch.ones(4, 6))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_mean_only_batch_norm_keeps_averages_and_evaluates_by_them(momentum):
    norm = layer("weight_norm_mbn", momentum=momentum)[1]
    batches = [normal(size, 6) for size in (4, 7)]
    for x in batches:
        norm(x)
    first, second = (x.mean(0) for x in batches)
    expected = (first + second) / 2 if momentum is None else 0.9 * 0.1 * first + 0.1 * second
    assert_close(norm.running_mean, expected)
    x = normal(3, 6)
    assert_close(norm.eval()(x), norm.gain * (x - expected) + norm.bias)
    norm.source = "batch"
    assert_close(norm(x), norm.gain * (x - x.mean(0)) + norm.bias)
    with pytest.raises(ValueError, match=r"^norm=weight_norm_mbn: .* one value per channel"):
        norm(x[:1])
    norm.restore(x)
    assert_close(norm(x), x, atol=1e-12)


# --------------------------------------------------------------------------------------------------------- cosine alone


@pytest.mark.parametrize("name", ["cosine", "centered_cosine"])
def test_cosine_stays_between_minus_one_and_one(name):
    both = layer(name, scale="one", affine=False)
    x = normal(50, 7) * torch.logspace(-3, 3, 50).view(-1, 1)
    x[:6] = stored_weight(both[0]).detach() * torch.tensor([5.0, -5, 5, -5, 5, -5]).view(-1, 1)
    y = both(x)
    assert y.abs().max() <= 1 + 1e-12
    assert_close(y[:6].diagonal(), torch.tensor([1.0, -1, 1, -1, 1, -1]))
    if name == "centered_cosine":
        weight = stored_weight(both[0]).detach()
        correlation = np.corrcoef(np.concatenate([x.numpy(), weight.numpy()]))[:50, 50:]
        assert_close(y.detach(), torch.from_numpy(correlation))


@pytest.mark.parametrize("name", ["cosine", "centered_cosine"])
def test_random_weights_give_outputs_of_sd_one_by_the_default_scale(name):
    linear, norm = nn.Linear(256, 400, bias=False), NORMS.bind(from_yaml("norm", name))(400)
    norm.attach(linear)
    initialize(nn.Sequential(linear), INITS.bind(from_yaml("init", "kaiming"))(), 0)
    y = norm(linear(torch.randn(300, 256) * 7))
    assert y.std().item() == pytest.approx(1, rel=0.03)


def test_centered_cosine_survives_a_large_mean_in_float32():
    # sum x^2 - n mean^2 would leave no digit: the spread is 1e-3 of the mean.
    both = layer("centered_cosine", "conv2d", scale="one")
    x = 100 + 0.1 * torch.randn(8, 2, 5, 4, dtype=torch.float64)
    inner = (slice(None), slice(None), slice(1, 2))  # fields that see no padding
    assert_close(both.float()(x.float())[inner].double(), both.double()(x.float().double())[inner], atol=2e-3)


# ------------------------------------------------------------------------------------------------------ branches: where


@pytest.mark.parametrize("name", ["resmlp", "resnet", "resnet9", "resnet18", "resnet50"])
def test_residual_nets_say_which_norms_close_a_branch(name):
    seen: list[Branch | None] = []

    def norm(channels: int, *, branch: Branch | None = None) -> Norm:
        seen.append(branch)
        return NORMS.bind(from_yaml("norm", "bn"))(channels)

    with torch.device("meta"), NORMS.temporarily():
        NORMS.register("noting")(norm)
        units = Units(NORMS.bind({"name": "noting"}), "relu", "before")
        built = MODELS.bind(from_yaml("model", name))((3, 32, 32), 10, units)
    closing = [path for path, layer in built.named_modules() if isinstance(layer, Norm) and layer.closes_branch]
    count, depth, leaf, outside = {
        "resmlp": (10, 2, "norm", 2),
        "resnet": (9, 2, "norm", 1),
        "resnet9": (2, 2, "second.norm", 4),
        "resnet18": (8, 2, "bn2", 4),
        "resnet50": (16, 3, "bn3", 5),
    }[name]
    assert len(closing) == count
    assert all(path.endswith(f".{leaf}") for path in closing)
    assert [branch for branch in seen if branch is not None].count(Branch(count, depth, last=True)) == count
    assert seen.count(Branch(count, depth, last=False)) == count * (depth - 1)
    assert seen.count(None) == outside


def test_constant_affine_sets_the_last_gains():
    net = model("bn")
    AFFINES.bind({"name": "constant", "gain": 0.5, "bias": 0.1, "last_gain": 0.0})().fill(net)
    for norm in (layer for layer in net.modules() if isinstance(layer, Norm)):
        assert (norm.gain == (0.0 if norm.closes_branch else 0.5)).all()
        assert (norm.bias == 0.1).all()


def test_norms_of_weights_reach_every_convolution_of_torchvisions_models():
    with torch.device("meta"):
        net = model("weight_standardization", "resnet18")
    convs = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convs) == 20
    assert all(nn.utils.parametrize.is_parametrized(conv, "weight") for conv in convs)


# --------------------------------------------------------------------------------------------------- skipinit and fixup


@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_skipinit_scales_the_end_of_a_branch_by_one_number(kind):
    both = layer("skipinit", kind, branch=Branch(5, 2, last=True))
    x = normal(*LINEARS[kind][1]).requires_grad_()
    assert both[1].gain.shape == (1,)
    wanted = both[0](x) * both[1].gain.sum()
    assert both[0].bias is both[1].shift
    assert_close(both(x), wanted)
    assert_close(gradients(both(x), x, *both.parameters()), gradients(wanted, x, *both.parameters()))
    assert layer("skipinit", branch=Branch(5, 2, last=False))[1].gain is None
    assert NORMS.bind({"name": "skipinit", "alpha": 0.25})(6, branch=Branch(5, 2, last=True)).gain.item() == 0.25


@pytest.mark.parametrize("kind", LINEARS)
def test_scaled_weight_standardization_scales_the_end_of_a_branch_if_asked(kind):
    inside, ends = Branch(5, 2, last=False), Branch(5, 2, last=True)
    both = layer("scaled_ws", kind, branch=ends, alpha=0.25)
    x = normal(*LINEARS[kind][1]).requires_grad_()
    plain = layer("scaled_ws", kind)
    plain.load_state_dict({key: value for key, value in both.state_dict().items() if key != "1.alpha"})
    wanted = plain(x) * both[1].alpha.sum()
    assert_close(both(x), wanted)
    assert_close(gradients(both(x), x, both[1].alpha), gradients(wanted, x, both[1].alpha))
    for branch, alpha in ((inside, 0.25), (None, 0.25), (ends, None)):
        assert layer("scaled_ws", branch=branch, alpha=alpha).state_dict().keys() == plain.state_dict().keys()
    assert NORMS.bind(from_yaml("norm", "scaled_ws") | {"alpha": 0})(6, branch=ends).alpha.item() == 0


@pytest.mark.parametrize("kind", ["linear", "conv2d"])
@pytest.mark.parametrize("last", [True, False])
def test_fixup_shifts_inputs_and_outputs_by_scalars(kind, last):
    both = layer("fixup", kind, branch=Branch(5, 2, last=last))
    linear, norm = both
    x = normal(*LINEARS[kind][1]).requires_grad_()
    plain = LINEARS[kind][0]().double()
    plain.weight = linear.weight
    wanted = plain(x + norm.input_bias.sum()) * (norm.gain.sum() if last else 1) + norm.bias.sum()
    assert {parameter.shape for parameter in norm.parameters()} == {(1,)}
    assert_close(both(x), wanted)
    assert_close(gradients(both(x), x, *both.parameters()), gradients(wanted, x, *both.parameters()))


@pytest.mark.parametrize(("count", "depth", "scale"), [(9, 2, 1 / 3), (16, 3, 0.5), (1, 2, 1.0)])
def test_fixup_scales_the_weights_of_branches(count, depth, scale):
    rule = INITS.bind(from_yaml("init", "kaiming"))()
    source = nn.Sequential(nn.Sequential(LINEARS["linear"][0]()))
    initialize(source, rule, 0)
    places = {None: 1.0, Branch(count, depth, last=False): scale, Branch(count, depth, last=True): 0.0}
    for branch, expected in places.items():
        net = nn.Sequential(layer("fixup", branch=branch).float(), nn.Linear(6, 2))
        initialize(net, rule, 0)
        assert_close(net[0][0].weight, source[0][0].weight * expected, atol=1e-7)
        assert (net[1].weight == 0).all()


def test_fixup_starts_with_blocks_that_are_the_identity_and_uniform_logits():
    net, x = model("fixup", drawn="torch"), torch.randn(4, 2, 8, 8)
    block = net.stage1_block1
    hidden = torch.relu(torch.randn(4, 4, 8, 8))
    assert torch.equal(block(hidden), hidden)
    assert (net(x) == 0).all()
    assert block.first.linear.weight.std().item() > 0


def test_skipinit_starts_with_blocks_that_are_the_identity():
    block, hidden = model("skipinit").stage1_block1, torch.relu(torch.randn(4, 4, 8, 8))
    assert torch.equal(block(hidden), hidden)
    assert block.linear.weight.std() > 0


# ----------------------------------------------------------------------------------------------------------- in a model


@pytest.mark.parametrize("name", [*ON_MAPS, *ON_BRANCHES])
def test_members_of_a_population_answer_and_learn_as_they_would_alone(name):
    x, y = torch.randn(6, 2, 8, 8, dtype=torch.float64), torch.arange(6) % 3
    x_M = x.expand(2, *x.shape)

    def members() -> list[nn.Module]:
        return [_moved(model(name, drawn="lecun").double(), 0.1 * m) for m in range(2)]

    alone = members()
    for member in alone:
        F.cross_entropy(member(x), y).backward()
    for stacked in (False, True):
        population, other = Population(members(), stacked=stacked), Population(members(), stacked=stacked)
        population.learn(x_M, y.expand(2, -1), Precision("fp32", 2, torch.device("cpu")))
        for m, member in enumerate(alone):
            wanted = {key: parameter.grad for key, parameter in member.named_parameters()}
            assert_close({key: value[m] for key, value in population.gradients()}, wanted, rtol=1e-9)
            assert_close({key: value[m] for key, value in population.buffers.items()}, dict(member.named_buffers()))
            other.load(m, population.states()(m))
        population.train(False)
        other.train(False)
        assert torch.equal(other(x_M), population(x_M))


def _moved(net: nn.Module, by: float) -> nn.Module:
    """Away from a start at zero, where gradients vanish."""
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.add_(0.05 + by * math.sin(number))
    return net


@pytest.mark.parametrize("name", ["weight_norm", "cosine", "fixup"])
def test_lsuv_is_refused_where_the_norm_sets_the_size_of_the_weights(name):
    with pytest.raises(ValueError, match=r"^init=lsuv: .* use another init"):
        adjust(model(name), INITS.bind(from_yaml("init", "lsuv"))(), torch.randn(4, 2, 8, 8), restore=False)
