from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import from_yaml
from torch import Tensor, nn

from bnexp.experiment.choices import INITS  # all of them: some are registered outside of bnexp.models
from bnexp.models import MODELS, Units
from bnexp.models.affine import AFFINES
from bnexp.models.init import adjust, initialize
from bnexp.models.layers import stored_weight
from bnexp.norms import NORMS, Norm
from bnexp.norms.batch import BatchNorm
from bnexp.norms.frozen import FrozenBatchNorm
from bnexp.runs import checkpoint

# 240,000 weights each, so that a measured std is right within 0.5 %; the third has two groups of 20 channels.
LAYERS = {
    "linear": (nn.Linear(400, 600), 400, 600),
    "conv": (nn.Conv2d(60, 160, 5), 60 * 25, 160 * 25),
    "grouped": (nn.Conv2d(40, 480, 5, groups=2), 20 * 25, 480 * 25),
    "conv1d": (nn.Conv1d(80, 600, 5), 80 * 5, 600 * 5),
}
# Name of the case -> options, and the std as a function of the fans.
RULES: dict[str, tuple[dict[str, Any], Any]] = {
    "torch": ({"name": "torch"}, lambda n_in, n_out: (1 / (3 * n_in)) ** 0.5),
    "xavier uniform": ({"name": "xavier", "distribution": "uniform"}, lambda n_in, n_out: (2 / (n_in + n_out)) ** 0.5),
    "xavier normal": ({"name": "xavier", "distribution": "normal"}, lambda n_in, n_out: (2 / (n_in + n_out)) ** 0.5),
    "kaiming uniform": (
        {"name": "kaiming", "distribution": "uniform", "mode": "fan_in"},
        lambda n_in, n_out: (2 / n_in) ** 0.5,
    ),
    "kaiming fan_in": (
        {"name": "kaiming", "distribution": "normal", "mode": "fan_in"},
        lambda n_in, n_out: (2 / n_in) ** 0.5,
    ),
    "kaiming fan_out": (
        {"name": "kaiming", "distribution": "normal", "mode": "fan_out"},
        lambda n_in, n_out: (2 / n_out) ** 0.5,
    ),
    "kaiming_misquoted": ({"name": "kaiming_misquoted"}, lambda n_in, n_out: 2 / n_in**0.5),
    "lecun": ({"name": "lecun"}, lambda n_in, n_out: (1 / n_in) ** 0.5),
    "normal": ({"name": "normal", "std": 0.03}, lambda n_in, n_out: 0.03),
}


def drawn(layer: nn.Module, config: dict[str, Any], seed: int = 0) -> Any:
    layer = copy.deepcopy(layer)
    initialize(nn.Sequential(layer), INITS.bind(config)(), seed)
    return layer


def network(
    norm: str = "bn", *, seed: int = 0, init: str = "kaiming", activation: str = "relu", **mlp: Any
) -> nn.Module:
    units = Units(NORMS.bind(from_yaml("norm", norm)), activation, "before")
    config = {"name": "mlp", "depth": 3, "width": 10, "dropout": 0.0} | mlp
    model = MODELS.bind(config)((12,), 4, units)
    initialize(model, INITS.bind(from_yaml("init", init))(), seed)
    return model


def linears(model: nn.Module) -> dict[str, nn.Module]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}


def test_every_rule_has_its_law_tested():
    by_name = {"orthogonal", "lsuv", "constant", "zero"}  # in tests of their own; autoencoder in training/
    assert {config["name"] for config, _ in RULES.values()} | by_name == set(INITS) - {"autoencoder"}


@pytest.mark.parametrize("gain", [1.0, 2.5])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("rule", RULES)
def test_weights_have_the_mean_and_std_of_the_rule(rule, kind, gain):
    config, std = RULES[rule]
    layer, n_in, n_out = LAYERS[kind]
    weight = drawn(layer, config | {"gain": gain}).weight
    expected = gain * std(n_in, n_out)
    assert weight.std().item() == pytest.approx(expected, rel=0.01)
    assert abs(weight.mean().item()) < 5 * expected / weight.numel() ** 0.5


