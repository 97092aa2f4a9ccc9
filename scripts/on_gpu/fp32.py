"""How far CUDA's fp32 is from double precision, operator by operator and layer by layer in a training.

Every error is the Euclidean length of the difference over that of the result in double precision on the CPU. The CPU's
own fp32 stands beside it: about 1e-7 is what the format allows; 3e-4 and more is TF32, or an operation of another law.

In a training, one more thing makes small errors large: a ReLU passes a pre-activation or not, and images have blank
areas in which thousands of pre-activations are equal. Where these are nearly 0, as behind centred filters, the rounding
of a kernel decides over their gradients. ``noise`` shows this in double precision on the CPU: it adds random numbers of
so much of the root mean square to what convolutions answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnexp.config.schema import TrainConfig
from bnexp.experiment.dry_run import forget
from bnexp.training.loop import train
from bnexp.training.precision import allow_tf32
from on_gpu.exactness import MODELS, built, composed, distance, trained
from on_gpu.workers import Case, Row

# Batch, channels in and out, kernel, padding, side.
CONVOLUTIONS = {
    "conv LeNet 1 (1>6, 5x5, 28)": (64, 1, 6, 5, 2, 28),
    "conv LeNet 2 (6>16, 5x5, 14)": (64, 6, 16, 5, 0, 14),
    "conv ResNet (3>16, 3x3, 32)": (64, 3, 16, 3, 1, 32),
    "conv ResNet (16>16, 3x3, 32)": (64, 16, 16, 3, 1, 32),
    "conv ResNet (64>64, 3x3, 8)": (64, 64, 64, 3, 1, 8),
}
# Ways to set the machine for fp32: cudnn.benchmark, and who forbids TF32; the last allows it, for comparison.
SETTINGS = {
    "benchmark": (True, "ieee"),
    "no benchmark": (False, "ieee"),
    "old switches": (True, "old"),
    "tf32": (True, "tf32"),
}
# Errors of single positions of a convolution, over the root mean square of its output.
NOISE = (1e-8, 1e-7, 1e-6)
# Trainings in which losses differed between CUDA and a CPU.
SUSPECTS = (
    *(("lenet", norm) for norm in ("bn", "frozen_bn", "var_only_bn", "zca", "scaled_ws", "centered_cosine")),
    *(("resnet", norm) for norm in ("bn", "gn", "detached_bn", "iternorm")),
)
_TRAINING = ("batch_size=64", "data=digits", "data.validation=0", "data.test_limit=64", "eval_train=64", "log_every=1")
_LENET = ("model=lenet", "data.size=28")

# Inputs, and the function of them; all inputs get gradients.
Operator = tuple[Callable[..., Tensor], Sequence[Tensor]]


def operators(smoke: bool) -> dict[str, Operator]:
    """The operations of the networks, with inputs in double precision."""
    torch.manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    found: dict[str, Operator] = {
        name: (partial(F.conv2d, padding=pad), (normal(B, C, side, side), normal(out, C, k, k) / (C * k * k) ** 0.5))
        for name, (B, C, out, k, pad, side) in CONVOLUTIONS.items()
    }
    maps, vectors = normal(64, 16, 14, 14), normal(64, 400)
    gain, bias = 1 + 0.1 * normal(16), 0.1 * normal(16)
    spread = normal(6, 64)
    covariance = spread @ spread.mT / 64 + 1e-3 * torch.eye(6, dtype=torch.float64)
    found |= {
        "linear (400>120)": (F.linear, (vectors, normal(120, 400) / 20, normal(120))),
        "bmm (8 of 64x400x120)": (torch.bmm, (normal(8, 64, 400), normal(8, 400, 120) / 20)),
        "batch_norm": (lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), (maps + 2, gain, bias)),
        "batch_norm, evaluation": (
            lambda x, w, b: F.batch_norm(x, torch.full_like(w, 2.0), torch.ones_like(w), w, b),
            (maps + 2, gain, bias),
        ),
        "group_norm (8)": (lambda x, w, b: F.group_norm(x, 8, w, b), (maps, gain, bias)),
        "layer_norm": (lambda x: F.layer_norm(x, x.shape[1:]), (vectors,)),
        "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), (maps,)),
        "mean and variance": (lambda x: torch.cat(torch.var_mean(x, (0, 2, 3))), (maps + 2,)),
        "cross_entropy": (lambda x: F.cross_entropy(x, torch.arange(64, device=x.device) % 10), (normal(64, 10),)),
        "eigh, inverse root": (_inverse_root, (covariance,)),
        "solve": (torch.linalg.solve, (covariance, normal(6, 4))),
        "cholesky": (torch.linalg.cholesky, (covariance,)),
    }
    return dict(list(found.items())[:2]) | {"linear (400>120)": found["linear (400>120)"]} if smoke else found


def _inverse_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors @ torch.diag(values.rsqrt()) @ vectors.mT


@contextmanager
def setting(benchmark: bool, format: str) -> Iterator[None]:
    """Set what decides over fp32 on CUDA, as a run sets it (``ieee``, ``tf32``) or by torch's old switches."""
    torch.backends.cudnn.benchmark = benchmark
    if format == "old":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    else:
        allow_tf32(format == "tf32")
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False
        allow_tf32(False)


