"""The data package: every fault is one line that names its place; batches are a pure function of (seeds, step)."""

import gzip
import os
import pickle
import re
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import ROOT, from_yaml
from PIL import Image
from torch.testing import assert_close
from torchvision.datasets import CIFAR10, CIFAR100, MNIST
from torchvision.datasets.utils import calculate_md5

from bnexp.data import DATA, Batches, Data, Split, load
from bnexp.data.augmentation import Augmentation, shifted
from bnexp.data.prepare import moments

CONFIGS = ROOT / "configs" / "data"
PLAIN = {
    "classes": None,
    "train_classes": None,
    "validation": 0,
    "train_limit": None,
    "test_limit": None,
    "labels_per_class": None,
    "standardize": False,
    "whiten": "none",
    "whiten_eps": 0.01,
    "binarize": None,
    "size": None,
    "flip": False,
    "crop": 0,
    "cutout": 0,
    "order": "shuffled",
    "label_noise": 0.0,
    "split_seed": "fixed",
}
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
TRAIN_X, TRAIN_Y, TEST_X, TEST_Y = IDX

real = pytest.mark.skipif("BNEXP_DATA" not in os.environ, reason="BNEXP_DATA does not say where the real data are")


def assert_refused(options, setting):
    """Load, which must raise one line that begins with the setting; return the line."""
    with pytest.raises(ValueError, match=f"^{re.escape(setting)}") as caught:
        load(options)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    return line


def idx(array):
    return struct.pack(f">{array.ndim + 1}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def pictures(count, seed, shape=(6, 5)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def labels(count):
    return (np.arange(count) % 10).astype(np.uint8)


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A folder like MNIST's, with 40 + 20 images of 6 x 5, which nobody expects to be those of MNIST."""
    monkeypatch.setattr("bnexp.data.mnist.DIGESTS", {})
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in zip(IDX, (pictures(40, 0), labels(40), pictures(20, 1), labels(20)), strict=True):
        (raw / name).write_bytes(idx(array))
    return raw


def from_mnist(raw, **options):
    return {"name": "mnist", "root": str(raw.parents[1]), **PLAIN, **options}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def unreachable(*_):
        raise OSError("first line\nno network in tests")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", unreachable)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", unreachable)


# Options


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": -1}, "data.crop=-1: out of range; allowed is at least 0"),
        ({"validation": 1.0}, "data.validation=1.0: out of range; allowed is at least 0 and below 1"),
        ({"validation": "abc"}, "data.validation=abc: expected a number"),
        ({"train_limit": 0}, "data.train_limit=0: out of range; allowed is at least 1"),
        ({"standardize": 1}, "data.standardize=1: expected true or false"),
        ({"binarize": 1}, "data.binarize=1.0: out of range; allowed is above 0 and below 1"),
        ({"size": 0}, "data.size=0: out of range; allowed is at least 1"),
        ({"flip": None}, "data.flip=null: expected true or false"),
        ({"root": 3}, "data.root=3: expected a word"),
        (
            {"crp": 4},
            "data.crp: mnist has no such option; did you mean crop? (allowed: root, classes, train_classes, ",
        ),
        ({"name": "minst"}, "data=minst: not known; did you mean mnist? (allowed: cifar10, cifar100, digits, "),
        ({"name": None}, "data={'name': None"),
    ],
)
def test_bad_options(mnist, change, message):
    assert assert_refused(from_mnist(mnist, **change), message)


@pytest.mark.parametrize("option", ["root", "crop"])
def test_missing_option(mnist, option):
    options = from_mnist(mnist)
    del options[option]
    assert_refused(options, f"data.{option}: mnist needs this option")


@pytest.mark.parametrize("name", list(DATA))
def test_yaml_is_complete(name):
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert DATA.bind(yaml.safe_load(text)).name == name


def test_every_yaml_has_a_source():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(DATA)


def files_of(name, request):
    """The options that find a source's files, which are made here."""
    if name in ("mnist", "fashion_mnist"):
        raw = request.getfixturevalue("mnist")
        raw.parent.rename(raw.parents[1] / {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name])
        return {"root": str(raw.parents[1])}
    if name in ("cifar10", "cifar100"):
        place = request.getfixturevalue({"cifar10": "cifar", "cifar100": "cifar100"}[name])
        return {"root": str(place.parent)}
    if name == "npz":
        return {"path": str(request.getfixturevalue("npz")()), "layout": "nchw", "holdout": None}
    if name == "image_folder":
        return {"path": str(request.getfixturevalue("folder")), "holdout": None}
    if name == "gaussian":
        return {"features": 3, "samples": 40}
    assert name == "digits", f"say how the files of {name} are made for this test"
    return {}


@pytest.mark.parametrize("name", list(DATA))
def test_every_source_keeps_the_promises_of_data(name, request):
    options = {"name": name, **PLAIN, **files_of(name, request)}
    data, again = load(options), load(options)
    for split in (data.train, data.test):
        assert split.x.dtype == torch.float32
        assert split.y.dtype == torch.int64
        assert split.x.shape == (len(split), *data.shape)
        assert name == "gaussian" or 0 <= split.x.min() < split.x.max() <= 1
        assert set(split.y.tolist()) <= set(range(data.classes))
    assert torch.equal(data.train.x, again.train.x)
    assert torch.equal(data.test.y, again.test.y)
    standard = load({**options, "standardize": True}).train.x
    assert abs(standard.mean()) < 1e-4
    limited = load({**options, "train_limit": 4, "test_limit": 2})
    assert (len(limited.train), len(limited.test)) == (4, 2)


def test_one_linear_map_decides_the_classes_of_gaussian_vectors():
    data = load({"name": "gaussian", "features": 5, "samples": 2000, **PLAIN})
    x_NF, y_N = (torch.cat([getattr(split, name) for split in (data.train, data.test)]).numpy() for name in "xy")
    assert np.abs(np.cov(x_NF.T) - np.eye(5)).max() < 0.1
    assert np.abs(x_NF.mean(0)).max() < 0.1
    assert 0.45 < y_N.mean() < 0.55
    # For Gaussian x the mean of x over a class points along the map, which then sorts all of them but the nearest.
    w_F = x_NF[y_N == 1].mean(0) - x_NF[y_N == 0].mean(0)
    assert ((x_NF @ w_F > 0) == y_N).mean() > 0.97
    assert len({tuple(x_F) for x_F in x_NF}) == 4000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_limit": 10**6}, "data.test_limit=1000000: there are 20 test images"),
        ({"train_limit": 41}, "data.train_limit=41: there are 40 training images"),
        ({"train_limit": 31, "validation": 0.25}, "data.train_limit=31: there are 30 training images"),
        ({"validation": 0.01}, "data.validation=0.01: leaves no validation image of the 40 there are"),
        ({"validation": 0.99}, "data.validation=0.99: leaves no training image of the 40 there are"),
        ({"crop": 5}, "data.crop=5: too large; allowed is less than the image size 6x5"),
        ({"cutout": 5}, "data.cutout=5: too large; allowed is less than the image size 6x5"),
    ],
)
def test_options_that_ask_too_much(mnist, options, message):
    assert assert_refused(from_mnist(mnist, **options), "data.") == message