@pytest.mark.parametrize("rule", RULES)
def test_uniform_rules_stay_within_sqrt_3_std_and_normal_ones_do_not(rule):
    config, std = RULES[rule]
    layer, n_in, n_out = LAYERS["linear"]
    largest = drawn(layer, config | {"gain": 1.0}).weight.abs().max().item() / std(n_in, n_out)
    if rule == "torch" or "uniform" in rule:
        assert 0.999 * 3**0.5 < largest <= 3**0.5 * (1 + 1e-6)
    else:
        assert largest > 4


@pytest.mark.parametrize("rule", sorted(set(INITS) - {"torch"}))
def test_biases_start_at_zero(rule):
    assert torch.count_nonzero(drawn(nn.Linear(30, 50), from_yaml("init", rule)).bias) == 0


def test_the_torch_rule_draws_biases_uniformly_whatever_the_gain():
    bias = drawn(nn.Linear(100, 20_000), {"name": "torch", "gain": 3.0}).bias
    assert 0.0999 < bias.abs().max().item() <= 0.1
    assert bias.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)


@pytest.mark.parametrize("layer", [nn.Linear(40, 20), nn.Linear(20, 40), nn.Conv2d(4, 20, 3)])
def test_orthogonal_weights_have_orthonormal_rows_or_columns(layer):
    matrix = drawn(layer.double(), {"name": "orthogonal", "gain": 2.0}).weight.flatten(1)
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    torch.testing.assert_close(gram, 4 * torch.eye(20, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", sorted(set(INITS)))
def test_every_linear_map_is_drawn_anew_and_no_norm_is(rule):
    norm = NORMS.bind(from_yaml("norm", "bn"))
    model = nn.Sequential(nn.Conv2d(2, 4, 3), norm(4), nn.Sequential(nn.Conv1d(4, 4, 3), nn.Linear(5, 6)))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7.0)
    initialize(model, INITS.bind(from_yaml("init", rule))(), 0)
    for name, parameter in model.named_parameters():
        assert (parameter == 7).all() if name.startswith("1.") else not (parameter == 7).any(), name


def test_the_function_of_one_article_draws_no_layer_and_would_stop_at_a_norm():
    # weights_init of article 004 looks for these words in the names of classes, as torch's first examples did with
    # "Conv" and "BatchNorm", and then calls constant_ without a number.
    layers = [nn.Conv2d(1, 2, 3), nn.Linear(2, 2), nn.BatchNorm2d(2)]
    assert not [layer for layer in layers for word in ("conv", "layer", "bn") if word in type(layer).__name__]
    with pytest.raises(TypeError, match="'val'"):
        nn.init.constant_(layers[2].weight)


@pytest.mark.parametrize("norm", list(NORMS))
def test_norms_start_with_gain_one_and_bias_zero(norm):
    layers = [module for module in network(norm).modules() if isinstance(module, Norm)]
    assert len(layers) == 3
    for layer in layers:
        assert layer.gain is None or (layer.gain == 1).all()
        assert (layer.shift == 0).all()


@pytest.mark.parametrize("norm", list(NORMS))
def test_all_norms_start_from_the_same_weights(norm):
    own, other = linears(network(norm)), linears(network("none"))
    assert own.keys() == other.keys()
    if norm == "fixup":
        assert torch.count_nonzero(own.pop("head").weight) == 0
    assert all(torch.equal(stored_weight(layer), other[name].weight) for name, layer in own.items())


def test_a_layer_that_two_architectures_share_starts_alike_in_both():
    shallow, deep = linears(network(depth=2)), linears(network(depth=5))
    shared = [name for name in shallow if name in deep and shallow[name].weight.shape == deep[name].weight.shape]
    assert shared == ["hidden1.linear", "hidden2.linear", "head"]
    assert all(torch.equal(shallow[name].weight, deep[name].weight) for name in shared)


def test_dropout_does_not_change_the_initial_weights():
    plain, dropped = linears(network()), linears(network(dropout=0.5))
    assert len(plain) == 4
    assert all(torch.equal(layer.weight, dropped[name].weight) for name, layer in plain.items())


def test_seeds_and_layers_of_one_shape_start_differently():
    one, other = linears(network(seed=0)), linears(network(seed=1))
    assert not any(torch.equal(layer.weight, other[name].weight) for name, layer in one.items())
    square = [layer.weight for layer in one.values() if layer.weight.shape == (10, 10)]
    assert len(square) == 2
    assert not torch.equal(*square)


@pytest.mark.parametrize("rule", sorted(set(INITS)))
def test_drawing_leaves_the_global_generator_alone_and_ignores_it(rule):
    layer, config = nn.Linear(5, 5), from_yaml("init", rule)
    first = drawn(layer, config).weight
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(first, drawn(layer, config).weight)
    assert torch.equal(state, torch.get_rng_state())


def test_hidden_units_of_a_zero_start_stay_alike_through_training():
    torch.manual_seed(0)
    model = network("none", init="zero", activation="sigmoid", depth=2).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(20, 12, dtype=torch.float64)), torch.arange(20) % 3).backward()
        optimizer.step()
    *hidden, head = [layer.weight for layer in linears(model).values()]
    assert all(_rows_alike(weight) for weight in hidden)
    assert _rows_alike(head.T)
    assert all(weight.abs().max() > 1e-5 for weight in (*hidden, head))


