"""A population measured under some statistics, as a run measures it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bnexp.config.metrics import statistics_of
from bnexp.data import Split
from bnexp.evaluations import Condition, Pixels, Wanted
from bnexp.evaluations.evaluator import Evaluator, Images
from bnexp.training.population import Population

QUANTITIES = ("loss", "accuracy")


def measured(
    population: Population,
    splits: Mapping[str, Split],
    train: Split,
    *words: str,
    batch_size: int,
    train_batch_size: int,
    decays: Sequence[float] = (),
    conditions: Sequence[Condition] = (Condition(),),
    quantities: Sequence[str] = QUANTITIES,
    pixels: Pixels | None = None,
) -> dict[str, list[float]]:
    """Tag -> [M]."""
    statistics = [statistics_of(word) for word in words]
    assert None not in statistics
    wanted = Wanted("", list(splits), statistics, quantities, lambda _: conditions)
    images = Images(splits, train, batch_size, train_batch_size)
    return Evaluator(population, [wanted], images, pixels, decays=decays)()


def kinds(population: Population, split: Split, train: Split, **sizes: int) -> dict[str, dict[str, list[float]]]:
    """Kind of statistics -> quantity -> [M]."""
    words = {"running": "", "precise": "_precise", "batch": "_batch"}
    found = measured(population, {"test": split}, train, *words, **sizes)
    return {word: {name: found[f"test/{name}{end}"] for name in QUANTITIES} for word, end in words.items()}
