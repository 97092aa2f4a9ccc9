"""Images a second of populations in bnexp's own loop, beside what the same networks reach in a bare CUDA graph."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from bench import config_of, population, write_images
from competitors import autocast, plain
from torch import Tensor

from bnexp.experiment.choices import bind
from bnexp.experiment.dry_run import forget, records
from bnexp.experiment.setup import Setup, build_model
from bnexp.training.evaluation import evaluate
from bnexp.training.kernels.own_convolution import OwnConvolution
from bnexp.training.kernels.packed_convolution import PackedConvolution
from bnexp.training.precision import allow_tf32, tf32_allowed
from bnexp.training.step import MOST_TOGETHER, WARM_UP
from on_gpu.exactness import complaints, composed, own_of
from on_gpu.workers import Case, Row

# The networks (``bench.CASES`` has their words and batch sizes) and the sizes of populations.
POPULATIONS = {"mlp": (1, 16, 64), "lenet": (1, 16, 64), "resnet20": (1, 16)}
# A recipe, with its own batch size.
RECIPE = "cifar10_fast"
EVALUATED = (("lenet", 1), ("lenet", 64), ("mlp", 1))
PROFILED = (("lenet", 64), ("mlp", 64), ("resnet20", 16), (RECIPE, 1))
# What cuDNN tries kernels for, and how many it tries; 0 follows its rules.
TRIED, TRIES = (("lenet", 64, "tf32"), ("lenet", 64, "bf16"), (RECIPE, 1, "bf16")), (0, 3, 10)
PRECISIONS = ("tf32", "bf16")
_NORM = "bn"
_KERNELS = 15
_PROFILED_STEPS = 20


@dataclass(frozen=True)
class Scope:
    """How much is measured, and on what.

    Attributes:
        device: cuda, or cpu to try the script.
        images: folder of random images.
        seconds, rounds: a figure is the median of so many rounds of about so many seconds.
    """

    device: str
    images: Path
    seconds: float = 0.3
    rounds: int = 3

    def words(self, precision: str, *more: str) -> tuple[str, ...]:
        """The words of a config."""
        return (f"device={self.device}", f"precision={precision}", *more)


def write(folder: Path, *, smoke: bool) -> None:
    """The images that all cases read."""
    for kind in ("grey", "colour"):
        write_images(kind, folder, most=1024 if smoke else 10_240)


def setup_of(case: str, members: int, scope: Scope, *words: str) -> Setup:
    """A population that is ready to start."""
    if case == RECIPE:
        data = ("data=npz", f"data.path={scope.images}/colour.npz", "data.layout=nhwc")
        (config,) = composed((f"experiment={case}", *data, *words))
    else:
        config = config_of(case, _NORM, scope.images, *words)
    return population(config, members, stacked=members > 1)


def wait() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], object]) -> float:
    """Wall seconds of ``run``, with what it has left to do on the device."""
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def median_of(run: Callable[[], object], scope: Scope) -> float:
    """Median seconds of a call that is repeated in rounds of ``scope.seconds``."""
    run()
    count = max(1, round(scope.seconds / seconds_of(run)))

    def turn() -> None:
        for _ in range(count):
            run()

    return statistics.median(seconds_of(turn) / count for _ in range(scope.rounds))


def graph_of(run: Callable[[], object], device: str) -> Callable[[], object]:
    """A CUDA graph of some work, captured as torch's manual says; on a CPU the work itself."""
    if device == "cpu":
        return run
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


# -------------------------------------------------------------------------------------------------------- training


def loop_seconds(setup: Setup, scope: Scope) -> float:
    """Median seconds of a step in the ordinary loop, with one record a round."""
    size = setup.config.batch_size
    first = records(setup, size, every=1, count=WARM_UP + 3)
    for _ in range(WARM_UP + 2):
        next(first)
    once = seconds_of(lambda: next(first))
    # Several steps at once, but for those that are left over where an epoch ends.
    whole = max(2, round(scope.seconds / once / MOST_TOGETHER)) * MOST_TOGETHER
    loop = records(setup, size, every=whole, count=scope.rounds + 1)
    next(loop)  # captures, and compiles
    return statistics.median(seconds_of(lambda: next(loop)) for _ in range(scope.rounds)) / whole


def rate(case: str, members: int, precision: str, scope: Scope, *words: str) -> Row:
    """Images a second of all members together, and the layers with own kernels; a fault where some cannot be used."""
    with complaints() as said:
        setup = setup_of(case, members, scope, *scope.words(precision, *words))
        found = setup.config.batch_size * members / loop_seconds(setup, scope)
    return {"images/s": found, "own": own_of(setup)} | ({"fault": "; ".join(said)} if said else {})