def _rows_alike(matrix: Tensor) -> bool:
    return torch.allclose(matrix, matrix[:1].expand_as(matrix), rtol=1e-12, atol=0)


# ------------------------------------------------------------------------------------------- PyTorch's rule in a model

# The options in which small models differ from their yaml; the sides of their images are 12.
SMALL = {
    "cnn": {"widths": [6, 8]},
    "lenet": {},
    "mlp": {"depth": 2, "width": 20},
    "plain": {"depth": 8, "width": 4},
    "resmlp": {"blocks": 2, "width": 16},
    "resnet": {"depth": 8, "width": 4},
    "vit": {"width": 8, "blocks": 1},
    "resnet9": {"width": 4},
    "resnet18": {},
    "rnn": {"width": 9},
}
IN_LINEAR = [norm for norm in NORMS if NORMS.capabilities(norm).bias_in_linear]


def twin_of(name: str, layer: nn.Module) -> dict[str, Tensor]:
    """The parameters of a layer of PyTorch's own with the shape of ``layer``, as its constructor draws them."""
    if name.startswith("recurrent."):
        _, leaf = name.split(".")
        rnn, kind = nn.RNN(12, 9), {"input": "ih", "state": "hh"}[leaf]
        return {word: rnn.get_parameter(f"{word}_{kind}_l0") for word in ("weight", "bias")}
    if isinstance(layer, nn.Linear):
        return dict(nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None).named_parameters())
    return dict(
        nn.Conv2d(
            layer.in_channels, layer.out_channels, layer.kernel_size, bias=layer.bias is not None
        ).named_parameters()
    )


def assert_of_one_law(own: Tensor, twin: Tensor, said: str) -> None:
    """Two uniform samples of n numbers around 0 have one mean, one variance and one range, as n tells them apart."""
    n = twin.numel()
    assert own.numel() == n
    scale = twin.std().item()
    assert abs(own.mean().item()) < 6 * scale / n**0.5, said
    assert own.var().item() == pytest.approx(twin.var().item(), rel=8 / n**0.5), said
    assert own.abs().max().item() == pytest.approx(twin.abs().max().item(), rel=40 / n), said


def test_small_models_are_all_but_the_larger_ones_of_torchvision():
    assert set(MODELS) - set(SMALL) == {"resnet34", "resnet50"}


