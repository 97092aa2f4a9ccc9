"""What training says while it runs: one record a step that is worth a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Record:
    """Measured values of all M members after a step.

    Attributes:
        step: optimizer steps done.
        epoch: the same in passes over the training set.
        values: metric tag (``split/quantity``) -> one float a member.
        distributions: metric tag -> the numbers of one histogram a member.
    """

    step: int
    epoch: float
    values: Mapping[str, Sequence[float]]
    distributions: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
