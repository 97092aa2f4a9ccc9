"""The pooling of LeNet against torch's, with gradients of both orders, stacked and in all layouts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, vmap

from bnexp.models import pooling
from bnexp.models.pooling import HalvingPool, torchs_own

POOL = HalvingPool()


@pytest.fixture(params=["rows", "squares"], autouse=True)
def way(request, monkeypatch):
    """As on a CPU, and as on a GPU."""
    if request.param == "squares":
        monkeypatch.setattr(pooling, "on_cpu", lambda x: False)
    return request.param


@pytest.mark.parametrize("shape", [(3, 2, 8, 6), (1, 1, 2, 2), (2, 3, 7, 4), (2, 3, 4, 5), (5, 4, 4)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_it_is_the_mean_of_every_square(shape, layout):
    x = torch.randn(shape, dtype=torch.float64)
    if layout == "channels_last" and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        x = x.transpose(-1, -2)
    torch.testing.assert_close(POOL(x), F.avg_pool2d(x, 2), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(3, 2, 8, 6), (2, 3, 7, 4)])
def test_its_gradients_of_both_orders_are_right(shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(POOL, x)
    torch.autograd.gradgradcheck(lambda x: POOL(x).square(), x)


def test_members_that_are_mapped_over_are_pooled_one_by_one():
    x_MB = torch.randn(4, 3, 2, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(vmap(POOL)(x_MB), torch.stack([F.avg_pool2d(x, 2) for x in x_MB]), rtol=0, atol=1e-14)
    slopes = vmap(grad(lambda x: POOL(x).square().sum()))(x_MB)
    wanted = torch.stack([grad(lambda x: F.avg_pool2d(x, 2).square().sum())(x) for x in x_MB])
    torch.testing.assert_close(slopes, wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_lower_precision_is_rounded_once(dtype):
    x = torch.randn(2, 3, 8, 8).to(dtype)
    assert torch.equal(POOL(x), F.avg_pool2d(x, 2))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_order_of_the_memory_stays_that_of_the_maps(layout):
    """As kernels read channels last, another order would be copied."""
    x = torch.randn(2, 3, 8, 6).contiguous(memory_format=layout).requires_grad_()
    y = POOL(x)
    (slope,) = torch.autograd.grad(y, x, torch.randn(2, 3, 4, 3).contiguous(memory_format=layout))
    assert y.is_contiguous(memory_format=layout)
    assert slope.is_contiguous(memory_format=layout)


def test_a_compiler_is_given_torchs_own_kernel():
    x = torch.randn(2, 3, 8, 6, requires_grad=True)
    with torchs_own():
        assert "AvgPool2D" in type(POOL(x).grad_fn).__name__
    assert "AvgPool2D" not in type(POOL(x).grad_fn).__name__