@pytest.mark.parametrize(("name", "norm"), [*((name, "none") for name in SMALL), *(("lenet", n) for n in IN_LINEAR)])
def test_every_layer_of_every_model_is_drawn_as_pytorch_draws_it(name, norm):
    torch.manual_seed(0)
    units = Units(NORMS.bind(from_yaml("norm", norm)), "relu", "before")
    model = MODELS.bind(from_yaml("model", name) | SMALL[name])((1, 12, 12), 10, units)
    rule, seeds = INITS.bind(from_yaml("init", "torch"))(), 1 if name == "resnet18" else 60
    own: dict[str, list[Tensor]] = {}
    twins: dict[str, list[Tensor]] = {}
    for seed in range(seeds):
        initialize(model, rule, seed)
        for path, layer in linears(model).items():
            for word, twin in twin_of(path, layer).items():
                parameter = stored_weight(layer) if word == "weight" else layer.bias
                own.setdefault(f"{path}.{word}", []).append(parameter.detach().flatten().clone())
                twins.setdefault(f"{path}.{word}", []).append(twin.detach().flatten())
    biases = {path.removesuffix(".bias") for path in own if path.endswith(".bias")}
    assert biases == ({"fc"} if name == "resnet18" else set(linears(model)))
    for path, draws in own.items():
        assert_of_one_law(torch.cat(draws), torch.cat(twins[path]), path)


def test_weights_are_those_drawn_where_a_norm_leaves_no_bias():
    one, other = (linears(network(norm, init="torch")) for norm in ("none", "bn"))
    assert all(torch.equal(layer.weight, other[name].weight) for name, layer in one.items())
    assert torch.equal(one["head"].bias, other["head"].bias)


def test_the_biases_of_affine_constant_win_over_drawn_ones():
    net = network("none", init="torch")
    drawn_head = linears(net)["head"].bias.clone()
    AFFINES.bind({"name": "constant", "gain": 1.0, "bias": 0.25, "last_gain": None})().fill(net)
    *hidden, head = linears(net).values()
    assert all((layer.bias == 0.25).all() for layer in hidden)
    assert torch.equal(head.bias, drawn_head)


def test_the_command_line_trains_from_drawn_biases(bnexp, tmp_path):
    small = ("model=mlp", "model.depth=1", "model.width=200", "data=digits", "data.size=null", "norm=none", "steps=1")
    answer = bnexp("train", *small, "init=torch", "optim.lr=1e-12", f"hydra.run.dir={tmp_path / 'run'}")
    assert answer.code == 0, answer
    bias = checkpoint.load(tmp_path / "run")["parameters"]["hidden1.linear.bias"]
    assert 0.95 / 8 < bias.abs().max().item() <= 1 / 8  # 64 inputs
    assert bias.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.2)


# ---------------------------------------------------------------------------------------------- rules that look at data


class Recorder(nn.Module):
    """Passes its input on and keeps it."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x


class Recurrent(nn.Module):
    """Applies one linear map twice."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(torch.tanh(self.linear(x)))
        return y


def lsuv(**changes: Any) -> Any:
    return INITS.bind(from_yaml("init", "lsuv") | changes)()


@pytest.mark.parametrize("tolerance", [0.1, 1e-6])
def test_lsuv_gives_every_layer_outputs_of_unit_variance(tolerance):
    torch.manual_seed(0)
    watched = [Recorder() for _ in range(3)]
    model = nn.Sequential(
        *(nn.Conv2d(2, 6, 3), watched[0], nn.ReLU()),
        *(nn.Conv2d(6, 5, 3, stride=2, bias=False), watched[1], nn.Tanh(), nn.Flatten()),
        *(nn.Linear(20, 4), watched[2]),
    ).double()
    rule, x = lsuv(tolerance=tolerance), 5 * torch.randn(40, 2, 7, 7, dtype=torch.float64) + 3
    initialize(model, rule, 0)
    model(x)
    before = [layer.seen.var(correction=0).item() for layer in watched]
    assert max(abs(variance - 1) for variance in before) > 0.5
    adjust(model, rule, x, restore=False)
    model(x)
    assert all(abs(layer.seen.var(correction=0).item() - 1) < tolerance for layer in watched)


