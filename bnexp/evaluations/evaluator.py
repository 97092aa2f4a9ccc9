"""Measures a population under all the evaluations of its run, at one moment of the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from bnexp.config.metrics import RUNNING, Evaluated, Statistics
from bnexp.data import Split
from bnexp.evaluations.base import Condition, Pixels, Wanted
from bnexp.models.layers import moving_norms
from bnexp.randomness import torch_seeded
from bnexp.training.ema import average_as_running
from bnexp.training.ema_weights import averaged
from bnexp.training.entropy import adapting
from bnexp.training.evaluation import Measures, evaluate
from bnexp.training.population import Population
from bnexp.training.statistics import batch_statistics, own_moments, precise_statistics

# Split, condition and quantity of a measurement.
Names = tuple[str, str, str]
Row = tuple[Wanted, Names, list[float]]
# The weights of an image's own moments among which ``own`` chooses: 0 and powers of 2. In training an image weighs
# 1 / (batch size) in the statistics that it is normalized by.
OWN_WEIGHTS = (RUNNING, *(Statistics("own", weight=2.0**power) for power in range(-7, 0)))


@dataclass(frozen=True)
class Images:
    """What evaluations read.

    Attributes:
        splits: name -> images.
        train: training images for the precise statistics.
        batch_size: images per forward pass, where the statistics are not those of a batch.
        train_batch_size: images of a training batch.
    """

    splits: Mapping[str, Split]
    train: Split
    batch_size: int
    train_batch_size: int


class Evaluator:
    """Measures a population under several evaluations. They leave the population unchanged.

    Norms without batch statistics get the same numbers under the names of all statistics, so that all runs have the
    same curves. Only ``tent`` changes them.

    Args:
        population: the members.
        wanted: the evaluations.
        images: what they read.
        pixels: the inputs as pixels.
        average_MP: the averaged weights; None where the run has none.
        decays: of the further running averages, in their order.
    """

    def __init__(
        self,
        population: Population,
        wanted: Sequence[Wanted],
        images: Images,
        pixels: Pixels,
        *,
        average_MP: Tensor | None = None,
        decays: Sequence[float] = (),
    ) -> None:
        self._population, self._images, self._pixels = population, images, pixels
        self._average_MP, self._decays = average_MP, list(decays)
        self._wanted = [(each, each.conditions(pixels)) for each in wanted]
        self._views: dict[tuple[str, tuple[int, ...] | None], _Views] = {}

    def __call__(self) -> Measures:
        """Every measurement, by its tag: [M]."""
        with self._population.evaluating():
            return {part.tag: values for part, values in self.parts()}

    def parts(self) -> Iterator[tuple[Evaluated, list[float]]]:
        """Every measurement with the parts of its tag; the statistics one after another."""
        for source, same in self._by_source().items():
            by_validation = source.kind == "own" and not source.weight
            found = self._by_best_weights(same) if by_validation else self._rows(source, same)
            for statistics in same:
                for wanted, (split, condition, quantity), values in found:
                    if statistics in wanted.statistics:
                        yield Evaluated(split, quantity, condition, statistics), values

    def _by_source(self) -> dict[Statistics, list[Statistics]]:
        """Statistics that are measured -> all wanted ones whose numbers are the same."""
        moves = bool(moving_norms(self._population.members[0]))
        found: dict[Statistics, list[Statistics]] = {}
        for statistics in dict.fromkeys(each for wanted, _ in self._wanted for each in wanted.statistics):
            own = moves or statistics.kind in ("tent", "ema_weights")
            found.setdefault(statistics if own else RUNNING, []).append(statistics)
        return found

    def _by_best_weights(self, same: Sequence[Statistics]) -> list[Row]:
        """What is measured if each member weighs an image's own moments as its loss on validation images is least."""
        images, losses = self._images, []
        for source in OWN_WEIGHTS:
            with self._under(source):
                losses.append(evaluate(self._population, images.splits["validation"], images.batch_size)["loss"])
        best_M = [OWN_WEIGHTS[column.index(min(column))] for column in zip(*losses, strict=True)]
        found = {source: self._rows(source, same) for source in dict.fromkeys(best_M)}
        by_member = zip(*(found[source] for source in best_M), strict=True)
        return [(*rows[0][:2], [values[m] for m, (_, _, values) in enumerate(rows)]) for rows in by_member]

    def _rows(self, source: Statistics, same: Sequence[Statistics]) -> list[Row]:
        """What is measured under some statistics, of the evaluations that want one of the statistics ``same``."""
        with self._under(source):
            return [
                (wanted, names, values)
                for wanted, conditions in self._wanted
                if set(same) & set(wanted.statistics)
                for names, values in self._values(wanted, conditions, source)
            ]

    def _values(
        self, wanted: Wanted, conditions: Sequence[Condition], source: Statistics
    ) -> Iterator[tuple[Names, list[float]]]:
        for name in wanted.splits:
            for condition in conditions:
                measured = self._measure(self._view(name, condition, source), condition, wanted, source)
                for quantity, values in measured.items():
                    if quantity in wanted.quantities:
                        yield (name, condition.name, quantity), values

    def _measure(self, split: Split, condition: Condition, wanted: Wanted, source: Statistics) -> Measures:
        images = self._images
        size = (source.images or images.train_batch_size) if source.by_batch else images.batch_size
        with ExitStack() as stack:
            return evaluate(
                self._population,
                split,
                size,
                attack=condition.attack,
                calibrated="ece" in wanted.quantities,
                classes=condition.classes,
                forward=stack.enter_context(adapting(self._population)) if source.kind == "tent" else None,
            )

    def _view(self, name: str, condition: Condition, statistics: Statistics) -> Split:
        """The images of a split as a condition changes them, in the order that statistics of batches ask for."""
        if (name, condition.classes) not in self._views:
            split = self._images.splits[name]
            some = split if condition.classes is None else split.of_classes(condition.classes)
            self._views[name, condition.classes] = _Views(some, len(self._population))
        views, change, pixels = self._views[name, condition.classes], condition.change, self._pixels
        if change is not None:
            with torch_seeded(0, "evaluation"):  # a change of the user's may draw: always the same
                views.change(lambda x: pixels.scaled(change(pixels.shown(x))))
        order: Order = ("sorted" if statistics.by_class else "mixed") if statistics.by_batch else "own"
        return views.view(change is not None, order)

    @contextmanager
    def _under(self, statistics: Statistics) -> Iterator[None]:
        """Let norms evaluate with these statistics inside the with block."""
        population, images = self._population, self._images
        with ExitStack() as stack:
            if statistics.kind == "precise":
                stack.enter_context(precise_statistics(population, images.train, images.train_batch_size))
            elif statistics.by_batch:
                stack.enter_context(batch_statistics(*population.networks(), prior=statistics.prior))
            elif statistics.kind == "own":
                stack.enter_context(own_moments(*population.networks(), weight=statistics.weight))
            elif statistics.kind == "ema":
                index = self._decays.index(statistics.decay)
                stack.enter_context(average_as_running(population, index, corrected=statistics.corrected))
            elif statistics.kind == "ema_weights":
                assert self._average_MP is not None  # checked beforehand
                stack.enter_context(averaged(population, self._average_MP, images.train, images.train_batch_size))
            yield


# The split's own order; a random one that is always the same; class after class.
Order = Literal["own", "mixed", "sorted"]


@dataclass
class _Views:
    """A split in the forms that evaluations read: as it is or changed, in each order.

    All changes share one copy of the images, and orders are rows of these images: recorded passes keep reading the same
    memory, and nothing is copied for an order.
    """

    split: Split
    members: int
    kept: dict[tuple[bool, Order], Split] = field(default_factory=dict)

    def change(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change the copy of the images."""
        self.view(True, "own").x.copy_(change(self.split.x))

    def view(self, changed: bool, order: Order) -> Split:
        """One of the forms."""
        if (changed, order) not in self.kept:
            self.kept[changed, order] = self._made(changed, order)
        return self.kept[changed, order]

    def _made(self, changed: bool, order: Order) -> Split:
        if order == "mixed":
            return self.view(changed, "own").mixed_rows(self.members)
        if order == "sorted":
            return self.view(changed, "own").sorted_rows(self.members)
        split = self.split
        return Split(split.x.clone(), split.y, split.rows) if changed else split
