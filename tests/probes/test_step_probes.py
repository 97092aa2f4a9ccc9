"""The probes of a step against formulas and explicit evaluations of their own, in float64."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import from_yaml
from measured import PROBES_OF_ANY_MODEL
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from bnexp.experiment.job import saved_job
from bnexp.experiment.setup import build
from bnexp.models import MODELS, Unit, Units
from bnexp.models.init import INITS, initialize
from bnexp.norms import NORMS
from bnexp.probes import PROBES, Moment, Probe
from bnexp.probes.effective_lr import angles
from bnexp.probes.gradients import coherence, slope
from bnexp.probes.ics import spread, wasserstein
from bnexp.probes.invariance import scale_invariant
from bnexp.probes.landscape import along_gradient
from bnexp.probes.sharpness import hessian, largest_eigenvalue
from bnexp.runs import checkpoint, metrics

SHAPE, CLASSES = (1, 12, 12), 4


def network(
    norm: str = "bn", model: str = "mlp", *, placement: str = "before", activation: str = "tanh", **options: Any
) -> nn.Module:
    """A small model in float64; ``options`` are the norm's."""
    units = Units(NORMS.bind(from_yaml("norm", norm) | options), activation, placement)
    config = {"name": "mlp", "depth": 3, "width": 10, "dropout": 0.0} if model == "mlp" else from_yaml("model", model)
    made: nn.Module = MODELS.bind(config)(SHAPE, CLASSES, units)
    initialize(made, INITS.bind(from_yaml("init", "lecun"))(), seed=3)
    return made.double()


def batch(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *SHAPE, generator=source, dtype=torch.float64)
    return x, torch.randint(CLASSES, (count,), generator=source)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def stepped(model: nn.Module, *, lr: float = 0.1, images: int = 24, count: int = 16, kind: Any = Moment) -> Moment:
    """One step of plain gradient descent, and the model brought back to before it."""
    start = copy.deepcopy(model.state_dict())
    (x_B, y_B), (probe_x, probe_y) = batch(count), batch(images, seed=1)
    before = weights(model)
    found = torch.autograd.grad(F.cross_entropy(model(x_B), y_B), list(model.parameters()))
    gradient = dict(zip(before, found, strict=True))
    after = {name: before[name] - lr * gradient[name] for name in before}
    model.load_state_dict(start)
    return kind(model, 1, x_B, y_B, probe_x, probe_y, before, after, gradient, lr)


def built(word: str, model: nn.Module, **options: Any) -> Probe:
    config = from_yaml("probes", word)
    config = {key: value for key, value in config.items() if key not in ("every", "images")} | options
    return PROBES.bind(config)(model, batch(24, seed=1)[0])


def assert_close(value: Any, expected: Any, tolerance: float = 1e-10) -> None:
    assert float(value) == pytest.approx(float(expected), rel=tolerance, abs=tolerance)


# All probes


@pytest.mark.parametrize("norm", ["none", "bn", "gn", "weight_norm"])
@pytest.mark.parametrize("word", PROBES_OF_ANY_MODEL)
def test_it_measures_finite_numbers_under_the_same_names_and_leaves_the_weights(word, norm):
    model = network(norm)
    moment, probe = stepped(model), built(word, model)
    _, second, third = (probe.measure(moment) for _ in range(3))  # some say more from the second time on
    assert list(second) == list(third)
    assert all(torch.as_tensor(value).isfinite().all() for value in second.values())
    kept = weights(model)
    assert all(torch.equal(kept[name], moment.before[name]) for name in kept)


@pytest.mark.parametrize("word", PROBES_OF_ANY_MODEL)
def test_it_draws_nothing_from_the_global_generator(word):
    model = network()
    torch.manual_seed(7)
    built(word, model).measure(stepped(model))
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("word", PROBES_OF_ANY_MODEL)
def test_building_it_leaves_the_model(word):
    model = network()
    start = copy.deepcopy(model.state_dict())
    built(word, model)
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())


# gradients