# MNIST's format


def test_mnist_as_it_lies(mnist):
    data = load(from_mnist(mnist))
    assert torch.equal(data.train.x, torch.from_numpy(pictures(40, 0)).unsqueeze(1) / 255)
    assert torch.equal(data.test.y, torch.from_numpy(labels(20)).long())
    assert (data.shape, data.classes, data.validation) == ((1, 6, 5), 10, None)
    assert (data.mean, data.std) == ([0.0], [1.0])
    assert list(data.splits()) == ["train", "test"]


HTML = b"<!DOCTYPE html><html>404</html>"
SWAPPED = struct.pack("<4I", 0x0803, 40, 6, 5)


@pytest.mark.parametrize("file", IDX)
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda good: b"", id="0 bytes"),
        pytest.param(lambda good: good[:2], id="cut in the magic number"),
        pytest.param(lambda good: good[:6], id="cut in the header"),
        pytest.param(lambda good: good[:-1], id="truncated"),
        pytest.param(lambda good: good + b"x", id="trailing garbage"),
        pytest.param(lambda good: b"\0\0\x0d" + good[3:], id="floats"),
        pytest.param(lambda good: b"\0\0\7" + good[3:], id="wrong magic"),
        pytest.param(lambda good: SWAPPED + good[16:], id="little-endian header"),
        pytest.param(lambda good: good[:4] + b"\xff" * 4 + good[8:], id="count too large"),
        pytest.param(lambda good: good[:4] + b"\0\0\0\1" + good[8:], id="count too small"),
        pytest.param(lambda good: HTML, id="html"),
        pytest.param(gzip.compress, id="gz under a plain name"),
    ],
)
def test_damaged_idx(mnist, file, damage):
    path = mnist / file
    path.write_bytes(damage(path.read_bytes()))
    options = from_mnist(mnist)
    line = assert_refused(options, f"data.root={options['root']}: MNIST/raw/{file} (")
    assert f"({path.stat().st_size} bytes) cannot be read (" in line


@pytest.mark.parametrize("file", IDX)
def test_gz_is_read_without_writing(mnist, file):
    expected = load(from_mnist(mnist))
    packed = mnist / f"{file}.gz"
    packed.write_bytes(gzip.compress((mnist / file).read_bytes()))
    (mnist / file).unlink()
    found = load(from_mnist(mnist))
    assert torch.equal(found.train.x, expected.train.x)
    assert torch.equal(found.test.y, expected.test.y)
    assert not (mnist / file).exists()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda packed: packed[: len(packed) // 2], id="cut"),
        pytest.param(lambda packed: packed[:30] + bytes([packed[30] ^ 16]) + packed[31:], id="bit flip"),
        pytest.param(lambda packed: packed[:-6] + bytes([packed[-6] ^ 1]) + packed[-5:], id="checksum"),
        pytest.param(lambda packed: packed + b"garbage", id="trailing garbage"),
        pytest.param(lambda packed: HTML, id="html"),
        pytest.param(lambda packed: gzip.decompress(packed), id="not gz"),
    ],
)
def test_damaged_gz(mnist, damage):
    packed = mnist / f"{TRAIN_X}.gz"
    packed.write_bytes(damage(gzip.compress((mnist / TRAIN_X).read_bytes())))
    (mnist / TRAIN_X).unlink()
    assert f"MNIST/raw/{TRAIN_X}.gz (" in assert_refused(from_mnist(mnist), "data.root=")


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        (TRAIN_X, labels(40), f"{TRAIN_X} (48 bytes) cannot be read (no IDX file of bytes with 3 axes)"),
        (TRAIN_Y, pictures(40, 0), f"{TRAIN_Y} (1216 bytes) cannot be read (no IDX file of bytes with 1 axes)"),
        (TRAIN_Y, labels(39), f"{TRAIN_X} has 40 images, but MNIST/raw/{TRAIN_Y} 39 labels"),
        (TEST_X, pictures(21, 1), f"{TEST_X} has 21 images, but MNIST/raw/{TEST_Y} 20 labels"),
        (TRAIN_Y, labels(40) + 1, f"{TRAIN_Y} has label 10; labels are 0 to 9"),
        (TEST_Y, labels(20) + 200, f"{TEST_Y} has label 200; labels are 0 to 9"),
        (TRAIN_Y, labels(40) // 9 * 9, f"{TRAIN_Y} lacks label 1; 0 to 9 must all occur"),
        (TRAIN_Y, labels(40) % 9, f"{TRAIN_Y} lacks label 9; 0 to 9 must all occur"),
        (TEST_X, pictures(20, 1, (6, 6)), f"{TRAIN_X} has samples (1, 6, 5), but MNIST/raw/{TEST_X} has (1, 6, 6)"),
    ],
)
def test_inconsistent_idx(mnist, file, array, message):
    (mnist / file).write_bytes(idx(array))
    options = from_mnist(mnist)
    assert assert_refused(options, "data.root=") == f"data.root={options['root']}: MNIST/raw/{message}"


def test_training_file_in_place_of_the_test_file(mnist):
    for train, test in ((TRAIN_X, TEST_X), (TRAIN_Y, TEST_Y)):
        (mnist / test).write_bytes((mnist / train).read_bytes())
    assert f"{TEST_X} holds the training images" in assert_refused(from_mnist(mnist), "data.root=")


# MNIST is recognized


@pytest.fixture
def published(mnist, monkeypatch):
    """The same folder, as if its images had been published."""
    from bnexp.data.mnist import DIGESTS, Digests, order_free

    for x, y in ((TRAIN_X, TRAIN_Y), (TEST_X, TEST_Y)):
        md5 = [calculate_md5(mnist / file) for file in (x, y)]
        count = 40 if x == TRAIN_X else 20
        images = torch.from_numpy(pictures(count, 0 if x == TRAIN_X else 1))
        monkeypatch.setitem(DIGESTS, f"MNIST/raw/{x}", Digests(*md5, order_free(images, torch.tensor(labels(count)))))
    return mnist


def test_what_was_published_is_read_without_a_word(published, caplog):
    caplog.set_level("INFO", logger="bnexp")
    assert torch.equal(load(from_mnist(published)).train.x, torch.from_numpy(pictures(40, 0)).unsqueeze(1) / 255)
    assert caplog.messages == []


@pytest.mark.parametrize("file", IDX)
@pytest.mark.parametrize("place", [0.0, 0.4, 0.999])
@pytest.mark.parametrize("packed", [False, True])
def test_one_flipped_bit_is_found(published, file, place, packed):
    path = published / file
    content = bytearray(path.read_bytes())
    start = 16 if "images" in file else 8
    content[start + int(place * (len(content) - start))] ^= 1
    if packed:
        path.unlink()
        path, content = path.with_name(f"{file}.gz"), gzip.compress(content)
    path.write_bytes(content)
    root = from_mnist(published)["root"]
    message = (
        f"data.root={root}: MNIST/raw/{file}: not as published: damaged, or other images; delete to download again"
    )
    assert_refused(from_mnist(published), message)


