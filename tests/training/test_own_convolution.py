"""Convolutions of groups by Triton's kernels, on a CPU run by its interpreter, against torch in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interpreter import DEVICE, needs_triton, same
from torch import Tensor

from bnexp.training.kernels import own_convolution
from bnexp.training.kernels.own_convolution import OwnConvolution, takes

pytestmark = needs_triton

# TF32 and float16 have the same digits. The interpreter multiplies no bfloat16.
ROUNDING = {torch.float32: 2**-11, torch.float16: 2**-11} | ({torch.bfloat16: 2**-8} if DEVICE == "cuda" else {})
# Images, groups, channels, height, width, outputs, filter, padding. One channel; several, not a power of two; more than
# 16 outputs; a filter of one place; an image as small as the filter; the most outputs.
SHAPES = (
    (3, 3, 1, 7, 6, 6, 5, 2),
    (2, 3, 6, 7, 6, 16, 3, 0),
    (2, 2, 3, 7, 6, 20, 3, 1),
    (2, 3, 2, 4, 6, 3, 1, 0),
    (3, 2, 5, 5, 5, 2, 5, 0),
    (2, 2, 8, 7, 9, 64, 3, 1),
)


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return numbers.to(DEVICE, dtype).requires_grad_()


def given(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Maps, weights and biases; these two in float32, as under autocast."""
    B, G, C, H, W, out, K, _ = shape
    return [random(B, G * C, H, W, seed=0, dtype=dtype), random(G * out, C, K, K, seed=1), random(G * out, seed=2)]


