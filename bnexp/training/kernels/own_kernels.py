"""Where bnexp's own kernels run in the place of torch's, and which of several kernels a layer takes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

log = logging.getLogger(__name__)

# How often each way is timed; the shortest time counts.
_ROUNDS = 3
# The images on which a way is tried that is not timed: few take little memory.
FEW = 16
# Number format -> the relative distance that the roundings of two kernels explain, sums over many images among them.
ROUNDING = {"float64": 1e-9, "float32": 2e-3, "tf32": 2**-6, "float16": 2**-7, "bfloat16": 2**-6}
# So much further off may one row or channel be, of which some have few numbers that are not 0.
_OF_A_PART = 8
# So many cycles of a GPU, some three milliseconds, are longer than Python needs to launch the kernels of a layer.
_CYCLES = 5_000_000


# Computes something, and returns the results.
Way = Callable[[], Sequence[Tensor]]
# Functions of torch -> what runs in their place, and calls them where its arguments do not suit own kernels.
FUNCTIONS: dict[Any, Callable[..., Any]] = {}


class OwnKernels(TorchFunctionMode):
    """Inside the with block, functions of torch that have a kernel of bnexp's run by it, where their arguments suit.

    Args:
        timed: let times decide between kernels that round differently; False takes torch's.

    Attributes:
        timed: as given; maps in 16 bits have own kernels in either case.
        chosen: layer -> the name of the kernel that it takes. A run that is resumed begins with the choices that it had
            made.
    """

    current: ClassVar[OwnKernels | None] = None  # of the block that is open; only one thread of a process trains

    def __init__(self, *, timed: bool = True) -> None:
        super().__init__()
        self.timed = timed
        self.chosen: dict[str, str] = {}
        self._tried: set[str] = set()  # layers whose kernel has run here
        self._before: list[OwnKernels | None] = []

    def __enter__(self) -> Self:
        """Begin."""
        self._before.append(OwnKernels.current)
        OwnKernels.current = self
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """End."""
        OwnKernels.current = self._before.pop()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(self, function: Any, types: Any, given: Any = (), keywords: Any = None) -> Any:
        """Call a function of torch."""
        return FUNCTIONS.get(function, function)(*given, **(keywords or {}))

    def choose(self, layer: str, ways: Mapping[str, Way], rounding: float, *, timed: bool = True) -> str:
        """The name of the quickest of these ways on a GPU; a layer's ways are timed once. The first is torch's.

        Without ``timed`` it is the last one. This, and a choice of another time, made perhaps on another GPU, is tried
        once.
        """
        first, *_, last = ways
        chosen = self.chosen.get(layer, "" if timed else last)
        if chosen not in ways:
            self.chosen[layer] = quickest(layer, ways, rounding)
        elif layer not in self._tried:
            here = chosen == first or chosen in _able(layer, {name: ways[name] for name in (first, chosen)}, rounding)
            self.chosen[layer] = chosen if here else first
        self._tried.add(layer)
        return self.chosen[layer]

    def choose_again(self, chosen: object) -> None:
        """Begin with the choices of another time, as a run.json has kept them; None where it has none."""
        if isinstance(chosen, dict):
            self.chosen |= chosen


def in_force(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What runs for a function of torch where no mode can step in, as in the rules of a stack."""
    return FUNCTIONS.get(function, function) if OwnKernels.current else function


def quickest(layer: str, ways: Mapping[str, Way], rounding: float) -> str:
    """The name of the way that takes the shortest time; ``rounding`` is that of the layer's numbers.

    The ways take turns; the first turn compiles, and is not timed. A way that fails in it, or whose numbers are not
    those of the first one, is left out, and the log says so, with the name of the layer.
    """
    able = _able(layer, ways, rounding)
    if len(able) == 1:
        return next(iter(able))
    times: dict[str, list[float]] = {name: [] for name in able}
    for _ in range(_ROUNDS):
        for name, way in able.items():
            times[name].append(milliseconds(way))
    return min(able, key=lambda name: min(times[name]))