def shuffled(raw, labels_too=True):
    """Put the test images into another order, with their labels or without."""
    order = np.random.default_rng(0).permutation(20)
    (raw / TEST_X).write_bytes(idx(pictures(20, 1)[order]))
    if labels_too:
        (raw / TEST_Y).write_bytes(idx(labels(20)[order]))
    return order


def test_another_order_is_told(published, caplog):
    caplog.set_level("INFO", logger="bnexp")
    order = shuffled(published)
    data = load(from_mnist(published))
    assert torch.equal(data.test.x, torch.from_numpy(pictures(20, 1)[order]).unsqueeze(1) / 255)
    (line,) = caplog.messages
    assert f": MNIST/raw/{TEST_X} is in another order than published, " in line


def test_another_order_with_a_flipped_bit_or_the_wrong_labels_is_refused(published):
    shuffled(published, labels_too=False)
    assert f": MNIST/raw/{TEST_X}: not as published" in assert_refused(from_mnist(published), "data.root=")
    shuffled(published)
    content = bytearray((published / TEST_Y).read_bytes())
    content[-1] ^= 8
    (published / TEST_Y).write_bytes(content)
    line = assert_refused(from_mnist(published), "data.root=")
    assert f": MNIST/raw/{TEST_X} and MNIST/raw/{TEST_Y}: not as published" in line


@real
def test_a_flipped_bit_in_the_real_mnist_ends_a_training_before_it_begins(tmp_path, bnexp):
    raw, there = tmp_path / "MNIST" / "raw", Path(os.environ["BNEXP_DATA"]) / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in IDX:
        (raw / file).symlink_to(there / file)
    content = bytearray((raw / TEST_X).read_bytes())
    content[5_000_000] ^= 64
    (raw / TEST_X).unlink()
    (raw / TEST_X).write_bytes(content)
    answer = bnexp("train", "data=mnist", f"data.root={tmp_path}", "steps=1", f"hydra.run.dir={tmp_path}/run")
    assert answer.code == 2, answer
    assert answer.err.startswith(f"bnexp: data.root={tmp_path}: MNIST/raw/{TEST_X}: not as published: ")
    assert not (tmp_path / "run").exists()


# Files that are not there


@pytest.mark.parametrize("name", [name for name in DATA if "root" in DATA.options(name)])
@pytest.mark.parametrize("place", ["absent/deeper", "with space and ż", "a\nnewline", "nul\0", "x" * 300])
def test_missing_folder(tmp_path, name, place):
    root = f"{tmp_path}/{place}"
    line = assert_refused({"name": name, "root": root, **PLAIN}, "data.root=" + root.splitlines()[0])
    assert "is missing and the download failed" in line
    assert "data.root or BNEXP_DATA" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", IDX)
def test_missing_file(mnist, file):
    (mnist / file).unlink()
    assert f": MNIST/raw/{file} is missing and the download failed (" in assert_refused(from_mnist(mnist), "data.root=")


def test_root_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused({"name": "mnist", "root": str(tmp_path / "file"), **PLAIN}, f"data.root={tmp_path}/file: MNIST/raw/")


def test_download_fills_gaps_only(mnist, monkeypatch):
    expected, kept = load(from_mnist(mnist)), (mnist / TRAIN_Y).read_bytes()
    served = {name: gzip.compress((mnist / name).read_bytes()) for name in IDX}
    resources = []
    for name, content in served.items():
        (mnist / f"{name}.sum").write_bytes(content)
        resources.append((f"{name}.gz", calculate_md5(mnist / f"{name}.sum")))
    monkeypatch.setattr(MNIST, "resources", resources)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr(
        "torchvision.datasets.utils._urlretrieve",
        lambda url, path: Path(path).write_bytes(served[url.rsplit("/", 1)[1].removesuffix(".gz")]),
    )
    served[TRAIN_Y] = gzip.compress(idx(labels(40)))
    (mnist / TEST_X).unlink()
    before = os.stat(mnist / TRAIN_Y).st_mtime_ns
    assert torch.equal(load(from_mnist(mnist)).test.x, expected.test.x)
    assert ((mnist / TRAIN_Y).read_bytes(), os.stat(mnist / TRAIN_Y).st_mtime_ns) == (kept, before)
    assert [path.name for path in mnist.parents[1].iterdir()] == ["MNIST"]
    served[TEST_X] = served[TEST_X][:-1]
    (mnist / TEST_X).unlink()
    assert "the download failed" in assert_refused(from_mnist(mnist), "data.root=")
    assert not (mnist / TEST_X).exists()


# CIFAR