def passes(
    tensors: list[Tensor], shape: tuple[int, ...], g: Tensor | None = None, *, tf32: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """The output and all gradients, by own kernels."""
    y = OwnConvolution.apply(*tensors, shape[-1], shape[1], tf32)
    g = random(*y.shape, seed=3, dtype=y.dtype).detach() if g is None else g
    return g, [y.detach(), *torch.autograd.grad(y, tensors, g)]


def exact(tensors: list[Tensor], g: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    wide = [each.detach().double().requires_grad_() for each in tensors]
    y = F.conv2d(*wide, padding=shape[-1], groups=shape[1])
    return [y, *torch.autograd.grad(y, wide, g.double())]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_it_is_torchs_in_double_precision_but_for_the_rounding_of_its_factors(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensors = given(shape, dtype)
    g, found = passes(tensors, shape)
    for mine, theirs in zip(found, exact(tensors, g, shape), strict=True):
        assert same(mine, theirs, ROUNDING[dtype])
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert [each.dtype for each in found] == [dtype, dtype, torch.float32, torch.float32]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_without_tf32_it_has_all_digits_of_float32(shape: tuple[int, ...]) -> None:
    tensors = given(shape)
    g, found = passes(tensors, shape, tf32=False)
    for mine, theirs in zip(found, exact(tensors, g, shape), strict=True):
        assert same(mine, theirs, 1e-6)


def test_slopes_of_weights_are_not_rounded_to_the_format_of_maps() -> None:
    shape = SHAPES[1]
    tensors = given(shape, torch.float16)
    g, (_, _, dw, db) = passes(tensors, shape)
    _, _, dw64, db64 = exact(tensors, g, shape)
    assert same(dw, dw64, 1e-6)
    assert same(db, db64, 1e-6)


def test_factors_are_rounded_to_the_nearest_number_of_tf32() -> None:
    """A cut would make all products smaller."""
    ulp = 2.0**-10
    numbers = [1 + ulp * share for share in (0.49, 0.51, 1.49, 1.51)]
    x = torch.tensor([*numbers, *(-each for each in numbers)], device=DEVICE).view(1, 1, 1, -1)
    one = torch.ones(1, 1, 1, 1, device=DEVICE)
    wanted = [1, 1 + ulp, 1 + ulp, 1 + 2 * ulp]
    for factors in ((x, one), (one.expand(1, 1, 1, 1), x.view(8, 1, 1, 1))):
        y = OwnConvolution.apply(*factors, None, 0, 1, True).flatten().tolist()
        assert y == [*wanted, *(-each for each in wanted)]


def test_nan_of_any_bits_stays_nan() -> None:
    bits = torch.tensor([0x7FC00000, 0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    y = OwnConvolution.apply(bits.to(DEVICE).view(1, 1, 1, 3), torch.ones(1, 1, 1, 1, device=DEVICE), None, 0, 1, True)
    assert y.isnan().all()


def test_largest_numbers_become_infinite_where_tf32_has_none() -> None:
    x = torch.tensor([torch.finfo(torch.float32).max, math.inf, -math.inf], device=DEVICE).view(1, 1, 1, 3)
    y = OwnConvolution.apply(x, torch.ones(1, 1, 1, 1, device=DEVICE), None, 0, 1, True)
    assert y.flatten().tolist() == [math.inf, math.inf, -math.inf]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_member_that_is_not_finite_spoils_no_other(value: float) -> None:
    shape = (3, 6, 2, 6, 6, 3, 3, 1)
    x, w, b = given(shape)
    with torch.no_grad():
        x[1, 5, 2, 2] = value  # of the third group
    g = torch.ones(3, 18, 6, 6, device=DEVICE)
    g[0, 17, 0, 0] = value  # of the sixth group
    _, found = passes([x, w, b], shape, g)
    y, dx, dw, db = (~torch.isfinite(each) for each in found)
    spoilt = [each.transpose(0, 1).unflatten(0, (6, -1)).flatten(1).any(1) for each in (y, dx)]
    spoilt += [each.unflatten(0, (6, -1)).flatten(1).any(1) for each in (dw, db)]
    assert [each.nonzero().flatten().tolist() for each in spoilt] == [[2], [5], [2, 5], [5]]


ORDERS = {
    "channels first": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "members first": lambda x: x.unflatten(1, (4, -1)).transpose(0, 1).contiguous().transpose(0, 1).flatten(1, 2),
    "rows turned": lambda x: x.mT.contiguous().mT,
    "every second": lambda x: torch.stack([x, x], -1)[..., 0],
    "every second channel": lambda x: torch.stack([x, x], 2).flatten(1, 2)[:, ::2],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_maps_and_gradients_come_in_any_order_of_the_memory(channels: int, order: str) -> None:
    shape = (3, 4, channels, 6, 5, 2, 3, 1)
    x, *parameters = given(shape)
    g = random(3, 8, 6, 5, seed=3).detach()
    _, (*wanted, db_wanted) = passes([x, *parameters], shape, g)
    moved = ORDERS[order](x.detach()).requires_grad_()
    _, (*found, db) = passes([moved, *parameters], shape, ORDERS[order](g))
    assert all(torch.equal(*each) for each in zip(found, wanted, strict=True))
    assert same(db, db_wanted.double(), 1e-6)  # torch's sum, in another order


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1)], ids=str)
def test_gradients_that_nobody_wants_are_not_computed(wanted: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of a first layer have none, nor has a frozen layer."""
    shape, called = SHAPES[2], list[str]()
    x, w, b = (each.detach().requires_grad_(place in wanted) for place, each in enumerate(given(shape)))
    y = OwnConvolution.apply(x, w, b, shape[-1], shape[1], True)
    for name in ("_maps", "_slopes"):
        own = getattr(own_convolution, name)
        record = lambda *a, own=own, name=name, **k: called.append(name) or own(*a, **k)  # noqa: E731
        monkeypatch.setattr(own_convolution, name, record)
    torch.autograd.grad(y, [(x, w, b)[place] for place in wanted], torch.ones_like(y))
    assert called == [name for place, name in enumerate(("_maps", "_slopes")) if place in wanted]


@pytest.mark.parametrize("programs", [1, 4, 10**6])  # one part; parts of several tiles, the last not full; of one tile
def test_parts_of_the_places_add_up_to_all(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (9, 2, 1, 9, 8, 6, 3, 1)  # 648 places: six tiles
    tensors = given(shape)
    monkeypatch.setattr(own_convolution, "_PROGRAMS", programs)
    g, (_, _, dw, _) = passes(tensors, shape)
    assert same(dw, exact(tensors, g, shape)[2], ROUNDING[torch.float32])


@pytest.mark.parametrize(("images", "programs"), [(1, 8), (64, 8), (64, 2048), (64, 10**6)])
def test_places_are_divided_into_about_as_many_programs_as_are_wanted(
    images: int, programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnexp.training.kernels import triton_convolutions

    launched: list[tuple[tuple[int, ...], int]] = []

    class Launched:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda x, g, parts, M, B, length, *strides, **how: launched.append((grid, length))

    M, chunks, tiles = 4, 7, -(-images * 100 // 128)  # 25 places of the filter, 4 in a chunk; 10 x 10 places of a map
    x, w, _ = given((images, M, 6, 14, 14, 16, 5, 0))
    monkeypatch.setattr(own_convolution, "_PROGRAMS", programs)
    monkeypatch.setattr(triton_convolutions, "part_slopes", Launched())
    own_convolution._slopes(x.detach(), torch.empty(images, 64, 10, 10), w.detach(), 0, M, tf32=True)
    ((count,), length), *_ = launched
    assert count % (M * chunks) == 0
    parts = count // (M * chunks)
    assert (parts - 1) * length < images * 100 <= parts * length
    wanted = min(tiles, max(1, programs / (M * chunks)))
    assert wanted / 2 <= parts <= wanted + 1
    assert length % 16 == 0  # see test_for_an_h100.py


def test_without_a_bias() -> None:
    shape = SHAPES[1]
    x, w, _ = given(shape)
    y = OwnConvolution.apply(x, w, None, shape[-1], shape[1], True)
    wanted = F.conv2d(x.detach().double(), w.detach().double(), groups=shape[1])
    assert same(y.detach(), wanted, ROUNDING[torch.float32])


def test_second_derivatives_are_refused() -> None:
    shape = SHAPES[3]
    x, w, b = given(shape)
    (dx,) = torch.autograd.grad(OwnConvolution.apply(x, w, b, 0, shape[1], True).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


SUITED: dict[str, Any] = {"x": (2, 12, 9, 9), "weight": (24, 3, 5, 5), "how": [[1, 1], [2, 2], [1, 1]], "groups": 4}


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"how": [[1, 1], [4, 4], [1, 1]]}, True),
        ({"how": [[1, 1], [5, 5], [1, 1]]}, False),
        ({"how": [[1, 1], [2, 1], [1, 1]]}, False),
        ({"how": [[1, 2], [2, 2], [1, 1]]}, False),
        ({"how": [[1, 1], [2, 2], [2, 1]]}, False),
        ({"weight": (24, 3, 5, 3)}, False),
        ({"weight": (24, 3, 7, 7)}, True),
        ({"weight": (24, 3, 8, 8)}, False),
        ({"weight": (4 * 64, 3, 5, 5)}, True),
        ({"weight": (4 * 65, 3, 5, 5)}, False),
        ({"x": (2, 4 * 8, 9, 9), "weight": (24, 8, 5, 5)}, True),
        ({"x": (2, 4 * 9, 9, 9), "weight": (24, 9, 5, 5)}, False),
        ({"x": (2, 12, 9), "weight": (24, 3, 5), "how": [[1], [2], [1]]}, False),
    ],
    ids=str,
)
def test_which_layers_are_taken(change: dict[str, Any], fits: bool) -> None:
    layer = SUITED | change
    assert not takes(torch.empty(layer["x"]).double(), torch.empty(layer["weight"]), layer["how"], layer["groups"])
    assert takes(torch.empty(layer["x"]), torch.empty(layer["weight"]), layer["how"], layer["groups"]) is fits
