"""The functions of a stack against the same functions of each member: values and gradients, in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bnexp.norms.batch import batch_norm_relu
from bnexp.training.kernels.rules import RULES, MemberKernels, joined, parted

M, B, C = 3, 4, 6
MAPS, LINES, VECTORS = (C, 8, 8), (C, 9), (C,)
AFFINE = ((C,), (C,))
# Bits are equal where the kernel is the same; others may sum in another order.
BITWISE, ROUNDED = 0.0, 1e-12


def same(shape: tuple[int, ...], call: Callable[..., Tensor], *parameters: tuple[int, ...], name: str) -> Any:
    return pytest.param(shape, parameters, call, BITWISE, id=name)


CASES = [
    same(MAPS, lambda x, g, b: F.batch_norm(x, None, None, g, b, training=True), *AFFINE, name="batch_norm"),
    same(LINES, lambda x: F.batch_norm(x, None, None, training=True, eps=0.1), name="batch_norm without affine"),
    same(VECTORS, lambda x, g, b: F.group_norm(x, 2, g, b, 0.1), *AFFINE, name="group_norm of vectors"),
    same(MAPS, lambda x, g, b: F.group_norm(x, 3, g, b), *AFFINE, name="group_norm of maps"),
    same(MAPS, lambda x, g, b: batch_norm_relu(x, None, None, g, b, 0.1, 1e-5), *AFFINE, name="batch_norm_relu"),
    same(LINES, lambda x: batch_norm_relu(x, None, None, None, None, 0.1, 0.1), name="batch_norm_relu without affine"),
    pytest.param(VECTORS, AFFINE, lambda x, g, b: F.layer_norm(x, (C,), g, b), ROUNDED, id="layer_norm of vectors"),
    same(MAPS, lambda x: F.layer_norm(x, MAPS, eps=0.1), name="layer_norm of maps"),
    pytest.param(LINES, AFFINE, lambda x, g, b: F.layer_norm(x.mT, (C,), g, b), ROUNDED, id="layer_norm of positions"),
    pytest.param(MAPS, (), lambda x: F.rms_norm(x, MAPS, eps=0.1), ROUNDED, id="rms_norm"),
    pytest.param(LINES, (VECTORS,), lambda x, g: F.rms_norm(x.mT, (C,), g), ROUNDED, id="rms_norm with gain"),
    pytest.param(VECTORS, ((5, C), (5,)), F.linear, ROUNDED, id="linear"),
    pytest.param(LINES, ((5, 9),), F.linear, ROUNDED, id="linear without bias over lines"),
    pytest.param(MAPS, ((5, C, 3, 3), (5,)), lambda *a: F.conv2d(*a, padding=1), ROUNDED, id="conv2d"),
    pytest.param(MAPS, ((4, 3, 3, 3),), lambda *a: F.conv2d(*a, stride=2, groups=2), ROUNDED, id="conv2d of 2 groups"),
    pytest.param(LINES, ((5, C, 3), (5,)), lambda *a: F.conv1d(*a, dilation=2), ROUNDED, id="conv1d"),
    same(MAPS, lambda x: F.avg_pool2d(x, 3, stride=2, padding=1), name="avg_pool2d"),
    same(MAPS, lambda x: F.max_pool2d(x, 2), name="max_pool2d"),
    same(MAPS, lambda x: F.adaptive_avg_pool2d(x, 3), name="adaptive_avg_pool2d"),
    same(MAPS, lambda x: F.pad(x, (0, 0, 1, 0, 0, 2)), name="pad with channels"),
    same(MAPS, lambda x: F.pad(x, (1, 2), value=3.0), name="pad of rows"),
    same(MAPS, lambda x: F.pad(x, (1, 1, 2, 2), mode="reflect"), name="pad by reflection"),
    same(MAPS, lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 1, 2)), name="pad of the batch"),
    same(MAPS, lambda x: x.contiguous(memory_format=torch.channels_last), name="contiguous channels_last"),
    same(MAPS, lambda x: x[:, ::2].contiguous().view(-1), name="contiguous"),
    # Without a batch; torch's own rules.
    same((1, 8, 8), lambda x: F.max_pool2d(x[0], 2), name="max_pool2d of one image"),
    pytest.param(MAPS, ((5, C, 3, 3),), lambda x, w: F.conv2d(x[0], w), ROUNDED, id="conv2d of one image"),
    pytest.param(VECTORS, ((5, C),), lambda x, w: F.linear(x[0], w), ROUNDED, id="linear of one vector"),
]


def orders(x: Tensor) -> list[Tensor]:
    """The same numbers, with members before the batch, and behind it, and with channels last in memory."""
    behind = x.transpose(0, 1).contiguous().transpose(0, 1)
    return [x, behind, x.transpose(1, -1).contiguous().transpose(1, -1)]


def answers(call: Callable[..., Tensor], given: list[Tensor]) -> tuple[Tensor, ...]:
    """The output, and the gradients of a sum that weighs each output differently."""
    leaves = [each.detach().requires_grad_() for each in given]
    y = call(*leaves)
    return y, *torch.autograd.grad((y * torch.arange(y.numel()).view(y.shape).cos()).sum(), leaves)


@pytest.mark.parametrize(("shape", "parameters", "call", "tolerance"), CASES)
def test_a_function_is_for_each_member_what_it_is_alone(shape, parameters, call, tolerance):
    source = torch.Generator().manual_seed(0)
    x_M, *parameters_M = (
        torch.randn(M, *each, dtype=torch.float64, generator=source) for each in ((B, *shape), *parameters)
    )
    alone = answers(lambda *given: torch.stack([call(*own) for own in zip(*given, strict=True)]), [x_M, *parameters_M])
    for x in orders(x_M):
        with MemberKernels():
            found = answers(torch.func.vmap(call), [x, *parameters_M])
        torch.testing.assert_close(found[0], alone[0], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-12)


def test_every_rule_is_tried():
    tried = set()

    class Listening(MemberKernels):
        def __torch_function__(self, function: Any, types: Any, given: Any = (), keywords: Any = None) -> Any:
            if function in RULES:
                tried.add(function)
            return super().__torch_function__(function, types, given, keywords)

    for case in CASES:
        shape, parameters, call, _ = case.values
        with Listening():
            torch.func.vmap(call)(*(torch.randn(M, *each) for each in ((B, *shape), *parameters)))
    assert tried == set(RULES)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, mean, var: F.batch_norm(x, mean, var, training=True, momentum=0.3),
        lambda x, mean, var: F.batch_norm(x, mean, var, training=False, momentum=0.3),
        lambda x, mean, var: batch_norm_relu(x, mean, var, None, None, 0.3, 1e-5),
    ],
    ids=["training", "evaluation", "with a relu"],
)
def test_running_statistics_of_each_member_move_in_place(call):
    x, mean, var = torch.randn(M, B, *MAPS), torch.randn(M, C), torch.rand(M, C)
    own = mean.clone(), var.clone()
    with MemberKernels():
        y = torch.func.vmap(call)(x, mean, var)
    assert torch.equal(y, torch.stack([call(*each) for each in zip(x, *own, strict=True)]))
    assert torch.equal(mean, own[0])
    assert torch.equal(var, own[1])


def test_running_statistics_that_members_share_are_refused():
    mean, var = torch.zeros(C), torch.ones(C)
    with MemberKernels(), pytest.raises(RuntimeError, match="view size is not compatible"):
        torch.func.vmap(lambda x: F.batch_norm(x, mean, var, training=True))(torch.randn(M, B, *MAPS))


def test_what_no_member_owns_is_computed_once():
    weight, x = torch.randn(5, C), torch.randn(B, C)
    with MemberKernels():
        y = torch.func.vmap(lambda one: F.linear(x, weight, bias=None) + one)(torch.arange(3.0))
    assert torch.equal(y, F.linear(x, weight) + torch.arange(3.0).view(3, 1, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", ["linear", "conv2d", "batch_norm", "group_norm"])
def test_autocast_means_for_a_stack_what_it_means_for_a_member(case, dtype):
    shape, call, parameters = {
        "linear": (VECTORS, F.linear, ((5, C), (5,))),
        "conv2d": (MAPS, F.conv2d, ((5, C, 3, 3), (5,))),
        "batch_norm": (MAPS, lambda x, g, b: F.batch_norm(x.to(dtype), None, None, g, b, True), AFFINE),
        "group_norm": (MAPS, lambda x, g, b: F.group_norm(x.to(dtype), 2, g, b), AFFINE),
    }[case]
    given = [torch.randn(M, *each) for each in ((B, *shape), *parameters)]
    with torch.autocast("cpu", dtype):
        with MemberKernels():
            y = torch.func.vmap(call)(*given)
        alone = torch.stack([call(*own) for own in zip(*given, strict=True)])
    assert y.dtype == alone.dtype
    torch.testing.assert_close(y, alone, rtol=2 * torch.finfo(dtype).eps, atol=2 * torch.finfo(dtype).eps)


def test_padding_keeps_channels_last() -> None:
    """A ResNet pads its shortcuts with channels; all maps behind them would change their order, and back."""
    maps = torch.randn(2, 3 * 4, 6, 6).contiguous(memory_format=torch.channels_last)
    with MemberKernels():
        y_M = torch.func.vmap(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 4)))(parted(maps, 3))
    assert joined(y_M).shape == (2, 3 * 8, 3, 3)
    assert joined(y_M).is_contiguous(memory_format=torch.channels_last)