def format_of(x: Tensor | torch.dtype) -> str:
    """The number format in a word, as in ``float32``."""
    return str(getattr(x, "dtype", x)).removeprefix("torch.")


def _able(layer: str, ways: Mapping[str, Way], rounding: float) -> dict[str, Way]:
    """The first way, and those that come to its numbers, which are not kept."""
    (first, of_first), *others = ways.items()
    wanted = of_first()
    return {first: of_first} | {name: way for name, way in others if _works(layer, way, wanted, rounding)}


def passes(way: Callable[..., Tensor], *given: Tensor | None) -> list[Tensor]:
    """What a layer makes of its input and parameters and, where there will be a backward pass, the gradients of these.

    The backward pass begins with ``_slopes``.
    """
    leaves = [None if each is None else each.detach().requires_grad_(each.requires_grad) for each in given]
    y = way(*leaves)
    if not y.requires_grad:
        return [y]
    wanted = [each for each in leaves if each is not None and each.requires_grad]
    with torch.autocast(y.device.type, enabled=False):  # as in a training, whose backward pass is outside of it
        return [y.detach(), *torch.autograd.grad(y, wanted, _slopes(y.detach()))]


def _slopes(y: Tensor) -> Tensor:
    """Half of |y| or three halves, as chance has it at each place, and so small that sums over places fit into fp16.

    With y itself, or |y| where all numbers have one sign, the gradients of a norm would be 0 up to rounding.
    """
    chance = torch.empty(y.shape, device=y.device).bernoulli_(generator=torch.Generator(y.device).manual_seed(0))
    size = 1 / math.sqrt(y.numel() / y.shape[1])
    return torch.empty_like(y).copy_(chance).add_(0.5).mul_(size).mul_(y.abs())


def _works(layer: str, way: Way, wanted: Sequence[Tensor], rounding: float) -> bool:
    """Whether a way runs here, and comes to the numbers that are wanted; the log says why not."""
    try:
        alike = [_alike(*each, rounding) for each in zip(way(), wanted, strict=True)]
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    else:
        reason = "" if all(alike) else "its numbers are not torch's"
    if reason:
        log.warning("%s: torch's kernels are taken, as bnexp's own cannot be used (%s)", layer, reason)
    return not reason


def _alike(found: Tensor, wanted: Tensor, rounding: float) -> bool:
    """Whether two results agree, but for rounding, where the wanted one is finite: as a whole, and in each part.

    The parts are the rows along the first axis and along the second one, such as images, channels and filters; of a
    vector, its numbers.
    """
    endless = ~wanted.isfinite()
    apart = (found - wanted).masked_fill_(endless, 0.0)
    size = wanted.masked_fill(endless, 0.0) if endless.any() else wanted  # in want of memory, a copy may be too much
    agree = [_length(apart) <= rounding * _length(size)]
    for axis in range(min(wanted.ndim, 2)):
        far, large = _length(apart, axis), _length(size, axis)
        agree.append((far <= _OF_A_PART * rounding * torch.maximum(large, large.square().mean().sqrt())).all())
    return all(map(bool, agree))  # waits for the device


def _length(x: Tensor, axis: int | None = None) -> Tensor:
    """The Euclidean length of all numbers, or of each row along an axis; nothing is copied."""
    row = x.unsqueeze(-1)  # so that the rows of a vector have an axis
    others = [each for each in range(row.ndim) if each != axis]
    length: Tensor = torch.linalg.vector_norm(row, dim=others, dtype=torch.promote_types(x.dtype, torch.float32))
    return length


def milliseconds(way: Way) -> float:
    """How long a GPU takes for what it is told, without the time that Python takes to tell it."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda._sleep(_CYCLES)  # type: ignore[no-untyped-call]  # the GPU waits until all is told, as in a replay
    start.record()
    way()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))
