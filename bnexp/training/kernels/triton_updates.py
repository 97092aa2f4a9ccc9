"""The update rules of ``bnexp.training.optim`` in Triton: a program updates a block of one member's parameters.

Imported only where they run; ``bnexp.training.kernels.own_updates`` calls them.
"""

from __future__ import annotations

import triton
import triton.language as tl

# mypy knows nothing of Triton's language, nor do annotations: it reads them itself.
# mypy: ignore-errors


@triton.jit
def own_block(P, BLOCK: tl.constexpr):
    """The member of a program; where its block lies in the matrix [M, P]; and which of its numbers there are."""
    blocks = tl.cdiv(P, BLOCK)
    m, i = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    return m, m.to(tl.int64) * P + i, i < P


@triton.jit
def quotient(a, b):
    """The quotient, rounded to the nearest; a division of float32 by ``/`` may be off by two last digits."""
    return tl.div_rn(a, b) if b.dtype == tl.float32 else a / b


@triton.jit
def root(x):
    """The square root, rounded in the same way."""
    return tl.sqrt_rn(x) if x.dtype == tl.float32 else tl.sqrt(x)


@triton.jit
def sgd(
    theta, velocity, gradient, decay, lr, momentum, P,
    DECAYS: tl.constexpr, NESTEROV: tl.constexpr, MOVES_ON: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient descent with momentum, where the slot ``velocity`` is already multiplied by it, or without."""
    m, at, there = own_block(P, BLOCK)
    share, weight, g = tl.load(momentum + m), tl.load(theta + at, there), tl.load(gradient + at, there)
    if DECAYS:
        g += tl.load(decay + at, there) * weight
    b = g
    if MOVES_ON:
        b += tl.load(velocity + at, there)
        tl.store(velocity + at, share * b, there)
    if NESTEROV:
        b = g + share * b
    tl.store(theta + at, weight - tl.load(lr + m) * b, there)


@triton.jit
def adam(
    theta, mean, square, gradient, decay, numbers, P,
    DECAYS: tl.constexpr, DECOUPLED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adam, with a decay that is part of the gradient, or decoupled from it."""
    m, at, there = own_block(P, BLOCK)
    lr, beta1, beta2 = tl.load(numbers + 6 * m), tl.load(numbers + 6 * m + 1), tl.load(numbers + 6 * m + 2)
    eps, share1, share2 = tl.load(numbers + 6 * m + 3), tl.load(numbers + 6 * m + 4), tl.load(numbers + 6 * m + 5)
    weight, g = tl.load(theta + at, there), tl.load(gradient + at, there)
    if DECAYS:
        shrinks = tl.load(decay + at, there)
        if DECOUPLED:
            weight *= 1 - lr * shrinks
        else:
            g += shrinks * weight
    mean_now, square_now = tl.load(mean + at, there), tl.load(square + at, there)
    mean_now += (1 - beta1) * (g - mean_now)
    square_now = beta2 * square_now + (1 - beta2) * (g * g)
    tl.store(mean + at, mean_now, there)
    tl.store(square + at, square_now, there)
    below = root(quotient(square_now, share2)) + eps
    tl.store(theta + at, weight - quotient(mean_now * quotient(lr, share1), below), there)
