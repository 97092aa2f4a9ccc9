"""Batch norm and max pooling by Triton's kernels, on a CPU run by its interpreter, against torch in float64."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interpreter import DEVICE, needs_triton, same
from torch import Tensor, nn

from bnexp.norms.batch import batch_norm_relu
from bnexp.training.kernels import own_batch_norm, own_kernels, short_maps
from bnexp.training.kernels.own_batch_norm import OwnBatchNorm, suits
from bnexp.training.kernels.own_kernels import OwnKernels, in_force
from bnexp.training.kernels.rules import MemberKernels, joined, parted

pytestmark = needs_triton

# Fewer rows than two tiles have; more channels than one has; many parts of rows.
SHAPES = ((3, 24, 5, 7), (9, 72, 6, 6), (2, 8, 19, 18))
ROUNDING = {torch.float16: 2**-11, torch.bfloat16: 2**-8}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the functions whose own kernels have run, but for those that are tried."""
    names: list[str] = []
    for kind in (OwnBatchNorm, short_maps._MaxPool):
        own, name = kind.apply, kind.__name__
        monkeypatch.setattr(kind, "apply", lambda *given, own=own, name=name: names.append(name) or own(*given))
    monkeypatch.setattr(own_kernels, "_able", lambda layer, ways, rounding: ways)
    return names


def maps(*shape: int, dtype: torch.dtype, seed: int = 0, mean: float = 0.0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + mean
    return x.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last).requires_grad_()


def affine(*shape: int) -> list[Tensor]:
    """Gain, bias, running mean and variance."""
    numbers = [torch.rand(shape, generator=torch.Generator().manual_seed(place)) + place for place in range(4)]
    return [each.to(DEVICE) for each in numbers]


def wide(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if each is None else each.detach().double().requires_grad_() for each in tensors]


