"""Every norm against its independent reference: writes docs/exactness.md with the largest deviations, in float64.

    python scripts/table_exactness.py

The references are those of the tests (loops over single values, closed formulas), which share no code with the layers.
Norms of weights are measured together with the linear map or convolution that they act on. The columns, on vectors
(B, C), sequences (B, C, L) and maps (B, C, H, W):

- train: output against the reference.
- gradient: the gradients by the input and by all parameters against those of the reference.
- eval: the output in evaluation mode with the statistics of the same batch, against the reference.
- gradcheck: the gradient by the input against central differences, relative to its largest entry.
- stacked: three members under vmap against the same members one by one.
- constant: whether a constant input gives finite outputs and gradients.
- batch of 1: whether a single sample is normalized in training, or refused with a sentence.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "norms")]

import test_norms as alone  # noqa: E402
import test_norms_weights as on_maps  # noqa: E402

from bnexp.data import Split  # noqa: E402
from bnexp.models.layers import batch_norms  # noqa: E402
from bnexp.norms import NORMS  # noqa: E402
from bnexp.training.statistics import write_precise  # noqa: E402

# Enough values for the covariances of whitening norms; few enough for loops over single values.
SHAPES = {"2-D": (20, 9), "sequence": (8, 9, 3), "4-D": (6, 9, 2, 2)}
MAPS = {"2-D": "linear", "sequence": "conv1d", "4-D": "conv2d"}
# Evaluation by the statistics of the whole batch is not what training does: corrections, noise, chunks, a first batch.
OTHER_IN_EVALUATION = ("batch_renorm", "noisy_bn", "ghost_bn", "gn_bn", "frozen_bn")
# Gradients that stop at statistics are not those of the function; noise is new at every call.
NO_DERIVATIVE = ("batch_renorm", "detached_bn", "noisy_bn")


@dataclass(frozen=True)
class Case:
    """A norm on one kind of input: the layer with random parameters, an input, the reference."""

    name: str
    build: Callable[[], nn.Module]
    x: Tensor
    reference: Callable[[nn.Module, Tensor], Tensor]


def case(name: str, kind: str) -> Case:
    """The norm by itself, or with the map whose weights it acts on."""
    if name in on_maps.ON_MAPS:
        linear = MAPS[kind]
        x = on_maps.normal(*on_maps.LINEARS[linear][1])
        return Case(
            name, lambda: on_maps.layer(name, linear), x, lambda both, x: on_maps.reference(name, linear, both, x)
        )
    x = alone.normal(*SHAPES[kind])
    return Case(name, lambda: alone.build(name), x, lambda norm, x: alone.formula(norm, name, x))


def train(case: Case) -> float:
    """Largest deviation of the output."""
    layer = case.build()
    y = layer(case.x)
    return deviation(y, case.reference(layer, case.x))


def gradient(case: Case) -> float:
    """Largest deviation of the gradients."""
    layer, x = case.build(), case.x.clone().requires_grad_()
    inputs = (x, *layer.parameters())
    ours = alone.gradients(layer(x), *inputs)
    theirs = alone.gradients(case.reference(layer, x), *inputs)
    return max(deviation(a, b) for a, b in zip(ours, theirs, strict=True))


def evaluation(case: Case) -> float | str:
    """Largest deviation in evaluation mode; none of these where evaluation is another function by definition."""
    if case.name in OTHER_IN_EVALUATION:
        return "-"
    layer = case.build()
    wanted = case.reference(copy.deepcopy(layer), case.x)
    layer.eval()
    if batch_norms(layer):
        write_precise(layer, Split(case.x, torch.zeros(len(case.x), dtype=torch.int64)), len(case.x))
    return deviation(layer(case.x), wanted)


def gradcheck(case: Case) -> float | str:
    """Relative error of the gradient by the input."""
    if case.name in NO_DERIVATIVE:
        return "-"
    layer, x = case.build(), case.x.clone().requires_grad_()
    (exact,) = alone.gradients(layer(x), x)
    differences = torch.stack([central(layer, case.x, index) for index in range(x.numel())]).view_as(x)
    return float((exact - differences).abs().max() / exact.abs().max())


def central(layer: nn.Module, x: Tensor, index: int, step: float = 1e-5) -> Tensor:
    """The derivative by one value of x of the scalar whose gradients the tests compare."""
    ends = []
    for sign in (1, -1):
        moved = x.clone()
        moved.view(-1)[index] += sign * step
        y = layer(moved).detach()
        ends.append((torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y).sin() * y).sum())
    return (ends[0] - ends[1]) / (2 * step)


def stacked(case: Case) -> float:
    """Largest deviation of three members under vmap."""
    members = [case.build() for _ in range(3)]
    parameters, buffers = stack_module_state(members)
    skeleton = copy.deepcopy(members[0]).to("meta")
    x_M = case.x.expand(3, *case.x.shape)
    y_M = vmap(lambda p, b, x: functional_call(skeleton, (p, b), (x,)))(parameters, buffers, x_M)
    return max(deviation(y_M[m], member(case.x)) for m, member in enumerate(members))


def constant(case: Case) -> str:
    """Whether the output and the gradients of a constant input are finite."""
    layer, x = case.build(), torch.full_like(case.x, 3.0).requires_grad_()
    y = layer(x)
    found = torch.autograd.grad(y.sum(), [x, *layer.parameters()], allow_unused=True)
    return finite(y, *(g for g in found if g is not None))


def batch_of_one(case: Case) -> str:
    """What a single sample gives in training."""
    try:
        return finite(case.build()(case.x[:1]))
    except ValueError:
        return "refused"


def finite(*tensors: Tensor) -> str:
    """A word for it."""
    return "finite" if all(bool(tensor.isfinite().all()) for tensor in tensors) else "NOT FINITE"


def deviation(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference."""
    return float((a - b).detach().abs().max())


MEASURES = {
    "train": train,
    "gradient": gradient,
    "eval": evaluation,
    "gradcheck": gradcheck,
    "stacked": stacked,
    "constant": constant,
    "batch of 1": batch_of_one,
}


def rows() -> Iterator[list[str]]:
    """A row for each norm and kind of input."""
    for name in NORMS:
        for kind in SHAPES:
            torch.manual_seed(0)
            this = case(name, kind)
            if skips(this):
                yield [f"`{name}`", kind, "undefined: skipped", *[""] * (len(MEASURES) - 1)]
            else:
                yield [f"`{name}`", kind, *(shown(measure(this)) for measure in MEASURES.values())]


def skips(case: Case) -> bool:
    """Whether the norm lets this kind of input pass unnormalized, and says so."""
    layer = case.build()
    layer(case.x)
    return getattr(layer, "skipped", False)


def shown(value: float | str) -> str:
    """A deviation in two digits, 0 as it is."""
    return value if isinstance(value, str) else f"{value:.1e}" if value else "0"


def main() -> None:
    """Write the table."""
    assert __doc__ is not None
    columns = __doc__[__doc__.index("- train:") :].strip()
    header = ["norm", "input", *MEASURES]
    text = f"""\
# How exact the norms are

Largest deviations in float64 from references that share no code with the layers (those of the tests: loops over single
values and closed formulas), written by `python scripts/table_exactness.py` with torch {torch.__version__}.
Norms of weights are measured together with the linear map or convolution that they act on.

{columns}

A dash stands where the norm is another function by definition: gradients that stop at statistics, noise, statistics
that are not those of the batch.

"""
    lines = (" | ".join(row) for row in [header, ["---"] * len(header), *rows()])
    text += "".join(f"| {line} |\n" for line in lines)
    (ROOT / "docs" / "exactness.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