def cifar_pickle(count, seed):
    """Like the original files: dtype('u1', 0, 1) makes NumPy 2.4.0 to 2.4.4 warn, ('u1', 0) later ones too."""
    x = np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)
    written = pickle.dumps({"data": x, "labels": [i % 10 for i in range(count)]}, protocol=2)
    assert b"\x89\x88\x87" in written
    return written.replace(b"\x89\x88\x87", b"K\x00\x86")


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder like CIFAR-10's, with 2 x 10 + 10 images; torchvision is told their checksums."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    content = {f"data_batch_{i}": cifar_pickle(10, i) for i in (1, 2)}
    content |= {"test_batch": cifar_pickle(10, 3), "batches.meta": pickle.dumps({"label_names": list("abcdefghij")})}
    for name, written in content.items():
        (folder / name).write_bytes(written)
    md5 = {name: calculate_md5(folder / name) for name in content}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in ("data_batch_1", "data_batch_2")])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})
    return folder


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """A folder like CIFAR-100's, with 100 + 100 images; torchvision is told their checksums."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, seed in (("train", 1), ("test", 2)):
        x = np.random.default_rng(seed).integers(0, 256, (100, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": x, "fine_labels": list(range(100))}, protocol=2))
        monkeypatch.setattr(CIFAR100, f"{name}_list", [[name, calculate_md5(folder / name)]])
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}))
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": calculate_md5(folder / "meta")})
    return folder


def from_cifar(folder, **options):
    return {"name": "cifar10", "root": str(folder.parent), **PLAIN, **options}


def test_cifar(cifar):
    data = load(from_cifar(cifar))
    x = np.random.default_rng(2).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
    assert torch.equal(data.train.x[10:], torch.from_numpy(x) / 255)
    assert data.train.x.is_contiguous()
    assert data.train.y.tolist() == [*range(10), *range(10)]
    assert (len(data.test), data.shape) == (10, (3, 32, 32))


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("file", ["data_batch_1", "data_batch_2", "test_batch", "batches.meta"])
def test_changed_cifar_is_not_unpickled(cifar, tmp_path, file):
    (cifar / file).write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    line = assert_refused(from_cifar(cifar), f"data.root={cifar.parent}: cifar-10-batches-py/{file} is damaged")
    assert not (tmp_path / "ran").exists(), line


@pytest.mark.parametrize("file", ["data_batch_2", "batches.meta"])
def test_missing_cifar_file(cifar, file):
    (cifar / file).unlink()
    assert f": cifar-10-batches-py/{file} is missing" in assert_refused(from_cifar(cifar), "data.root=")


# Image folders


@pytest.fixture
def folder(tmp_path):
    """Two classes, 3 + 2 images of 4 x 6 each."""
    for part, count in (("train", 3), ("test", 2)):
        for seed, name in enumerate(("cat", "dog")):
            (tmp_path / part / name).mkdir(parents=True)
            for i, image in enumerate(pictures(count, seed + 2 * count, (4, 6, 3))):
                Image.fromarray(image).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


def from_folder(root, **options):
    return {"name": "image_folder", "path": str(root), "holdout": None, **PLAIN, **options}


def test_image_folder(folder):
    data = load(from_folder(folder))
    dogs = torch.from_numpy(pictures(3, 7, (4, 6, 3))).permute(0, 3, 1, 2) / 255
    assert torch.equal(data.train.x[3:], dogs)
    assert data.train.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert (data.classes, data.shape, len(data.test)) == (2, (3, 4, 6), 4)


@pytest.mark.parametrize("target", ["..", "../..", "."])
def test_a_link_back_up_is_refused(folder, target):
    (folder / "train" / "cat" / "loop").symlink_to(target)
    said = assert_refused(from_folder(folder), f"data.path={folder}: ")
    assert "train/cat/loop is a link to a folder that it lies in; remove it" in said
    (folder / "train" / "cat" / "loop").unlink()
    (folder / "train" / "cat" / "more").symlink_to("../dog")
    assert load(from_folder(folder)).train.y.tolist() == [0] * 6 + [1] * 3


def test_palette_with_transparency_warns_nobody(folder):
    image = Image.fromarray(pictures(1, 0, (4, 6))[0], mode=None).convert("P")
    image.save(folder / "train" / "cat" / "0.png", transparency=bytes([255] * 256))
    assert load(from_folder(folder)).shape == (3, 4, 6)


def test_images_of_differing_size(folder):
    image = pictures(1, 99, (8, 8, 3))[0]
    Image.fromarray(image).save(folder / "train" / "cat" / "1.png")
    assert "images of train " in assert_refused(from_folder(folder), "data.size=null: ")
    data = load(from_folder(folder, size=5))
    x = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    assert torch.equal(data.train.x[1], F.interpolate(x, size=(5, 5), mode="bilinear")[0])
    assert data.train.x.shape == (6, 3, 5, 5)


def test_train_and_test_images_of_differing_size(folder):
    for path in (folder / "test").rglob("*.png"):
        Image.fromarray(pictures(1, 99, (8, 8, 3))[0]).save(path)
    message = f"data.path={folder}: train has samples (3, 4, 6), but test has (3, 8, 8)"
    assert assert_refused(from_folder(folder), "data.path=") == message


@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["0 bytes", "text", "truncated"])
def test_undecodable_image(folder, content):
    path = folder / "test" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    assert_refused(from_folder(folder), f"data.path={folder}: test/dog/1.png cannot be read (")


def test_a_program_that_is_named_as_an_image_is_not_run(folder, monkeypatch):
    """Pillow gives PostScript to Ghostscript, whatever the file's name is."""
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was run"))
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    (folder / "test" / "dog" / "1.png").write_bytes(program)
    kinds = "BMP, JPEG, PPM, PNG, TIFF, WEBP"
    wanted = f"data.path={folder}: test/dog/1.png cannot be read (no image of a kind that is read: {kinds})"
    assert assert_refused(from_folder(folder), "data.path=") == wanted


def test_a_pipe_that_is_named_as_an_image_keeps_nobody_waiting(folder):
    os.mkfifo(folder / "test" / "dog" / "9.png")
    assert "test/dog/9.png cannot be read (not a regular file)" in assert_refused(from_folder(folder), "data.path=")


def remove(path):
    for inner in path.iterdir():
        remove(inner) if inner.is_dir() else inner.unlink()
    path.rmdir()


def test_image_folder_without_path():
    assert_refused({**from_folder(""), "path": None}, "data.path=null: say where")


@pytest.mark.parametrize("part", ["train", "test"])
def test_image_folder_with_gaps(folder, part):
    for image in (folder / part / "dog").iterdir():
        image.unlink()
    line = assert_refused(from_folder(folder), f"data.path={folder}: class dog has no image in {part}; ")
    assert line.endswith("end in .bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp")
    remove(folder / part / "dog")
    other = {"train": "test", "test": "train"}[part]
    assert f": class dog is in {other} but not in {part}" in assert_refused(from_folder(folder), "data.path=")
    remove(folder / part / "cat")
    assert f": folder {part} has no class folder; " in assert_refused(from_folder(folder), "data.path=")
    remove(folder / part)
    assert f": has no folder {part};" in assert_refused(from_folder(folder), "data.path=")


def refill(folder, save):
    """Replace every image; ``save`` writes one into a path without ending."""
    for seed, path in enumerate(sorted(folder.rglob("*.png"))):
        path.unlink()
        save(np.random.default_rng(seed), path.with_suffix(""))


def wide(random, path, ending=".png"):
    """16-bit grey, as scanners and X-ray machines write it; some format keeps it in another mode of Pillow's."""
    Image.fromarray(random.integers(0, 2**16, (4, 6), dtype=np.uint16)).save(path.with_suffix(ending))


@pytest.mark.parametrize("ending", [".png", ".tiff", ".pgm"])
def test_16_bit_grey_is_scaled_by_its_own_white(folder, ending):
    refill(folder, lambda random, path: wide(random, path, ending))
    x = np.stack([np.random.default_rng(seed).integers(0, 2**16, (4, 6), dtype=np.uint16) for seed in range(4, 10)])
    expected = torch.from_numpy(x / 65535).float()[:, None].expand(-1, 3, -1, -1)
    assert_close(load(from_folder(folder)).train.x, expected, rtol=0, atol=1e-7)


def test_a_training_on_16_bit_images_sees_what_is_on_them(folder, bnexp, tmp_path):
    """Cats are dark and dogs bright, all above what 8 bits can say."""
    for seed, path in enumerate(sorted(folder.rglob("*.png"))):
        grey = np.random.default_rng(seed).integers(300, 1000, (4, 6)) * (1 if path.parent.name == "cat" else 60)
        Image.fromarray(grey.astype(np.uint16)).save(path)
    words = ("data=image_folder", f"data.path={folder}", "data.validation=0", "model=mlp", "model.width=8")
    answer = bnexp("train", *words, "batch_size=6", "steps=30", f"hydra.run.dir={tmp_path}/run")
    assert "finished: test accuracy 1.0000" in answer.out, answer