def results(operator: Operator, device: str, dtype: torch.dtype) -> list[Tensor]:
    """What the operation answers, and the gradients of its inputs."""
    run, given = operator
    inputs = [each.to(device, dtype).requires_grad_() for each in given]
    y = run(*inputs)
    cotangent = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).sin().view(y.shape).to(device, dtype)
    return [y.detach(), *torch.autograd.grad((y * cotangent).sum(), inputs)]


def operator_errors(device: str, smoke: bool) -> list[Row]:
    """A row for each operation: errors of the output and of each gradient, as ``output / gradient / ...``."""
    rows = []
    for name, operator in operators(smoke).items():
        wanted = results(operator, "cpu", torch.float64)

        def errors(device: str, operator: Operator = operator, wanted: Sequence[Tensor] = wanted) -> str:
            found = results(operator, device, torch.float32)
            return " / ".join(f"{distance(a, b):.0e}" for a, b in zip(found, wanted, strict=True))

        row: Row = {"operation (output / gradients)": name, "cpu": errors("cpu")}
        for words, how in SETTINGS.items():
            try:
                with setting(*how):
                    row[words] = errors(device)
            except RuntimeError as refused:  # torch refuses to mix its old switches with the new ones
                row[words] = str(refused).partition("\n")[0][:60]
                _mend_switches()
        rows.append(row)
    return rows


def _mend_switches() -> None:
    with contextlib.suppress(RuntimeError):
        allow_tf32(False)


# ------------------------------------------------------------------------------------------------- inside a training


def first_step(config: TrainConfig) -> dict[str, Tensor]:
    """Outputs of all layers in the first step's forward pass, the weights' and statistics' changes in that step."""
    setup = built(replace(config, steps=1))
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(layer: nn.Module, given: object, y: object) -> None:
            if isinstance(y, Tensor):
                outputs.setdefault(f"output of {name}", y.detach().clone())

        return hook

    for name, layer in setup.population.members[0].named_modules():
        if name and not list(layer.children()):
            layer.register_forward_hook(keep(name))
    before = setup.state(0)
    outputs.clear()
    for _ in train(setup.training, dict, None, stop=lambda: False):
        pass
    after = setup.state(0)
    kinds = {"parameters": "gradient of", "buffers": "change of"}
    changes = {
        f"{words} {name}": after[kind][name].double() - before[kind][name].double()
        for kind, words in kinds.items()
        for name in after[kind]
        if after[kind][name].is_floating_point()
    }
    return outputs | changes


