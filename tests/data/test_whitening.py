"""Choice and whitening of inputs against numpy: classes, labels, and the moments of what is trained on."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from conftest import SMALL, composed
from test_data import PLAIN, assert_refused

from bnexp.config.compose import plain
from bnexp.data import load, seen_by
from bnexp.data.whitening import whitening
from bnexp.experiment.setup import build

EPS = 1e-3


def correlated(count: int = 300, shape: tuple[int, ...] = (2, 2, 3)) -> np.ndarray:
    random = np.random.default_rng(0)
    features = int(np.prod(shape))
    x = random.normal(size=(count, features)) @ random.normal(size=(features, features)) + random.normal(size=features)
    return x.reshape(count, *shape)


def whitened(kind: str, x: np.ndarray, eps: float = EPS, other: np.ndarray | None = None) -> np.ndarray:
    """The training images (or others) behind the transformation that the training images ask for."""
    found = whitening(kind, torch.from_numpy(x), eps)
    assert found is not None
    return found(torch.from_numpy((x if other is None else other).copy())).numpy()


def covariance(x: np.ndarray) -> np.ndarray:
    return np.cov(x.reshape(len(x), -1), rowvar=False, bias=True)


def test_none_leaves_all_as_it_is():
    assert whitening("none", torch.zeros(3, 4), EPS) is None


@pytest.mark.parametrize("kind", ["centre", "scale", "rotate", "pca", "zca"])
def test_the_training_mean_is_zero_and_images_stay_images_unless_rotated(kind):
    x = correlated()
    y = whitened(kind, x)
    assert y.shape == ((300, 12) if kind in ("rotate", "pca") else x.shape)
    np.testing.assert_allclose(y.reshape(300, -1).mean(0), 0, atol=1e-10)


# Images are read 4096 at a time; that must not show.
some_and_many = pytest.mark.parametrize("count", [300, 4097])


@some_and_many
def test_centre_and_scale_are_those_of_each_feature(count):
    x = correlated(count)
    centred = x - x.mean(0)
    np.testing.assert_allclose(whitened("centre", x), centred, atol=1e-10)
    np.testing.assert_allclose(whitened("scale", x), centred / np.sqrt(x.var(0) + EPS), atol=1e-10)


def test_rotation_makes_the_covariance_diagonal_falling_and_keeps_lengths():
    x = correlated()
    y = whitened("rotate", x)
    values = np.linalg.eigvalsh(covariance(x))[::-1]
    np.testing.assert_allclose(covariance(y), np.diag(values), atol=1e-10)
    np.testing.assert_allclose((y**2).sum(1), ((x - x.mean(0)).reshape(300, -1) ** 2).sum(1), rtol=1e-10)


@pytest.mark.parametrize("kind", ["pca", "zca"])
@pytest.mark.parametrize("eps", [1e-12, 1e-2])
def test_whitening_makes_the_covariance_the_identity_but_for_eps(kind, eps):
    x = correlated()
    values, vectors = np.linalg.eigh(covariance(x))
    shrunk = values / (values + eps)
    expected = np.diag(shrunk[::-1]) if kind == "pca" else vectors * shrunk @ vectors.T
    found = covariance(whitened(kind, x, eps))
    np.testing.assert_allclose(found, expected, atol=1e-10)
    assert np.abs(found - np.eye(12)).max() <= eps / values[0] * (1 + 1e-6) + 1e-10


@some_and_many
def test_zca_is_the_inverse_root_of_the_covariance(count):
    x = correlated(count)
    values, vectors = np.linalg.eigh(covariance(x))
    root = vectors @ np.diag((values + EPS) ** -0.5) @ vectors.T
    expected = (x - x.mean(0)).reshape(count, -1) @ root
    np.testing.assert_allclose(whitened("zca", x).reshape(count, -1), expected, atol=1e-10)


@pytest.mark.parametrize("kind", ["centre", "scale", "rotate", "pca", "zca"])
def test_other_images_are_changed_as_the_training_images_are(kind):
    x = correlated()
    np.testing.assert_allclose(whitened(kind, x, other=x[:7]), whitened(kind, x)[:7], atol=1e-12)


@pytest.mark.parametrize("kind", ["rotate", "pca"])
def test_axes_have_a_sign_of_their_own(kind):
    x = correlated()
    mirrored = whitened(kind, 2 * x.mean(0) - x)  # the same covariance, so the same axes
    np.testing.assert_allclose(mirrored, -whitened(kind, x), atol=1e-9)
    axes = whitening("rotate", torch.from_numpy(x), EPS).matrix.numpy()
    assert (axes[np.abs(axes).argmax(0), range(12)] > 0).all()


def test_a_feature_that_never_varies_stays_finite():
    x = correlated()
    x[:, 0, 0, 0] = 3.0
    for kind in ("scale", "pca", "zca"):
        assert np.isfinite(whitened(kind, x, 1e-8)).all()


def test_too_many_features_are_refused():
    with pytest.raises(ValueError, match=r"^data.whiten=zca: 4097 features are too many; at most 4096"):
        whitening("zca", torch.zeros(2, 4097), EPS)
    assert whitening("centre", torch.zeros(2, 4097), EPS) is not None


# Through ``load``


@pytest.fixture
def options(tmp_path):
    """Ten classes, fifty training images of each in turn, and twenty test images."""
    random = np.random.default_rng(1)
    y_train, y_test = np.arange(500) % 10, np.arange(20) % 10
    x_train, x_test = (random.normal(size=(len(y), 1, 3, 3)) + y[:, None, None, None] for y in (y_train, y_test))
    np.savez(tmp_path / "data.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)

    def given(**changes):
        return {
            "name": "npz",
            "path": str(tmp_path / "data.npz"),
            "layout": "nchw",
            "holdout": None,
            **PLAIN,
            **changes,
        }

    return given


def keys(x: torch.Tensor) -> set[float]:
    """Images by their first value, which no two share."""
    return set(x.flatten(1)[:, 0].tolist())


def test_standardized_and_whitened_training_images(options):
    data = load(options(standardize=True, whiten="pca", whiten_eps=1e-6, validation=0.2))
    assert data.shape == (9,)
    assert data.train.x.dtype == torch.float32
    np.testing.assert_allclose(covariance(data.train.x.double().numpy()), np.eye(9), atol=1e-4)
    raw = load(options(standardize=True, validation=0.2))
    expected = whitened("pca", raw.train.x.double().numpy(), 1e-6, raw.validation.x.double().numpy())
    np.testing.assert_allclose(data.validation.x, expected, atol=1e-4)


@pytest.mark.parametrize("change", [{"flip": True}, {"crop": 1}])
def test_rotated_images_cannot_be_augmented(options, change):
    assert_refused(options(whiten="rotate", **change), f"data.{next(iter(change))}=")
    assert load(options(whiten="zca", **change)).shape == (1, 3, 3)


def test_classes_are_kept_in_all_splits_and_counted_anew(options):
    every, some = load(options()), load(options(classes=[7, 2], validation=0.1))
    assert some.classes == 2
    assert (len(some.train), len(some.validation), len(some.test)) == (90, 10, 4)
    for label, source in enumerate((7, 2)):
        found = keys(some.train.x[some.train.y == label]) | keys(some.validation.x[some.validation.y == label])
        assert found == keys(every.train.x[every.train.y == source])
        assert keys(some.test.x[some.test.y == label]) == keys(every.test.x[every.test.y == source])


@pytest.mark.parametrize("split_seed", ["fixed", "seed"])
def test_training_images_are_of_the_classes_to_train_and_labels_and_test_images_of_all(options, split_seed):
    every = load(options(classes=[1, 2, 7]))
    some = load(options(classes=[1, 2, 7], train_classes=[7, 2], validation=0.1, split_seed=split_seed))
    some = seen_by(some, [0]).of(0)
    assert some.classes == 3
    assert torch.equal(some.test.y, every.test.y)
    train_x, train_y = (each[0] for each in some.train.batch(slice(None)))
    held_x, held_y = (each[0] for each in some.validation.batch(slice(None)))
    assert (len(train_x), len(held_x)) == (90, 10)
    for label in (1, 2):
        own = keys(train_x[train_y == label]) | keys(held_x[held_y == label])
        assert own == keys(every.train.x[every.train.y == label])
    assert set(train_y.tolist()) == {1, 2}
    few = load(options(train_classes=[7, 2], labels_per_class=3))
    assert few.train.y.bincount().tolist() == [0, 0, 3, 0, 0, 0, 0, 3]


def test_all_classes_in_order_are_as_none(options):
    every, listed = load(options(validation=0.1)), load(options(classes=list(range(10)), validation=0.1))
    for one, other in zip(every.splits().values(), listed.splits().values(), strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.y, other.y)


def test_labels_per_class_are_balanced_nested_and_apart_from_validation(options):
    few, more = (load(options(classes=[5, 6, 7], labels_per_class=n, validation=0.2)) for n in (4, 9))
    assert few.train.y.bincount().tolist() == [4, 4, 4]
    assert keys(few.train.x) < keys(more.train.x)
    assert keys(few.validation.x) == keys(more.validation.x)
    assert not keys(more.train.x) & keys(more.validation.x)
    assert keys(more.train.x) <= keys(load(options(classes=[5, 6, 7], validation=0.2)).train.x)


def test_the_statistics_are_those_of_the_chosen_images(options):
    data = load(options(classes=[5, 6], labels_per_class=3, standardize=True))
    assert abs(float(data.train.x.mean())) < 1e-6
    assert float(data.train.x.std(correction=0)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": [5, 12]}, "data.classes=[5, 12]: no class 12; allowed are 0 to 9"),
        ({"classes": [5, 5]}, "data.classes=[5, 5]: expected two classes or more, each once"),
        ({"classes": [5]}, "data.classes=[5]: expected two classes or more, each once"),
        ({"classes": []}, "data.classes=[]: expected two classes or more, each once"),
        ({"classes": 5}, "data.classes=5: expected a list, such as [a,b]"),
        ({"classes": [5, -1]}, "data.classes=-1: out of range"),
        ({"train_classes": [5, 12]}, "data.train_classes=[5, 12]: 12 is not a class of this run; allowed are 0, 1, 2"),
        (
            {"classes": [1, 2], "train_classes": [3]},
            "data.train_classes=[3]: 3 is not a class of this run; allowed are 1, 2",
        ),
        ({"train_classes": []}, "data.train_classes=[]: no class; allowed are 0, 1, 2, 3"),
        ({"labels_per_class": 51}, "data.labels_per_class=51: there are 50 training images of class 0"),
        ({"labels_per_class": 2, "train_limit": 5}, "data.labels_per_class=2: there are "),
        ({"labels_per_class": 0}, "data.labels_per_class=0: out of range; allowed is at least 1"),
        ({"whiten": "cholesky"}, "data.whiten=cholesky: not known"),
        ({"whiten_eps": 0}, "data.whiten_eps=0.0: out of range; allowed is above 0"),
    ],
)
def test_bad_options(options, change, message):
    assert_refused(options(**change), message)


def test_a_rotated_image_is_refused_by_a_model_of_images():
    words = (*SMALL, "data.whiten=pca")
    assert build([plain(composed(*words))], stacked=False).data.shape == (64,)
    with pytest.raises(ValueError, match=re.escape("model=lenet: needs images (C, H, W), the data are vectors (784,)")):
        build([plain(composed("model=lenet", "data.whiten=pca"))], stacked=False)