def test_white_is_1_at_8_and_at_16_bits(folder):
    Image.fromarray(np.full((4, 6), 65535, np.uint16)).save(folder / "train" / "cat" / "0.png")
    Image.fromarray(np.full((4, 6), 255, np.uint8)).save(folder / "train" / "cat" / "1.png")
    data = load(from_folder(folder))
    assert data.train.x[:2].unique().tolist() == [1.0]
    dogs = torch.from_numpy(pictures(3, 7, (4, 6, 3))).permute(0, 3, 1, 2) / 255
    assert torch.equal(data.train.x[3:], dogs)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bit_pixels_are_refused(folder, kind):
    image = np.random.default_rng(0).uniform(0, 1000, (4, 6)).astype(kind)
    Image.fromarray(image).save(folder / "train" / "dog" / "3.tif")
    line = assert_refused(from_folder(folder), f"data.path={folder}: train/dog/3.tif cannot be read (32 bits a pixel")
    assert "16 bits, or use data=npz" in line


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_an_image_with_its_content_in_alpha_is_refused(folder, mode):
    """A picture of one colour, whose content is how transparent it is; of a palette, whose colours differ in that."""
    content, path = Image.fromarray(pictures(1, 0, (4, 6))[0]), folder / "test" / "dog" / "1.png"
    if mode == "P":
        content.convert("P").save(path, transparency=bytes(range(256)))
    else:
        image = Image.new(mode, content.size, "blue" if mode == "RGBA" else 0)
        image.putalpha(content)
        image.save(path)
    line = assert_refused(from_folder(folder), f"data.path={folder}: test/dog/1.png cannot be read (partly transparent")
    assert "without alpha" in line


def test_an_alpha_that_says_nothing_is_dropped(folder):
    picture = pictures(1, 0, (4, 6, 3))[0]
    image = Image.fromarray(picture).convert("RGBA")
    image.save(folder / "train" / "cat" / "0.png")
    expected = torch.from_numpy(picture).permute(2, 0, 1) / 255
    assert torch.equal(load(from_folder(folder)).train.x[0], expected)


def test_training_images_that_are_all_equal_are_refused(folder):
    for red, path in enumerate(sorted((folder / "train").rglob("*.png"))):
        Image.new("RGB", (6, 4), (red, 9, 9)).save(path)
    assert len(load(from_folder(folder)).train) == 6
    start = f"data.path={folder}: the 6 images of train are all equal"
    assert assert_refused(from_folder(folder, binarize=0.5), start) == f"{start} (with data.binarize=0.5)"
    for path in (folder / "train").rglob("*.png"):
        Image.new("RGB", (6, 4), (7, 9, 9)).save(path)
    assert assert_refused(from_folder(folder), start) == start


def test_hidden_names_are_skipped(folder):
    expected = load(from_folder(folder))
    for hidden in (".ipynb_checkpoints/0-checkpoint.png", "cat/.ipynb_checkpoints/0-checkpoint.png", "cat/._0.png"):
        path = folder / "train" / hidden
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no image")
    data = load(from_folder(folder))
    assert torch.equal(data.train.x, expected.train.x)
    assert data.classes == 2


def test_files_that_are_left_out_are_told(folder, caplog):
    caplog.set_level("INFO", logger="bnexp")
    load(from_folder(folder))
    assert caplog.messages == []
    for name in ("cat/b.gif", "cat/deeper/notes.txt", "a.png"):
        (folder / "train" / name).parent.mkdir(exist_ok=True)
        (folder / "train" / name).write_bytes(b"")
    load(from_folder(folder))
    (line,) = caplog.messages
    assert line.startswith(f"data.path={folder}: 3 files of train are left out (train/cat/b.gif): images lie in class ")
    assert line.endswith("end in .bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp")


def test_capital_endings_and_deeper_folders_are_read_in_the_order_of_paths(folder):
    names = ["0.PNG", "a/1.Jpeg", "b.png"]
    (folder / "train" / "cat" / "a").mkdir()
    for path in (folder / "train" / "cat").glob("*.png"):
        path.unlink()
    for level, name in enumerate(names):
        Image.new("RGB", (6, 4), (level * 80,) * 3).save(folder / "train" / "cat" / name)
    data = load(from_folder(folder))
    assert [round(float(x.mean()) * 255) for x in data.train.x[:3]] == [0, 160, 80]  # a/ behind the files beside it


def test_photographs_are_turned_as_their_exif_says(folder):
    """Orientation 6: the camera was turned, and a viewer turns the stored rows into columns from right to left."""
    stored = np.zeros((4, 6, 3), np.uint8)
    stored[0] = 255  # the first row becomes the last column
    exif = Image.Exif()
    exif[0x0112] = 6
    for seed, path in enumerate(sorted(folder.rglob("*.png"))):
        Image.fromarray(pictures(1, seed, (6, 4, 3))[0]).save(path)
    Image.fromarray(stored).save(folder / "train" / "cat" / "0.png", exif=exif)
    x = load(from_folder(folder)).train.x[0]
    assert x.shape == (3, 6, 4)
    assert x[0].mean(0).tolist() == [0, 0, 0, 1]


def test_images_are_found_missing_and_read_without_torchvision(folder, monkeypatch):
    """Its import takes seconds."""
    for name in ("torchvision", "torchvision.datasets", "torchvision.datasets.folder"):
        monkeypatch.setitem(sys.modules, name, None)
    assert_refused(from_folder(folder / "nowhere"), f"data.path={folder}/nowhere: there is no such folder")
    assert load(from_folder(folder)).classes == 2


# npz


def arrays(**changed):
    found = {"x_train": pictures(40, 0), "y_train": labels(40), "x_test": pictures(20, 1), "y_test": labels(20)}
    return {key: value for key, value in (found | changed).items() if value is not None}


def from_npz(path, **options):
    return {"name": "npz", "path": str(path), "layout": "nchw", "holdout": None, **PLAIN, **options}


@pytest.fixture
def npz(tmp_path):
    def save(**changed):
        np.savez(tmp_path / "my data.npz", **arrays(**changed))
        return tmp_path / "my data.npz"

    return save


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((7,), "nchw", (7,)),
        ((6, 5), "nhwc", (1, 6, 5)),
        ((2, 6, 5), "nchw", (2, 6, 5)),
        ((6, 5, 2), "nhwc", (2, 6, 5)),
    ],
)
@pytest.mark.parametrize("kind", ["uint8", "float16", "float32", "float64", ">f4"])
def test_npz_layouts(npz, shape, layout, expected, kind):
    x = pictures(40, 0, shape).astype(kind)
    data = load(from_npz(npz(x_train=x, x_test=x[:20]), layout=layout))
    if x.ndim == 4 and layout == "nhwc":
        x = x.transpose(0, 3, 1, 2)
    scale = 255 if kind == "uint8" else 1
    assert torch.equal(data.train.x, torch.from_numpy(x.reshape(40, *expected).astype(np.float32)) / scale)
    assert (data.shape, data.classes, data.train.x.dtype) == (expected, 10, torch.float32)


