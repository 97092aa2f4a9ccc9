"""Batch norm, ReLU and max pooling of maps in 16 bits with channels last, at the speed of a GPU's memory.

torch's own kernels for such maps are far from it: on an H100, the statistics of a ResNet-9 take 0.71 ms, where reading
its maps takes 0.13 ms (cuDNN's kernels refuse bfloat16). Inside ``OwnKernels``, those of ``triton_maps`` run in
their place, wherever the functions of torch are called: in a layer, or in the rules of a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bnexp.norms import batch as norms

# Rows and channels of a tile, and of a tile of a pooled map; measured on an H100.
_ROWS = 64
_TILE = {"ROWS": _ROWS, "CHANNELS": 64}
_POOLED = {"ROWS": 16, "CHANNELS": 64}
# Parts that the rows of a tile's channels are divided into at most, and about how many of all channels.
_PARTS = 512
_ALL_PARTS = 1024
# What joins the parts.
_JOIN = {"PARTS": _PARTS, "CHANNELS": 16}
# The largest window: each of its places is written out in the kernel, and 4 x 4 take 13 s to compile.
_WINDOW = 2


def suits(x: Tensor, *formats: torch.dtype) -> bool:
    """True for maps (B, C, H, W) with channels last, in 16 bits, whose rows of C numbers are read in whole words.

    Other formats may be named instead.
    """
    return (
        x.ndim == 4
        and x.dtype in (formats or (torch.float16, torch.bfloat16))
        and x.shape[1] % 8 == 0
        and x.numel() > x.shape[1]  # torch refuses a single value a channel
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and x.is_contiguous(memory_format=torch.channels_last)
    )


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
    if not (training and _all_suit(x, running_mean, running_var, weight, bias)):
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    y: Tensor = MapBatchNorm.apply(x, running_mean, running_var, weight, bias, momentum, eps, False)
    return y


def batch_norm_relu(x: Tensor, *given: Any) -> Tensor:
    """``bnexp.norms.batch.batch_norm_relu``: the ReLU takes no pass over the maps of its own, forward or backward."""
    running_mean, running_var, gain, bias, momentum, eps = given
    if not _all_suit(x, running_mean, running_var, gain, bias):
        return F.relu(F.batch_norm(x, running_mean, running_var, gain, bias, True, momentum, eps))
    y: Tensor = MapBatchNorm.apply(x, *given, True)
    return y


def _all_suit(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, gain: Tensor | None, bias: Tensor | None
) -> bool:
    return suits(x) and all(are_plain(pair, x) for pair in ((running_mean, running_var), (gain, bias)))


def are_plain(pair: tuple[Tensor | None, Tensor | None], x: Tensor) -> bool:
    """Whether both of two vectors are missing, or both are C adjacent numbers in float32, beside x."""
    like = (torch.float32, (x.shape[1],), x.device)
    if all(each is None for each in pair):
        return True
    return all(
        each is not None and (each.dtype, each.shape, each.device) == like and each.is_contiguous() for each in pair
    )


class MapBatchNorm(torch.autograd.Function):
    """Batch norm of (B, C, H, W) by its own statistics; running ones, if given, are moved in place, as by torch.

    With a ReLU behind it, the backward pass computes again which numbers were positive, instead of reading them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        gain: Tensor | None,
        bias: Tensor | None,
        momentum: float,
        eps: float,
        relu: bool,
    ) -> Tensor:
        """Three kernels; only the first and the last one read maps."""
        from bnexp.training.kernels import triton_maps as kernels

        rows, C, y = _rows(x), x.shape[1], torch.empty_like(x)
        parts, length = _parts(rows, C)
        moments, of_parts = (x.new_empty(*shape, 2, C, dtype=torch.float32) for shape in ((), (parts,)))
        kernels.part_moments[_grid(parts, C)](x, of_parts, rows, C, length, **_TILE)
        tracked = running_mean is not None
        running = (running_mean, running_var) if tracked else (moments, moments)
        given = (of_parts, moments, *running, rows, C, length, parts, momentum, eps)
        kernels.joined_moments[_grid(1, C, _JOIN)](*given, TRACKED=tracked, **_JOIN)
        affine, how = gain_and_bias(moments, gain, bias), {"AFFINE": gain is not None, "RELU": relu}
        kernels.normalized[_grid(-(-rows // _ROWS), C)](x, y, moments, *affine, rows, C, **how, **_TILE)
        ctx.save_for_backward(x, moments, gain, bias)
        ctx.how = how
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Three kernels; only the first and the last one read maps."""
        from bnexp.training.kernels import triton_maps as kernels

        x, moments, gain, bias = ctx.saved_tensors
        affine = gain_and_bias(moments, gain, bias)
        g = g.contiguous(memory_format=torch.channels_last)
        rows, C, dx = _rows(x), x.shape[1], torch.empty_like(x)
        parts, length = _parts(rows, C)
        of_parts, means, slopes = (moments.new_empty(*shape, 2, C) for shape in ((parts,), (), ()))
        kernels.part_sums[_grid(parts, C)](g, x, moments, *affine, of_parts, rows, C, length, **ctx.how, **_TILE)
        kernels.joined_sums[_grid(1, C, _JOIN)](of_parts, moments, means, slopes, rows, C, parts, **_JOIN)
        given = g, x, dx, moments, means, *affine, rows, C
        kernels.gradient[_grid(-(-rows // _ROWS), C)](*given, **ctx.how, **_TILE)
        of_affine = (None, None) if gain is None else slopes.unbind()
        return dx, None, None, *of_affine, *[None] * 3


def gain_and_bias(moments: Tensor, gain: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gain and bias; where there are none, a kernel reads nothing of what it is given."""
    return (moments, moments) if gain is None or bias is None else (gain, bias)


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[1]


def _tiles(C: int, tile: Mapping[str, int] = _TILE) -> int:
    return -(-C // tile["CHANNELS"])


def _grid(rows: int, C: int, tile: Mapping[str, int] = _TILE) -> tuple[int]:
    """Programs for so many tiles or parts of the rows: in one axis, as the others end at 65,535."""
    return (rows * _tiles(C, tile),)


def _parts(rows: int, C: int) -> tuple[int, int]:
    """How many parts of how many rows: enough to keep a GPU busy, and few enough to be joined quickly."""
    tiles, most = -(-rows // _ROWS), min(_PARTS, -(-_ALL_PARTS // _tiles(C)))
    length = -(-tiles // most) * _ROWS
    return -(-rows // length), length


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
    return _MaxPool.apply(x, kernel_size)


class _MaxPool(torch.autograd.Function):
    """The largest of k x k numbers; the backward pass looks for its place again, instead of having it stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int) -> Tensor:
        """One kernel."""
        from bnexp.training.kernels import triton_maps as kernels

        B, C, H, W = x.shape
        y = torch.empty(B, C, H // k, W // k, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        kernels.pooled[_pooling_grid(y)](x, y, _rows(y), C, H, W, H // k, W // k, K=k, **_POOLED)
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
        kernels.pooled_gradient[_pooling_grid(g)](g, x, dx, _rows(g), C, H, W, H // k, W // k, K=k, **_POOLED)
        return dx, None


def _pooling_grid(y: Tensor) -> tuple[int]:
    return _grid(-(-_rows(y) // _POOLED["ROWS"]), y.shape[1], _POOLED)


# What runs in the place of functions of torch.
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    F.batch_norm: batch_norm,
    norms.batch_norm_relu: batch_norm_relu,
    F.max_pool2d: max_pool2d,
}
