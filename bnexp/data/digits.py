"""Handwritten digits that come with bnexp: no download, seconds to train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bnexp.data.base import DATA, Part, Raw
from bnexp.randomness import generator

_FILE = Path(__file__).parent / "digits.csv.gz"
# The split is bnexp's: the source has none.
_SPLIT_SEED, _TEST = 0, 500


@DATA.register("digits")
def digits() -> Raw:
    """1797 images [1, 8, 8] of 17 grey levels, 10 classes: 1297 to train, 500 to test, by a fixed permutation.

    Source: Alpaydin & Kaynak (1998), UCI, "Optical Recognition of Handwritten Digits", its test part, CC BY 4.0; see
    ``digits.md`` beside the file.
    """
    table = torch.from_numpy(np.loadtxt(_FILE, delimiter=","))
    x, y = table[:, :64].view(-1, 1, 8, 8) / 16, table[:, 64].long()
    shuffled = torch.randperm(len(y), generator=generator(_SPLIT_SEED, "digits"))
    test, train = shuffled[:_TEST], shuffled[_TEST:]
    return Raw(
        "data.name=digits",
        train=Part(x[train], y[train], "the training part", "the training part"),
        test=Part(x[test], y[test], "the test part", "the test part"),
        classes=10,
    )
