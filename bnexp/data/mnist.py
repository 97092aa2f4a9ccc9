"""MNIST and the data sets in its format."""

from __future__ import annotations

import gzip
import math
import os
import struct
from pathlib import Path

import numpy as np
import torch
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
    return _idx(root, "MNIST")


@DATA.register("fashion_mnist")
def fashion_mnist(*, root: str) -> Raw:
    """60,000 + 10,000 grey images [1, 28, 28] of clothes, 10 classes (Xiao et al. 2017).

    Raises:
        ValueError: a file is missing and cannot be downloaded, or is damaged.
    """
    return _idx(root, "FashionMNIST")


def _idx(root: str, name: str) -> Raw:
    def download(folder: str) -> None:
        import torchvision.datasets  # takes a second or more, and only a download needs it

        getattr(torchvision.datasets, name)(folder, download=True)

    origin, base = f"data.root={root}", Path(os.path.expanduser(root))
    files = [f"{name}/raw/{file}" for file in _FILES]
    fetch(origin, base, [file for file in files if not os.path.isfile(_there(base / file))], download)
    return Raw(origin, train=_part(origin, base, *files[:2]), test=_part(origin, base, *files[2:]), classes=10)


def _part(origin: str, base: Path, images: str, labels: str) -> Part:
    x, y = _read(origin, base, images, axes=3), _read(origin, base, labels, axes=1)
    return Part(x.unsqueeze(1), y.long(), images, labels)


def _there(path: Path) -> Path:
    """The unpacked file where it exists, else the path of the packed one, .gz."""
    return path if os.path.isfile(path) else path.with_name(path.name + ".gz")


def _read(origin: str, base: Path, file: str, *, axes: int) -> Tensor:
    path = _there(base / file)
    with reading(origin, f"{path.relative_to(base)} ({path.stat().st_size} bytes)"):
        content = path.read_bytes()
        return _parsed(gzip.decompress(content) if path.suffix == ".gz" else content, axes)


def _parsed(content: bytes, axes: int) -> Tensor:
    """The bytes of an IDX file as a uint8 tensor: a magic number (type 8, the axes), each axis' length, the values.

    Raises:
        ValueError: the bytes are no IDX file, or not a whole one.
    """
    start = 4 + 4 * axes
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) < start:
        raise ValueError(f"no IDX file of bytes with {axes} axes")
    lengths = struct.unpack_from(f">{axes}I", content, 4)
    if len(content) - start != math.prod(lengths):
        raise ValueError(f"{len(content) - start} values where its header says {'x'.join(map(str, lengths))}")
    return torch.from_numpy(np.frombuffer(bytearray(content), np.uint8, offset=start).reshape(lengths))
