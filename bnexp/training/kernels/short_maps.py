"""Batch norm, ReLU and max pooling of maps in 16 bits with channels last, at the speed of a GPU's memory.

torch's own kernels for such maps are far from it: on an H100, the statistics of a ResNet-9 take 0.71 ms, where reading
its maps takes 0.13 ms (cuDNN's kernels refuse bfloat16). Inside ``OwnKernels``, those of ``triton_maps`` run in
their place, wherever the functions of torch are called: in a layer, or in the rules of a stack.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bnexp.norms import batch as norms
from bnexp.training.kernels.member_norms import over_channels
from bnexp.training.kernels.own_batch_norm import grid, rows_of, suits
from bnexp.training.kernels.own_kernels import FEW, FUNCTIONS, ROUNDING, OwnKernels, format_of, passes

# Rows and channels of a tile of a pooled map; measured on an H100.
_POOLED = {"ROWS": 16, "CHANNELS": 64}
# The largest window: each of its places is written out in the kernel, and 4 x 4 take 13 s to compile.
_WINDOW = 2


# --- batch norm -------------------------------------------------------------------------------------------------------


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.batch_norm``."""
    return _batch_norm(F.batch_norm, x, running_mean, running_var, weight, bias, training, momentum, eps)


def _batch_norm(function: Callable[..., Tensor], x: Tensor, *given: Any) -> Tensor:
    """The same, or ``bnexp.norms.batch.batch_norm_relu``: the ReLU takes no pass over the maps of its own."""
    return over_channels(function, x, *given) if suits(x) else function(x, *given)


# --- max pooling ------------------------------------------------------------------------------------------------------


def max_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """``F.max_pool2d``."""
    usual = (padding, dilation, ceil_mode, return_indices) == (0, 1, False, False)
    small = isinstance(kernel_size, int) and kernel_size <= min(_WINDOW, *x.shape[2:])
    if not (usual and small and stride in (None, kernel_size) and suits(x)):
        given = kernel_size, stride, padding, dilation, ceil_mode, return_indices
        return F.max_pool2d(x, *given)  # type: ignore[call-overload]
    return _pooled(x, kernel_size)


def _pooled(x: Tensor, k: int) -> Tensor:
    """By the own kernel, if it works here."""
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "torch": lambda x: F.max_pool2d(x, k),
        "own": lambda x: _MaxPool.apply(x, k),
    }
    kernels = OwnKernels.current
    assert kernels is not None
    tries = {name: partial(passes, way, x[:FEW]) for name, way in ways.items()}
    layer = f"{k}x{k} max pooling of {x.shape[1]} channels on {x.shape[2]}x{x.shape[3]}, {format_of(x)}"
    return ways[kernels.choose(layer, tries, ROUNDING[format_of(x)], timed=False)](x)


class _MaxPool(torch.autograd.Function):
    """The largest of k x k numbers; the backward pass looks for its place again, instead of having it stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int) -> Tensor:
        """One kernel."""
        from bnexp.training.kernels import triton_maps as kernels

        B, C, H, W = x.shape
        y = torch.empty(B, C, H // k, W // k, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        kernels.pooled[_pooling_grid(y)](x, y, rows_of(y), C, H, W, H // k, W // k, K=k, **_POOLED)
        ctx.save_for_backward(x)
        ctx.k = k
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        """One kernel."""
        from bnexp.training.kernels import triton_maps as kernels

        (x,), k = ctx.saved_tensors, ctx.k
        _, C, H, W = x.shape
        g = g.contiguous(memory_format=torch.channels_last)
        dx = torch.empty_like(x) if H % k == W % k == 0 else torch.zeros_like(x)
        kernels.pooled_gradient[_pooling_grid(g)](g, x, dx, rows_of(g), C, H, W, H // k, W // k, K=k, **_POOLED)
        return dx, None


def _pooling_grid(y: Tensor) -> tuple[int]:
    return grid(-(-rows_of(y) // _POOLED["ROWS"]), y.shape[1], _POOLED)


FUNCTIONS[F.batch_norm] = batch_norm
FUNCTIONS[norms.batch_norm_relu] = partial(_batch_norm, norms.batch_norm_relu)
FUNCTIONS[F.max_pool2d] = max_pool2d
