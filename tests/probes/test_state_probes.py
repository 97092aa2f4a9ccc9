"""Probes of the state against numpy, on models whose answer is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnexp.models import ACTIVATIONS, MODELS, Units
from bnexp.models.layers import layers
from bnexp.norms import NORMS
from bnexp.probes import PROBES, Moment, recording
from bnexp.probes.activations import gain, mean_cosine, silence
from bnexp.probes.base import by_unit
from bnexp.probes.state import whiteness

EXACT = {"rel": 1e-10, "abs": 1e-10}
BN = {"name": "bn", "eps": 1e-5, "momentum": 0.1, "affine": True}
IMAGES = 40


def network(model, *, norm=BN, activation="relu", shape=(1, 12, 12), seed=0):
    torch.manual_seed(seed)
    units = Units(NORMS.bind(norm), activation, "before")
    built = MODELS.bind(model)(shape, 3, units).double()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return built


MLP = {"name": "mlp", "depth": 3, "width": 7, "dropout": 0.0}
LENET = {"name": "lenet", "padding": 2}


def moment(model, *, step=1, images=IMAGES, shape=(1, 12, 12)):
    source = torch.Generator().manual_seed(7)
    x = torch.randn(images, *shape, generator=source, dtype=torch.float64)
    y = torch.randint(3, (images,), generator=source)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    return Moment(model, step, x[:8], y[:8], x, y, weights, weights, weights, 0.1)


def probe(word, given, **options):
    return PROBES.bind({"name": word, **options})(given.model, given.images)


def pre_activations(model, x):
    """z of the units of a net of ours, by hand."""
    found = {}
    for name, module in model.named_children():
        if hasattr(module, "norm"):
            z = module.norm(module.linear(x))
            found[name], x = z.detach().numpy(), module.activation(z)
        else:
            x = module(x)
    return found


def as_rows(z):
    return np.moveaxis(z, 1, 0).reshape(z.shape[1], -1)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("model", [MLP, LENET], ids=["mlp", "lenet"])
def test_quantiles_are_those_of_numpy(model):
    given = moment(network(model))
    expected = pre_activations(given.model, given.images)
    measured = probe("quantiles", given, values=10**6, histogram=50).measure(given)
    for layer, z in expected.items():
        for name, level in {"q15": 0.15, "q50": 0.5, "q85": 0.85}.items():
            assert measured[f"{name}/{layer}"] == pytest.approx(np.quantile(as_rows(z), level, axis=1).mean(), **EXACT)
        assert measured[f"drift_med/{layer}"] == 0
        histogram = measured[f"z/{layer}"]
        assert 25 <= len(histogram) <= 50
        assert set(histogram.tolist()) <= set(z.ravel().tolist())


def test_drifts_are_running_maxima_over_the_steps_measured():
    given = moment(network(MLP))
    watch = probe("quantiles", given, values=10**6, histogram=9)
    weights = given.model.hidden1.norm
    quantiles, measured = [], []
    for shift, scale in ((0.0, 1.0), (2.0, 0.5), (-1.0, 3.0), (0.5, 1.0)):
        with torch.no_grad():
            weights.bias.copy_(torch.linspace(0, shift, 7))
            weights.gain.fill_(scale)
        z = as_rows(pre_activations(given.model, given.images)["hidden1"])
        quantiles.append(np.quantile(z, [0.15, 0.5, 0.85], axis=1))
        measured.append(watch.measure(given))
    q = np.stack(quantiles)  # [t, 3, U]
    iqr = q[:, 2] - q[:, 0]
    for t, values in enumerate(measured):
        moved = np.abs(q[: t + 1, 1] - q[0, 1]).max(0)
        assert values["drift_med/hidden1"] == pytest.approx(moved.mean(), **EXACT)
        assert values["drift_iqr/hidden1"] == pytest.approx(
            np.abs(np.log(iqr[: t + 1] / iqr[0])).max(0).mean(), **EXACT
        )
        normalized = moved.mean() / iqr[: t + 1].mean()
        assert values["drift_normalized/hidden1"] == pytest.approx(normalized, **EXACT)
    assert "jitter/hidden1" not in measured[0]
    for t in (1, 2, 3):
        jumps = np.abs(np.diff(q[: t + 1, 1], axis=0))  # [t, U]
        assert measured[t]["jitter/hidden1"] == pytest.approx(jumps.mean() / iqr[: t + 1].mean(), **EXACT)
    unit = np.argsort(np.abs(q[1, 1] - q[0, 1]))[3]  # the middle of seven
    assert "unit_q15/hidden1" not in measured[0]
    for t in (1, 2, 3):
        for level, name in enumerate(("unit_q15", "unit_q50", "unit_q85")):
            assert measured[t][f"{name}/hidden1"] == pytest.approx(q[t, level, unit], **EXACT)


def test_a_unit_that_never_varies_adds_no_drift():
    given = moment(network(MLP))
    with torch.no_grad():
        given.model.hidden1.norm.gain.zero_()
    watch = probe("quantiles", given, values=100, histogram=9)
    watch.measure(given)
    assert watch.measure(given)["drift_iqr/hidden1"] == 0


def test_maps_are_thinned_out_evenly():
    given = moment(network(LENET))
    full = probe("quantiles", given, values=10**6, histogram=9).measure(given)
    thin = probe("quantiles", given, values=2000, histogram=9).measure(given)
    assert thin["q50/conv1"] != full["q50/conv1"]
    assert thin["q50/conv1"] == pytest.approx(full["q50/conv1"], abs=0.1)
    assert thin["q50/hidden2"] == full["q50/hidden2"]


@pytest.mark.parametrize(("width", "most"), [(32, 4096), (2, 256)])
def test_thinned_maps_hold_every_column(width, most):
    column_W = torch.arange(float(width))
    z = column_W.expand(128, 2, width, width)
    thin_UN = by_unit(z, most)
    assert thin_UN.shape[1] <= most
    assert set(thin_UN[0].tolist()) == set(column_W.tolist())
    assert abs(thin_UN.mean() - column_W.mean()) < 0.05


def test_shares_of_saturated_dead_zero_and_constant_units():
    h = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [3.0, 3.0, 3.0]])
    assert silence(nn.ReLU(), h) == pytest.approx({"constant": 2 / 3, "zeros": 4 / 9, "dead": 1 / 3})
    assert silence(nn.Sigmoid(), torch.tensor([[0.04, 0.06, 0.94, 0.96]])) == {"constant": 0, "saturated": 0.5}
    assert silence(nn.Tanh(), torch.tensor([[-0.901, -0.899, 0.899, 0.901]])) == {"constant": 0, "saturated": 0.5}
    assert silence(nn.GELU(), torch.tensor([[1.0, 2.0]])) == {"constant": 0}


@pytest.mark.parametrize(
    ("word", "slope"),
    [
        ("sigmoid", lambda z: 1 / (1 + np.exp(-z)) * (1 - 1 / (1 + np.exp(-z)))),
        ("tanh", lambda z: 1 - np.tanh(z) ** 2),
        ("relu", lambda z: z > 0),
        ("identity", lambda z: np.ones_like(z)),
    ],
)
def test_the_gain_is_the_mean_square_of_the_slope(word, slope):
    z = torch.randn(50, 4, dtype=torch.float64)
    assert gain(ACTIVATIONS[word](), z) == pytest.approx((slope(z.numpy()) ** 2).mean(), **EXACT)


@pytest.mark.parametrize(("activation", "edge"), [("sigmoid", math.log(19)), ("tanh", math.log(19) / 2)])
def test_saturation_of_a_layer(activation, edge):
    given = moment(network(MLP, activation=activation))
    measured = probe("saturation", given).measure(given)
    for layer, z in pre_activations(given.model, given.images).items():
        assert measured[f"saturated/{layer}"] == pytest.approx((np.abs(z) > edge).mean(), **EXACT)
    assert len(measured) == 12


def test_signal_forward():
    given = moment(network(MLP))
    measured = probe("signal", given).measure(given)
    for layer, z in pre_activations(given.model, given.images).items():
        h = np.maximum(z, 0)
        u = h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-12)
        pairs = [u[i] @ u[j] for i in range(IMAGES) for j in range(IMAGES) if i != j]
        assert measured[f"mean/{layer}"] == pytest.approx(h.mean(), **EXACT)
        assert measured[f"rms/{layer}"] == pytest.approx(math.sqrt((h**2).mean()), **EXACT)
        assert measured[f"cosine/{layer}"] == pytest.approx(np.mean(pairs), **EXACT)


def test_the_growth_of_gradients_in_linear_layers():
    given = moment(network(MLP, norm={"name": "none"}, activation="identity"))
    measured = probe("signal", given).measure(given)
    logits = given.model(given.images)
    at_head = (logits.softmax(1) - F.one_hot(given.labels, 3)) / IMAGES @ given.model.head.weight
    at_2 = at_head @ given.model.hidden3.linear.weight
    at_1 = at_2 @ given.model.hidden2.linear.weight
    squares = [g.detach().square().sum().item() for g in (at_1, at_2, at_head)]
    assert measured["growth/hidden1"] == pytest.approx(squares[0] / squares[1], **EXACT)
    assert measured["growth/hidden2"] == pytest.approx(squares[1] / squares[2], **EXACT)
    assert measured["growth"] == pytest.approx(math.sqrt(squares[0] / squares[2]), **EXACT)


def test_gradients_of_a_relu_net_with_batch_norm_grow_by_pi_over_pi_minus_1():
    """Yang et al. 2019: the growth per layer in the limit of width and batch size, here 512 and 256."""
    torch.manual_seed(0)
    units = Units(NORMS.bind(BN), "relu", "before")
    model = MODELS.bind({"name": "mlp", "depth": 12, "width": 512, "dropout": 0.0})((64,), 10, units)
    x, y = torch.randn(256, 64), torch.randint(10, (256,))
    given = Moment(model, 1, x, y, x, y, {}, {}, {}, 0.1)
    measured = PROBES.bind({"name": "signal"})(model, x).measure(given)
    growths = [measured[f"growth/hidden{layer}"] for layer in range(4, 12)]  # behind the layers that feel the input
    assert np.mean(growths) == pytest.approx(math.pi / (math.pi - 1), rel=0.03)


def test_cosines_of_equal_and_of_orthogonal_samples():
    assert mean_cosine(torch.ones(5, 3)).item() == pytest.approx(1, **EXACT)
    assert mean_cosine(torch.eye(4)).item() == pytest.approx(0, **EXACT)


def test_whiteness_is_that_of_numpy():
    mixing = np.random.default_rng(0).normal(size=(5, 5))
    x = mixing @ np.random.default_rng(1).normal(size=(5, 300))
    c = np.cov(x, bias=True)
    values = np.linalg.eigvalsh(c)
    p = values / values.sum()
    correlation = np.abs(np.corrcoef(x)[~np.eye(5, dtype=bool)]).mean()
    expected = {"condition": values[-1] / values[0], "rank": 5, "effective_rank": np.exp(-(p * np.log(p)).sum())}
    found = whiteness(torch.from_numpy(x))
    assert found.pop("eigenvalues").tolist() == pytest.approx(np.log10(values), rel=1e-10)
    assert found == pytest.approx(expected | {"correlation": correlation}, rel=1e-10)


def test_whiteness_of_degenerate_inputs():
    a = torch.randn(1, 200, dtype=torch.float64)
    copies = whiteness(torch.cat([a, 2 * a, torch.ones_like(a)]))
    assert len(copies.pop("eigenvalues")) == 1
    assert copies == pytest.approx({"condition": 1, "rank": 1, "effective_rank": 1, "correlation": 1}, rel=1e-10)
    assert math.isnan(whiteness(torch.ones(3, 50))["condition"])
    assert math.isnan(whiteness(torch.full((3, 50), math.inf))["rank"])


@pytest.mark.parametrize(("share", "rank"), [(2e-6, 2), (0.5e-6, 1)])
def test_variances_of_a_millionth_of_the_largest_are_rounding(share, rank):
    signs = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1]], dtype=torch.float64)  # orthogonal, of variance 1
    assert whiteness(signs * torch.tensor([[1.0], [math.sqrt(share)]]))["rank"] == rank


@pytest.mark.parametrize(("images", "kept"), [(20, []), (21, ["hidden1"])])
def test_covariance_needs_more_than_four_samples_a_variable(images, kept):
    given = moment(network({**MLP, "depth": 1}, shape=(5,)), images=images, shape=(5,))
    measured = probe("covariance", given, samples=1000).measure(given)
    assert [name for name in ("hidden1", "head") if f"rank/{name}" in measured] == kept


def test_covariance_is_that_of_the_inputs_of_layers_with_enough_samples():
    given = moment(network(LENET))
    covariance = probe("covariance", given, samples=10**6)
    measured = covariance.measure(given)
    x = np.maximum(pre_activations(given.model, given.images)["conv1"], 0)
    pooled = as_rows(x.reshape(IMAGES, 6, 6, 2, 6, 2).mean((3, 5)))
    values = np.linalg.eigvalsh(np.cov(pooled, bias=True))
    assert measured["condition/conv2"] == pytest.approx(values[-1] / values[0], rel=1e-8)
    assert {key.rpartition("/")[2] for key in measured} == {"conv1", "conv2"}
    assert [line.partition(" are too few")[0] for line in covariance.left_out] == [
        f"{IMAGES} samples of layer {name}" for name in ("hidden1", "hidden2", "head")
    ]


def test_weight_norms():
    given = moment(network(LENET))
    measured = probe("weight_norms", given).measure(given)
    for name in ("conv1", "hidden1"):
        unit = getattr(given.model, name)
        rows = np.linalg.norm(unit.linear.weight.detach().numpy().reshape(unit.linear.weight.shape[0], -1), axis=1)
        assert measured[f"weight/{name}"] == pytest.approx(math.sqrt((rows**2).sum()), **EXACT)
        assert measured[f"row/{name}"] == pytest.approx(np.median(rows), **EXACT)
        np.testing.assert_allclose(measured[f"rows/{name}"].numpy(), rows, atol=1e-10)
        gains = np.abs(unit.norm.gain.detach().numpy())
        assert measured[f"gain/{name}"] == pytest.approx(np.median(gains), **EXACT)
    assert "row/head" in measured
    assert "gain/head" not in measured


def test_convergence_is_the_share_of_the_way_that_was_left_at_the_mark():
    given = moment(network(MLP, shape=(5,)), shape=(5,))
    watched = probe("convergence", given, mark=3)

    def measured(step, by):
        """At weights that have moved by so much from those of step 1, the head's not at all."""
        moved = {name: w if "head" in name else w + by for name, w in given.before.items()}
        return watched.measure(dataclasses.replace(given, step=step, before=moved))

    assert measured(1, 0.0) == {}
    for step, by in ((2, 0.5), (4, 3.0)):  # 4 is the first step from the mark on
        assert measured(step, by)["left/hidden1"] == 1.0
    there_and_back = measured(6, -1.0)
    assert [there_and_back[f"left/hidden{n}"] for n in (1, 2, 3)] == pytest.approx([4.0] * 3, **EXACT)
    assert math.isnan(there_and_back["left/head"])
    assert measured(8, 4.0)["left/hidden1"] == pytest.approx(0.25, **EXACT)