def noisy_losses(config: TrainConfig, noise: float) -> list[list[float]]:
    """The losses of a training whose convolutions answer with noise."""
    setup, source = built(config), torch.Generator().manual_seed(0)

    def add(layer: nn.Module, given: object, y: Tensor) -> Tensor:
        errors = torch.randn(y.shape, generator=source, dtype=y.dtype)
        return y + noise * y.detach().square().mean().sqrt() * errors

    for layer in setup.population.members[0].modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(add)
    records = train(setup.training, dict, None, stop=lambda: False)
    return [list(record.values["train/loss"]) for record in records if "train/loss" in record.values]


def worst(found: dict[str, Tensor], wanted: dict[str, Tensor], kind: str) -> str:
    """The largest error among layers, and where."""
    errors = {
        name.removeprefix(f"{kind} "): distance(found[name], wanted[name])
        for name in wanted
        if name.startswith(kind) and float(wanted[name].norm()) > 0
    }
    if not errors:
        return ""
    name = max(errors, key=lambda name: errors[name])
    return f"{errors[name]:.0e} {name}"


def training_errors(model: str, norm: str, *, device: str, smoke: bool) -> list[Row]:
    """Where a training leaves the CPU's: in the first step by layer, and the losses of ten steps."""
    of_model = {"lenet": _LENET, "resnet": (*MODELS["resnet"], "data.size=16")}.get(model, MODELS["mlp"])
    words = (f"norm={norm}", *of_model, *_TRAINING, "optim.lr=0.02", "graph=false", f"steps={2 if smoke else 10}")
    ways = {
        "cpu fp64": ("cpu", "fp64"),
        "cpu fp32": ("cpu", "fp32"),
        "fp64": (device, "fp64"),
        "fp32": (device, "fp32"),
    }
    texts = [(*words, f"device={where}", f"precision={how}") for where, how in ways.values()]
    if not smoke:  # and no benchmark of kernels
        ways["fp32, deterministic"] = (device, "fp32")
        texts.append((*texts[-1], "deterministic=true"))
    configs = dict(zip(ways, composed(*texts), strict=True))
    of_cpu = configs.pop("cpu fp64")
    wanted, losses = first_step(of_cpu), trained(of_cpu, members=1).losses
    rows: list[Row] = []
    for noise in NOISE[:1] if smoke else NOISE:
        own = noisy_losses(of_cpu, noise)
        row: Row = {"training": f"{norm} in {model}", "way": f"cpu fp64, noise {noise:g}"}
        rows.append(row | {"worst loss of ten": max(distance(a, b) for a, b in zip(own, losses, strict=True))})
    for name, config in configs.items():
        row = {"training": f"{norm} in {model}", "way": name}
        forget()
        try:
            layers, own = first_step(config), trained(config, members=1).losses
        except RuntimeError as refused:  # of an operation that has no deterministic kernel
            rows.append(row | {"worst output": str(refused).partition(".")[0]})
            continue
        finally:
            torch.use_deterministic_algorithms(False)  # the next case may build no run, which would set it
        row |= {"first loss": distance(own[0], losses[0])}
        row |= {"worst loss of ten": max(distance(a, b) for a, b in zip(own, losses, strict=True))}
        kinds = {"worst output": "output of", "worst gradient": "gradient of", "worst statistic": "change of"}
        rows.append(row | {column: worst(layers, wanted, kind) for column, kind in kinds.items()})
    return rows


def cases(*, device: str, smoke: bool) -> list[Case]:
    """The operators, then the trainings."""
    given = {"device": device, "smoke": smoke}
    suspects = (("mlp", "bn"),) if smoke else SUSPECTS
    return [
        Case("operators", "on_gpu.fp32:operator_errors", given),
        *(
            Case(f"{norm} in {model}", "on_gpu.fp32:training_errors", {"model": model, "norm": norm, **given})
            for model, norm in suspects
        ),
    ]
