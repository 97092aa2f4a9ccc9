"""Batch norm, max pooling, convolutions of stacks, and updates, by own kernels: milliseconds, and errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bnexp.experiment.dry_run import forget
from bnexp.norms.batch import batch_norm_relu
from bnexp.training.kernels.own_batch_norm import OwnBatchNorm
from bnexp.training.kernels.own_kernels import OwnKernels
from bnexp.training.precision import allow_tf32
from on_gpu.exactness import distance
from on_gpu.rates import Scope, convolution_ms, convolution_of, graph_of, median_of, setup_of, way_of
from on_gpu.workers import Case, Row

Function = Callable[[Tensor], Tensor]
# Maps of ResNet-9, and those of 64 LeNets and 16 ResNet-20.
MAPS = (
    (512, 64, 32, 32),
    (512, 128, 32, 32),
    (512, 256, 16, 16),
    (512, 512, 4, 4),
    (256, 384, 28, 28),
    (128, 256, 32, 32),
)
FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}
# How often a map is read or written, forward and backward.
PASSES = {"batch norm": 8.0, "batch norm, relu": 8.0, "max pooling": 3.5}
# Relative errors that one rounding of a map explains.
BOUND = {"bf16": 2**-8, "fp16": 2**-11}
# Of an H100; on another card the column ``bytes alone`` does not hold.
BYTES_A_SECOND = 3.35e12
# The layers of stacks whose groups have few channels, their formats, and how many groups torch's way packs into a dense
# one; 0 is the plain grouped convolution.
PACKED = {
    **{("LeNet 1", "fp32"): 0, ("LeNet 1", "tf32"): 32, ("LeNet 1", "bf16"): 64},
    **{("LeNet 2", "fp32"): 0, ("LeNet 2", "tf32"): 4, ("LeNet 2", "bf16"): 8},
}
# A network, its members, and the words of an optimizer; how often it reads or writes a number of each parameter.
UPDATES = {
    "64 MLPs, momentum": ("mlp", 64, ("optim.momentum=0.9",), 5),
    "64 MLPs, Adam": ("mlp", 64, ("optim=adam", "optim.lr=0.001"), 7),
    "ResNet-9, Nesterov, decay": ("cifar10_fast", 1, (), 6),
}
# So many times in one graph.
_OFTEN = 20
# What rounding the same numbers in another way explains.
OF_UPDATES = 1e-6
# Images, and channels of all members: those of 64 MLPs, and of 64 LeNets.
VECTORS = ((64, 6400), (256, 7680))
# Relative errors that the rounding of two factors and of a map explains, and in fp32 that of sums.
OF_PRODUCTS = {"fp32": 1e-5, "tf32": 2**-10, "bf16": 2**-7}


def functions(channels: int, device: str, dtype: torch.dtype) -> dict[str, tuple[Function, list[Tensor], list[Tensor]]]:
    """Name -> a function of maps, its parameters, and the running statistics that it moves."""
    torch.manual_seed(0)
    gain, bias = (torch.randn(channels).to(device, dtype).requires_grad_() for _ in range(2))
    mean, var = torch.zeros(channels, device=device, dtype=dtype), torch.ones(channels, device=device, dtype=dtype)
    return {
        "batch norm": (lambda x: F.batch_norm(x, mean, var, gain, bias, True), [gain, bias], [mean, var]),
        "batch norm, relu": (lambda x: batch_norm_relu(x, mean, var, gain, bias, 0.1, 1e-5), [gain, bias], [mean, var]),
        "max pooling": (lambda x: F.max_pool2d(x, 2), [], []),
    }


def random_maps(shape: Sequence[int], device: str, dtype: torch.dtype, seed: int) -> Tensor:
    """Normal numbers, channels last."""
    torch.manual_seed(seed)
    return torch.randn(*shape, device=device).to(dtype).contiguous(memory_format=torch.channels_last)


def passes(
    function: Function, x: Tensor, parameters: Sequence[Tensor], g: Tensor, *, own: OwnKernels | None
) -> list[Tensor]:
    """The output and all gradients."""
    with own or nullcontext():
        y = function(x)
    return [y, *torch.autograd.grad(y, [x, *parameters], g)]


def measured(shape: Sequence[int], precision: str, scope: Scope) -> list[Row]:
    """A row for each function: forward and backward pass by torch's kernels and by own ones; the errors of these.

    On a CPU, which Triton does not know, by torch's alone.
    """
    x = random_maps(shape, scope.device, FORMATS[precision], 1).requires_grad_()
    wide = x.detach().double().requires_grad_()
    exact = functions(shape[1], scope.device, torch.float64)
    rows: list[Row] = []
    for name, (function, parameters, moved) in functions(shape[1], scope.device, torch.float32).items():
        ways = {"torch": None} | ({"own": OwnKernels()} if scope.device == "cuda" else {})  # it tries a layer once
        g = random_maps(function(x).shape, scope.device, x.dtype, 2)
        run = partial(passes, function, x, parameters, g)
        for each in (*moved, *exact[name][2]):
            each.fill_(0.5)
        wanted = [*passes(exact[name][0], wide, exact[name][1], g.double(), own=None), *exact[name][2]]
        found = [*run(own=ways.get("own")), *moved]
        error = max(distance(mine.detach(), theirs.detach()) for mine, theirs in zip(found, wanted, strict=True))
        row: Row = {"maps": "x".join(map(str, shape)), "precision": precision, "function": name}
        for kernels, own in ways.items():
            row[f"{kernels}, ms"] = 1000 * median_of(graph_of(partial(run, own=own), scope.device), scope)
        row |= {"bytes alone, ms": 1000 * PASSES[name] * x.nbytes / BYTES_A_SECOND, "largest error": error}
        faults = ["more than rounding"] * (not error <= BOUND[precision])
        taken = [choice for own in ways.values() if own for choice in own.chosen.values()]
        faults += ["own kernels cannot be used here; see the log"] * ("torch" in taken)
        rows.append(row | ({"fault": "; ".join(faults)} if faults else {}))
        forget()
    return rows


def convolutions(layer: str, precision: str, scope: Scope) -> list[Row]:
    """A row: forward and backward pass of a stack's layer, torch's way and by own kernels; the largest error of these.

    On a CPU, which Triton does not know, that of torch's way.
    """
    torch.backends.cudnn.benchmark, pack = scope.device == "cuda", PACKED[layer, precision]
    allow_tf32(precision == "tf32")
    ways = {"torch": pack} | ({"own": None} if scope.device == "cuda" else {})
    (x, w), g = convolution_of(layer, precision, scope)
    wide = [each.detach().double().requires_grad_(each.requires_grad) for each in (x, w)]
    results = []
    for way, (maps, weights), slopes in ((list(ways.values())[-1], (x, w), g), (0, wide, g.double())):
        y = way_of(layer, way)(maps, weights)
        results.append([y, *torch.autograd.grad(y, [each for each in (maps, weights) if each.requires_grad], slopes)])
    error = max(distance(mine.detach(), theirs.detach()) for mine, theirs in zip(*results, strict=True))
    row: Row = {"maps": layer, "precision": precision, "function": "convolution"}
    row |= {f"{name}, ms": convolution_ms(layer, precision, way, scope) for name, way in ways.items()}
    often = 3 if x.requires_grad else 2  # forward, slopes of the weights, slopes of the maps; weights are small
    row |= {"bytes alone, ms": 1000 * often * (x.nbytes + g.nbytes) / BYTES_A_SECOND, "largest error": error}
    forget()
    return [row if error <= OF_PRODUCTS[precision] else row | {"fault": "more than rounding"}]


def few_ms(run: Callable[[], object], scope: Scope) -> float:
    """Milliseconds of work of few kernels: many times in one graph, as Python takes longer to launch a graph of one."""

    def often() -> None:
        for _ in range(_OFTEN):
            run()

    return 1000 * median_of(graph_of(often, scope.device), scope) / _OFTEN


def updates(name: str, scope: Scope, *, smoke: bool) -> list[Row]:
    """A row: the update of all parameters by torch's kernels and by an own one, and how far their numbers are apart."""
    case, members, words, often = UPDATES[name]
    members = min(members, 2) if smoke else members
    optimizer = setup_of(case, members, scope, *scope.words("tf32", *words)).training.optimizer
    g, lr_M1 = torch.randn_like(optimizer.theta_MP), 1e-3 * optimizer.lr_M1
    ways = {way: update for way, update in optimizer.ways().items() if scope.device == "cuda" or way == "torch"}
    results = [optimizer.tried(update) for update in ways.values()]
    error = max(distance(mine, theirs) for mine, theirs in zip(results[-1], results[0], strict=True))
    row: Row = {"maps": name, "precision": "fp32", "function": "update"}
    for way, update in ways.items():
        run = partial(update, optimizer.theta_MP, optimizer.slots, g, lr_M1)
        row[f"{way}, ms"] = few_ms(run, scope)
    row |= {"bytes alone, ms": 1000 * often * g.nbytes / BYTES_A_SECOND, "largest error": error}
    forget()
    return [row if error <= OF_UPDATES else row | {"fault": "more than rounding"}]


