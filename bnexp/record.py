"""The records that training yields: the measurements at one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Record:
    """Measured values of all M members after a step.

    Attributes:
        step: optimizer steps done.
        epoch: passes over the training set done.
        values: metric tag (``split/quantity``) -> one float per member.
        distributions: metric tag -> the numbers of one histogram per member.
    """

    step: int
    epoch: float
    values: Mapping[str, Sequence[float]]
    distributions: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
