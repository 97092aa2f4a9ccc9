"""The average pooling of LeNet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_torchs_own = ContextVar("pool with torch's own kernel", default=False)


@contextmanager
def torchs_own() -> Iterator[None]:
    """Pool with torch's own kernel inside the with block, for a trace that a compiler is given."""
    before = _torchs_own.set(True)
    try:
        yield
    finally:
        _torchs_own.reset(before)


class HalvingPool(nn.Module):
    """The mean of every 2x2 square, (B, C, H, W) -> (B, C, H // 2, W // 2), as ``nn.AvgPool2d(2)``.

    On a CPU, rows and columns of a whole map are added at once. On the first maps of LeNet this is 2 to 3 times as fast
    as torch's kernel, which takes a fifth of LeNet's training step. On a GPU, means are taken over a view of the
    squares, and written in the order of the memory: torch's kernels for channels last take a third of the step of a
    stack of LeNets in bf16. torch's kernel is used for maps with an odd side, where rows are not adjacent on a CPU, and
    for numbers of lower precision there (they must be added in a higher one). Compiled models have it too: the compiler
    fuses it with its neighbours.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool x, (B, C, H, W)."""
        even = x.shape[-1] % 2 == x.shape[-2] % 2 == 0
        own = not (torch.compiler.is_compiling() or _torchs_own.get())
        if own and even and (not on_cpu(x) or _suits_a_cpu(x)):
            return _Means.apply(x)  # type: ignore[no-any-return]
        return F.avg_pool2d(x, 2)


def on_cpu(x: Tensor) -> bool:
    """Whether rows and columns are added, and not squares."""
    return x.device.type == "cpu"


def _suits_a_cpu(x: Tensor) -> bool:
    rows = x.stride(-1) == 1 and x.stride(-2) == x.shape[-1]  # of a member of a stack, too
    return rows and x.dtype in (torch.float32, torch.float64)


def means(x: Tensor) -> Tensor:
    """The means of all squares in the order of x's memory, added in at least float32 and rounded once."""
    y = _in_order_of(x, (*x.shape[:-2], x.shape[-2] // 2, x.shape[-1] // 2))
    return torch.mean(_squares(x), (-3, -1), out=y)


def quarters(g: Tensor) -> Tensor:
    """A quarter of each value in all four places of its square, in the order of g's memory."""
    x = _in_order_of(g, (*g.shape[:-2], g.shape[-2] * 2, g.shape[-1] * 2))
    squares = _squares(x)
    torch.mul(g[..., :, None, :, None].expand_as(squares), 0.25, out=squares)
    return x


def _squares(x: Tensor) -> Tensor:
    """(..., H, W) -> (..., H / 2, 2, W / 2, 2), a view."""
    *outer, height, width = x.shape
    return x.view(*outer, height // 2, 2, width // 2, 2)


def _in_order_of(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """New memory of another shape, with the axes in the order of x's."""
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    return torch.empty_permuted(shape, order, dtype=x.dtype, device=x.device)


class _Means(torch.autograd.Function):
    """A quarter of the sum of every square; its adjoint is ``_Quarters``."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        if not on_cpu(x):
            return means(x)
        pairs = x.reshape(*x.shape[:-2], x.shape[-2] // 2, 2, x.shape[-1])
        rows = pairs[..., 0, :] + pairs[..., 1, :]
        return (rows[..., ::2] + rows[..., 1::2]).mul_(0.25)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing is kept: the map is linear."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _Quarters.apply(g)  # type: ignore[no-any-return]

    @staticmethod
    def vmap(info: Any, axes: tuple[int], x: Tensor) -> tuple[Tensor, int]:
        """Members lie behind the batch."""
        return _Means.apply(x.movedim(axes[0], -4)), -4


class _Quarters(torch.autograd.Function):
    """A quarter of each value in all four places of its square."""

    @staticmethod
    def forward(g: Tensor) -> Tensor:
        if not on_cpu(g):
            return quarters(g)
        quarter = g * 0.25
        *outer, height, width = g.shape
        x = g.new_empty(*outer, height, 2, width, 2)
        x[..., 0, :, 0] = quarter
        x[..., 0, :, 1] = quarter
        x[..., 1, :, :] = x[..., 0, :, :]
        return x.flatten(-4, -3).flatten(-2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing is kept: the map is linear."""

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> Tensor:
        return _Means.apply(h)  # type: ignore[no-any-return]

    @staticmethod
    def vmap(info: Any, axes: tuple[int], g: Tensor) -> tuple[Tensor, int]:
        """Members lie behind the batch."""
        return _Quarters.apply(g.movedim(axes[0], -4)), -4
