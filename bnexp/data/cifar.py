"""CIFAR-10 and CIFAR-100. Their files are pickles, which run code: none is opened before its checksum is right."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from bnexp.data.base import DATA, Part, Raw, fault
from bnexp.data.download import fetch


@DATA.register("cifar10")
def cifar10(*, root: str) -> Raw:
    """50,000 + 10,000 colour images [3, 32, 32], 10 classes (Krizhevsky 2009).

    Raises:
        ValueError: a file is missing and cannot be downloaded, or its checksum is wrong.
    """
    from torchvision.datasets import CIFAR10

    return _batches(root, CIFAR10, classes=10)


@DATA.register("cifar100")
def cifar100(*, root: str) -> Raw:
    """50,000 + 10,000 colour images [3, 32, 32], 100 classes (Krizhevsky 2009).

    Raises:
        ValueError: a file is missing and cannot be downloaded, or its checksum is wrong.
    """
    from torchvision.datasets import CIFAR100

    return _batches(root, CIFAR100, classes=100)


def _batches(root: str, dataset: Any, *, classes: int) -> Raw:
    """Read through torchvision's class ``dataset``."""
    origin, base = f"data.root={root}", Path(os.path.expanduser(root))
    listed = [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
    md5 = {f"{dataset.base_folder}/{file}": digest for file, digest in listed}
    fetch(
        origin, base, [file for file in md5 if not os.path.isfile(base / file)], lambda to: dataset(to, download=True)
    )
    _check_md5(origin, base, md5)
    return Raw(origin, train=_part(base, dataset, train=True), test=_part(base, dataset, train=False), classes=classes)


def _check_md5(origin: str, base: Path, md5: dict[str, str]) -> None:
    """Name the damaged file; torchvision checks again, but says only that something is wrong."""
    from torchvision.datasets.utils import check_integrity

    for file, digest in md5.items():
        if not check_integrity(base / file, digest):
            raise fault(origin, f"{file} is damaged (its md5 is not {digest}); delete it to have it downloaded again")


def _part(base: Path, dataset: Any, *, train: bool) -> Part:
    with warnings.catch_warnings():
        # The files were pickled by a NumPy of 2009, in a way that NumPy 2.4.0 to 2.4.4 warn of (numpy#31177).
        warnings.simplefilter("ignore")
        found = dataset(base, train=train)
    # torchvision turned the files' [N, 3, 32, 32] into [N, 32, 32, 3].
    x = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
    return Part(x, torch.tensor(found.targets), dataset.base_folder, dataset.base_folder)
