"""Handwritten digits that come with scikit-learn: no download, seconds to train."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch

from bnexp.data.base import DATA, Part, Raw
from bnexp.randomness import generator

# Ours, as the source has no split of its own.
_SPLIT_SEED, _TEST = 0, 500


def _file() -> Path:
    """What ``sklearn.datasets.load_digits`` reads, found without importing scikit-learn, which takes a second."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


@DATA.register("digits")
def digits() -> Raw:
    """1797 images [1, 8, 8] of 17 grey levels, 10 classes: 1297 to train, 500 to test, by a fixed permutation.

    Source: Alpaydin & Kaynak (1998), UCI, "Optical Recognition of Handwritten Digits", its test part.
    """
    table = torch.from_numpy(np.loadtxt(_file(), delimiter=","))
    x, y = table[:, :64].view(-1, 1, 8, 8) / 16, table[:, 64].long()
    shuffled = torch.randperm(len(y), generator=generator(_SPLIT_SEED, "digits"))
    test, train = shuffled[:_TEST], shuffled[_TEST:]
    return Raw(
        "data.name=digits",
        train=Part(x[train], y[train], "the training part", "the training part"),
        test=Part(x[test], y[test], "the test part", "the test part"),
        classes=10,
    )
