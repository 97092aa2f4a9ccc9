"""Which way the convolutions of a stack take, and that a stack learns by each of them what its members learn alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interpreter import DEVICE, needs_triton, same
from torch import Tensor, nn

from bnexp.training.kernels import own_kernels, packed_convolution
from bnexp.training.kernels.own_convolution import OwnConvolution
from bnexp.training.kernels.own_kernels import OwnKernels, quickest
from bnexp.training.kernels.packed_convolution import PackedConvolution
from bnexp.training.kernels.rules import MemberKernels
from bnexp.training.population import Population
from bnexp.training.precision import Precision, allow_tf32

pytestmark = needs_triton

M, B = 3, 4
LAYER = "3 x 2 to 5 channels, 3x3, on 6x6 padded by 0, tf32, slopes of maps and weights"
Ways = Mapping[str, Callable[[], Sequence[Tensor]]]


@pytest.fixture(autouse=True)
def few_channels_pay(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a GPU with TF32 products."""
    monkeypatch.setattr(packed_convolution, "_packed_channels", lambda maps: (8, 32) if maps.ndim == 4 else (0, 0))
    allow_tf32(True)
    yield
    allow_tf32(False)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the convolutions that have run."""
    names: list[str] = []
    for kind in (OwnConvolution, PackedConvolution):
        apply = kind.apply
        record = lambda *given, apply=apply, kind=kind: names.append(kind.__name__) or apply(*given)  # noqa: E731
        monkeypatch.setattr(kind, "apply", record)
    return names


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the ways that have been timed; the last one is found to be the quickest."""
    found: list[list[str]] = []

    def last(layer: str, ways: Ways, rounding: float) -> str:
        found.append(list(ways))
        first, *others = (way() for way in ways.values())
        assert all(own_kernels._alike(*each, rounding) for other in others for each in zip(other, first, strict=True))
        return list(ways)[-1]

    monkeypatch.setattr(own_kernels, "quickest", last)
    return found


def stacked(call: Callable[..., Tensor], *given: Tensor) -> Tensor:
    with MemberKernels():
        return torch.func.vmap(call)(*given)


def maps(*shape: int, grads: bool = False, seed: int = 0) -> Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return numbers.to(DEVICE).requires_grad_(grads)


def layer() -> tuple[Tensor, Tensor]:
    return maps(M, B, 2, 6, 6, grads=True), maps(M, 5, 2, 3, 3, grads=True, seed=1)


@pytest.mark.parametrize("kernels", [None, OwnKernels(timed=False)], ids=["torch's", "by tables"])
def test_groups_are_packed_unless_times_decide(
    kernels: OwnKernels | None, ran: list[str], timed: list[list[str]]
) -> None:
    x, w = layer()
    if kernels is None:
        stacked(F.conv2d, x, w)
    else:
        with kernels:
            stacked(F.conv2d, x, w)
        assert kernels.chosen == {}
    assert (ran, timed) == (["PackedConvolution"], [])


def test_a_layer_is_timed_once_and_its_choice_has_a_name(ran: list[str], timed: list[list[str]]) -> None:
    kernels, (x, w) = OwnKernels(), layer()
    for size in (B, B - 1):  # the last batch of an epoch
        with kernels:
            stacked(F.conv2d, x[:, :size], w)
    assert timed == [["torch", "own"]]
    assert kernels.chosen == {LAYER: "own"}
    assert ran == ["PackedConvolution", "OwnConvolution", "OwnConvolution", "OwnConvolution"]


def test_layers_that_differ_in_what_takes_time_are_timed_apart(timed: list[list[str]]) -> None:
    kernels, (x, w) = OwnKernels(), layer()
    with kernels:
        stacked(F.conv2d, x.detach(), w)
        stacked(F.conv2d, x, w.detach())
        stacked(lambda x, w: F.conv2d(x, w, padding=1), x, w)
        stacked(F.conv2d, x[..., :5], w)
        with torch.autocast(DEVICE, torch.float16):
            stacked(F.conv2d, x, w)
        with torch.no_grad():
            stacked(F.conv2d, x, w)
    assert list(kernels.chosen) == [
        "3 x 2 to 5 channels, 3x3, on 6x6 padded by 0, tf32, slopes of weights",
        "3 x 2 to 5 channels, 3x3, on 6x6 padded by 0, tf32, slopes of maps",
        "3 x 2 to 5 channels, 3x3, on 6x6 padded by 1, tf32, slopes of maps and weights",
        "3 x 2 to 5 channels, 3x3, on 6x5 padded by 0, tf32, slopes of maps and weights",
        "3 x 2 to 5 channels, 3x3, on 6x6 padded by 0, float16, slopes of maps and weights",
        "3 x 2 to 5 channels, 3x3, on 6x6 padded by 0, tf32, forward",
    ]


def test_choices_of_another_time_are_taken_again(ran: list[str], timed: list[list[str]]) -> None:
    (x, w), name = layer(), LAYER
    for way, wanted in (("torch", "PackedConvolution"), ("own", "OwnConvolution")):
        kernels = OwnKernels()
        kernels.choose_again({name: way})
        for _ in range(2):  # in the first one a choice is tried
            ran.clear()
            with kernels:
                stacked(F.conv2d, x, w)
        assert ran == [wanted]
    assert not timed


