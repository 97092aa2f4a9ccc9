"""What each seed sees of one data set: noise on labels, splits of its own, batches in the order of classes."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from scipy import stats
from test_data import CONFIGS, PLAIN, arrays, folder, from_folder, from_npz, npz, pictures  # noqa: F401
from yaml import safe_load

from bnexp.data import Batches, load, seen_by
from bnexp.data.members import noisy

DIGITS = safe_load((CONFIGS / "digits.yaml").read_text()) | {"size": None}


def images(split, member: int) -> torch.Tensor:
    return split.of(member).batch(slice(None))[0][0]


def rows(split, member: int, whole) -> list[int]:
    """Which samples of ``whole`` a member has, by their pixels, no two of which are equal."""
    known = {tuple(x.flatten().tolist()): i for i, x in enumerate(whole.x)}
    return [known[tuple(x.flatten().tolist())] for x in images(split, member)]


# Noise on labels


@pytest.mark.parametrize("share", [0.0, 0.001, 0.25, 0.5, 1.0])
def test_exactly_the_share_of_labels_becomes_another_class(share):
    y = torch.arange(1167) % 10
    changed = noisy(y, share, 10, seed=3)
    assert int((changed != y).sum()) == round(share * 1167)
    assert set(changed.tolist()) <= set(range(10))
    assert torch.equal(y, torch.arange(1167) % 10)


def test_wrong_labels_are_uniform_over_the_other_classes():
    y = torch.full((9000,), 4)
    counts = noisy(y, 1.0, 10, seed=0).bincount(minlength=10)
    assert counts[4] == 0
    assert stats.chisquare(np.delete(counts.numpy(), 4)).pvalue > 0.01


def test_a_smaller_share_changes_a_part_of_what_a_larger_one_changes_and_seeds_differ():
    y = torch.arange(500) % 7
    few, more = (noisy(y, share, 7, seed=1) for share in (0.2, 0.6))
    assert torch.equal(few[few != y], more[few != y])
    other = noisy(y, 0.6, 7, seed=2) != y
    assert 0.3 < float((other & (more != y)).float().mean()) < 0.42  # 0.36 where the seeds are independent


def test_only_training_labels_are_noisy_and_each_member_has_its_own():
    clean, data = load(DIGITS), load(DIGITS | {"label_noise": 0.3})
    assert torch.equal(data.train.y, clean.train.y)  # the data set that all seeds share has no noise
    seen = seen_by(data, [5, 6])
    assert seen.train.x is data.train.x
    assert [int((seen.train.of(m).y != clean.train.y).sum()) for m in (0, 1)] == [350, 350]
    assert not torch.equal(*seen.train.y)
    for name in ("validation", "test"):
        assert torch.equal(seen.splits()[name].y, clean.splits()[name].y)
    x, y = Batches(seen, [5, 6], batch_size=1167, drop_last=False)(0)
    for member, seed in enumerate((5, 6)):
        alone = Batches(seen_by(data, [seed]), [seed], batch_size=1167, drop_last=False)(0)
        assert torch.equal(x[member], alone[0][0])
        assert torch.equal(y[member], alone[1][0])
        assert int((y[member] != Batches(clean, [seed], batch_size=1167, drop_last=False)(0)[1]).sum()) == 350


def test_without_a_setting_that_depends_on_the_seed_nothing_is_made():
    data = load(DIGITS)
    assert seen_by(data, [0, 1]) is data
    assert data.of(1).train.x is data.train.x


# Splits by the seed


def test_each_seed_has_its_own_split_of_one_data_set(npz):  # noqa: F811
    whole, data = load(from_npz(npz())), load(from_npz(npz(), validation=0.25, split_seed="seed"))
    seen = seen_by(data, [0, 1, 1])
    found = [(rows(seen.train, m, whole.train), rows(seen.validation, m, whole.train)) for m in range(3)]
    assert found[0] != found[1] == found[2]
    for train, validation in found:
        assert (len(train), len(validation)) == (30, 10)
        assert sorted(train + validation) == list(range(40))
    for member, (train, validation) in enumerate(found):
        assert torch.equal(seen.train.of(member).y[0], whole.train.y[train])
        assert torch.equal(seen.validation.of(member).y[0], whole.train.y[validation])
    assert seen.train.x is seen.validation.x is data.train.x
    assert torch.equal(seen.test.x, whole.test.x)
    fixed = load(from_npz(npz(), validation=0.25))
    assert rows(fixed.train, 0, whole.train) == found[0][0]  # the fixed split is that of seed 0


def test_limits_by_the_seed(npz):  # noqa: F811
    whole = load(from_npz(npz()))
    few = {"validation": 0.25, "split_seed": "seed", "classes": [3, 5]}
    some = seen_by(load(from_npz(npz(), **few, train_limit=5)), [7, 8])
    assert [len(split) for split in some.splits().values()] == [5, 2, 4]
    one = seen_by(load(from_npz(npz(), **few, labels_per_class=1)), [7, 8])
    for member in (0, 1):
        labels = one.train.of(member).y[0].tolist()
        assert sorted(labels) == [0, 1]
        assert [int(whole.train.y[row]) for row in rows(one.train, member, whole.train)] == [[3, 5][y] for y in labels]


def test_a_class_that_is_too_small_for_a_seed_is_told_by_its_own_name(npz):  # noqa: F811
    data = load(from_npz(npz(), classes=[3, 5], labels_per_class=3, validation=0.2, split_seed="seed"))
    with pytest.raises(ValueError, match=r"^data.labels_per_class=3: there are 2 training images of class [35]$"):
        seen_by(data, range(20))


def test_pixels_are_scaled_alike_for_all_seeds_and_that_is_told(npz, caplog):  # noqa: F811
    path = npz()
    with caplog.at_level(logging.INFO, "bnexp"):
        data = load(from_npz(path, standardize=True, validation=0.25, split_seed="seed"))
    assert "scaled by the mean and standard deviation of all 40 training images" in caplog.text
    pixels = arrays()["x_train"] / 255
    np.testing.assert_allclose([data.mean[0], data.std[0]], [pixels.mean(), pixels.std()], rtol=1e-6)
    with pytest.raises(ValueError, match=r"^data.whiten=pca: needs the same training images in all runs; "):
        load(from_npz(path, whiten="pca", split_seed="seed"))


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_of_a_stack_are_those_of_each_alone(npz, drop_last):  # noqa: F811
    data = load(from_npz(npz(), validation=0.25, split_seed="seed", label_noise=0.4, order="sorted", flip=True))
    stack = Batches(seen_by(data, [3, 9]), [3, 9], batch_size=8, drop_last=drop_last)
    for member, seed in enumerate([3, 9]):
        alone = Batches(seen_by(data, [seed]), [seed], batch_size=8, drop_last=drop_last)
        for step in range(8):
            x, y = stack(step)
            assert torch.equal(x[member], alone(step)[0][0])
            assert torch.equal(y[member], alone(step)[1][0])


# Batches in the order of classes


def test_sorted_batches_hold_one_class_after_another_shuffled_within_each():
    data = load(DIGITS | {"order": "sorted"})
    batches = Batches(data, [0, 1], batch_size=100, drop_last=False)
    epochs = [[batches(epoch * batches.per_epoch + step) for step in range(12)] for epoch in (0, 1)]
    seen = [torch.cat([x[m] for x, _ in epoch]).flatten(1) for epoch in epochs for m in (0, 1)]
    labels = [torch.cat([y[m] for _, y in epoch]) for epoch in epochs for m in (0, 1)]
    for x, y in zip(seen, labels, strict=True):
        assert y.tolist() == sorted(data.train.y.tolist())
        assert {tuple(row) for row in x.tolist()} == {tuple(row) for row in data.train.x.flatten(1).tolist()}
        assert sum(len(set(part.tolist())) == 1 for part in y.split(100)) >= 2
    assert len({tuple(x[:, 30:].flatten().tolist()) for x in seen}) == 4


# Test images that are held out


def flattened(root):
    """The folder's classes without train and test: 5 images of each, as <root>/flat/<class>."""
    for name in ("cat", "dog"):
        (root / "flat" / name).mkdir(parents=True)
        for part in ("train", "test"):
            for file in (root / part / name).iterdir():
                file.rename(root / "flat" / name / f"{part}{file.name}")
    return root / "flat"


