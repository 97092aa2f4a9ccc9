"""MNIST and the data sets in its format, recognized by digests: a flipped bit is found, another order is told."""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bnexp.data.base import DATA, Part, Raw, fault, reading
from bnexp.data.download import fetch

log = logging.getLogger(__name__)

_FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@dataclass(frozen=True)
class Digests:
    """What a part of a data set is recognized by.

    Attributes:
        images, labels: MD5 of the unpacked files as they were published.
        any_order: see ``order_free``.
    """

    images: str
    labels: str
    any_order: str


# By the file of the images.
DIGESTS = {
    "MNIST/raw/train-images-idx3-ubyte": Digests(
        "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624", "4169f8039ecfaaeee0fd6cf7438b2f6a"
    ),
    "MNIST/raw/t10k-images-idx3-ubyte": Digests(
        "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637", "5a8974ea3b22cefd982b325154c0c816"
    ),
    "FashionMNIST/raw/train-images-idx3-ubyte": Digests(
        "f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9", "bbe5d8005ee02c656bde64cf0d31bea0"
    ),
    "FashionMNIST/raw/t10k-images-idx3-ubyte": Digests(
        "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965", "548f545f123d37646be4c76c68c545cf"
    ),
}


@DATA.register("mnist")
def mnist(*, root: str) -> Raw:
    """60,000 + 10,000 grey images [1, 28, 28] of handwritten digits, 10 classes (LeCun et al. 1998).

    Raises:
        ValueError: a file is missing and cannot be downloaded, or is damaged or another.
    """
    return _idx(root, "MNIST")


@DATA.register("fashion_mnist")
def fashion_mnist(*, root: str) -> Raw:
    """60,000 + 10,000 grey images [1, 28, 28] of clothes, 10 classes (Xiao et al. 2017).

    Raises:
        ValueError: a file is missing and cannot be downloaded, or is damaged or another.
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
    if images in DIGESTS:
        _recognize(origin, {images: x, labels: y}, DIGESTS[images])
    return Part(x.unsqueeze(1), y.long(), images, labels)


def _recognize(origin: str, files: Mapping[str, Tensor], known: Digests) -> None:
    """Compare images and labels with what was published; says so where only their order is another.

    Raises:
        ValueError: an image or a label is another.
    """
    (images, _), published = files, (known.images, known.labels)
    changed = [file for file, md5 in zip(files, published, strict=True) if _md5(files[file]) != md5]
    if changed and order_free(*files.values()) == known.any_order:
        log.info("%s: %s is in another order than published, so that limits and splits choose others", origin, images)
    elif changed:
        what = (
            "not as published: damaged, or other images; delete to download again (data=npz reads images of your own)"
        )
        raise fault(origin, f"{' and '.join(changed)}: {what}")


def _md5(values: Tensor) -> str:
    """The MD5 of an IDX file with these values."""
    digest = hashlib.md5(struct.pack(f">{values.ndim + 1}I", 0x800 + values.ndim, *values.shape), usedforsecurity=False)
    digest.update(values.numpy().data)
    return digest.hexdigest()


def order_free(x: Tensor, y: Tensor) -> str:
    """A digest of uint8 images (N, H, W) with their labels (N,) that is the same in every order."""
    rows = zip(x.numpy(), y.tolist(), strict=False)
    each = sorted(hashlib.blake2b(image, digest_size=16, salt=bytes([label])).digest() for image, label in rows)
    return hashlib.blake2b(b"".join(each), digest_size=16).hexdigest()


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
