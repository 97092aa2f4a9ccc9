"""Which kernels the batch norms of a stack take, and that a stack learns by each what its members learn alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
import torch.nn.functional as F
from interpreter import DEVICE, needs_triton, same
from torch import Tensor, nn

from bnexp.norms import NORMS
from bnexp.norms.batch import batch_norm_relu
from bnexp.training.kernels import own_kernels
from bnexp.training.kernels.member_norms import over_channels
from bnexp.training.kernels.own_batch_norm import OwnBatchNorm
from bnexp.training.kernels.own_kernels import OwnKernels
from bnexp.training.population import Population
from bnexp.training.precision import Precision

pytestmark = needs_triton

M, B = 3, 6
RELU, TANH = (
    "batch norm and ReLU of 12 channels, float32, forward and backward",
    "batch norm of 15 channels, float32, forward and backward",
)


class Net(nn.Module):
    """A norm with a ReLU behind it, and one with something else."""

    def __init__(self, seed: int, *, affine: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)
        norm = NORMS.bind({"name": "bn", "eps": 1e-5, "momentum": 0.1, "affine": affine})
        self.first, self.norm1, self.relu = nn.Linear(3, 4), norm(4), nn.ReLU()
        self.second, self.norm2, self.head = nn.Linear(4, 5), norm(5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1.activated(self.first(x), self.relu)
        return self.head(self.norm2(self.second(y)).tanh())


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The images of each batch that an own kernel has normalized."""
    images: list[int] = []
    apply = OwnBatchNorm.apply
    monkeypatch.setattr(OwnBatchNorm, "apply", lambda x, *given: images.append(len(x)) or apply(x, *given))
    return images


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The layers that have been timed; the own kernel is found to be the quickest."""
    layers: list[str] = []

    def last(layer: str, ways: Mapping[str, Callable[[], Sequence[Tensor]]], rounding: float) -> str:
        layers.append(layer)
        first, second = (way() for way in ways.values())
        assert len(first) in (
            4,
            6,
        )  # output and slopes of x, of gain and bias if there are some, running mean and variance
        assert all(own_kernels._alike(*each, rounding) for each in zip(second, first, strict=True))
        assert all(same(*each, 1e-4) for each in zip(second[1:2], [first[1].double()], strict=True))  # the slopes of x
        return list(ways)[-1]

    monkeypatch.setattr(own_kernels, "quickest", last)
    return layers


def learnt(population: Population, precision: str = "fp32", images: int = B) -> list[Tensor]:
    """Losses, gradients and running statistics after a step."""
    torch.manual_seed(7)
    x_MB, y_MB = torch.randn(M, images, 3).to(DEVICE), torch.arange(M * images, device=DEVICE).view(M, images) % 2
    losses_M, _ = population.learn(x_MB, y_MB, Precision(precision, M, x_MB.device))
    return [losses_M, population.gradient_MP.clone(), *(each.double() for each in population.buffers.values())]


@pytest.mark.parametrize("affine", [True, False])
def test_a_stack_learns_by_either_way_what_its_members_learn_alone(
    affine: bool, ran: list[int], timed: list[str]
) -> None:
    found = {}
    for way in ("alone", "torch", "own"):
        kernels = OwnKernels(timed=way == "own")
        members = [Net(seed, affine=affine).to(DEVICE) for seed in range(M)]
        population = Population(members, stacked=way != "alone", own_kernels=kernels)
        found[way] = learnt(population)
        assert kernels.chosen == ({RELU: "own", TANH: "own"} if way == "own" else {})
    for way in ("torch", "own"):
        assert all(same(mine, theirs.double(), 1e-5) for mine, theirs in zip(found[way], found["alone"], strict=True))
    assert timed == [RELU, TANH]
    assert ran == [B] * 4  # each once to be timed


def test_the_last_batch_of_an_epoch_takes_what_the_others_take(ran: list[int], timed: list[str]) -> None:
    population = Population([Net(seed).to(DEVICE) for seed in range(M)], stacked=True, own_kernels=OwnKernels())
    for images in (B, B - 1):
        learnt(population, images=images)
    assert timed == [RELU, TANH]
    assert ran == [B] * 4 + [B - 1] * 2


def test_under_autocast_vectors_are_in_16_bits(ran: list[int], timed: list[str]) -> None:
    population = Population([Net(seed).to(DEVICE) for seed in range(M)], stacked=True, own_kernels=OwnKernels())
    wanted = learnt(Population([Net(seed).to(DEVICE) for seed in range(M)]))
    found = learnt(population, "fp16")
    assert timed == [layer.replace("float32", "float16") for layer in (RELU, TANH)]
    scale = Precision("fp16", M, torch.device(DEVICE)).scale_M
    found[1] /= scale.unsqueeze(1)
    assert all(same(mine, theirs.double(), 2e-2) for mine, theirs in zip(found, wanted, strict=True))


def images(dtype: torch.dtype = torch.float32, *, last: bool = True) -> Tensor:
    """Maps of 8 channels."""
    order = torch.channels_last if last else torch.contiguous_format
    return torch.randn(2, 8, 3, 5).to(DEVICE, dtype).contiguous(memory_format=order).requires_grad_()


def test_maps_in_fp32_with_channels_last_have_own_kernels_too(
    monkeypatch: pytest.MonkeyPatch, timed: list[str]
) -> None:
    apply, ran = OwnBatchNorm.apply, []
    monkeypatch.setattr(OwnBatchNorm, "apply", lambda x, *given: ran.append(x.dtype) or apply(x, *given))
    statistics = torch.zeros(8, device=DEVICE), torch.ones(8, device=DEVICE), None, None
    with OwnKernels():
        for x in (images(), images(last=False)):
            over_channels(batch_norm_relu, x, *statistics, 0.1, 1e-5)
        batch_norm_relu(images(torch.float16), *statistics, 0.1, 1e-5)
        over_channels(F.batch_norm, images(), *statistics, True, 0.1, 1e-5)
        over_channels(F.batch_norm, images(), *statistics, False, 0.1, 1e-5)  # by running statistics
        over_channels(batch_norm_relu, images(), *statistics[:2], *torch.ones(2, 16, device=DEVICE)[:, ::2], 0.1, 1e-5)
    assert timed == [
        "batch norm and ReLU of 8 channels on 3x5, float32, forward and backward",
        "batch norm of 8 channels on 3x5, float32, forward and backward",
    ]
    assert ran == [torch.float32] * 2 + [torch.float16] * 2 + [torch.float32] * 2  # each once to be timed or tried


def test_evaluations_normalize_by_torchs_kernels(ran: list[int], timed: list[str]) -> None:
    population = Population([Net(seed).to(DEVICE) for seed in range(M)], stacked=True, own_kernels=OwnKernels())
    with population.evaluating(), OwnKernels():
        population(torch.zeros(M, B, 3, device=DEVICE))
    assert (ran, timed) == ([], [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_right_kernels_are_taken_of_numbers_of_one_sign_and_of_means_that_are_mere_rounding(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all y above 0, |y| is a line in x, whose gradients a norm takes away but for rounding."""
    monkeypatch.setattr(own_kernels, "quickest", lambda layer, ways, rounding: list(able(layer, ways, rounding))[-1])
    able, h = own_kernels._able, torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
    x = (h - h.mean(0)).to(DEVICE, dtype).requires_grad_()
    statistics = torch.zeros(12, device=DEVICE), torch.ones(12, device=DEVICE)
    for gain, bias in ((1.0, 0.0), (1.0, 4.0), (0.1, 0.5), (1.0, 10.0)):
        with OwnKernels() as kernels:
            of_channels = (torch.full((12,), each, device=DEVICE) for each in (gain, bias))
            over_channels(F.batch_norm, x, *statistics, *of_channels, True, 0.1, 1e-5)
        assert list(kernels.chosen.values()) == ["own"]


