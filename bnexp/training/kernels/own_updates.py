"""The update rules of optimizers by ``triton_updates``: each number is read once and written once.

torch's operations go over the matrix of all parameters again and again: for SGD with momentum 8 times, with Nesterov's
form and weight decay 15 times, for Adam 22 times; one kernel does so 5, 6 and 7 times.
"""

from __future__ import annotations

from torch import Tensor

# Numbers of a program, and how it is compiled: four of a thread are read at once.
_BLOCK = {"BLOCK": 1024, "num_warps": 4}


def sgd(
    theta_MP: Tensor,
    velocity_MP: Tensor,
    gradient_MP: Tensor,
    lr_M1: Tensor,
    momentum_M1: Tensor,
    decay_MP: Tensor | None,
    *,
    nesterov: bool,
    moves_on: bool,
) -> None:
    """The rule of ``optim.SGD``; without ``moves_on`` no member has momentum."""
    from bnexp.training.kernels import triton_updates as kernels

    given = theta_MP, velocity_MP, gradient_MP, theta_MP if decay_MP is None else decay_MP, lr_M1, momentum_M1
    how = {"DECAYS": decay_MP is not None, "NESTEROV": nesterov, "MOVES_ON": moves_on}
    kernels.sgd[_grid(theta_MP)](*given, theta_MP.shape[1], **how, **_BLOCK)


def adam(
    theta_MP: Tensor,
    mean_MP: Tensor,
    square_MP: Tensor,
    gradient_MP: Tensor,
    numbers_M6: Tensor,
    decay_MP: Tensor | None,
    *,
    decoupled: bool,
) -> None:
    """The rule of ``optim.Adam``.

    ``numbers_M6`` are the rate, both betas, epsilon, and what the averages are divided by.
    """
    from bnexp.training.kernels import triton_updates as kernels

    given = theta_MP, mean_MP, square_MP, gradient_MP, theta_MP if decay_MP is None else decay_MP, numbers_M6
    how = {"DECAYS": decay_MP is not None, "DECOUPLED": decoupled}
    kernels.adam[_grid(theta_MP)](*given, theta_MP.shape[1], **how, **_BLOCK)


def _grid(theta_MP: Tensor) -> tuple[int]:
    members, width = theta_MP.shape
    return (members * -(-width // _BLOCK["BLOCK"]),)
