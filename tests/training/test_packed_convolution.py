"""Groups that are packed into dense ones, against torch's grouped convolution in double precision."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from bnexp.training.kernels.packed_convolution import PackedConvolution, packed_groups


def packed(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, pack: int) -> torch.Tensor:
    return PackedConvolution.apply(x, w, b, [[2, 1], [1, 2], [1, 1]], 6, pack)


def maps_and_weights() -> tuple[torch.Tensor, ...]:
    """Six groups of two channels in and three out."""
    torch.manual_seed(0)
    shapes = ((4, 12, 7, 6), (18, 2, 3, 3), (18,))
    return tuple(torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("pack", [2, 3, 6])
def test_packed_groups_are_groups(pack, biased):
    x, w, b = maps_and_weights()
    given = (x, w, b) if biased else (x, w)
    wanted = F.conv2d(*given, stride=(2, 1), padding=(1, 2), groups=6)
    found = packed(x, w, b if biased else None, pack)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn_like(wanted)
    for mine, theirs in zip(*(torch.autograd.grad(y, given, cotangent) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_member_that_is_not_finite_spoils_no_other_one_that_is_packed_with_it(value):
    x, w, b = maps_and_weights()
    with torch.no_grad():
        x[1, 5, 2, 2] = value  # of the third group
    y = packed(x, w, b, 3)
    groups = y.detach().unflatten(1, (6, 3)).transpose(0, 1).flatten(1)
    assert torch.isnan(groups).any(1).tolist() == [False, False, True, False, False, False]
    cotangent = torch.ones_like(y)
    cotangent[0, 17, 0, 0] = value  # of the sixth group
    dx, dw = torch.autograd.grad(y, (x, w), cotangent)
    spoilt = [~torch.isfinite(each) for each in (dx.transpose(0, 1).unflatten(0, (6, 2)), dw.unflatten(0, (6, 3)))]
    assert spoilt[0].flatten(1).any(1).tolist() == [False, False, True, False, False, False]
    assert spoilt[1].flatten(1).any(1).tolist() == [False, False, False, False, False, True]


@pytest.mark.parametrize(
    ("precision", "channels", "groups", "pack"),
    [
        *[("fp32", 1, 64, 1), ("tf32", 1, 64, 32), ("tf32", 6, 64, 4), ("tf32", 16, 16, 1), ("tf32", 1, 7, 7)],
        *[("bf16", 1, 64, 64), ("bf16", 3, 16, 16), ("bf16", 6, 64, 8), ("bf16", 16, 16, 1), ("fp64", 1, 64, 1)],
    ],
)
def test_few_channels_are_packed_where_a_gpu_has_matrix_units_for_the_format(
    precision, channels, groups, pack, monkeypatch
):
    class OnGpu:
        device, ndim, dtype, shape = torch.device("cuda"), 4, torch.float32, (8, channels * groups, 9, 9)

        def element_size(self) -> int:
            return 4

    if precision == "fp64":
        OnGpu.dtype = torch.float64
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: (kind, precision) == ("cuda", "bf16"))
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        assert packed_groups(OnGpu(), groups) == pack
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    assert packed_groups(torch.zeros(8, channels * groups, 9, 9), groups) == 1