def vectors(shape: tuple[int, int], scope: Scope) -> list[Row]:
    """A row: batch norm of vectors with its ReLU, forward and backward, by torch's kernels and by two own ones."""
    torch.manual_seed(0)
    x, g = (torch.randn(shape, device=scope.device) for _ in range(2))
    mean, var, gain, bias = (torch.rand(shape[1], device=scope.device) for _ in range(4))
    parameters = [each.requires_grad_() for each in (x, gain, bias)]

    def run(*, own: bool, wide: bool = False) -> list[Tensor]:
        leaves = [each.detach().double().requires_grad_() for each in parameters] if wide else parameters
        running = [each.double() if wide else each for each in (mean, var)]
        given = leaves[0], *running, *leaves[1:], 0.1, 1e-5
        y = OwnBatchNorm.apply(*given, True) if own else batch_norm_relu(*given)
        return [y.detach(), *torch.autograd.grad(y, leaves, g.to(y.dtype)), *running]

    ways = {"torch": False} | ({"own": True} if scope.device == "cuda" else {})
    exact, found = run(own=False, wide=True), run(own=scope.device == "cuda")  # the latter moves the statistics
    error = max(distance(mine, theirs) for mine, theirs in zip(found, exact, strict=True))
    row: Row = {"maps": "x".join(map(str, shape)), "precision": "fp32", "function": "batch norm, relu"}
    row |= {f"{way}, ms": few_ms(partial(run, own=own), scope) for way, own in ways.items()}
    row |= {"bytes alone, ms": 1000 * 5 * x.nbytes / BYTES_A_SECOND, "largest error": error}
    forget()
    return [row if error <= OF_PRODUCTS["fp32"] else row | {"fault": "more than rounding"}]


def cases(scope: Scope, *, smoke: bool) -> list[Case]:
    """Updates, vectors, the layers of stacks, and all maps in both formats."""
    rules = [
        Case(name, "on_gpu.own_kernels:updates", {"name": name, "scope": scope, "smoke": smoke}) for name in UPDATES
    ]
    others = [
        Case("x".join(map(str, shape)), "on_gpu.own_kernels:vectors", {"shape": shape, "scope": scope})
        for shape in VECTORS
    ]
    layers = [
        Case(
            f"{layer} {precision}",
            "on_gpu.own_kernels:convolutions",
            {"layer": layer, "precision": precision, "scope": scope},
        )
        for layer, precision in PACKED
    ]
    maps = [
        Case(
            f"{'x'.join(map(str, shape))} {precision}",
            "on_gpu.own_kernels:measured",
            {"shape": shape, "precision": precision, "scope": scope},
        )
        for shape in (((2, 8, 6, 6),) if smoke else MAPS)
        for precision in FORMATS
    ]
    return [*rules, *others, *(() if smoke else layers), *maps]