def test_a_folder_without_train_and_test_needs_a_share(folder, caplog):  # noqa: F811
    flat = flattened(folder)
    with pytest.raises(ValueError, match=r"has no folders train and test; data.holdout=0.2 sets a fifth of the images"):
        load(from_folder(flat))
    with caplog.at_level(logging.INFO, "bnexp"):
        data = load(from_folder(flat, holdout=0.4))
    assert "data.holdout=0.4: 4 of 10 images, of all classes, are set apart for testing" in caplog.text
    assert (data.train.y.tolist(), data.test.y.tolist()) == ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1])
    every = torch.cat([data.train.x, data.test.x]).flatten(1).tolist()
    assert len({tuple(x) for x in every}) == 10
    assert torch.equal(load(from_folder(flat, holdout=0.4)).test.x, data.test.x)
    with pytest.raises(ValueError, match=r"^data.holdout=0.4: .* has a folder train; data.holdout=null"):
        load(from_folder(folder, holdout=0.4))


def test_a_changed_image_of_either_part_changes_the_fingerprint(folder):  # noqa: F811
    from PIL import Image

    flat = flattened(folder)
    found = {load(from_folder(flat, holdout=0.4, label_noise=noise)).fingerprint for noise in (0, 0.5)}
    assert len(found) == 1
    for path in sorted(flat.rglob("*.png")):
        Image.fromarray(pictures(1, 1000 + len(found), (4, 6, 3))[0]).save(path)
        found.add(load(from_folder(flat, holdout=0.4)).fingerprint)
    assert len(found) == 11


