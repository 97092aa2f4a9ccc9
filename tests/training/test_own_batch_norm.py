"""Batch norm of vectors in one kernel, on a CPU run by Triton's interpreter, against torch in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
from interpreter import DEVICE, needs_triton, same
from torch import Tensor

from bnexp.training.kernels.own_batch_norm import OwnBatchNorm, _tile, are_plain, suits_as_vectors

pytestmark = needs_triton

MOMENTUM, EPS = 0.3, 1e-3
ROUNDING = {torch.float32: 1e-6, torch.float16: 2**-10} | ({torch.bfloat16: 2**-7} if DEVICE == "cuda" else {})
# Few images, of which two would give no gradient but rounding; channels of several programs; the most images.
SHAPES = ((3, 5), (7, 70), (64, 32), (256, 20))


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (numbers + 0.5).to(DEVICE, dtype)


def given(shape: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Vectors, running mean and variance, gain and bias; all but the vectors in float32."""
    return random(*shape, seed=0, dtype=dtype), *(random(shape[1], seed=seed) for seed in (1, 2, 3, 4))


# (x, running mean, running variance, gain, bias) -> normalized x.
Norm = Callable[..., Tensor]


def passes(
    norm: Norm, tensors: Iterable[Tensor], g: Tensor, *, tracked: bool, affine: bool
) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """The output and all gradients, and the running statistics."""
    x, mean, var, gain, bias = tensors
    wanted = [each.requires_grad_() for each in ([x, gain, bias] if affine else [x])]
    running, parameters = (mean, var) if tracked else (None, None), (gain, bias) if affine else (None, None)
    y = norm(x, *running, *parameters)
    return [y.detach(), *torch.autograd.grad(y, wanted, g)], (mean, var)


def by_own_kernel(
    tensors: tuple[Tensor, ...], g: Tensor, *, relu: bool, **how: bool
) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    own = lambda *given: OwnBatchNorm.apply(*given, MOMENTUM, EPS, relu)  # noqa: E731
    return passes(own, (each.clone() for each in tensors), g, **how)


def exact(
    tensors: tuple[Tensor, ...], g: Tensor, *, relu: bool, **how: bool
) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """The same by torch in float64."""

    def torchs(*given: Tensor | None) -> Tensor:
        y = F.batch_norm(*given, training=True, momentum=MOMENTUM, eps=EPS)
        return F.relu(y) if relu else y

    return passes(torchs, (each.double() for each in tensors), g.double(), **how)


@pytest.mark.parametrize(
    "how",
    [
        {"tracked": True, "affine": True, "relu": True},
        {"tracked": True, "affine": True, "relu": False},
        {"tracked": False, "affine": False, "relu": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_it_is_torchs_in_double_precision_but_for_rounding(
    dtype: torch.dtype, shape: tuple[int, int], how: dict[str, bool]
) -> None:
    tensors, g = given(shape, dtype), random(*shape, seed=5, dtype=dtype)
    found, running = by_own_kernel(tensors, g, **how)
    wanted, moved = exact(tensors, g, **how)
    for mine, theirs in zip([*found, *running], [*wanted, *moved], strict=True):
        assert same(mine, theirs, 4 * ROUNDING[dtype])
    assert torch.equal(running[0], tensors[1]) is not how["tracked"]
    assert [each.dtype for each in found] == [dtype, dtype, *[torch.float32] * (len(found) - 2)]


def test_a_channel_with_nan_spoils_no_other() -> None:
    how = {"tracked": True, "affine": True, "relu": True}
    tensors, g = given((7, 40), torch.float32), random(7, 40, seed=5)
    before, _ = by_own_kernel(tensors, g, **how)
    tensors[0][3, 8] = torch.nan
    found, running = by_own_kernel(tensors, g, **how)
    wanted, moved = exact(tensors, g, **how)
    spared = torch.arange(40, device=DEVICE) != 8
    for mine, theirs in zip(found, before, strict=True):
        assert torch.equal(mine[..., spared], theirs[..., spared])
    for mine, theirs in zip([*found, *running], [*wanted, *moved], strict=True):
        assert torch.equal(mine.isnan(), theirs.isnan())
    assert found[0].isnan().any()


@pytest.mark.parametrize(
    ("x", "pair", "taken"),
    [
        (torch.zeros(4, 6), (torch.zeros(6), torch.zeros(6)), True),
        (torch.zeros(4, 6), (None, None), True),
        (torch.zeros(4, 6, dtype=torch.bfloat16), (torch.zeros(6), torch.zeros(6)), True),
        (torch.zeros(3, 6), (None, None), True),
        (torch.zeros(2, 6), (None, None), False),
        (torch.zeros(257, 6), (None, None), False),
        (torch.zeros(4, 6, 1, 1), (None, None), False),
        (torch.zeros(6, 4).T, (None, None), False),
        (torch.zeros(4, 6, dtype=torch.float64), (None, None), False),
        (torch.zeros(4, 6), (torch.zeros(6), None), False),
        (torch.zeros(4, 6), (torch.zeros(12)[::2], torch.zeros(6)), False),
    ],
    ids=str,
)
def test_which_vectors_suit(x: Tensor, pair: tuple[Tensor | None, Tensor | None], taken: bool) -> None:
    assert (suits_as_vectors(x) and are_plain(x, (None, None), pair)) is taken


@pytest.mark.parametrize("images", [3, 4, 64, 65, 256])
def test_a_tile_has_room_for_all_images_and_fits_into_registers(images: int) -> None:
    tile = _tile(images)
    assert all(size.bit_count() == 1 for size in tile.values())
    assert images <= tile["ROWS"] < 2 * images
    assert tile["CHANNELS"] >= 16
    assert tile["ROWS"] * tile["CHANNELS"] <= 4096