@pytest.mark.parametrize(
    ("shape", "layout", "told"),
    [((6, 5, 3), "nchw", 2), ((3, 6, 5), "nchw", 0), ((6, 5, 3), "nhwc", 0), ((3, 6, 4), "nchw", 0)],
)
def test_pictures_with_the_channels_last_are_told_where_they_are_taken_for_first(npz, caplog, shape, layout, told):
    x = pictures(40, 0, shape)
    load(from_npz(npz(x_train=x, x_test=x[:20]), layout=layout))
    found = [text for text in caplog.messages if "6 channels of 5x3 pixels; data.layout=nhwc has" in text]
    assert (len(found), len(caplog.messages)) == (told, told)


NAN = np.full((40, 7), np.nan)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y_train": np.zeros(0, int), "y_test": np.zeros(0, int)}, "x_train has 40 images, but y_train 0 labels"),
        ({"y_test": None}, "my data.npz cannot be read (it has no array y_test, only x_train, y_train, x_test)"),
        ({"x_train": None}, "my data.npz cannot be read (it has no array x_train, only y_train, x_test, y_test)"),
        ({"x_train": pictures(40, 0).astype(int)}, "x_train is int64, but x_test is uint8"),
        ({"x_train": pictures(40, 0) / 255}, "x_train is float64, but x_test is uint8"),
        ({"x_train": NAN, "x_test": NAN[:20]}, "x_train has a value that is not finite in float32"),
        ({"x_train": NAN * 0 + 1e300, "x_test": NAN}, "x_train has a value that is not finite in float32"),
        (
            {"x_train": np.zeros((40, 7), int), "x_test": np.zeros((20, 7), int)},
            "x_train is int64; allowed are uint8 (0 to 255) and floats",
        ),
        (
            {"x_train": np.zeros(40, "uint8")},
            "x_train has shape (40,); allowed are (N, F), (N, H, W) and NCHW",
        ),
        ({"x_test": np.zeros((0, 6, 5), "uint8")}, "x_test has shape (0, 6, 5); allowed are"),
        ({"x_test": np.zeros((20, 5, 5), "uint8")}, "x_train has samples (1, 6, 5), but x_test has (1, 5, 5)"),
        ({"y_train": labels(40) / 1}, "y_train is float64 of shape (40,); labels are whole numbers of shape (N,)"),
        ({"y_train": labels(40)[:, None]}, "y_train is uint8 of shape (40, 1); labels are whole numbers"),
        ({"y_train": labels(39)}, "x_train has 40 images, but y_train 39 labels"),
        ({"y_test": labels(20).astype(int) - 1}, "y_test has label -1; labels are 0 to 9"),
        ({"y_train": labels(40) + 1}, "y_train lacks label 0; 0 to 10 must all occur"),
        ({"y_train": labels(40).astype(int) * 10**15}, "y_train lacks label 1; 0 to 9000000000000000 must all occur"),
        ({"y_test": labels(20) + 1}, "y_train lacks label 10; 0 to 10 must all occur"),
        ({"x_test": pictures(40, 0), "y_test": labels(40)}, "x_test holds the training images of x_train again"),
    ],
)
def test_bad_arrays(npz, changed, message):
    path = npz(**changed)
    assert assert_refused(from_npz(path), f"data.path={path}: {message}")


@pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test"])
def test_pickled_npz_runs_nothing(npz, tmp_path, key):
    path = npz(**{key: np.array([Payload(tmp_path / "ran")] * 40, dtype=object)})
    assert "Object arrays cannot be loaded" in assert_refused(
        from_npz(path), f"data.path={path}: my data.npz cannot be read"
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda good, ran: b"", id="0 bytes"),
        pytest.param(lambda good, ran: good[: len(good) // 2], id="truncated"),
        pytest.param(lambda good, ran: good[:200] + bytes([good[200] ^ 1]) + good[201:], id="bit flip"),
        pytest.param(lambda good, ran: HTML, id="html"),
        pytest.param(lambda good, ran: pickle.dumps(Payload(ran)), id="a pickle"),
    ],
)
def test_damaged_npz(npz, tmp_path, damage):
    path = npz()
    path.write_bytes(damage(path.read_bytes(), tmp_path / "ran"))
    said = assert_refused(from_npz(path), f"data.path={path}: my data.npz cannot be read (")
    assert "allow_pickle" not in said
    assert not (tmp_path / "ran").exists()


def test_npy_is_no_npz(tmp_path):
    np.save(tmp_path / "x.npy", pictures(4, 0))
    assert "write it with numpy.savez" in assert_refused(from_npz(tmp_path / "x.npy"), "data.path=")


def test_npz_path(tmp_path):
    assert_refused(from_npz(tmp_path / "no.npz"), f"data.path={tmp_path}/no.npz: there is no such file")
    assert_refused({**from_npz(""), "path": None}, "data.path=null: say where the .npz file is")
    assert_refused(from_npz("", layout="chw"), "data.layout=chw: not known; did you mean nchw?")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "data.size=8: vectors of 7 features cannot be resized; it must be null"),
        ({"flip": True}, "data.flip=true: is for images, not for vectors of 7 features"),
        ({"crop": 2}, "data.crop=2: is for images, not for vectors of 7 features"),
        ({"cutout": 2}, "data.cutout=2: is for images, not for vectors of 7 features"),
    ],
)
def test_vectors_are_no_images(npz, options, message):
    path = npz(x_train=pictures(40, 0, (7,)), x_test=pictures(20, 1, (7,)))
    assert assert_refused(from_npz(path, **options), "data.") == message


# What a run recognizes its data by


def fingerprint(options):
    return load(options).fingerprint


def test_the_fingerprint_is_that_of_what_is_in_the_files(npz, tmp_path):
    """Of the images and labels in their order: not of where they lie, how they are stored or what is made of them."""
    first = fingerprint(from_npz(npz()))
    moved = tmp_path / "moved.npz"
    np.savez_compressed(moved, **arrays())
    assert fingerprint(from_npz(moved, train_limit=20, standardize=True, size=3, layout="nhwc")) == first
    x, y = pictures(20, 1), labels(20)
    x[7, 3, 2] ^= 1
    y[[3, 4]] = y[[4, 3]]
    others = [arrays(x_test=x), arrays(y_test=y), arrays(x_test=pictures(20, 1)[::-1]), arrays(x_test=pictures(19, 1))]
    others[3]["y_test"] = labels(19)
    found = [fingerprint(from_npz(npz(**other))) for other in others]
    assert len({first, *found}) == 5


def test_the_fingerprint_of_an_image_folder(folder):
    first = fingerprint(from_folder(folder))
    assert fingerprint(from_folder(folder, size=3)) == first
    (folder / "train" / "cat" / "notes.txt").write_text("no image")
    assert fingerprint(from_folder(folder)) == first
    path = folder / "test" / "dog" / "0.png"
    path.rename(path.with_name("9.png"))
    order = fingerprint(from_folder(folder))
    Image.fromarray(pictures(1, 99, (4, 6, 3))[0]).save(path)
    assert len({first, order, fingerprint(from_folder(folder))}) == 3