def test_gradient_norms_are_those_of_each_layers_weight():
    model = network()
    moment = stepped(model, lr=0.05)
    values = built("gradients", model).measure(moment)
    for layer in ("hidden1", "hidden2", "hidden3", "head"):
        name = f"{layer}.weight" if layer == "head" else f"{layer}.linear.weight"
        g, w = moment.gradient[name].numpy(), moment.before[name].numpy()
        assert_close(values[f"norm/{layer}"], np.sqrt((g**2).sum()))
        assert_close(values[f"relative/{layer}"], np.sqrt((g**2).sum() / (w**2).sum()))
        assert_close(values[f"update/{layer}"], 0.05 * np.sqrt((g**2).sum() / (w**2).sum()))


def test_the_weight_behind_a_norm_of_weights_is_the_stored_one():
    model = network("weight_norm")
    moment = stepped(model)
    name = "hidden1.linear.parametrizations.weight.original"
    assert_close(built("gradients", model).measure(moment)["norm/hidden1"], moment.gradient[name].norm())


def test_activation_gradients_are_those_of_finite_differences():
    model = network()
    moment = stepped(model)
    unit = model.get_submodule("hidden3")
    shift = torch.zeros(16, 10, dtype=torch.float64)
    hook = unit.register_forward_hook(lambda module, inputs, h: h + shift)
    found, size = torch.zeros_like(shift), 1e-5
    with torch.no_grad():
        for index in np.ndindex(*shift.shape):
            for sign in (1, -1):
                shift[index] = sign * size
                found[index] += sign * moment.loss(moment.x_B, moment.y_B) / (2 * size)
            shift[index] = 0
    hook.remove()
    assert_close(built("gradients", model).measure(moment)["activation/hidden3"], found.norm(), 1e-7)


def test_slopes_are_least_squares_lines_over_the_hidden_layers():
    values = [3.0, 0.2, 0.7, 0.01]
    assert_close(slope(values), np.polyfit(range(4), np.log10(values), 1)[0])
    model = network()
    measured = built("gradients", model).measure(stepped(model))
    assert_close(measured["slope"], math.log10(measured["norm/hidden3"] / measured["norm/hidden2"]))
    assert_close(
        measured["slope_activation"], math.log10(measured["activation/hidden3"] / measured["activation/hidden2"])
    )
    assert math.isnan(slope([1.0]))


def test_coherence_is_one_for_equal_gradients_and_a_half_for_two_orthogonal_ones():
    one, other = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    assert_close(coherence([[one, other], [one, other]]), 1, 1e-6)
    assert_close(coherence([[one], [other]]), 0.5, 1e-6)


def test_coherence_is_that_of_four_micro_batches():
    model = network("ln")
    moment = stepped(model, count=18)
    parts = []
    for start, end in ((0, 5), (5, 10), (10, 14), (14, 18)):
        loss = F.cross_entropy(model(moment.x_B[start:end]), moment.y_B[start:end])
        found = torch.autograd.grad(loss, list(model.parameters()))
        parts.append(torch.cat([gradient.flatten() for gradient in found]).numpy())
    expected = (np.mean(parts, 0) ** 2).sum() / np.mean([(part**2).sum() for part in parts])
    assert_close(built("gradients", model).measure(moment)["coherence"], expected)


@pytest.mark.parametrize(("norm", "count"), [("bn", 7), ("ln", 3)])
def test_coherence_is_nan_where_a_quarter_of_the_batch_is_too_small(norm, count):
    model = network(norm)
    assert math.isnan(built("gradients", model).measure(stepped(model, count=count))["coherence"])


# ics


