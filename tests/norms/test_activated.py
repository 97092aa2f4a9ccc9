"""A norm and the activation behind it: the same numbers, whether they run as two modules or as one function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from conftest import from_yaml
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode

from bnexp.models.unit import ACTIVATIONS, Units
from bnexp.norms import NORMS
from bnexp.norms.batch import BatchNorm, batch_norm_relu


class Listening(TorchFunctionMode):
    """Notes how often the one function is called."""

    count = 0

    def __torch_function__(self, function: Any, types: Any, given: Any = (), keywords: Any = None) -> Any:
        self.count += function is batch_norm_relu
        return function(*given, **(keywords or {}))


def unit(norm: nn.Module, activation: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: norm.activated(x, activation)


def bn(**how: Any) -> BatchNorm:
    return BatchNorm(3, **({"eps": 1e-5, "momentum": 0.1, "affine": True} | how))


def images() -> Tensor:
    return torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_and_relu_are_one_function_in_training(affine: bool) -> None:
    together, apart = bn(affine=affine).double(), bn(affine=affine).double()
    results = []
    for norm, call in ((together, unit(together, nn.ReLU())), (apart, lambda x: nn.ReLU()(apart(x)))):
        x = images().requires_grad_()
        with Listening() as listening:
            y = call(x)
        assert listening.count == (norm is together)
        gradients = torch.autograd.grad(y.square().sum(), [x, *norm.parameters()])
        results.append([y, *gradients, *norm.buffers()])
    assert all(torch.equal(*each) for each in zip(*results, strict=True))
    assert together.batches_seen == 1


def watched_norm() -> Iterator[tuple[nn.Module, nn.Module]]:
    norm = bn()
    norm.register_forward_pre_hook(lambda *_: None)
    yield norm, nn.ReLU()


def watched_activation() -> Iterator[tuple[nn.Module, nn.Module]]:
    activation = nn.ReLU()
    activation.register_forward_hook(lambda *_: None)
    yield bn(), activation


def watched_gradient() -> Iterator[tuple[nn.Module, nn.Module]]:
    activation = nn.ReLU()
    activation.register_full_backward_hook(lambda *_: None)
    yield bn(), activation


def watched_by_all() -> Iterator[tuple[nn.Module, nn.Module]]:
    hook = register_module_forward_hook(lambda *_: None)
    yield bn(), nn.ReLU()
    hook.remove()


def evaluating() -> Iterator[tuple[nn.Module, nn.Module]]:
    yield bn().eval(), nn.ReLU()


def frozen() -> Iterator[tuple[nn.Module, nn.Module]]:
    norm = bn()
    norm.frozen = True
    yield norm.train(), nn.ReLU()


def averaging() -> Iterator[tuple[nn.Module, nn.Module]]:
    yield bn(momentum=None), nn.ReLU()


def another_activation() -> Iterator[tuple[nn.Module, nn.Module]]:
    yield bn(), nn.GELU()


def another_norm() -> Iterator[tuple[nn.Module, nn.Module]]:
    yield NORMS["detached_bn"](3, eps=1e-5, momentum=0.1, affine=True, detach="both"), nn.ReLU()


@pytest.mark.parametrize(
    "case",
    [
        *(watched_norm, watched_activation, watched_gradient, watched_by_all),
        *(evaluating, frozen, averaging, another_activation, another_norm),
    ],
)
def test_in_all_other_cases_both_modules_are_called(case: Callable[[], Iterator[tuple[nn.Module, nn.Module]]]) -> None:
    for norm, activation in case():
        with Listening() as listening:
            y = norm.activated(images().float(), activation)
        assert listening.count == 0
        assert y.shape == (5, 3, 4, 4)


def test_a_batch_of_one_is_refused_all_the_same() -> None:
    with pytest.raises(ValueError, match=r"norm=bn: .* one value per channel"):
        bn().activated(torch.zeros(1, 3), nn.ReLU())


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("norm", ["bn", "ln", "none"])
@pytest.mark.parametrize("placement", ["before", "after"])
def test_a_unit_is_its_modules_one_after_another(norm: str, name: str, placement: str) -> None:
    options = from_yaml("norm", norm)
    made = Units(NORMS.bind(options), name, placement).linear(4, 3)
    x = torch.randn(6, 4)
    z = made.linear(x)
    wanted = made.norm(made.activation(z)) if placement == "after" else made.activation(made.norm(z))
    assert torch.equal(made(x), wanted)