@pytest.mark.parametrize("wrong", ["a variance that is not moved", "the variance of the batch", "means of neighbours"])
def test_running_statistics_that_are_not_torchs_are_noticed(
    wrong: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(own_kernels, "quickest", lambda layer, ways, rounding: list(able(layer, ways, rounding))[-1])
    able, apply = own_kernels._able, OwnBatchNorm.apply

    def other(x: Tensor, mean: Tensor, var: Tensor, *given: object) -> Tensor:
        before = var.clone()
        y = apply(x, mean, var, *given)
        if wrong == "a variance that is not moved":
            var[3] = before[3]
        elif wrong == "the variance of the batch":
            var *= 1 - 1 / len(x)
        else:
            mean.copy_(mean.roll(1))
        return y

    monkeypatch.setattr(OwnBatchNorm, "apply", other)
    x = torch.randn(64, 12, generator=torch.Generator().manual_seed(0)).mul(2).to(DEVICE).requires_grad_()
    statistics = torch.zeros(12, device=DEVICE), torch.ones(12, device=DEVICE)
    with OwnKernels() as kernels:
        over_channels(F.batch_norm, x, *statistics, None, None, True, 0.1, 1e-5)
    assert list(kernels.chosen.values()) == ["torch"]
    assert "its numbers are not torch's" in caplog.text