def two_layers(x: np.ndarray, y: np.ndarray, w1: np.ndarray, w2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hidden activation and dL/dW2 of softmax(W2 tanh(W1 x)) with mean cross-entropy."""
    h = np.tanh(x @ w1.T)
    z = h @ w2.T
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return h, p.T @ h / len(y)


def test_the_shift_of_a_two_layer_net_is_that_of_an_explicit_reevaluation():
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 6, bias=False), nn.Tanh(), nn.Linear(6, CLASSES, bias=False))
    moment = stepped(model.double(), lr=0.7)
    values = built("ics", model).measure(moment)
    x, y = moment.x_B.flatten(1).numpy(), moment.y_B.numpy()
    w1, w2 = (moment.before[f"{index}.weight"].numpy() for index in (1, 3))
    h, old = two_layers(x, y, w1, w2)
    h_new, new = two_layers(x, y, moment.after["1.weight"].numpy(), w2)
    assert_close(values["l2/3"], np.linalg.norm(new - old))
    assert_close(values["relative/3"], np.linalg.norm(new - old) / np.linalg.norm(old))
    assert_close(values["cosine/3"], (new * old).sum() / np.linalg.norm(new) / np.linalg.norm(old))
    assert_close(values["coupling/3"], np.linalg.norm(h_new - h) / np.linalg.norm(h))
    assert not any(name.endswith("/1") for name in values)
    assert values["l2/3"] > 1e-3


def test_all_parameters_of_the_layers_below_are_updated_and_none_of_the_others():
    model = network()
    moment = stepped(model, lr=0.5)
    values = built("ics", model).measure(moment)
    moved = copy.deepcopy(model)
    own = dict(moved.named_parameters())
    with torch.no_grad():
        for name in own:
            if name.startswith("hidden1."):
                own[name].copy_(moment.after[name])
    kind = [name for name in own if name.startswith("hidden2.")]
    found = torch.autograd.grad(F.cross_entropy(moved(moment.x_B), moment.y_B), [own[name] for name in kind])
    square = sum(((new - moment.gradient[name]) ** 2).sum() for name, new in zip(kind, found, strict=True))
    assert kind == ["hidden2.linear.weight", "hidden2.norm.gain", "hidden2.norm.bias"]
    assert_close(values["l2/hidden2"], square.sqrt())


def test_there_is_no_shift_where_nothing_below_has_moved():
    model = network()
    moment = stepped(model)
    after = {name: w if name.startswith("head") else moment.before[name] for name, w in moment.after.items()}
    still = Moment(**{**vars(moment), "after": after})
    values = built("ics", model).measure(still)
    for layer in ("hidden2", "hidden3", "head"):
        assert (values[f"l2/{layer}"], values[f"coupling/{layer}"]) == (0, 0)
        assert_close(values[f"cosine/{layer}"], 1)


def test_dropout_alone_is_no_shift():
    units = Units(NORMS.bind(from_yaml("norm", "none")), "relu", "before")
    model = MODELS.bind({"name": "mlp", "depth": 2, "width": 10, "dropout": 0.5})(SHAPE, CLASSES, units).double()
    moment = stepped(model)
    values = built("ics", model).measure(Moment(**{**vars(moment), "after": moment.before}))
    assert values["l2/head"] == 0


def test_the_distance_of_samples_is_wasserstein_over_the_pooled_sd():
    source = np.random.default_rng(0)
    first, second = source.normal(size=(3, 50)), source.normal(1, 2, size=(3, 50))
    found = wasserstein(torch.tensor(first), torch.tensor(second))
    for a, b, value in zip(first, second, found, strict=True):
        assert_close(value, wasserstein_distance(a, b) / math.sqrt((a.var() + b.var()) / 2))
    constant = torch.ones(1, 5, dtype=torch.float64)
    assert wasserstein(constant, 2 * constant).isnan().all()


def test_distributions_are_compared_with_those_measured_before():
    model = network("none")
    moment, probe = stepped(model), built("ics", model, units=10)
    first, second, *_ = (unit for unit in model if isinstance(unit, Unit))
    z = second.norm(second.linear(first(moment.images.flatten(1)))).detach()
    assert math.isnan(probe.measure(moment)["distribution/hidden2"])
    shift = torch.arange(10, dtype=torch.float64) / 10
    moved = {**moment.before, "hidden2.linear.bias": moment.before["hidden2.linear.bias"] + shift}
    with moment.at(moved):
        value = probe.measure(moment)["distribution/hidden2"]
    assert_close(value, (shift / z.std(0, correction=0)).mean())


def test_feature_maps_are_sampled_at_one_position_an_image():
    model = network(model="lenet")
    probe = built("ics", model, units=3, layers=10)
    assert {name: list(slot.shape) for name, slot in probe.slots.items()} == {
        "conv2": [3, 24],
        "hidden1": [3, 24],
        "hidden2": [3, 24],
    }
    assert all(slot.isnan().all() for slot in probe.slots.values())
    probe.measure(stepped(model))
    assert all(slot.isfinite().all() for slot in probe.slots.values())


def test_a_model_of_one_layer_has_no_shift():
    with pytest.raises(ValueError, match=r"probes=\[ics\]: this model has a single layer"):
        built("ics", nn.Sequential(nn.Flatten(), nn.Linear(144, CLASSES)).double())


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(1, 4, [0]), (3, 1, [2]), (3, 4, [0, 1, 2]), (9, 3, [0, 4, 8]), (10, 4, [0, 3, 6, 9])],
)
def test_layers_are_spread_evenly(count, most, expected):
    assert spread(count, most) == expected


# landscape and sharpness


@dataclass(frozen=True)
class Quadratic(Moment):
    """L = w^T A w / 2 of all parameters in a row, whatever the data."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        w = torch.cat([parameter.flatten() for parameter in self.model.parameters()])
        return w @ curvature(len(w)) @ w / 2


def curvature(size: int) -> Tensor:
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    eigenvalues, vectors = torch.linalg.eigh(a + a.T)
    eigenvalues[0] = -3 * eigenvalues.abs().max()  # the largest magnitude, and well apart
    return vectors @ eigenvalues.diag() @ vectors.T


def tiny(kind: Any) -> Moment:
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 2), nn.Tanh(), nn.Linear(2, CLASSES)).double()
    return stepped(model, kind=kind)