@pytest.mark.parametrize("chosen", [None, "own", {LAYER: "another"}, {"x": 3}])
def test_choices_that_are_none_are_made_anew(chosen: object, timed: list[list[str]]) -> None:
    kernels, (x, w) = OwnKernels(), layer()
    kernels.choose_again(chosen)
    with kernels:
        stacked(F.conv2d, x, w)
    assert len(timed) == 1
    assert kernels.chosen[LAYER] == "own"


def test_without_tf32_a_layer_of_few_channels_is_timed_beside_torchs_own_groups(
    ran: list[str], timed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_convolution, "_packed_channels", lambda maps: (0, 0))
    allow_tf32(False)
    kernels, (x, w) = OwnKernels(), layer()
    with kernels:
        y = stacked(F.conv2d, x, w)
    wanted = torch.stack([F.conv2d(*each) for each in zip(x, w, strict=True)])
    assert same(y, wanted.double(), 1e-6)
    assert (timed, ran) == ([["torch", "own"]], ["OwnConvolution"] * 2)
    assert list(kernels.chosen) == ["3 x 2 to 5 channels, 3x3, on 6x6 padded by 0, float32, slopes of maps and weights"]


@pytest.mark.parametrize("given", [{"stride": 2}, {"dilation": 2}, {"padding": (1, 0)}, {"groups": 2}], ids=str)
def test_what_no_own_kernel_takes_is_packed(given: dict[str, Any], ran: list[str], timed: list[list[str]]) -> None:
    x, w = maps(M, B, 2, 6, 6), maps(M, 4, 2 // given.get("groups", 1), 3, 3, seed=1)
    with OwnKernels() as kernels:
        y = stacked(lambda x, w: F.conv2d(x, w, **given), x, w)
    wanted = torch.stack([F.conv2d(*each, **given) for each in zip(x, w, strict=True)])
    assert same(y, wanted.double(), 2**-10)
    own = given == {"groups": 2}  # groups of a member are groups as any other
    assert ran[-1] == ("OwnConvolution" if own else "PackedConvolution")
    assert bool(kernels.chosen) is bool(timed) is own


@pytest.mark.parametrize("padding", [1, (1,), (1, 1), [1, 1]], ids=str)
def test_padding_is_said_in_any_way_that_torch_takes(padding: Any, ran: list[str], timed: list[list[str]]) -> None:
    x, w = layer()
    with OwnKernels():
        y = stacked(lambda x, w: F.conv2d(x, w, padding=padding), x, w)
    wanted = torch.stack([F.conv2d(*each, padding=padding) for each in zip(x, w, strict=True)])
    assert same(y, wanted.double(), 2**-10)
    assert ran[-1] == "OwnConvolution"


def test_other_numbers_of_axes_and_words_for_padding_are_left_to_torch(ran: list[str], timed: list[list[str]]) -> None:
    with OwnKernels():
        stacked(F.conv1d, maps(M, B, 2, 6), maps(M, 5, 2, 3))
        stacked(lambda *given: F.conv2d(*given, padding="same"), *layer())
    assert (ran, timed) == ([], [])


class Net(nn.Module):
    """Two convolutions of few channels, as in LeNet."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.second, self.head = nn.Conv2d(4, 3, 3), nn.Linear(3 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.norm(self.first(x)).relu()).flatten(1))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
def test_a_stack_learns_by_either_way_what_its_members_learn_alone(precision: str, timed: list[list[str]]) -> None:
    allow_tf32(precision == "tf32")
    x_MB, y_MB = maps(M, B, 1, 6, 6), torch.arange(M * B, device=DEVICE).view(M, B) % 2
    found = {}
    for way in ("alone", "torch", "own"):
        kernels = OwnKernels(timed=way == "own")
        members = [Net(seed).to(DEVICE) for seed in range(M)]
        population = Population(members, stacked=way != "alone", own_kernels=kernels)
        losses_M, _ = population.learn(x_MB, y_MB, Precision(precision, M, x_MB.device))
        found[way] = [losses_M, population.gradient_MP.clone()]
        assert len(kernels.chosen) == (2 if way == "own" else 0)
    bound = {"fp32": 1e-5, "tf32": 2e-3, "fp16": 1e-2}[precision]
    for way in ("torch", "own"):
        assert all(same(mine, theirs.double(), bound) for mine, theirs in zip(found[way], found["alone"], strict=True))


def test_the_backward_pass_is_timed_as_it_runs_outside_of_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    finite = packed_convolution._finite
    note = lambda *given: seen.append(torch.is_autocast_enabled(DEVICE)) or finite(*given)  # noqa: E731
    monkeypatch.setattr(packed_convolution, "_finite", note)
    monkeypatch.setattr(own_kernels, "quickest", lambda layer, ways, rounding: [ways["torch"](), "own"][1])
    x, w = layer()
    with OwnKernels(), torch.autocast(DEVICE, torch.float16):
        stacked(F.conv2d, x, w)
    assert seen == [True, False]  # forward, backward


def in_turn(names: Sequence[str], called: list[str]) -> Ways:
    return {name: lambda name=name: called.append(name) or [torch.ones(2)] for name in names}  # type: ignore[misc]


def test_the_quickest_way_is_the_one_with_the_shortest_time(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    times = iter([6.0, 8.0, 5.0, 9.0, 6.0, 4.0])  # of a and b in turn

    def milliseconds(way: Callable[[], object]) -> float:
        way()
        return next(times)

    monkeypatch.setattr(own_kernels, "milliseconds", milliseconds)
    assert quickest("a layer", in_turn("ab", called), 2**-5) == "b"
    assert called == ["a", "b"] * 4  # the first turn is not timed
    assert next(times, None) is None


def failing() -> Sequence[Tensor]:
    raise RuntimeError("no room\nfor a kernel")


def test_a_way_that_fails_is_told_and_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(own_kernels, "milliseconds", lambda way: pytest.fail("nothing is left to be timed"))
    with caplog.at_level("WARNING", logger="bnexp"):
        assert quickest("a layer", {"torch": lambda: [torch.ones(2)], "own": failing}, 2**-5) == "torch"
    assert "a layer: torch's kernels are taken" in caplog.text
    assert "RuntimeError: no room for a kernel" in caplog.text


NUMBERS = [1.0, -2.0, 3.0]


@pytest.mark.parametrize(
    ("found", "wanted", "alike"),
    [
        (NUMBERS, NUMBERS, True),
        ([1.0, -2.0, 3.1], NUMBERS, True),  # 0.027 of the norm
        ([1.0, -2.0, 3.2], NUMBERS, False),  # 0.053
        ([1.0, -2.0, math.nan], NUMBERS, False),
        ([1.0, -2.0, math.inf], NUMBERS, False),
        ([1.0, -2.0, 70000.0], [1.0, -2.0, math.inf], True),  # too large for float16 alone
        ([1.0, -2.0, 5.0], [1.0, -2.0, math.nan], True),
        ([0.0] * 3, [0.0] * 3, True),
    ],
    ids=str,
)
def test_a_way_with_other_numbers_is_left_out(
    found: list[float],
    wanted: list[float],
    alike: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    times = iter([2.0, 1.0] * 3)
    monkeypatch.setattr(own_kernels, "milliseconds", lambda way: next(times))
    good = torch.ones(2)
    ways: Ways = {"torch": lambda: [good, torch.tensor(wanted)], "own": lambda: [good, torch.tensor(found)]}
    with caplog.at_level("WARNING", logger="bnexp"):
        assert quickest("a layer", ways, 2**-5) == ("own" if alike else "torch")
    assert ("its numbers are not torch's" in caplog.text) is not alike


@pytest.mark.parametrize("part", ["image", "channel"])
def test_a_way_that_leaves_out_a_small_part_is_left_out(part: str) -> None:
    """Which is less than the roundings of the whole."""
    whole = torch.randn(2000, 2000, generator=torch.Generator().manual_seed(0))
    found = whole.clone()
    (found if part == "image" else found.T)[7] = 0
    assert not own_kernels._alike(found, whole, 2**-5)
    assert own_kernels._alike(whole + 2**-7 * whole.flip(0), whole, 2**-5)
    assert not own_kernels._alike(1.03 * whole, whole, own_kernels.ROUNDING["tf32"])


def test_a_choice_of_another_time_is_tried_before_it_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(own_kernels, "milliseconds", lambda way: pytest.fail("nothing is timed"))
    called: list[str] = []
    good = in_turn(["torch", "own"], called)
    kernels = OwnKernels()
    kernels.choose_again({"good": "own", "bad": "own"})
    assert [kernels.choose("good", good, 2**-5) for _ in range(3)] == ["own"] * 3
    assert called == ["torch", "own"]
    with caplog.at_level("WARNING", logger="bnexp"):
        bad: Ways = {"torch": good["torch"], "own": failing}
        assert [kernels.choose("bad", bad, 2**-5) for _ in range(2)] == ["torch"] * 2
    assert caplog.text.count("bad: torch's kernels are taken") == 1


def test_what_torch_refuses_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no room"):
        quickest("a layer", {"torch": failing, "own": lambda: [torch.ones(2)]}, 2**-5)


def test_a_gpu_waits_until_all_is_told_before_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a way of many small kernels would be measured by how fast Python launches them."""
    done: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            done.append("event")

        def elapsed_time(self, end: Event) -> float:
            assert end is not self
            done.append("read")
            return 2.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: done.append("sleep"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("wait"))
    assert own_kernels.milliseconds(lambda: done.append("run") or []) == 2.5
    assert done == ["sleep", "event", "run", "event", "wait", "read"]


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_times_are_those_of_a_gpu() -> None:
    x, one = torch.zeros(4000, 4000, device=DEVICE), torch.zeros(4, device=DEVICE)
    assert quickest("a layer", {"much": lambda: [x @ x, one][1:], "little": lambda: [one]}, 2**-5) == "little"