def test_eval_mismatch():
    given = moment(network(MLP, shape=(5,)), shape=(5,))
    model = given.model
    for x in given.images.flip(0).split(10):
        model(x + 0.3)
    measured = probe("eval_mismatch", given).measure(given)

    norm, batches = model.hidden1.norm, given.images.split(8)
    z = model.hidden1.linear(given.images).detach().numpy()
    mu, var = z.mean(0), z.var(0)
    before = network(MLP, shape=(5,))
    for x in given.images.flip(0).split(10):
        before(x + 0.3)
    running_mean, running_var = (t.numpy() for t in (before.hidden1.norm.running_mean, before.hidden1.norm.running_var))
    assert measured["mean/hidden1"] == pytest.approx((np.abs(running_mean - mu) / np.sqrt(var)).mean(), **EXACT)
    assert measured["var/hidden1"] == pytest.approx(np.abs(np.log(running_var / var)).mean(), **EXACT)
    right = [(before(x).argmax(1) == y).sum().item() for x, y in zip(batches, given.labels.split(8), strict=True)]
    assert measured["accuracy/batch"] == sum(right) / IMAGES
    assert norm.running_mean.numpy() == pytest.approx(mu, **EXACT)  # left to the harness to undo


def test_eval_mismatch_has_no_accuracy_of_logits_that_are_no_numbers():
    given = moment(network(MLP, shape=(5,)), shape=(5,))
    given.model.hidden1.norm.running_var.fill_(math.nan)
    measured = probe("eval_mismatch", given).measure(given)
    assert math.isnan(measured["accuracy/running"])
    assert 0 < measured["accuracy/batch"] < 1
    assert 0 < measured["accuracy/precise"] < 1


