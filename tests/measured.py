"""What tests measure: a population under some statistics, as a run measures it; any model by its probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bnexp.config.metrics import statistics_of
from bnexp.data import Split
from bnexp.evaluations import Condition, Pixels, Wanted
from bnexp.evaluations.evaluator import Evaluator, Images
from bnexp.probes import PROBES
from bnexp.training.population import Population

QUANTITIES = ("loss", "accuracy")
# Only transformers have attention.
PROBES_OF_ANY_MODEL = tuple(word for word in PROBES if word != "attention")


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