def bare_graph_rate(case: str, precision: str, scope: Scope) -> float:
    """Images a second of one model of torch's layers on one batch: forward, backward and update in one CUDA graph."""
    setup = setup_of(case, 1, scope, *scope.words(precision))
    x, y = (batch[0] for batch in setup.training.batches(0))
    net = plain(build_model(setup.config, bind(setup.config), setup.data, 1)).to(x)
    weights = list(net.parameters())

    def step() -> None:
        for weight in weights:
            weight.grad = None
        with autocast(x.device, precision):
            logits = net(x)
        F.cross_entropy(logits.float(), y).backward()
        torch._foreach_add_([weight.data for weight in weights], [weight.grad for weight in weights], alpha=-0.0)

    return len(y) / median_of(graph_of(step, scope.device), scope)


def population_rates(case: str, precision: str, scope: Scope, sizes: Sequence[int], compiled: bool) -> list[Row]:
    """A row for each size of population."""
    bare = None if compiled else bare_graph_rate(case, precision, scope)
    forget()
    rows: list[Row] = []
    one = None
    layouts = (False, True) if precision == "bf16" and case != "mlp" and not compiled else (False,)
    for members in sizes:
        for last in layouts:
            words = (f"channels_last={last}", f"compile={compiled and scope.device == 'cuda'}")
            found = rate(case, members, precision, scope, *words, "graph=true")
            forget()
            images = found["images/s"]
            one = one or (images if members == 1 else None)
            row: Row = {"net": case, "precision": precision, "members": members}
            row |= {"layout": "channels_last" if last else "", "compiled": compiled, **found}
            row |= {"over one": images / one if one else None, "bare graph of one": bare}
            if members == 1 and bare:
                row["over bare graph"] = images / bare
            if members == 1 and not last and not compiled:
                row["eager"] = rate(case, members, precision, scope, *words, "graph=false")["images/s"]
                row["graph over eager"] = images / row["eager"]
            rows.append(row)
    return rows


def compiling(case: str, precision: str, members: int, scope: Scope) -> list[Row]:
    """How long a population takes to compile; later processes find what was compiled on the disk."""
    setup = setup_of(case, members, scope, *scope.words(precision, f"compile={scope.device == 'cuda'}", "graph=true"))
    seconds = seconds_of(lambda: next(records(setup, setup.config.batch_size, every=WARM_UP, count=1)))
    forget()
    return [{"net": case, "precision": precision, "members": members, "first steps, compiling, s": seconds}]


def trying(case: str, members: int, precision: str, tries: int, scope: Scope) -> list[Row]:
    """What it costs to let cuDNN try so many kernels, and what it brings; for a process that has tried none."""
    setup = setup_of(case, members, scope, *scope.words(precision, "graph=true"))
    if setup.population.own_kernels:
        setup.population.own_kernels.timed = False  # to compile and to time them is no try of cuDNN's
    torch.backends.cudnn.benchmark = tries > 0 and scope.device == "cuda"
    torch.backends.cudnn.benchmark_limit = tries
    first = seconds_of(lambda: next(records(setup, setup.config.batch_size, every=WARM_UP, count=1)))
    found = setup.config.batch_size * members / loop_seconds(setup, scope)
    row: Row = {"net": case, "members": members, "precision": precision, "kernels tried": tries}
    return [row | {"first steps, s": first, "images/s": found}]


# -------------------------------------------------------------------------------------------- packed convolutions

# Batch, channels in and out, kernel, padding, side, members; gradients of the images are not needed.
LAYERS = {
    "LeNet 1": (256, 1, 6, 5, 2, 28, 64),
    "LeNet 2": (256, 6, 16, 5, 0, 14, 64),
    "ResNet 16 at 32": (128, 16, 16, 3, 1, 32, 16),
    "ResNet 32 at 16": (128, 32, 32, 3, 1, 16, 16),
    "ResNet 64 at 8": (128, 64, 64, 3, 1, 8, 16),
}


