"""Every norm against its independent reference: writes docs/exactness.md with the largest deviations, in float64.

    python scripts/table_exactness.py

The references are the formulas of the tests (loops over single values, closed formulas): ``tests/test_norms.py`` and
``tests/formulas_*.py``, which share no code with the layers. What is measured, on 2-D (B, C), sequences (B, C, L) and
maps (B, C, H, W):

- train: output against the formula; its gradient by x and all parameters against the formula's.
- eval: output with the statistics of the same batch against the formula (for norms without such statistics: output).
- gradcheck: gradient by x against central differences, relative to the largest entry.
- stacked: three members under vmap against the same members one by one.
- constant: whether a constant input gives finite outputs and gradients.
- batch of 1: works, or refused with a sentence.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import test_norms as common  # noqa: E402

from bnexp.data import Split  # noqa: E402
from bnexp.evaluation import write_precise  # noqa: E402
from bnexp.norms import NORMS, BatchStatistics  # noqa: E402

COLUMNS = ("train", "gradient", "eval", "gradcheck", "stacked", "constant", "batch of 1")
KINDS = {"2-D": "2-D", "3-D": "sequence", "4-D": "4-D"}


def train(name: str, shape: tuple[int, ...]) -> float:
    """Largest deviation of the output from the formula."""
    norm, x = common.build(name), common.normal(*shape)
    return deviation(norm(x), reference(norm, name, x))


def gradient(name: str, shape: tuple[int, ...]) -> float:
    """Largest deviation of the gradients by the input and the parameters from those of the formula."""
    norm, x = common.build(name), common.normal(*shape).requires_grad_()
    inputs = (x, *norm.parameters())
    ours = common.gradients(norm(x), *inputs)
    theirs = common.gradients(reference(norm, name, x), *inputs)
    return max(deviation(a, b) for a, b in zip(ours, theirs, strict=True))


def evaluation(name: str, shape: tuple[int, ...]) -> float | str:
    """Largest deviation from the formula in evaluation mode, with the statistics of the same batch."""
    if name in common.FORMULAS and not reads_no_statistics(name):
        return "-"
    norm, x = common.build(name), common.normal(*shape)
    wanted = reference(norm, name, x)
    norm.eval()
    if isinstance(norm, BatchStatistics):
        write_precise(norm, Split(x, torch.zeros(len(x), dtype=torch.int64)), len(x))
    return deviation(norm(x), wanted)


def reads_no_statistics(name: str) -> bool:
    """Whether evaluation is the formula of training, given the statistics of the batch."""
    return not any(name in family.EXEMPT.get("gradcheck", ()) for family in common.FAMILIES)


def gradcheck(name: str, shape: tuple[int, ...]) -> float | str:
    """Relative error of the gradient by x against central differences; not where the definition detaches or draws."""
    if not reads_no_statistics(name):
        return "-"
    norm, x = common.build(name), common.normal(*shape).requires_grad_()
    (exact,) = common.gradients(norm(x), x)
    step = 1e-5
    differences = torch.stack([central(norm, x.detach(), index, step) for index in range(x.numel())]).view_as(x)
    return float((exact - differences).abs().max() / exact.abs().max())


def central(norm: Callable[[Tensor], Tensor], x: Tensor, index: int, step: float) -> Tensor:
    """The derivative of the tests' scalar by one value of x."""
    ends = []
    for sign in (1, -1):
        moved = x.clone()
        moved.view(-1)[index] += sign * step
        y = norm(moved)
        weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y).sin()
        ends.append((weights * y).sum())
    return (ends[0] - ends[1]).detach() / (2 * step)


def stacked(name: str, shape: tuple[int, ...]) -> float:
    """Largest deviation of three members under vmap from the members one by one."""
    members = [common.build(name) for _ in range(3)]
    parameters, buffers = stack_module_state(members)
    x_M = common.normal(3, *shape)
    y_M = vmap(lambda p, b, x: functional_call(members[0], (p, b), (x,)))(parameters, buffers, x_M)
    return max(deviation(y_M[m], member(x_M[m])) for m, member in enumerate(members))


def constant(name: str, shape: tuple[int, ...]) -> str:
    """Whether output and gradients of a constant input are finite."""
    norm, x = common.build(name), torch.full(shape, 3.0, dtype=torch.float64, requires_grad=True)
    y = norm(x)
    values = (y, *torch.autograd.grad(y.sum(), [x, *norm.parameters()], allow_unused=True))
    return "finite" if all(v is None or bool(v.isfinite().all()) for v in values) else "NOT FINITE"


def batch_of_one(name: str, shape: tuple[int, ...]) -> str:
    """What a single sample gives in training."""
    try:
        y = common.build(name)(common.normal(1, *shape[1:]))
    except ValueError:
        return "refused"
    return "finite" if bool(y.isfinite().all()) else "NOT FINITE"


MEASURES = (train, gradient, evaluation, gradcheck, stacked, constant, batch_of_one)


def reference(norm: Any, name: str, x: Tensor) -> Tensor:
    """The tests' formula."""
    return common.formula(norm, name, x)


def deviation(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference."""
    return float((a - b).detach().abs().max())


def rows() -> Iterator[list[str]]:
    """A row of the table for each norm and kind of input."""
    for name in NORMS:
        for ndim, kind in KINDS.items():
            torch.manual_seed(0)
            if (name, ndim) in common.UNDEFINED:
                yield [f"`{name}`", kind, "not defined there", *[""] * (len(COLUMNS) - 1)]
                continue
            yield [f"`{name}`", kind, *(shown(measure(name, common.SHAPES[ndim])) for measure in MEASURES)]


def shown(value: float | str) -> str:
    """A deviation in two digits, 0 as it is."""
    return value if isinstance(value, str) else f"{value:.1e}" if value else "0"


def main() -> None:
    """Write the table."""
    header = ["norm", "input", *COLUMNS]
    lines = [header, ["---"] * len(header), *rows()]
    shapes = ", ".join(f"{KINDS[ndim]} {shape}" for ndim, shape in common.SHAPES.items())
    text = [
        "# How exact the norms are",
        "",
        "Largest deviations in float64 from references that share no code with the layers, written by",
        f"`python scripts/table_exactness.py` (torch {torch.__version__}; inputs {shapes}). The script's head says what",
        "each column is; `-` where the definition itself detaches or draws, so that the column has no meaning.",
        "",
        *("| " + " | ".join(row) + " |" for row in lines),
        "",
    ]
    (ROOT / "docs" / "exactness.md").write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