@pytest.mark.parametrize(
    ("norm", "there"),
    [({"name": "mean_only_bn", "momentum": 0.1, "affine": True}, "mean"), (BN | {"name": "var_only_bn"}, "var")],
)
def test_eval_mismatch_leaves_statistics_out_that_the_norm_does_not_use(norm, there):
    given = moment(network(MLP, norm=norm, shape=(5,)), shape=(5,))
    measured = probe("eval_mismatch", given).measure(given)
    assert {name.partition("/")[0] for name in measured} == {"accuracy", there, f"{there}s"}


def test_eval_mismatch_of_norms_without_statistics_of_batches_is_nothing():
    given = moment(network(MLP, norm={"name": "none"}))
    assert probe("eval_mismatch", given).measure(given) == {}


def test_layers_hold_every_parameter_of_a_net_in_forward_order():
    for options in (MLP, LENET, {"name": "resnet", "depth": 8, "width": 4}):
        model = network(options, shape=(1, 16, 16))
        found = layers(model)
        named = [parameter for layer in found.values() for parameter in layer.parameters]
        assert sorted(named) == sorted(parameter for parameter, _ in model.named_parameters())
        with recording(model) as signals:
            model(torch.randn(2, 1, 16, 16, dtype=torch.float64))
        assert list(signals.inputs) == list(found)
    blocks = {"stem", "head", *(f"stage{s}_block1{part}" for s in (1, 2, 3) for part in ("", ".first"))}
    assert set(layers(network({"name": "resnet", "depth": 8, "width": 4}))) == blocks