def test_on_a_quadratic_the_gradient_changes_by_the_hessian_times_the_way():
    moment = tiny(Quadratic)
    w = torch.cat([part.flatten() for part in moment.before.values()])
    a = curvature(len(w))
    g, lengths = a @ w, [0.01, 0.1, 0.4]
    line = along_gradient(moment, list(moment.before), [t / moment.lr for t in lengths])
    for t, loss, change in zip(lengths, line.loss_T, line.change_T, strict=True):
        assert_close(loss, (w - t * g) @ a @ (w - t * g) / 2)
        assert_close(change, t * (a @ g).norm())
    assert_close(line.beta, (a @ g).norm() / g.norm())
    assert_close(line.slope, g.norm())


@pytest.mark.parametrize("unit", ["lr", "distance"])
def test_the_landscape_is_that_of_explicit_losses_and_gradients(unit):
    model = network()
    moment = stepped(model, lr=0.3)
    whole = math.sqrt(sum((g**2).sum() for g in moment.gradient.values()))
    lengths = [0.15, 0.3, 0.6, 0.75]  # an even count: a true median
    steps = [t / 0.3 if unit == "lr" else t * whole for t in lengths]
    values = built("landscape", model, steps=steps, unit=unit).measure(moment)
    losses, changes, betas = [], [], []
    for t in lengths:
        other = copy.deepcopy(model)
        other.load_state_dict({name: w - t * moment.gradient[name] for name, w in moment.before.items()}, strict=False)
        loss = F.cross_entropy(other(moment.x_B), moment.y_B)
        found = torch.autograd.grad(loss, list(other.parameters()))
        change = math.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(found, moment.gradient.values(), strict=True)))
        losses.append(loss.item())
        changes.append(change)
        betas.append(change / (t * whole))
    assert_close(values["loss_min"], min(losses))
    assert_close(values["loss_max"], max(losses))
    assert_close(values["predictiveness_max"], max(changes))
    assert_close(values["predictiveness_median"], np.median(changes))
    assert_close(values["relative_predictiveness_max"], max(changes) / whole)
    assert_close(values["relative_predictiveness_median"], np.median(changes) / whole)
    assert_close(values["beta"], max(betas))


