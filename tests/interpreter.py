"""Where kernels in Triton run in the tests: on a GPU, or on a CPU by Triton's interpreter."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version

import pytest
import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def lacks() -> str:
    """Why kernels cannot run here; empty if they can."""
    if importlib.util.find_spec("triton") is None:
        return "needs triton"
    numbers = tuple(map(int, version("triton").split(".")[:2]))
    return "Triton 3.6 cannot interpret loops with NumPy 2.4" if DEVICE == "cpu" and numbers < (3, 7) else ""


where_triton_runs = pytest.mark.skipif(bool(lacks()), reason=lacks())
# The interpreter computes by NumPy, which would warn of what is no number, as no GPU does.
needs_triton = [where_triton_runs, pytest.mark.usefixtures("silent_arithmetic")]


def same(found: Tensor, wanted: Tensor, bound: float) -> bool:
    """Whether the relative distance is within a bound."""
    return bool((found.double() - wanted).norm() <= bound * wanted.norm())
