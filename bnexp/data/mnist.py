"""MNIST and the data sets in its format."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from bnexp.data.base import DATA, Part, Raw, reading
from bnexp.data.download import fetch

_FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@DATA.register("mnist")
def mnist(*, root: str) -> Raw:
    """60,000 + 10,000 grey images [1, 28, 28] of handwritten digits, 10 classes (LeCun et al. 1998).

    Raises:
        ValueError: a file is missing and cannot be downloaded, or is damaged.
    """
    from torchvision.datasets import MNIST

    return _idx(root, "MNIST", lambda folder: MNIST(folder, download=True))


@DATA.register("fashion_mnist")
def fashion_mnist(*, root: str) -> Raw:
    """60,000 + 10,000 grey images [1, 28, 28] of clothes, 10 classes (Xiao et al. 2017).

    Raises:
        ValueError: a file is missing and cannot be downloaded, or is damaged.
    """
    from torchvision.datasets import FashionMNIST

    return _idx(root, "FashionMNIST", lambda folder: FashionMNIST(folder, download=True))


def _idx(root: str, folder: str, download: Callable[[str], object]) -> Raw:
    origin, base = f"data.root={root}", Path(os.path.expanduser(root))
    files = [f"{folder}/raw/{file}" for file in _FILES]
    fetch(origin, base, [file for file in files if not os.path.isfile(_there(base / file))], download)
    return Raw(origin, train=_part(origin, base, *files[:2]), test=_part(origin, base, *files[2:]), classes=10)


def _part(origin: str, base: Path, images: str, labels: str) -> Part:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    x = _read(origin, base, images, read_image_file)
    return Part(x.unsqueeze(1), _read(origin, base, labels, read_label_file), images, labels)


def _there(path: Path) -> Path:
    """The file as it lies there: unpacked, or else as .gz."""
    return path if os.path.isfile(path) else path.with_name(path.name + ".gz")


def _read(origin: str, base: Path, file: str, reader: Callable[[str], Tensor]) -> Tensor:
    """One IDX file; torchvision's readers check magic number, axes and length, but take unpacked files only."""
    path = _there(base / file)
    with reading(origin, f"{path.relative_to(base)} ({path.stat().st_size} bytes)"):
        if path.suffix != ".gz":
            return reader(str(path))
        with tempfile.NamedTemporaryFile() as unpacked:
            unpacked.write(gzip.decompress(path.read_bytes()))
            unpacked.flush()
            return reader(unpacked.name)
