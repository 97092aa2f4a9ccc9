"""A recorder for the CPU, in the place of CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bnexp.experiment.setup import Setup


class Again:
    """Records by keeping the work, which it does not do then."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            work()

        return replay


def evaluated_eagerly(setup: Setup) -> Callable[[], Mapping[str, Sequence[float]]]:
    """The evaluation of a training whose steps are recorded: a recorded one fills up batches, which moves last bits."""

    def evaluate() -> Mapping[str, Sequence[float]]:
        recorder, setup.population.recorder = setup.population.recorder, None
        try:
            return setup.evaluate()
        finally:
            setup.population.recorder = recorder

    return evaluate