def test_lsuv_only_rescales_orthogonal_weights():
    linear = nn.Linear(12, 6).double()
    model = nn.Sequential(linear)
    initialize(model, lsuv(), 0)
    drawn = linear.weight.clone()
    x = 3 * torch.randn(50, 12, dtype=torch.float64)
    adjust(model, lsuv(), x, restore=False)
    ratio = linear.weight / drawn
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-12, atol=0)
    variance = torch.nn.functional.linear(x, drawn).var(correction=0)
    torch.testing.assert_close(ratio[0, 0], 1 / variance.sqrt(), rtol=1e-12, atol=0)


def test_a_layer_used_twice_is_fitted_to_its_first_input():
    torch.manual_seed(0)
    linear = nn.Linear(8, 8, bias=False).double()
    model, x = Recurrent(linear), 4 * torch.randn(30, 8, dtype=torch.float64)
    initialize(model, lsuv(), 0)
    adjust(model, lsuv(tolerance=1e-9), x, restore=False)
    torch.testing.assert_close(linear(x).var(correction=0).item(), 1.0, rtol=0, atol=1e-9)
    weight = linear.weight.clone()
    model(100 * x)  # no hook is left
    assert torch.equal(linear.weight, weight)


def test_lsuv_leaves_a_layer_whose_outputs_do_not_vary():
    linear = nn.Linear(4, 3)
    initialize(nn.Sequential(linear), lsuv(), 0)
    drawn = linear.weight.clone()
    adjust(nn.Sequential(linear), lsuv(), torch.ones(1, 4).mul(0), restore=False)
    assert torch.equal(linear.weight, drawn)


@pytest.mark.parametrize("restore", [True, False])
def test_fitting_leaves_buffers_alone(restore):
    model = network("bn", init="lsuv")
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    weights = [layer.weight.clone() for layer in linears(model).values()]
    adjust(model, lsuv(), 3 * torch.randn(20, 12) + 1, restore=restore)
    assert sum(isinstance(layer, BatchNorm) for layer in model.modules()) == 3
    assert not any(torch.equal(layer.weight, old) for layer, old in zip(linears(model).values(), weights, strict=True))
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_the_statistics_of_a_frozen_norm_are_those_of_the_first_batch_before_the_training():
    model, x = network("frozen_bn"), 3 * torch.randn(20, 12) + 1
    adjust(model, INITS.bind(from_yaml("init", "kaiming"))(), x, restore=False)
    norm = next(layer for layer in model.modules() if isinstance(layer, FrozenBatchNorm))
    z = next(iter(linears(model).values()))(x)
    torch.testing.assert_close(norm.running_mean, z.mean(0).detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var, z.var(0, correction=0).detach(), rtol=1e-5, atol=1e-6)
    before = [buffer.clone() for buffer in (norm.running_mean, norm.running_var)]
    model(x + 5)
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])


def test_rules_without_a_look_at_data_change_nothing():
    model = network("bn")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adjust(model, INITS.bind(from_yaml("init", "kaiming"))(), torch.randn(20, 12), restore=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_constant_weights_are_the_number_of_the_rule():
    layer = drawn(nn.Conv2d(2, 3, 3), {"name": "constant", "value": 0.25})
    assert (layer.weight == 0.25).all()
    assert (layer.bias == 0).all()


def test_the_misquoted_rule_lets_activations_grow_by_sqrt_2_a_layer():
    torch.manual_seed(0)
    linear = drawn(nn.Linear(400, 4000, bias=False), from_yaml("init", "kaiming_misquoted"))
    # He et al. 2015, eq. 10: the right rule keeps E[x^2] of the inputs of a ReLU net.
    x = torch.relu(torch.randn(200, 400))
    y = torch.relu(linear(x))
    assert (y.square().mean() / x.square().mean()).sqrt().item() == pytest.approx(2**0.5, rel=0.02)
