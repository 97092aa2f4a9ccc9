"""The kernels of a stack: those of one model, over the channels of all members.

A stack runs one member's code under ``torch.func.vmap``. torch's rules for members take gains and biases out of its
fused kernels, and copy maps. ``MemberKernels`` replaces them, function by function: the kernel of a single model runs
once, over maps (B, M*C, H, W) and vectors (B, M*C) (Wang et al. 2021, HFTA, sec. 3). Functions without a rule here keep
torch's. A norm or a layer has nothing to declare: it calls the function, wherever it stands in a model.

A rule takes and returns tensors with the members first, (M, B, C, ...). In memory the batch comes first and the members
second. So the channels of all members are adjacent, and (B, M*C, ...) is a view. Elementwise operations keep the order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from bnexp.norms.batch import batch_norm_relu
from bnexp.training.kernels import short_maps  # noqa: F401  whose functions run in the place of torch's
from bnexp.training.kernels.member_convolutions import grouped
from bnexp.training.kernels.member_norms import over_channels
from bnexp.training.kernels.own_kernels import in_force
from bnexp.training.precision import as_autocast

Function = Callable[..., Tensor]


class Rule(NamedTuple):
    """How a function runs for all members.

    Attributes:
        run: takes the function's arguments, tensors with the members first; returns the same.
        rank: of one member's input; inputs of another rank, as without a batch, are left to torch; None takes all.
    """

    run: Function
    rank: int | None


RULES: dict[Function, Rule] = {}


def rule(function: Function, *, rank: int | None = None) -> Callable[[Function], Function]:
    """Decorate the rule of a function of torch; see ``Rule``."""

    def add(run: Function) -> Function:
        RULES[function] = Rule(run, rank)
        return run

    return add


class MemberKernels(TorchFunctionMode):
    """Inside the with block, functions that torch.func.vmap runs follow ``RULES``."""

    def __torch_function__(self, function: Any, types: Any, given: Any = (), keywords: Any = None) -> Any:
        """Call a function of torch, by its rule if it has one for such an input."""
        keywords = keywords or {}
        known = RULES.get(function)
        if known is None or not given or known.rank not in (None, given[0].ndim):
            return function(*given, **keywords)
        return _OfMembers.apply(function, tuple(keywords), *given, *keywords.values())


class _OfMembers(torch.autograd.Function):
    """The way into a rule: torch.func.vmap unwraps the tensors of a function that has a vmap rule.

    The rule's own operations are recorded for the backward pass, so that this function has none.
    """

    @staticmethod
    def forward(function: Function, names: tuple[str, ...], *given: Any) -> Tensor:
        """Call the function where no tensor depends on the member."""
        return _called(function, names, given)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: without a member there is no parameter, and no gradient."""

    @staticmethod
    def vmap(info: Any, axes: Any, function: Function, names: tuple[str, ...], *given: Any) -> tuple[Tensor, int]:
        """Call the rule; ``axes`` are the places of the members in the arguments."""
        stacked = [_members_first(each, axis, info.batch_size) for each, axis in zip(given, axes[2:], strict=True)]
        return _called(RULES[function].run, names, stacked), 0


def _called(function: Function, names: tuple[str, ...], given: Sequence[Any]) -> Tensor:
    """Call a function whose last arguments have names."""
    positional = len(given) - len(names)
    return function(*given[:positional], **dict(zip(names, given[positional:], strict=True)))


def _members_first(given: Any, axis: int | None, members: int) -> Any:
    if not isinstance(given, Tensor):
        return given
    return given.expand(members, *given.shape) if axis is None else given.movedim(axis, 0)


def joined(x: Tensor) -> Tensor:
    """(M, B, C, ...) -> (B, M*C, ...): a view, if the memory is in the order of the module's docstring."""
    return x.transpose(0, 1).flatten(1, 2)


def parted(x: Tensor, members: int) -> Tensor:
    """(B, M*C, ...) -> (M, B, C, ...), a view."""
    return x.view(len(x), members, -1, *x.shape[2:]).transpose(0, 1)


def _flat(parameter: Tensor | None) -> Tensor | None:
    """(M, C, ...) -> (M*C, ...)."""
    return None if parameter is None else parameter.flatten(0, 1)


# --- norms ------------------------------------------------------------------------------------------------------------


@rule(F.batch_norm)
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
    """One batch norm over M*C channels."""
    return _over_channels(F.batch_norm, x, running_mean, running_var, weight, bias, training, momentum, eps)


@rule(batch_norm_relu)
def batch_norm_with_relu(x: Tensor, *given: Any) -> Tensor:
    """The same with the ReLU behind it."""
    return _over_channels(batch_norm_relu, x, *given)


def _over_channels(
    function: Function,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *how: Any,
) -> Tensor:
    """A kind of batch norm. Running statistics are updated in place, hence views that must not copy."""
    mean, var = (None if each is None else each.view(-1) for each in (running_mean, running_var))
    return parted(over_channels(function, joined(x), mean, var, _flat(weight), _flat(bias), *how), len(x))