@pytest.mark.parametrize("parts", [1, 2, 4, 512])  # of several tiles each, the last one not full; of one tile each
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_batch_norm_is_torchs_in_double_precision_but_for_the_rounding_of_its_maps(
    dtype: torch.dtype, shape: tuple[int, ...], parts: int, monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    monkeypatch.setattr(own_batch_norm, "_PARTS", parts)
    x, g = maps(*shape, dtype=dtype, mean=5.0), maps(*shape, dtype=dtype, seed=1)
    gain, bias, mean, var = affine(shape[1])
    gain.requires_grad_(), bias.requires_grad_()
    x64, gain64, bias64 = wide(x, gain, bias)
    mean64, var64 = mean.double(), var.double()
    with OwnKernels():
        y = F.batch_norm(x, mean, var, gain, bias, True, 0.3, 1e-3)
    y64 = F.batch_norm(x64, mean64, var64, gain64, bias64, True, 0.3, 1e-3)
    dx, *of_affine = torch.autograd.grad(y, [x, gain, bias], g)
    dx64, *of_affine64 = torch.autograd.grad(y64, [x64, gain64, bias64], g.double())
    assert same(y, y64, ROUNDING[dtype])
    assert same(dx, dx64, ROUNDING[dtype])
    for found, wanted in zip([*of_affine, mean, var], [*of_affine64, mean64, var64], strict=True):
        assert same(found, wanted, 1e-6)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert ran == ["OwnBatchNorm"]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_fp32_it_is_torchs_too(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks take it where times choose it."""
    monkeypatch.setattr(own_batch_norm, "_PARTS", 2)
    x, g = maps(*shape, dtype=torch.float32, mean=5.0), maps(*shape, dtype=torch.float32, seed=1)
    gain, bias, mean, var = affine(shape[1])
    gain.requires_grad_(), bias.requires_grad_()
    x64, gain64, bias64 = wide(x, gain, bias)
    mean64, var64 = mean.double(), var.double()
    y = OwnBatchNorm.apply(x, mean, var, gain, bias, 0.3, 1e-3, True)
    y64 = F.relu(F.batch_norm(x64, mean64, var64, gain64, bias64, True, 0.3, 1e-3))
    found = [y, *torch.autograd.grad(y, [x, gain, bias], g), mean, var]
    wanted = [y64, *torch.autograd.grad(y64, [x64, gain64, bias64], g.double()), mean64, var64]
    assert all(same(*each, 2e-6) for each in zip(found, wanted, strict=True))


@pytest.mark.parametrize("order", ["channels first", "expanded"])
def test_gradients_come_in_any_order_of_the_memory(order: str) -> None:
    x, (gain, bias, mean, var) = maps(2, 8, 6, 6, dtype=torch.bfloat16), affine(8)
    g = maps(2, 8, 6, 6, dtype=torch.bfloat16, seed=1).detach().contiguous()
    g = g if order == "channels first" else g[:, :, :1, :1].expand(x.shape)
    found = []
    for own in (False, True):
        with OwnKernels() if own else nullcontext():
            y = F.batch_norm(x, mean.clone(), var.clone(), gain, bias, True)
            z = F.max_pool2d(x, 2)
        found.append([torch.autograd.grad(y, x, g)[0].double(), torch.autograd.grad(z, x, g[:, :, :3, :3])[0]])
    (dx, dz), (own_dx, own_dz) = found
    assert same(own_dx, dx, 2**-7)
    assert torch.equal(own_dz, dz)


LAYERS = {
    "batch norm of 8 channels on 6x6, float16, forward and backward": lambda x, *given: F.batch_norm(x, *given, True),
    "batch norm and ReLU of 8 channels on 6x6, float16, forward and backward": lambda x, mean, var, *affine: (
        batch_norm_relu(x, mean, var, *affine, 0.1, 1e-5)
    ),
    "2x2 max pooling of 8 channels on 6x6, float16": lambda x, *given: F.max_pool2d(x, 2),
}


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("layer", LAYERS)
def test_kernels_that_work_are_taken_without_being_timed_and_others_are_told(
    layer: str, timed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a home folder in which Triton cannot keep what it compiles."""
    x, (gain, bias, mean, var) = maps(4, 8, 6, 6, dtype=torch.float16), affine(8)
    monkeypatch.setattr(own_kernels, "quickest", lambda *_: pytest.fail("it was timed"))
    kernels, lost = OwnKernels(timed=timed), OwnKernels(timed=timed)
    with kernels:
        found = LAYERS[layer](x, mean.clone(), var.clone(), gain, bias)
    assert (kernels.chosen, caplog.messages) == ({layer: "own"}, [])
    for kind in (OwnBatchNorm, short_maps._MaxPool):
        monkeypatch.setattr(kind, "apply", lambda *given: Path("/nothing/here").read_text())
    with lost:
        again = [LAYERS[layer](x, mean.clone(), var.clone(), gain, bias) for _ in range(2)]
    assert lost.chosen == {layer: "torch"}
    (message,) = caplog.messages
    assert message.startswith(f"{layer}: torch's kernels are taken, as bnexp's own cannot be used (FileNotFoundError")
    assert all(same(each, found.double(), 2**-8) for each in again)


def test_second_derivatives_are_refused() -> None:
    x = maps(2, 8, 6, 6, dtype=torch.bfloat16)
    with OwnKernels():
        for y in (F.batch_norm(x, None, None, None, None, True), F.max_pool2d(x, 2)):
            (dx,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
            with pytest.raises(RuntimeError, match="once_differentiable"):
                dx.sum().backward()


def test_batch_norm_keeps_the_variance_of_values_far_from_zero() -> None:
    """Mean 2^11 and deviation 1: the sum of squares alone would lose all digits of the variance in float32."""
    x = maps(4, 8, 40, 40, dtype=torch.float16, mean=2048.0)
    with OwnKernels():
        F.batch_norm(
            x, mean := torch.zeros(8, device=DEVICE), var := torch.ones(8, device=DEVICE), None, None, True, 1.0, 1e-9
        )
    var64, mean64 = torch.var_mean(x.detach().double(), (0, 2, 3))
    assert same(mean, mean64, 1e-6)
    assert same(var, var64, 1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_a_relu_behind_it_is_taken_along(
    dtype: torch.dtype, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    """The same bits forward; backward the gradient of a ReLU that has seen the rounded numbers."""
    monkeypatch.setattr(own_batch_norm, "_PARTS", 2)
    x, g = maps(*shape, dtype=dtype, mean=5.0), maps(*shape, dtype=dtype, seed=1)
    gain, bias, mean, var = affine(shape[1])
    with torch.no_grad():
        bias -= 1.5  # so that half of all numbers are negative
    gain.requires_grad_(), bias.requires_grad_()
    found = []
    for call in (lambda *given: F.relu(F.batch_norm(*given[:5], True, *given[5:])), batch_norm_relu):
        running = mean.clone(), var.clone()
        with OwnKernels():
            y = call(x, *running, gain, bias, 0.3, 1e-3)
        found.append([y, *running, *torch.autograd.grad(y, [x, gain, bias], g)])
    assert ran == ["OwnBatchNorm"] * 2
    assert 0.2 < (found[0][0] == 0).double().mean() < 0.8
    for apart, together in zip(*found, strict=True):
        assert torch.equal(apart, together)


def test_a_relu_without_gain_and_bias_is_taken_along() -> None:
    x, g = maps(2, 16, 4, 4, dtype=torch.bfloat16), maps(2, 16, 4, 4, dtype=torch.bfloat16, seed=1)
    (x64,) = wide(x)
    with OwnKernels():
        y = batch_norm_relu(x, None, None, None, None, 0.0, 1e-5)
    y64 = F.relu(F.batch_norm(x64, None, None, None, None, True, 0.0, 1e-5))
    assert same(y, y64, 2**-8)
    assert same(*torch.autograd.grad(y, x, g), *torch.autograd.grad(y64, x64, g.double()), 2**-8)


def test_nan_passes_a_relu_and_what_rounds_to_zero_does_not() -> None:
    """Numbers of float16 below 2^-25 are 0 behind the norm, and have no gradient in front of the ReLU."""
    x = maps(1, 16, 4, 4, dtype=torch.float16).detach()
    x[0, 3, 1, 1] = torch.nan
    gain, bias = torch.full((16,), 2.0**-25, device=DEVICE), torch.zeros(16, device=DEVICE)
    for tensor in (x, gain, bias):
        tensor.requires_grad_()
    with OwnKernels():
        y = batch_norm_relu(x, None, None, gain, bias, 0.0, 1e-5)
    (db,) = torch.autograd.grad(y, bias, torch.ones_like(y))
    assert y.isnan().flatten(2).all(2).nonzero().tolist() == [[0, 3]]
    assert y.nan_to_num().abs().max() <= 2.0**-24
    assert db.tolist() == [16.0 if channel == 3 else float((y[0, channel] > 0).sum()) for channel in range(16)]
    assert 0 < db[0] < 8


@pytest.mark.parametrize("case", ["fp32", "channels first", "vectors", "gain alone"])
def test_a_relu_that_cannot_be_taken_along_is_torchs(case: str, ran: list[str]) -> None:
    x, (gain, bias, mean, var) = maps(2, 8, 4, 4, dtype=torch.bfloat16), affine(8)
    x = {"fp32": x.float(), "channels first": x.contiguous(), "vectors": x[:, :, 0, 0]}.get(case, x)
    given = gain, None if case == "gain alone" else bias
    kept = mean.clone(), var.clone()
    with OwnKernels():
        y = batch_norm_relu(x, mean, var, *given, 0.1, 1e-5)
    assert torch.equal(y, F.relu(F.batch_norm(x, *kept, *given, True)))
    assert torch.equal(mean, kept[0])
    assert not ran


def test_batch_norm_without_gain_and_running_statistics() -> None:
    x, g = maps(2, 16, 4, 4, dtype=torch.bfloat16), maps(2, 16, 4, 4, dtype=torch.bfloat16, seed=1)
    (x64,) = wide(x)
    with OwnKernels():
        y = F.batch_norm(x, None, None, None, None, True, 0.0, 1e-5)
    y64 = F.batch_norm(x64, None, None, None, None, True, 0.0, 1e-5)
    assert same(y, y64, 2**-8)
    assert same(*torch.autograd.grad(y, x, g), *torch.autograd.grad(y64, x64, g.double()), 2**-8)


def test_a_value_that_is_not_finite_spoils_its_channel_alone() -> None:
    x = maps(2, 16, 4, 4, dtype=torch.bfloat16).detach()
    x[0, 3, 1, 1], x[1, 5, 2, 2] = torch.inf, torch.nan
    _, _, mean, var = affine(16)
    with OwnKernels():
        y = F.batch_norm(x, mean, var, None, None, True, 0.1, 1e-5)
    for found in (y.isfinite().all(0).all(-1).all(-1), var.isfinite()):
        assert (~found).nonzero().flatten().tolist() == [3, 5]


@pytest.mark.parametrize(
    ("shape", "window"),
    [((3, 24, 6, 8), 2), ((2, 8, 6, 9), 2), ((2, 8, 9, 6), 2), ((2, 72, 7, 9), 2), ((2, 8, 3, 5), 1)],
    ids=str,
)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_max_pooling_is_torchs_bit_for_bit(
    dtype: torch.dtype, shape: tuple[int, ...], window: int, ran: list[str]
) -> None:
    """Behind a ReLU many numbers of a window are equal; maps may have a row too many."""
    x = maps(*shape, dtype=dtype).detach().relu().requires_grad_()
    with OwnKernels():
        y = nn.MaxPool2d(window)(x)
    wanted = nn.MaxPool2d(window)(x)
    g = maps(*y.shape, dtype=dtype, seed=1)
    assert ran == ["_MaxPool"]
    assert torch.equal(y, wanted)
    assert torch.equal(*(torch.autograd.grad(each, x, g)[0] for each in (y, wanted)))


def test_max_pooling_passes_nan_on() -> None:
    x = maps(1, 8, 4, 4, dtype=torch.bfloat16).detach()
    x[0, 2, 1, 2] = x[0, 5, 0, 0] = x[0, 5, 1, 0] = torch.nan
    x.requires_grad_()
    with OwnKernels():
        y = F.max_pool2d(x, 2)
    wanted, g = F.max_pool2d(x, 2), maps(1, 8, 2, 2, dtype=torch.bfloat16, seed=1)
    assert torch.equal(y.isnan(), wanted.isnan())
    assert y.isnan().sum() == 2
    assert torch.equal(*(torch.autograd.grad(each, x, g)[0] for each in (y, wanted)))


@pytest.mark.parametrize(
    "x",
    [
        maps(2, 8, 4, 4, dtype=torch.float32),
        maps(2, 6, 4, 4, dtype=torch.bfloat16),
        maps(2, 8, 4, 4, dtype=torch.bfloat16).contiguous(),
        maps(2, 8, 4, 4, dtype=torch.bfloat16)[:, :, 0, 0],
        maps(0, 8, 4, 4, dtype=torch.bfloat16),
    ],
    ids=["fp32", "few channels", "channels first", "vectors", "nothing"],
)
def test_other_inputs_are_left_to_torch(x: Tensor, ran: list[str]) -> None:
    assert not suits(x)
    with OwnKernels():
        y = F.batch_norm(x, None, None, None, None, True)
    assert torch.equal(y, F.batch_norm(x, None, None, None, None, True))
    assert not ran


@pytest.mark.parametrize(
    "given",
    [
        {"kernel_size": 3},
        {"kernel_size": (2, 2)},
        *({"kernel_size": 2} | more for more in ({"stride": 1}, {"ceil_mode": True}, {"padding": 1}, {"dilation": 2})),
    ],
    ids=str,
)
def test_other_windows_are_left_to_torch(given: dict[str, Any], ran: list[str]) -> None:
    x = maps(2, 8, 7, 7, dtype=torch.bfloat16)
    with OwnKernels():
        y = F.max_pool2d(x, **given)
    assert torch.equal(y, F.max_pool2d(x, **given))
    assert not ran


def test_what_torch_refuses_is_refused() -> None:
    one, ones = maps(1, 8, 1, 1, dtype=torch.bfloat16), torch.ones(8, device=DEVICE)
    with OwnKernels():
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            F.batch_norm(one, None, None, None, None, True)
        with pytest.raises(RuntimeError, match="running_mean should contain"):
            F.batch_norm(maps(2, 8, 3, 3, dtype=torch.bfloat16), ones[:4], ones[:4].clone(), None, None, True)
        with pytest.raises(RuntimeError, match="too small"):
            F.max_pool2d(maps(1, 8, 1, 4, dtype=torch.bfloat16), 2)
        y, places = F.max_pool2d(maps(2, 8, 4, 4, dtype=torch.bfloat16), 2, return_indices=True)
    assert (y.shape, places.dtype) == ((2, 8, 2, 2), torch.int64)


@pytest.mark.parametrize("change", ["in bfloat16", "with gaps", "gain alone"])
def test_vectors_that_the_kernels_cannot_read_are_left_to_torch(change: str, ran: list[str]) -> None:
    x, (gain, bias, mean, var) = maps(2, 8, 6, 6, dtype=torch.bfloat16), affine(8)
    if change == "in bfloat16":
        gain, bias, mean, var = (each.bfloat16() for each in (gain, bias, mean, var))
    elif change == "with gaps":
        mean, var = (torch.stack([each, each], 1)[:, 0] for each in (mean, var))
    else:
        bias = None
    kept = mean.clone(), var.clone()
    with OwnKernels():
        y = F.batch_norm(x, mean, var, gain, bias, True)
    assert torch.equal(y, F.batch_norm(x, *kept, gain, bias, True))
    assert torch.equal(mean, kept[0])
    assert not ran


def test_torchs_own_members_are_left_to_torch(ran: list[str]) -> None:
    x = maps(6, 8, 4, 4, dtype=torch.bfloat16).detach().view(3, 2, 8, 4, 4)
    with OwnKernels():
        y = torch.func.vmap(lambda each: F.max_pool2d(each, 2))(x)
    assert torch.equal(y[1], F.max_pool2d(x[1], 2))
    assert not ran


def test_outside_of_the_block_nothing_is_changed(ran: list[str]) -> None:
    x = maps(2, 8, 4, 4, dtype=torch.bfloat16)
    with pytest.raises(ZeroDivisionError), OwnKernels():
        raise ZeroDivisionError
    assert in_force(F.max_pool2d) is F.max_pool2d
    F.max_pool2d(x, 2)
    assert not ran


def test_evaluation_is_left_to_torch(ran: list[str]) -> None:
    x, (gain, bias, mean, var) = maps(2, 8, 7, 7, dtype=torch.bfloat16), affine(8)
    with OwnKernels():
        y = F.batch_norm(x, mean, var, gain, bias)
    assert torch.equal(y, F.batch_norm(x, mean, var, gain, bias))
    assert not ran


@pytest.mark.parametrize(
    ("call", "kernels"),
    [
        (lambda *given: F.max_pool2d(F.batch_norm(*given, True), 2), ["OwnBatchNorm", "_MaxPool"]),
        (lambda *given: batch_norm_relu(*given, 0.1, 1e-5), ["OwnBatchNorm"]),
    ],
    ids=["batch norm and pooling", "batch norm and relu"],
)
def test_a_stack_runs_each_kernel_once_over_the_channels_of_all_members(
    call: Callable[..., Tensor], kernels: list[str], ran: list[str]
) -> None:
    members, C = 3, 8
    x = maps(2, members * C, 4, 4, dtype=torch.bfloat16)
    gain_MC, bias_MC, mean_MC, var_MC = affine(members, C)
    expected = mean_MC.clone(), var_MC.clone()
    with OwnKernels(), MemberKernels():
        y_M = torch.func.vmap(call)(parted(x, members), mean_MC, var_MC, gain_MC, bias_MC)
    assert ran == kernels
    wanted = call(x, *(each.view(-1) for each in (*expected, gain_MC, bias_MC)))  # torch's, outside of the block
    assert ran == kernels
    assert same(joined(y_M), wanted.double(), 2**-8)
    assert same(mean_MC, expected[0].double(), 1e-6)
    assert same(var_MC, expected[1].double(), 1e-6)


def test_programs_are_counted_on_the_axis_that_does_not_end_at_65535(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnexp.training.kernels import triton_maps

    grids: list[tuple[int, ...]] = []

    class Launched:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            grids.append(grid)
            return lambda *given, **keywords: None

    for name in ("part_moments", "joined_moments", "normalized", "part_sums", "joined_sums", "gradient", "pooled"):
        monkeypatch.setattr(triton_maps, name, Launched())
    monkeypatch.setattr(triton_maps, "pooled_gradient", Launched())
    monkeypatch.setattr(OwnKernels, "choose", lambda self, layer, ways, *rest, **how: list(ways)[-1])
    x = maps(1, 8, 2048, 2052, dtype=torch.bfloat16)
    with OwnKernels():
        for y in (F.batch_norm(x, None, None, None, None, True), F.max_pool2d(x, 2)):
            torch.autograd.grad(y, x, torch.zeros_like(y))
    assert {len(grid) for grid in grids} == {1}
    assert max(grids) == (65664,)