def convolution_of(layer: str, precision: str, scope: Scope) -> tuple[list[Tensor], Tensor]:
    """A layer's maps and weights, and the gradients of its outputs, channels last; images need no gradients."""
    B, C, out, k, padding, side, members = LAYERS[layer]
    torch.manual_seed(0)
    dtype, height = torch.bfloat16 if precision == "bf16" else torch.float32, side + 2 * padding - k + 1
    shapes = (B, members * C, side, side), (members * out, C, k, k), (B, members * out, height, height)
    x, w, g = (torch.randn(shape, device=scope.device, dtype=dtype) for shape in shapes)
    x, g = (each.contiguous(memory_format=torch.channels_last) for each in (x, g))
    return [x.requires_grad_(C > 1), w.requires_grad_()], g


def way_of(layer: str, pack: int | None) -> Callable[[Tensor, Tensor], Tensor]:
    """A layer's convolution: ``pack`` members in a dense group; 0 is torch's plain one, None is that by own kernels."""
    *_, padding, _, members = LAYERS[layer]
    how = [[1, 1], [padding] * 2, [1, 1]]
    if pack is None:
        return lambda x, w: OwnConvolution.apply(x, w, None, padding, members, tf32_allowed())
    if pack > 1:
        return lambda x, w: PackedConvolution.apply(x, w, None, how, members, pack)
    order = torch.channels_last if pack else torch.contiguous_format
    return lambda x, w: F.conv2d(x, w.contiguous(memory_format=order), None, *how, members)


def convolution_ms(layer: str, precision: str, pack: int | None, scope: Scope) -> float:
    """Milliseconds of the forward and the backward pass of all members' convolution; see ``way_of``."""
    (x, w), g = convolution_of(layer, precision, scope)
    if pack == 0:
        x, g = x.detach().contiguous().requires_grad_(x.requires_grad), g.contiguous()
    way, wanted = way_of(layer, pack), [each for each in (x, w) if each.requires_grad]
    run = graph_of(lambda: torch.autograd.grad(way(x, w), wanted, g), scope.device)
    return 1000 * median_of(run, scope)


def packing(layer: str, precision: str, scope: Scope) -> list[Row]:
    """One row: 0 is the ordinary grouped convolution, 1 the same with channels last, own is that by own kernels."""
    torch.backends.cudnn.benchmark = scope.device == "cuda"
    allow_tf32(precision == "tf32")
    members = LAYERS[layer][-1]
    packs = (0, 1, 2, 4) if scope.device == "cpu" else (0, 1, 2, 4, 8, 16, 32, 64)
    found = {f"{pack}": convolution_ms(layer, precision, pack, scope) for pack in packs if pack <= members}
    if scope.device == "cuda":  # Triton knows no CPU
        found["own"] = convolution_ms(layer, precision, None, scope)
    forget()
    return [{"layer, ms by groups in one": layer, "precision": precision, **found}]


def packing_cases(scope: Scope, *, smoke: bool) -> list[Case]:
    """All layers in both formats."""
    quick = replace(scope, seconds=scope.seconds / 5)
    return [
        Case(f"{layer} {precision}", "on_gpu.rates:packing", {"layer": layer, "precision": precision, "scope": quick})
        for layer in (list(LAYERS)[-1:] if smoke else LAYERS)
        for precision in (PRECISIONS[:1] if smoke else PRECISIONS)
    ]


# ------------------------------------------------------------------------------------------------------ evaluation


def evaluation_rates(case: str, members: int, precision: str, scope: Scope) -> list[Row]:
    """``evaluate`` over plain forward passes of the same images; and a whole evaluation during training."""
    setup = setup_of(case, members, scope, *scope.words(precision, "graph=true"))
    size = setup.eval_batch_size
    split = setup.data.train.mixed(min(10_000, len(setup.data.train)))
    passes = forward_of(setup, split.x, size, precision)
    with setup.measuring(), setup.population.evaluating():  # in the formats, kernels and mode of a run's evaluations
        seconds = {
            "forward, eager": median_of(passes, scope),
            "forward, graph": median_of(graph_of(passes, scope.device), scope),
            "evaluation": median_of(lambda: evaluate(setup.population, split, size), scope),
        }
    whole = median_of(setup.evaluate, scope)
    row: Row = {"net": case, "members": members, "precision": precision}
    row |= {f"{name}, images/s": members * len(split) / each for name, each in seconds.items()}
    row["over eager"] = seconds["forward, eager"] / seconds["evaluation"]
    row["over graph"] = seconds["forward, graph"] / seconds["evaluation"]
    return [row | {"a whole evaluation, ms": 1000 * whole}]


