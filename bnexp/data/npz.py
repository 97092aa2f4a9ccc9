"""The user's own data set, as NumPy arrays in one file."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bnexp.data.base import DATA, Part, Raw, fault, reading
from bnexp.data.holdout import ADVICE, Holdout, divided

_TRAIN, _TEST = ("x_train", "y_train"), ("x_test", "y_test")
_KEYS = (*_TRAIN, *_TEST)

log = logging.getLogger(__name__)

# Channels of ordinary pictures: grey, colours, colours with transparency.
_COLOURS = (1, 3, 4)
Layout = Literal["nchw", "nhwc"]


@DATA.register("npz")
def npz(*, path: str | None, layout: Layout, holdout: Holdout) -> Raw:
    """Arrays x_train, y_train, x_test, y_test of a file that ``numpy.savez`` wrote; pickled objects are refused.

    x is (N, C, H, W) or, by ``layout``, (N, H, W, C); (N, H, W) for grey images; (N, F) for vectors. uint8 is divided
    by 255; floats are not changed and must be finite. y is (N,), integers from 0. With ``holdout`` there are no x_test
    and y_test, and a share of the others is set apart for testing (``divided``).

    Raises:
        ValueError: the file is missing or damaged, or an array is missing or of another shape or type.
    """
    if path is None:
        raise ValueError(f"data.path=null: say where the .npz file is; it holds {', '.join(_KEYS)}")
    origin, file = f"data.path={path}", Path(os.path.expanduser(path))
    if not os.path.isfile(file):
        raise fault(origin, "there is no such file")
    arrays = _arrays(origin, file, _KEYS if holdout is None else _TRAIN)
    if holdout is not None:
        train, test = divided(origin, _part(origin, arrays, "train", layout), holdout)
        return Raw(origin, train, test, max([0, *train.y.tolist()]) + 1)
    if arrays["x_train"].dtype != arrays["x_test"].dtype:  # as if only one of them had been divided by 255
        raise fault(origin, f"x_train is {arrays['x_train'].dtype}, but x_test is {arrays['x_test'].dtype}")
    train, test = (_part(origin, arrays, part, layout) for part in ("train", "test"))
    classes = max([0, *train.y.tolist(), *test.y.tolist()]) + 1
    return Raw(origin, train, test, classes)


def _arrays(origin: str, file: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of these names; without those for testing, the file must have none."""
    with reading(origin, file.name), file.open("rb") as stream:
        try:
            found = np.load(stream, allow_pickle=False)
        except ValueError:  # whose text advises to load what it takes for a pickle
            raise ValueError("no archive of arrays; write it with numpy.savez") from None
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise ValueError("one array, not an archive of arrays; write it with numpy.savez")
        with found:
            for key in (key for key in keys if key not in found):
                advice = f"; {ADVICE}" if not {*_TEST} & {*found} else ""
                raise ValueError(f"it has no array {key}, only {', '.join(found) or 'none'}{advice}")
            for key in (key for key in _TEST if key in found and key not in keys):
                raise ValueError(f"it has an array {key}; data.holdout=null takes it for testing")
            arrays = {key: found[key] for key in keys}
            for key in (key for key, array in arrays.items() if not isinstance(array, np.ndarray)):
                raise ValueError(f"{key} is no array; write it with numpy.savez")
            return arrays


def _part(origin: str, arrays: dict[str, np.ndarray], part: str, layout: Layout) -> Part:
    x, y = f"x_{part}", f"y_{part}"
    return Part(_images(origin, x, arrays[x], layout), _labels(origin, y, arrays[y]), x, y)


def _images(origin: str, key: str, found: np.ndarray, layout: Layout) -> Tensor:
    if found.ndim not in (2, 3, 4) or 0 in found.shape:
        raise fault(origin, f"{key} has shape {found.shape}; allowed are (N, F), (N, H, W) and {layout.upper()}")
    if found.dtype != np.uint8 and found.dtype.kind != "f":
        raise fault(origin, f"{key} is {found.dtype}; allowed are uint8 (0 to 255) and floats")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which ``prepare`` refuses
        found = np.ascontiguousarray(found, dtype=np.uint8 if found.dtype == np.uint8 else np.float32)
    x = torch.from_numpy(found)
    if x.ndim == 4 and layout == "nchw" and x.shape[3] in _COLOURS and x.shape[1] not in _COLOURS:
        _, channels, height, width = x.shape
        read = f"is read as {channels} channels of {height}x{width} pixels"
        log.warning("%s: %s of shape %s %s; data.layout=nhwc has the channels last", origin, key, found.shape, read)
    if x.ndim == 3:
        return x.unsqueeze(1)
    return x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 and layout == "nhwc" else x


def _labels(origin: str, key: str, found: np.ndarray) -> Tensor:
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise fault(origin, f"{key} is {found.dtype} of shape {found.shape}; labels are whole numbers of shape (N,)")
    return torch.from_numpy(found.astype(np.int64))
