"""What claims cost: their runs, counted before anything starts, and the operations of their training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bnexp.claims.design import Design
from bnexp.claims.sweeps import Means
from bnexp.claims.tuning import MOST_EXTENSIONS, is_rate
from bnexp.stopping import Stop
from bnexp.sweep.plan import Entry
from bnexp.sweep.preflight import operations

# Operations a second of one H100 with stacks in tf32: measured were 4e12 (LeNet), 8e12 (MLP) and 18e12 (ResNet-20),
# see docs/performance.md.
GPU_RATE = 1e13
# Settings of runs that start from another one. Counted is the same run without them, as there is no such folder yet.
_OF_A_START = ("norm_state", "pixel_scale")


@dataclass(frozen=True)
class Cost:
    """What a claim costs under a profile.

    Attributes:
        claim: its id.
        runs: that it makes; ``most`` if every grid of learning rates grows as far as it may.
        minutes: as declared; None for a claim of exact checks alone.
        operations: of the linear maps and convolutions in the training of ``runs``; None where they are not counted.
    """

    claim: str
    runs: int
    most: int
    minutes: float | None
    operations: float | None = None


def cost(design: Design, counted: float | None = None) -> Cost:
    """The cost of a claim, with its operations if they were counted."""
    runs = planned(design).total() if design.tests else 0
    rates = [regime for regime in design.regimes.values() if regime.tuned and is_rate(regime.key or "")]
    extensions = 0 if design.profile == "smoke" or not design.tests else MOST_EXTENSIONS
    more = extensions * len(rates) * len(design.points) * len(design.tuning_seeds)
    profile = design.claim.profiles.get(design.profile)
    return Cost(design.claim.id, runs, runs + more, profile.minutes if profile else None, counted)


def planned(design: Design) -> Counter[tuple[str, ...]]:
    """The words of the runs, but for their seed and ``init_from``, and how many runs have them."""
    asked = {(tuple(words), purpose, seed) for words, purpose, seeds in _asked(design) for seed in seeds}
    return Counter(words for words, _, _ in asked)


def _asked(design: Design) -> Iterator[tuple[list[str], str, Sequence[int]]]:
    """Words, what they are for (what it chooses is not known yet) and seeds of runs."""
    for name in design.claim.before:
        yield design.words_before(name, 0), "before", design.seeds_before
    for name, regime in design.regimes.items():
        for point in design.points:
            grid = list(design.grid(regime, point.arm)) if regime.tuned else [None]
            for value in grid if regime.tuned else ():
                yield design.words(point, regime, value, 0), "tune", design.tuning_seeds
            purpose = f"chosen in {name}" if regime.tuned else "runs"
            yield design.words(point, regime, grid[len(grid) // 2], 0), purpose, design.seeds


def counted(designs: Sequence[Design], means: Means, stop: Stop) -> list[float | str]:
    """The operations of each claim's training, counted on blank models of all its runs.

    In their place stands why a run of the claim cannot be tried, such as data that are not here.

    Raises:
        ValueError: a word is wrong.
    """
    plans = [planned(design) if design.tests else Counter() for design in designs]
    asked = list(dict.fromkeys(_alone(words) for plan in plans for words in plan))
    configs = means.composer(asked)
    entries = [Entry(" ".join(words), list(words), config, "") for words, config in zip(asked, configs, strict=True)]
    each = dict(zip(asked, operations(means.server, entries, stop), strict=True)) if entries else {}
    return [_total({words: each[_alone(words)] for words in plan}, plan) for plan in plans]


def _alone(words: Sequence[str]) -> tuple[str, ...]:
    """The words of a run that starts anew."""
    return tuple(word for word in words if word.partition("=")[0] not in _OF_A_START)


def _total(each: Mapping[tuple[str, ...], int | str], runs: Mapping[tuple[str, ...], int]) -> float | str:
    total = 0.0
    for words, found in each.items():
        if isinstance(found, str):
            return found
        total += runs[words] * found
    return total