def test_recording_sees_the_input_and_the_output_of_activations():
    given = moment(network(LENET, activation="tanh"))
    with recording(given.model) as signals:
        given.model(given.images)
    expected = pre_activations(given.model, given.images)
    assert list(signals.before) == list(signals.after) == list(expected)
    for layer, z in expected.items():
        np.testing.assert_allclose(signals.before[layer].detach().numpy(), z, atol=1e-10)
        np.testing.assert_allclose(signals.after[layer].detach().numpy(), np.tanh(z), atol=1e-10)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in given.model.modules())


def test_a_moment_answers_from_the_same_buffers_and_puts_weights_back():
    model = network({**MLP, "dropout": 0.5})
    given, before = moment(model), state(model)
    losses = [given.loss(given.x_B, given.y_B).item() for _ in range(2)]
    assert losses[0] == losses[1]
    doubled = {name: 2 * weight for name, weight in given.before.items() if name.startswith("head")}
    with given.at(doubled):
        assert given.loss(given.x_B, given.y_B).item() != losses[0]
        assert torch.equal(model.head.weight, 2 * given.before["head.weight"])
    assert state(model).keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


# ----------------------------------------------------------------------------------------------------------- attention

VIT = {"name": "vit", "patch": 3, "width": 8, "blocks": 2, "heads": 2, "order": "pre", "qk_norm": False}