@rule(F.group_norm)
def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """One group norm of M*G groups."""
    return parted(F.group_norm(joined(x), len(x) * num_groups, _flat(weight), _flat(bias), eps), len(x))


@rule(F.layer_norm)
def layer_norm(
    x: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """For vectors one group norm of M groups; else the gain and bias of each member behind one layer norm."""
    if x.ndim == 3:
        return group_norm(x, 1, weight, bias, eps)
    wide = x if weight is None else x.to(torch.promote_types(x.dtype, weight.dtype))  # rounded once, as in the kernel
    y = F.layer_norm(wide, normalized_shape, eps=eps)
    y = y if weight is None else y * _ahead_of(weight, x)
    return (y if bias is None else y + _ahead_of(bias, x)).to(x.dtype)


@rule(F.rms_norm)
def rms_norm(x: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """One RMS norm, in the order of the memory; the gain of each member behind it."""
    y = F.rms_norm(x.transpose(0, 1), normalized_shape, eps=eps).transpose(0, 1)
    return y if weight is None else y * _ahead_of(weight, x)


def _ahead_of(parameter: Tensor, x: Tensor) -> Tensor:
    """(M, ...) -> (M, 1, ..., ...), to be broadcast over the batch and more axes of ``x``."""
    return parameter.view(len(parameter), *[1] * (x.ndim - parameter.ndim), *parameter.shape[1:])


# --- linear maps ------------------------------------------------------------------------------------------------------


@rule(F.linear)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """One batched product, (M, ..., I) and (M, O, I) -> (M, ..., O)."""
    rows = x.reshape(len(x), -1, x.shape[-1])
    y: Tensor = _Products.apply(*(as_autocast(each) for each in (rows, weight, bias)))
    return y.view(*x.shape[:-1], -1)


class _Products(torch.autograd.Function):
    """y = x W^T + b of each member: x (M, B, I), W (M, O, I), b (M, O) or None.

    torch.bmm would write (M, B, O) in this order; here it writes into (B, M, O), where a norm has its channels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """One product."""
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        y = _batch_first(x, weight.shape[1])
        if bias is None:
            return torch.bmm(x, weight.mT, out=y)
        return torch.baddbmm(bias.unsqueeze(1), x, weight.mT, out=y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Two products: dx = g W, dW = g^T x; and db, the sum of g over the batch."""
        x, weight = ctx.saved_tensors
        dx = torch.bmm(g, weight, out=_batch_first(g, x.shape[2])) if ctx.needs_input_grad[0] else None
        return dx, torch.bmm(g.mT, x), g.sum(1) if ctx.biased else None


def _batch_first(like: Tensor, features: int) -> Tensor:
    """Memory for (M, B, features), ordered (B, M, features)."""
    members, batch, _ = like.shape
    return like.new_empty(batch, members, features).transpose(0, 1)


def _convolution(function: Function, rank: int) -> None:
    @rule(function, rank=rank)
    def convolution(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        """One convolution of M times as many groups."""
        given = joined(x), weight.flatten(0, 1), _flat(bias), stride, padding, dilation, len(x) * groups
        return parted(grouped(function, *given), len(x))


_convolution(F.conv1d, rank=3)
_convolution(F.conv2d, rank=4)


# --- pooling, padding, layout -----------------------------------------------------------------------------------------


def _channelwise(function: Function, rank: int) -> None:
    @rule(function, rank=rank)
    def over_all_channels(x: Tensor, *given: Any, **keywords: Any) -> Tensor:
        """What is done to each channel alone is done to M*C channels."""
        return parted(in_force(function)(joined(x), *given, **keywords), len(x))


for _function in (F.avg_pool2d, F.adaptive_avg_pool2d, F.max_pool2d):
    _channelwise(_function, rank=4)


@rule(F.pad)
def pad(x: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    """Constants around the last axes, written in the order of the memory, which torch keeps for maps of one model."""
    if mode != "constant" or len(pad) // 2 > x.ndim - 2:
        return torch.func.vmap(lambda one: F.pad(one, pad, mode, value))(x)
    axes = sorted(range(x.ndim), key=x.stride, reverse=True)
    around = {x.ndim - 1 - place: pad[2 * place : 2 * place + 2] for place in range(len(pad) // 2)}
    in_order = [each for axis in reversed(axes) for each in around.get(axis, (0, 0))]
    return F.pad(x.permute(axes), in_order, mode, value).permute([axes.index(axis) for axis in range(x.ndim)])


@rule(torch.Tensor.contiguous)
def contiguous(x: Tensor, *, memory_format: torch.memory_format | None = None) -> Tensor:
    """The named layout of (B, M*C, ...); without a name, the members come first."""
    if memory_format is None:
        return x.contiguous()
    return parted(joined(x).contiguous(memory_format=memory_format), len(x))