@pytest.mark.parametrize("unit", ["lr", "distance"])
def test_where_there_is_no_gradient_the_loss_stays_what_it_is(unit):
    """Of images that are 0, a map without bias has none."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, CLASSES, bias=False)).double()
    moment = stepped(model)
    moment = replace(moment, x_B=torch.zeros_like(moment.x_B))
    line = along_gradient(moment, list(moment.before), [0.5, 2.0], unit)
    assert line.slope == 0
    assert_close(line.loss_T.min(), math.log(CLASSES))
    assert_close(line.loss_T.max(), math.log(CLASSES))


@pytest.mark.parametrize(
    ("word", "plain", "invariant"),
    [("landscape", "beta", "beta_invariant"), ("sharpness", "lambda_max", "lambda_max_invariant")],
)
def test_a_rescaled_network_has_another_curvature_and_the_same_invariant_one(word, plain, invariant):
    model = network(eps=1e-14)
    small = built(word, model).measure(stepped(model, lr=0.1))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("linear.weight"):
                parameter.mul_(3)
    large = built(word, model).measure(stepped(model, lr=0.9))
    assert_close(large[invariant], small[invariant], 1e-8)
    assert abs(large[plain] / small[plain] - 1) > 0.05


def sharp(moment: Moment, *, iterations: int) -> dict[str, Any]:
    return built("sharpness", moment.model, iterations=iterations).measure(moment)


def test_lanczos_finds_the_largest_eigenvalue_with_its_sign():
    moment = tiny(Quadratic)
    values = sharp(moment, iterations=60)
    expected = torch.linalg.eigvalsh(curvature(sum(w.numel() for w in moment.before.values())))[0]
    assert expected < 0
    assert_close(values["lambda_max"], expected, 1e-7)
    assert_close(values["lambda_max_lr"], expected * moment.lr, 1e-7)
    assert 0 < values["lambda_max_residual"] < 1e-4
    assert "lambda_max_invariant" not in values


def symmetric(eigenvalues: list[float]) -> Tensor:
    noise = torch.randn(len(eigenvalues), len(eigenvalues), generator=torch.Generator().manual_seed(2))
    vectors, _ = torch.linalg.qr(noise.double())
    return vectors @ torch.tensor(eigenvalues, dtype=torch.float64).diag() @ vectors.T


@pytest.mark.parametrize("iterations", [2, 3, 5, 8, 13])
@pytest.mark.parametrize(
    "eigenvalues", [[-7.0, *range(1, 7)], [5.0, 4.99, *range(-3, 3)], [1.0] * 4, [0.5 + i / 50 for i in range(40)]]
)
def test_an_eigenvalue_is_no_farther_away_than_the_residual_says(eigenvalues, iterations):
    """Also of fewer dimensions than iterations, and where the start lies in a space that the map does not leave."""
    start = torch.randn(len(eigenvalues), generator=torch.Generator().manual_seed(3)).double()
    found = largest_eigenvalue(symmetric(eigenvalues).mv, start, iterations)
    distance = min(abs(found.value - own) for own in eigenvalues)
    assert distance <= (found.residual + 1e-12) * abs(found.value)
    if iterations >= len(set(eigenvalues)):
        assert_close(found.value, max(eigenvalues, key=abs), 1e-6)


def test_a_map_that_gives_no_numbers_has_no_eigenvalue():
    found = largest_eigenvalue(lambda v: v * math.nan, torch.ones(3), 5)
    assert math.isnan(found.value)
    assert math.isnan(found.residual)


@pytest.mark.parametrize("own", [("seed=0",), ("seed=2", "optim.lr=0.01")], ids=["fast", "slow"])
def test_the_sharpness_of_a_trained_network_is_that_of_an_eigensolver(bnexp, tmp_path, own):
    """Of all weights, and of the scale-invariant ones times their squared length; power iteration was up to 6 % off."""
    words = ("model=mlp", "norm=bn", "data.size=8", "data.train_limit=200", "eval_every=1000", "batch_size=50", *own)
    assert bnexp("train", *words, "steps=20", f"hydra.run.dir={tmp_path / 'run'}").code == 0
    probe = ("probes=[sharpness]", "probes.sharpness.images=60", "steps=1", "log_every=1")
    more = (f"init_from={tmp_path / 'run'}", f"hydra.run.dir={tmp_path / 'more'}")
    assert bnexp("train", *words, *probe, *more).code == 0
    told = {tag.removeprefix("probe/sharpness/"): value for _, tag, value in metrics.points(tmp_path / "more")}

    setup = build([saved_job(tmp_path / "run").config], stacked=False, resumed=[True])
    setup.load(0, checkpoint.load(tmp_path / "run"))
    model, images = copy.deepcopy(setup.population.members[0]).double().train(), setup.data.train.mixed(60)
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    invariant = [name for name in own if name.endswith("linear.weight")]
    assert invariant
    square = sum(own[name].square().sum().item() for name in invariant)
    expected = {"lambda_max": eigenvalue(model, images, list(own))}
    expected["lambda_max_invariant"] = square * eigenvalue(model, images, invariant)
    for quantity, value in expected.items():
        assert_close(told[quantity], value, 1e-3)
        assert told[f"{quantity}_residual"] < 5e-3


def eigenvalue(model: nn.Module, images: Any, names: list[str]) -> float:
    """The largest eigenvalue of the Hessian in some weights, by ARPACK and torch's own products with a Hessian."""
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    weights = tuple(own[name] for name in names)

    def loss(*some: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, own | dict(zip(names, some, strict=True)), (images.x.double(),))
        return F.cross_entropy(logits, images.y)

    def times(v: np.ndarray) -> np.ndarray:
        parts = torch.tensor(v).flatten().split([w.numel() for w in weights])
        v_like = tuple(part.view_as(w) for part, w in zip(parts, weights, strict=True))
        _, found = torch.autograd.functional.vhp(loss, weights, v_like)
        return torch.cat([part.flatten() for part in found]).numpy()

    size = sum(w.numel() for w in weights)
    (value,) = eigsh(LinearOperator((size, size), times, dtype=np.float64), k=1, tol=1e-5, return_eigenvectors=False)
    return float(value)