def test_attention_is_that_of_torchs_own():
    given = moment(network(VIT, norm={"name": "none"}, activation="gelu"))
    with torch.no_grad():
        given.model.block2.attention.inner.qkv.weight.mul_(4)
    measured, x = probe("attention", given).measure(given), given.model.patches(given.images)
    for name in ("block1", "block2"):
        block = getattr(given.model, name)
        ours, tokens = block.attention.inner, block.attention.before(x).transpose(1, 2)
        theirs = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
        with torch.no_grad():
            theirs.in_proj_weight.copy_(ours.qkv.weight.squeeze(2))
            theirs.in_proj_bias.copy_(ours.qkv.bias)
        _, weights = theirs(tokens, tokens, tokens, average_attn_weights=False)
        entropy = -(weights * weights.log()).sum(-1).mean().item()
        assert measured[f"entropy/{name}.attention.inner"] == pytest.approx(entropy, **EXACT)
        q, k, _ = (
            (tokens @ theirs.in_proj_weight.T + theirs.in_proj_bias)
            .detach()
            .numpy()
            .reshape(-1, 16, 3, 2, 4)
            .transpose(2, 0, 3, 1, 4)
        )
        largest = max(
            abs(a @ b) / 2 for image in range(IMAGES) for head in (0, 1) for a in q[image, head] for b in k[image, head]
        )
        assert measured[f"logit/{name}.attention.inner"] == pytest.approx(largest, **EXACT)
        x = block(x)
    assert 0 < measured["entropy/block2.attention.inner"] < measured["entropy/block1.attention.inner"] < math.log(16)
    assert not any(layer._forward_pre_hooks for layer in given.model.modules())