def test_arrays_without_test_images_need_a_share(npz):  # noqa: F811
    path = npz(x_test=None, y_test=None)
    with pytest.raises(ValueError, match=r"it has no array x_test, only x_train, y_train; data.holdout=0.2 sets "):
        load(from_npz(path))
    data = load(from_npz(path, holdout=0.25))
    assert data.test.y.bincount().tolist() == [1] * 10  # of four of each class
    assert sorted(data.train.y.tolist() + data.test.y.tolist()) == sorted(arrays()["y_train"].tolist())
    with pytest.raises(ValueError, match=r"class \d has one image; data.holdout=0.2 needs two or more"):
        load(from_npz(npz(x_train=pictures(11, 0), y_train=np.arange(11) % 10, x_test=None, y_test=None), holdout=0.2))
    for changed, left in (({}, "x_test"), ({"x_test": None}, "y_test")):
        with pytest.raises(ValueError, match=rf"it has an array {left}; data.holdout=null takes it for testing"):
            load(from_npz(npz(**changed), holdout=0.2))


def test_data_need_two_classes_and_a_folder_two_images_of_each_class(npz, folder):  # noqa: F811
    one = {"x_train": pictures(4, 0), "y_train": np.zeros(4, int), "x_test": pictures(3, 1), "y_test": np.zeros(3, int)}
    with pytest.raises(ValueError, match=r"^data\.path=.*\.npz: its labels name one class; expected two or more$"):
        load(from_npz(npz(**one)))
    flat = flattened(folder)
    for file in list((flat / "dog").iterdir())[1:]:
        file.unlink()
    with pytest.raises(ValueError, match=r"class dog has one image; data.holdout=0.4 needs two or more of each class$"):
        load(from_folder(flat, holdout=0.4))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_nothing_or_all_is_refused(npz, share):  # noqa: F811
    with pytest.raises(ValueError, match=rf"^data.holdout={share}: out of range; allowed is above 0 and below 1$"):
        load(from_npz(npz(), holdout=share))