def test_hessian_vector_products_are_those_of_the_explicit_hessian():
    model = network(activation="tanh", eps=1e-3)
    x, y = batch(12)
    head = model.get_submodule("head")
    parameters = [head.weight, head.bias]

    def loss(weight: Tensor, bias: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, {"head.weight": weight, "head.bias": bias}, (x,)), y)

    blocks = torch.autograd.functional.hessian(loss, (head.weight, head.bias))
    rows = [torch.cat([blocks[i][j].reshape(p.numel(), -1) for j in (0, 1)], 1) for i, p in enumerate(parameters)]
    whole = torch.cat(rows)
    times = hessian(loss(*parameters), parameters)
    v = torch.randn(len(whole), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(times(v), whole @ v, rtol=0, atol=1e-12)
    assert_close(largest_eigenvalue(times, v, 300).value, torch.linalg.eigvalsh(whole)[-1], 1e-7)


def test_sharpness_of_a_whole_net_is_a_finite_difference_of_its_gradients():
    model = network("gn", groups=2)
    moment = stepped(model)
    x, y = moment.images, moment.labels
    value = sharp(moment, iterations=60)["lambda_max"]
    sizes = [p.numel() for p in model.parameters()]
    flat = torch.cat([w.flatten() for w in moment.before.values()])

    def gradient(w: Tensor) -> Tensor:
        parts = [part.view_as(p) for part, p in zip(w.split(sizes), model.parameters(), strict=True)]
        with moment.at(dict(zip(moment.before, parts, strict=True))):
            found = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        return torch.cat([part.flatten() for part in found])

    v = torch.randn(len(flat), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    for _ in range(60):
        v = v / v.norm()
        product = (gradient(flat + 1e-6 * v) - gradient(flat - 1e-6 * v)) / 2e-6
        found, v = v @ product, product
    assert_close(value, found, 1e-6)


def test_a_norm_without_a_second_derivative_is_refused_with_a_sentence():
    with pytest.raises(ValueError, match=r"probes=\[sharpness\]: this .* no derivative \(.*\); use .* bn for "):
        built("sharpness", network("bn_scratch"))


@pytest.mark.parametrize("steps", [[], [0.5, 0.0], [-1.0]])
def test_step_lengths_must_be_above_zero(steps):
    with pytest.raises(ValueError, match=r"probes.steps="):
        built("landscape", network(), steps=steps)


# effective_lr


def test_angles_are_arccos_of_the_normalized_dot_product():
    source = np.random.default_rng(2)
    before, after = source.normal(size=(20, 7)), source.normal(size=(20, 7))
    dot = (before * after).sum(1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    found = angles(torch.tensor(before), torch.tensor(after))
    np.testing.assert_allclose(found, np.arccos(dot), rtol=0, atol=1e-12)


def test_small_angles_keep_their_digits():
    after = torch.tensor([[math.cos(1e-9), math.sin(1e-9)]], dtype=torch.float64)
    assert_close(angles(torch.tensor([[5.0, 0.0]], dtype=torch.float64), after), 1e-9, 1e-15)


def test_a_scale_invariant_weight_grows_by_the_orthogonal_step():
    model = network("bn_scratch", eps=0.0)
    moment = stepped(model, lr=0.4)
    values = built("effective_lr", model).measure(moment)
    for layer in ("hidden1", "hidden2", "hidden3"):
        assert_close(values[f"growth/{layer}"], values[f"growth_orthogonal/{layer}"], 1e-12)
        w, g = (kind[f"{layer}.linear.weight"].numpy() for kind in (moment.before, moment.gradient))
        square = (w**2).sum(1)
        assert_close(values[f"rate/{layer}"], np.median(0.4 / square))
        assert_close(values[f"angle/{layer}"], np.median(np.arctan(0.4 * np.linalg.norm(g, axis=1) / np.sqrt(square))))
    assert abs(values["growth/head"] - values["growth_orthogonal/head"]) > 1e-4


# scale_invariant


@pytest.mark.parametrize(
    ("norm", "model", "expected"),
    [
        ("none", "mlp", []),
        ("bn", "mlp", ["hidden1", "hidden2", "hidden3"]),
        ("bn_scratch", "mlp", ["hidden1", "hidden2", "hidden3"]),
        ("ln", "mlp", ["hidden1", "hidden2", "hidden3"]),
        ("weight_norm", "mlp", ["hidden1", "hidden2", "hidden3"]),
        ("bn", "lenet", ["conv1", "conv2", "hidden1", "hidden2"]),
        ("in", "lenet", ["conv1", "conv2"]),  # it skips vectors
        ("skipinit", "mlp", []),
        ("detached_bn", "mlp", []),  # the function is, its gradients are not
        ("batch_renorm", "mlp", []),  # in the warm-up only
    ],
)
def test_scale_invariant_weights_are_those_in_front_of_a_norm(norm, model, expected):
    found = scale_invariant(network(norm, model), batch(24)[0])
    assert [name.partition(".")[0] for name in found] == expected


def test_a_learnt_eps_stays_as_small_as_it_is():
    net = MODELS.bind(from_yaml("model", "lenet"))
    norm = NORMS.bind(from_yaml("norm", "frn") | {"learn_eps": True})
    found = scale_invariant(net((1, 28, 28), 3, Units(norm, "relu", "before")), torch.randn(24, 1, 28, 28))
    assert [name.partition(".")[0] for name in found] == ["conv1", "conv2"]


@pytest.mark.parametrize("start", [0.0, 1e-6, 1e3])
def test_initial_values_do_not_hide_which_weights_matter(start):
    model = network("none", activation="sigmoid")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(start)
    assert scale_invariant(model, batch(24)[0]) == []


def test_a_norm_behind_the_activation_leaves_the_weights_length_its_meaning():
    assert scale_invariant(network("bn", placement="after"), batch(24)[0]) == []


def test_gradients_that_vanish_have_norms_in_single_precision_too(bnexp, tmp_path):
    """The squares of numbers of 1e-24 are 0 in float32."""
    words = "model=mlp model.depth=60 model.width=32 activation=sigmoid norm=none probes=[gradients,signal] steps=1"
    found = {}
    for precision in ("fp32", "fp64"):
        folder = tmp_path / precision
        answer = bnexp("train", *words.split(), f"precision={precision}", f"hydra.run.dir={folder}")
        assert answer.code == 0, answer
        found[precision] = {tag.removeprefix("probe/"): value for _, tag, value in metrics.points(folder)}
    single, double = found["fp32"], found["fp64"]
    assert 0 < double["gradients/norm/hidden1"] < 1e-22
    for tag in ("gradients/slope", "gradients/slope_activation", "signal/growth", "signal/growth/hidden1"):
        assert single[tag] == pytest.approx(double[tag], rel=0.02)
    for tag in ("gradients/norm/hidden1", "gradients/activation/hidden1"):
        assert math.log10(single[tag]) == pytest.approx(math.log10(double[tag]), rel=0.02)