# Preparation


def test_standardize_uses_the_training_images_only(npz):
    path = npz(x_train=pictures(40, 0, (3, 6, 5)), x_test=pictures(20, 1, (3, 6, 5)))
    options = from_npz(path, validation=0.25, train_limit=10)
    plain, data = load(options), load({**options, "standardize": True})
    pixels = plain.train.x.double().numpy()
    assert_close(data.mean, pixels.mean((0, 2, 3)).tolist(), rtol=1e-12, atol=0)
    assert_close(data.std, pixels.std((0, 2, 3)).tolist(), rtol=1e-12, atol=0)
    for split, raw in zip(data.splits().values(), plain.splits().values(), strict=True):
        expected = (raw.x.double().numpy() - pixels.mean((0, 2, 3), keepdims=True)) / pixels.std(
            (0, 2, 3), keepdims=True
        )
        assert_close(split.x.double().numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(700, 3, 9, 9), (300, 5)])
def test_moments_of_bytes_are_those_of_the_numbers_that_they_become(shape):
    x = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x[:, 0] = 77
    mean, std = moments(x)
    numbers = (x.numpy().astype(np.float32) / np.float32(255)).astype(np.float64)
    axes = tuple(axis for axis in range(len(shape)) if axis != 1)
    np.testing.assert_allclose(mean, numbers.mean(axes), rtol=1e-14)
    np.testing.assert_allclose(std[1:], numbers.std(axes)[1:], rtol=1e-13)
    assert std[0] == 1  # as for any channel that is constant


def test_images_of_bytes_become_numbers_on_the_device_that_is_asked_for(npz):
    options = PLAIN | {"name": "npz", "path": str(npz()), "layout": "nchw", "holdout": None, "standardize": True}
    here, there = load(options), load(options, "meta")
    assert (there.mean, there.std) == (here.mean, here.std)
    for name, split in there.splits().items():
        wanted = here.splits()[name].x
        assert (split.x.device.type, split.x.dtype, split.x.shape) == ("meta", torch.float32, wanted.shape)


def test_moments_are_accurate_over_many_chunks():
    x = 1000 + torch.randn(10_000, 2, generator=torch.Generator().manual_seed(0))
    mean, std = moments(x)
    assert_close(mean.numpy(), x.double().numpy().mean(0), rtol=1e-13, atol=0)
    assert_close(std.numpy(), x.double().numpy().std(0), rtol=1e-10, atol=0)


def test_constant_features_become_zero(npz):
    x = pictures(40, 0, (3,)) / 255
    x[:, 1] = 0.1
    data = load(from_npz(npz(x_train=x, x_test=x[:20]), standardize=True))
    assert data.std[1] == 1
    assert torch.equal(data.train.x[:, 1], torch.zeros(40))
    assert_close(data.std[::2], x.std(0)[::2].tolist(), rtol=1e-6, atol=0)


def test_resize_then_binarize(mnist):
    data = load(from_mnist(mnist, size=8, binarize=0.4))
    x = F.interpolate(torch.from_numpy(pictures(40, 0))[:, None] / 255, size=(8, 8), mode="bilinear")
    assert torch.equal(data.train.x, (x > 0.4).float())


def rows(split, whole):
    """Which samples of ``whole`` a split holds, by their pixels."""
    known = {tuple(x.flatten().tolist()): i for i, x in enumerate(whole.x)}
    return [known[tuple(x.flatten().tolist())] for x in split.x]


def test_validation_is_set_apart(mnist):
    whole, data = load(from_mnist(mnist)), load(from_mnist(mnist, validation=0.25))
    train, validation = rows(data.train, whole.train), rows(data.validation, whole.train)
    assert (len(train), len(validation)) == (30, 10)
    assert sorted(train + validation) == list(range(40))
    assert validation != list(range(10))
    assert validation != list(range(30, 40))
    assert torch.equal(data.train.y, whole.train.y[train])
    assert torch.equal(data.validation.y, whole.train.y[validation])
    assert torch.equal(data.test.x, whole.test.x)
    assert list(data.splits()) == ["train", "validation", "test"]


def test_the_split_is_the_data_sets_own(mnist):
    """The same under any state of torch's generator; and a smaller limit takes a part of a larger one's images."""
    whole = load(from_mnist(mnist))
    found = {}
    for limit in (5, 20, 30, 5):
        torch.manual_seed(limit + len(found))
        data = load(from_mnist(mnist, validation=0.25, train_limit=limit))
        found.setdefault(limit, []).append((rows(data.train, whole.train), rows(data.validation, whole.train)))
    (five, again), ((twenty, held),) = found[5], found[20]
    assert five == again
    assert five[1] == held
    assert len(five[0]) == 5
    assert set(five[0]) < set(twenty)
    assert not set(twenty) & set(held)


def test_digits():
    options = from_yaml("data", "digits")
    data = load(options)
    assert (data.shape, data.classes) == ((1, 28, 28), 10)
    assert [len(split) for split in data.splits().values()] == [1167, 130, 500]
    plain = load({**options, **PLAIN})
    assert (len(plain.train), plain.shape) == (1297, (1, 8, 8))
    assert (plain.train.x.min(), plain.train.x.max()) == (0, 1)
    ours = {
        (int(y), *x.flatten().tolist())
        for split in (plain.train, plain.test)
        for x, y in zip(split.x, split.y, strict=True)
    }
    with gzip.open(ROOT / "bnexp" / "data" / "digits.csv.gz", "rt") as lines:
        rows = [[int(float(value)) for value in line.split(",")] for line in lines]
    assert ours == {(row[-1], *(value / 16 for value in row[:-1])) for row in rows}
    # How many of each digit the source's own description counts in its test part (UCI, optdigits.names).
    counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert [sum(row[-1] == digit for row in rows) for digit in range(10)] == counts
    assert len(ours) == len(rows) == 1797
    assert plain.test.y.bincount(minlength=10).min() > 30


# Batches


def made(count=23, shape=(2, 6, 5), *, flip=False, crop=0, cutout=0):
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)) + 1
    split = Split(x, torch.arange(count))
    return Data("made", count, split, None, split, [0.0], [1.0], Augmentation(flip, crop, cutout), "")


AUGMENTED = {
    "plain": made(),
    "flip": made(flip=True),
    "crop": made(crop=2),
    "cutout": made(cutout=3),
    "all": made(flip=True, crop=2, cutout=2),
}
every_augmentation = pytest.mark.parametrize("data", AUGMENTED.values(), ids=AUGMENTED.keys())


def same(batch, other):
    return all(torch.equal(one, two) for one, two in zip(batch, other, strict=True))