def forward_of(setup: Setup, x: Tensor, size: int, precision: str) -> Callable[[], None]:
    """Forward passes in evaluation mode: of torch's layers for one member, of the population itself for several."""
    members = len(setup.population)
    net = plain(build_model(setup.config, bind(setup.config), setup.data, 1)).to(x).eval() if members == 1 else None

    @torch.no_grad()
    def passes() -> None:
        with autocast(x.device, precision):
            for x_B in x.split(size):
                net(x_B) if net is not None else setup.population(x_B.expand(members, *x_B.shape))

    return passes


# --------------------------------------------------------------------------------------------------------- profile


def profile(case: str, members: int, precision: str, scope: Scope) -> list[Row]:
    """The kernels that take most of a step's time on the device; the first row is all of them and the wall time."""
    setup = setup_of(case, members, scope, *scope.words(precision, "graph=true"))
    steps = _PROFILED_STEPS if scope.device == "cuda" else 2
    loop = records(setup, setup.config.batch_size, every=steps, count=4)
    next(loop)
    wall = seconds_of(lambda: next(loop)) / steps
    with torch.profiler.profile() as profiler:
        next(loop)
        wait()
    name = "self_cpu_time_total" if scope.device == "cpu" else "self_device_time_total"
    on_device = [
        each for each in profiler.key_averages() if scope.device == "cpu" or str(each.device_type).endswith("CUDA")
    ]
    total = sum(getattr(each, name) for each in on_device) or 1
    of = {"net": case, "members": members, "precision": precision}
    first = {"kernel": f"all {len(on_device)} (wall {1000 * wall:.3f} ms)", "calls": "", "share": 1.0}
    rows = [of | first | {"ms a step": total / 1000 / steps}]
    most = sorted(on_device, key=lambda each: getattr(each, name), reverse=True)[:_KERNELS]
    return rows + [
        of
        | {"kernel": " ".join(each.key.split())[:110], "calls": each.count / steps}
        | {"share": getattr(each, name) / total, "ms a step": getattr(each, name) / 1000 / steps}
        for each in most
    ]


# ----------------------------------------------------------------------------------------------------------- cases


def scope_of(device: str, images: Path, *, smoke: bool) -> Scope:
    """Three short rounds, or one that is only tried."""
    return Scope(device, images, seconds=0.001, rounds=1) if smoke else Scope(device, images)


def population_cases(scope: Scope, *, smoke: bool, compiled: bool) -> list[Case]:
    """All networks in both formats; compiled only the largest populations, since compiling takes long."""
    nets = {"mlp": (1,) if compiled else (1, 2)} if smoke else POPULATIONS
    largest = {case: sizes[-1:] for case, sizes in nets.items()}
    return [
        Case(
            f"{case} {precision}{' compiled' if compiled else ''}",
            "on_gpu.rates:population_rates",
            {"case": case, "precision": precision, "scope": scope, "sizes": sizes, "compiled": compiled},
            limit=240,
        )
        for case, sizes in (largest if compiled else nets).items()
        for precision in (PRECISIONS[:1] if smoke else PRECISIONS)
    ]


def compiling_cases(scope: Scope, *, smoke: bool) -> list[Case]:
    """Those that ``population_cases`` measures compiled."""
    found = []
    for case in population_cases(scope, smoke=smoke, compiled=True):
        net, precision, (size,) = (case.given[name] for name in ("case", "precision", "sizes"))
        given = {"case": net, "precision": precision, "members": size, "scope": scope}
        found.append(replace(case, call="on_gpu.rates:compiling", given=given))
    return found


def trying_cases(scope: Scope, *, smoke: bool) -> list[Case]:
    """Each in a process of its own, which knows of no kernels."""
    return [
        Case(
            f"{case} x{members} {precision}, {tries} tried",
            "on_gpu.rates:trying",
            {"case": case, "members": members, "precision": precision, "tries": tries, "scope": scope},
            fresh=True,
        )
        for case, members, precision in ((("mlp", 2, "fp32"),) if smoke else TRIED)
        for tries in (TRIES[:1] if smoke else TRIES)
    ]


def few_cases(call: str, scope: Scope, *, smoke: bool) -> list[Case]:
    """The cases of ``evaluation_rates`` or ``profile``."""
    nets = {"evaluation_rates": EVALUATED, "profile": PROFILED}[call]
    return [
        Case(
            f"{case} x{members} {precision}",
            f"on_gpu.rates:{call}",
            {"case": case, "members": members, "precision": precision, "scope": scope},
        )
        for case, members in ((("mlp", 2),) if smoke else nets)
        for precision in (PRECISIONS[:1] if smoke or call == "evaluation_rates" else PRECISIONS)
    ]
