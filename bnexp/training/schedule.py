"""Learning-rate schedules: a factor of the base learning rate for every step, a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

from bnexp.config.checks import Fraction, PositiveFloat, Range
from bnexp.config.registry import Registry

SCHEDULES = Registry("schedule")
Schedule = Callable[[int], float]
WarmUp = Annotated[int, Range(least=0)]


def _with_warm_up(schedule: Schedule, warmup: int) -> Schedule:
    """Multiply by a linear ramp: (step + 1) / warmup in the first ``warmup`` steps (Goyal et al. 2017, sec. 2.2).

    The schedule runs from step 0 on, so that a cosine has already fallen a little where the ramp ends.
    """
    return lambda step: schedule(step) * min(1.0, (step + 1) / warmup if warmup else 1.0)


@SCHEDULES.register("constant")
def constant(total: int, *, warmup: WarmUp) -> Schedule:
    """The base learning rate throughout, after a linear warm-up of ``warmup`` steps."""
    return _with_warm_up(lambda step: 1.0, warmup)


@SCHEDULES.register("step")
def step(
    total: int, *, milestones: list[Annotated[float, Range(above=0, below=1)]], factor: PositiveFloat, warmup: WarmUp
) -> Schedule:
    """Multiply by ``factor`` at each milestone, a fraction of the run (He et al. 2016: a tenth at 1/2 and 3/4)."""
    return _with_warm_up(lambda step: factor ** sum(step / total >= milestone for milestone in milestones), warmup)


@SCHEDULES.register("cosine")
def cosine(total: int, *, final: Fraction, warmup: WarmUp) -> Schedule:
    """Half a cosine, from 1 at the first step to ``final`` after the last step (Loshchilov & Hutter 2017, eq. 5)."""
    return _with_warm_up(lambda step: final + (1 - final) * (1 + math.cos(math.pi * step / total)) / 2, warmup)


@SCHEDULES.register("triangle")
def triangle(total: int, *, peak: Annotated[float, Range(above=0, below=1)]) -> Schedule:
    """A straight line from 0 up to 1 at ``peak``, a fraction of the run, and another down to 0 (Smith & Topin 2018).

    A step's factor is the value at its middle, so that neither the first nor the last step has factor 0.
    """

    def factor(step: int) -> float:
        done = (step + 0.5) / total
        return min(done / peak, (1 - done) / (1 - peak))

    return factor
