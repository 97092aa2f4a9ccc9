"""The probes of geometry against singular values, finite differences and steps to the boundaries, in float64."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnexp.models import MODELS, Units
from bnexp.norms import NORMS
from bnexp.probes import PROBES, Moment
from bnexp.probes.geometry import ranks

BN = {"name": "bn", "eps": 1e-5, "momentum": 0.1, "affine": True}
NONE = {"name": "none"}
EXACT = {"rel": 1e-8}


def network(norm, *, activation="relu", depth=3):
    torch.manual_seed(0)
    units = Units(NORMS.bind(norm), activation, "before")
    model = MODELS.bind({"name": "mlp", "depth": depth, "width": 9, "dropout": 0.0})((1, 3, 4), 3, units).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def measured(word: str, model: nn.Module, images: Tensor, **options: int) -> dict[str, float]:
    y = torch.zeros(len(images), dtype=torch.int64)
    probe = PROBES.bind({"name": word, **options})(model, images)
    return probe.measure(Moment(model, 1, images, y, images, y, {}, {}, {}, 0.1))


def some_images(count=20):
    return torch.randn(count, 1, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5


# rank


def test_the_ranks_are_those_of_the_singular_values():
    model, images = network(BN), some_images()
    found = measured("rank", model, images)
    h = images.flatten(1).numpy()
    for layer in ("hidden1", "hidden2", "hidden3"):
        unit = copy.deepcopy(model.get_submodule(layer))
        h = unit(torch.from_numpy(h)).detach().numpy()
        p = np.linalg.svd(h, compute_uv=False) ** 2
        p /= p.sum()
        p = p[p > 0]
        assert found[f"effective/{layer}"] == pytest.approx(np.prod(p**-p), **EXACT)
        assert found[f"participation/{layer}"] == pytest.approx(1 / (p**2).sum(), **EXACT)
    assert found["effective"] == found["effective/hidden3"]
    assert found["participation"] == found["participation/hidden3"]


@pytest.mark.parametrize(("images", "features"), [(5, 40), (40, 5)])
def test_white_features_have_full_rank_and_equal_directions_rank_one(images, features):
    white = torch.linalg.qr(torch.randn(40, 5, dtype=torch.float64)).Q
    white = white if images > features else white.T
    assert list(ranks(white).values()) == pytest.approx([5, 5], **EXACT)
    alike = torch.rand(images, 1, dtype=torch.float64) * torch.randn(1, features, dtype=torch.float64)
    assert list(ranks(alike).values()) == pytest.approx([1, 1], **EXACT)
    assert all(math.isnan(value) for value in ranks(0 * alike).values())


# shattering


def test_gradients_of_inputs_are_those_of_finite_differences():
    model, images = network(BN, activation="tanh"), some_images(8)
    found = measured("shattering", model, images, lines=2, points=6)
    near = []
    for a, b in ((0, 1), (2, 3)):
        line = torch.stack([images[a] + (images[b] - images[a]) * t / 5 for t in range(6)])
        g = differences(model, line)
        near += [cosine(g[i], g[i + 1]) for i in range(5)]
    assert found["neighbours"] == pytest.approx(np.mean(near), rel=1e-5)
    g = differences(model, images)
    among = [cosine(g[i], g[j]) for i in range(8) for j in range(8) if i != j]
    assert found["images"] == pytest.approx(np.mean(among), rel=1e-5)


@torch.no_grad()
def differences(model: nn.Module, x: Tensor) -> np.ndarray:
    """d(sum of first logits)/dx by central differences, [B, D]."""
    found, size = np.zeros((len(x), x[0].numel())), 1e-5
    for image, pixel in np.ndindex(*found.shape):
        for sign in (1, -1):
            moved = x.clone()
            moved[image].view(-1)[pixel] += sign * size
            found[image, pixel] += sign * model(moved)[:, 0].sum().item() / (2 * size)
    return found


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_a_linear_network_has_equal_gradients_everywhere():
    found = measured("shattering", network(NONE, activation="identity"), some_images(), lines=3, points=4)
    assert list(found.values()) == pytest.approx([1, 1], **EXACT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lines": 1, "points": 5}, "probes.shattering.points=5: expected an even number"),
        ({"lines": 9, "points": 8}, "probes.shattering.lines=9: needs two images each, and there are 16"),
    ],
)
def test_lines_need_points_and_images(options, message):
    with pytest.raises(ValueError, match=message):
        measured("shattering", network(NONE), some_images(16), **options)


# boundaries


def test_the_distance_to_a_unit_of_the_first_layer_is_that_to_its_hyperplane():
    model, images = network(NONE), some_images()
    found = measured("boundaries", model, images, units=9)
    weight, bias = (p.detach().numpy() for p in (model.hidden1.linear.weight, model.hidden1.linear.bias))
    distance = np.abs(images.flatten(1).numpy() @ weight.T + bias) / np.linalg.norm(weight, axis=1)
    assert found["nearest/hidden1"] == pytest.approx(np.sort(distance.min(1))[9], **EXACT)
    assert found["distance/hidden1"] == pytest.approx(np.sort(distance, axis=None)[distance.size // 2 - 1], **EXACT)


def test_batch_norm_moves_the_hyperplanes_of_the_first_layer_to_the_mean():
    model, images = network({**BN, "affine": False}, depth=1), some_images()
    found = measured("boundaries", model, images, units=9)
    x, weight = images.flatten(1).numpy(), model.hidden1.linear.weight.detach().numpy()
    distance = np.abs((x - x.mean(0)) @ weight.T) / np.linalg.norm(weight, axis=1)
    assert found["nearest"] == pytest.approx(np.sort(distance.min(1))[9], **EXACT)


@pytest.mark.parametrize("norm", [NONE, BN], ids=["none", "bn"])
def test_no_unit_switches_within_the_nearest_distance_and_one_does_beyond(norm):
    model, images = network(norm), some_images(15)
    nearest = measured("boundaries", model, images, units=9)["nearest"]
    model.eval()  # with the statistics that the probe has set
    least = []
    for image in images:
        directions = torch.randn(400, *image.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        directions = torch.cat([directions, slopes(model, image)])
        directions /= directions.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        low, high = 0.0, 50.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if switches(model, image, middle * directions) else (middle, high)
        least.append(high)
    assert np.sort(least)[7] == pytest.approx(nearest, rel=1e-6)


def pattern(model: nn.Module, x: Tensor) -> Tensor:
    """Which units are on, [B, 27]."""
    on = []
    h = x.flatten(1)
    for layer in (model.hidden1, model.hidden2, model.hidden3):
        h = layer(h)
        on.append(h > 0)
    return torch.cat(on, 1)


def switches(model: nn.Module, image: Tensor, steps: Tensor) -> bool:
    return bool((pattern(model, image + steps) != pattern(model, image[None])).any())


def slopes(model: nn.Module, image: Tensor) -> Tensor:
    """The directions, both ways, in which each unit's input changes most, [54, 1, 3, 4]."""

    def before(x: Tensor) -> Tensor:
        found, h = [], x.flatten()[None]
        for layer in (model.hidden1, model.hidden2, model.hidden3):
            z = layer.norm(layer.linear(h))
            found.append(z[0])
            h = z.relu()
        return torch.cat(found)

    jacobian = torch.autograd.functional.jacobian(before, image)
    kept = jacobian[jacobian.flatten(1).norm(dim=1) > 0]
    return torch.cat([kept, -kept])