@every_augmentation
def test_batches_are_a_pure_function_of_the_step(data):
    batches = Batches(data, [3, 4], batch_size=5, drop_last=False)
    forward = [batches(step) for step in range(15)]
    for step in (14, 0, 7, 7, 2, 11, 5, 4):
        assert same(batches(step), forward[step])
    resumed = Batches(data, [3, 4], batch_size=5, drop_last=False)
    assert all(same(resumed(step), forward[step]) for step in range(8, 15))


@every_augmentation
@pytest.mark.parametrize("drop_last", [False, True])
def test_a_member_sees_what_it_would_see_alone(data, drop_last):
    stack = Batches(data, [3, 9, 3], batch_size=5, drop_last=drop_last)
    for member, seed in enumerate([3, 9, 3]):
        alone = Batches(data, [seed], batch_size=5, drop_last=drop_last)
        for step in range(12):
            x, y = stack(step)
            assert same((x[member : member + 1], y[member : member + 1]), alone(step))


def test_seeds_and_epochs_differ():
    batches = Batches(made(), [0, 1], batch_size=23, drop_last=False)
    orders = [tuple(y.tolist()) for epoch in range(3) for y in batches(epoch)[1]]
    assert len(set(orders)) == 6


@pytest.mark.parametrize(
    ("size", "drop_last", "expected"),
    [
        (5, False, [5, 5, 5, 5, 3]),
        (5, True, [5, 5, 5, 5]),
        (23, False, [23]),
        (23, True, [23]),
        (1, False, [1] * 23),
        (22, True, [22]),
    ],
)
def test_every_sample_once_an_epoch(size, drop_last, expected):
    data = made()
    batches = Batches(data, [0, 1], batch_size=size, drop_last=drop_last)
    assert batches.per_epoch == len(expected)
    assert batches.sizes() == set(expected)
    for epoch in range(2):
        found = [batches(epoch * len(expected) + step) for step in range(len(expected))]
        assert [y.shape for _, y in found] == [(2, count) for count in expected]
        for member in (0, 1):
            y = torch.cat([y[member] for _, y in found])
            assert len(y.unique()) == len(y) == sum(expected)
            assert torch.equal(torch.cat([x[member] for x, _ in found]), data.train.x[y])


def test_batch_larger_than_the_data():
    with pytest.raises(ValueError, match=r"^batch_size=24: larger than the 23 training images; at most 23$"):
        Batches(made(), [0], batch_size=24, drop_last=True)


def test_vectors():
    x, y = Batches(made(shape=(7,)), [0, 1], batch_size=4, drop_last=True)(3)
    assert (x.shape, y.shape) == ((2, 4, 7), (2, 4))


def cuts(image, margin):
    """Every cut of one image [C, H, W] by (row, column), pixel by pixel."""
    height, width = image.shape[1:]
    found = {}
    for row in range(2 * margin + 1):
        for column in range(2 * margin + 1):
            cut = torch.zeros_like(image)
            for h in range(height):
                for w in range(width):
                    source = (h + row - margin, w + column - margin)
                    if 0 <= source[0] < height and 0 <= source[1] < width:
                        cut[:, h, w] = image[:, source[0], source[1]]
            found[row, column] = cut
    return found


@pytest.mark.parametrize(("flip", "crop"), [(True, 0), (False, 2), (True, 1)])
def test_augmentation_against_a_slow_loop(flip, crop):
    """Each image is one of its own cuts, mirrored or not, and all decisions occur about equally often."""
    data = made(count=8, shape=(2, 4, 5), flip=flip, crop=crop)
    allowed = [
        {
            (*place, mirrored): cut.flip(2) if mirrored else cut
            for place, cut in cuts(image, crop).items()
            for mirrored in {False, flip}
        }
        for image in data.train.x
    ]
    batches = Batches(data, [5], batch_size=8, drop_last=False)
    seen = {decision: 0 for decision in allowed[0]}
    for step in range(100):
        x, y = batches(step)
        for image, label in zip(x[0], y[0].tolist(), strict=True):
            (decision,) = (key for key, cut in allowed[label].items() if torch.equal(cut, image))
            seen[decision] += 1
    assert len(seen) == (1 + flip) * (2 * crop + 1) ** 2
    expected = 800 / len(seen)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in seen.values())


def test_shifted_takes_row_and_column():
    x = torch.rand(9, 2, 4, 5)
    row, column = torch.tensor([[0, 0, 0, 1, 2, 4, 4, 3, 2], [0, 1, 4, 3, 2, 4, 0, 1, 4]])
    expected = [cuts(image, 2)[r, c] for image, r, c in zip(x, row.tolist(), column.tolist(), strict=True)]
    assert torch.equal(shifted(x, row, column, margin=2), torch.stack(expected))


def test_holes_are_squares_at_every_place_about_equally_often():
    data = made(count=4, shape=(2, 4, 5), cutout=2)  # its pixels are 1 or more
    batches = Batches(data, [5], batch_size=4, drop_last=False)
    seen = {(row, column): 0 for row in range(3) for column in range(4)}
    for step in range(300):
        x, y = batches(step)
        for image, label in zip(x[0], y[0].tolist(), strict=True):
            rows, columns = (image == 0).all(0).nonzero(as_tuple=True)
            row, column = rows.min().item(), columns.min().item()
            expected = data.train.x[label].clone()
            expected[:, row : row + 2, column : column + 2] = 0
            assert torch.equal(image, expected)
            seen[row, column] += 1
    assert all(abs(count - 100) < 5 * 100**0.5 for count in seen.values())


def test_augmentation_leaves_order_alone():
    plain, augmented = made(), made(flip=True, crop=2, cutout=2)
    for step in range(10):
        labels = [Batches(data, [0], batch_size=5, drop_last=False)(step)[1] for data in (plain, augmented)]
        assert torch.equal(*labels)


def test_the_data_stay_as_they_are():
    data = made(flip=True, crop=2)
    before = data.train.x.clone()
    x, _ = Batches(data, [0], batch_size=23, drop_last=False)(0)
    x.zero_()
    assert torch.equal(data.train.x, before)


def test_to_moves_every_split():
    data = replace(made(), validation=made().train).to("meta")
    assert {split.x.device.type for split in data.splits().values()} == {"meta"}
    assert {split.y.device.type for split in data.splits().values()} == {"meta"}


# The real data


@real
@pytest.mark.parametrize(("name", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashion_mnist", 0.2860, 0.3530)])
def test_real_data(name, mean, std):
    options = {"name": name, "root": os.environ["BNEXP_DATA"], **PLAIN, "standardize": True}
    data = load(options)
    assert data.mean == pytest.approx([mean], abs=1e-4)
    assert data.std == pytest.approx([std], abs=1e-4)
    assert data.train.x.shape == (60_000, 1, 28, 28)  # and each image, with its label, is the published one
    assert data.test.x.shape == (10_000, 1, 28, 28)
    assert data.train.x.std() == pytest.approx(1, abs=1e-4)
    counts = data.train.y.bincount().tolist()
    assert counts == ([6000] * 10 if name == "fashion_mnist" else MNIST_COUNTS)


# LeCun et al.'s training set is not balanced.
MNIST_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
