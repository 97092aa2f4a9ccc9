"""How many members of a stack a GPU has memory for, known from a dry run before they train."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from bnexp.config.schema import TrainConfig
from bnexp.experiment.check import make_batches
from bnexp.experiment.machine import pick_device
from bnexp.experiment.setup import Setup, build
from bnexp.record import Record
from bnexp.training.evaluation import evaluate
from bnexp.training.loop import Cadence, Progress, train

# Of the memory that is free; the rest is for fragments, and for what libraries take for themselves.
_SHARE = 0.9


def members_that_fit(configs: Sequence[TrainConfig], slots: int) -> int | None:
    """By the memory that is free on their GPU now, divided by the ``slots`` that share it; None if it cannot be told.

    Args:
        configs: of three members at least.
        slots: jobs that run on the GPU at once.
    """
    device = pick_device(configs[0].device)
    free, _ = torch.cuda.mem_get_info(device)
    try:
        with _quiet():
            two, three = (_peak(configs[:members], device) for members in (2, 3))
    except Exception:  # whatever it is, the runs themselves meet it too, and have their ways to say so
        return None
    finally:
        _forget()
    return fitting(two, three, _SHARE * free / slots)


def fitting(two: float, three: float, free: float) -> int:
    """By the bytes that two and three members take, as each further one takes as much as the third; at least one."""
    return max(1, 2 + int((free - two) // max(three - two, 1)))


def _peak(configs: Sequence[TrainConfig], device: torch.device) -> int:
    """The most bytes that training and evaluating a population takes from the GPU."""
    _forget()
    torch.cuda.reset_peak_memory_stats(device)
    dry_run(configs)
    return torch.cuda.max_memory_reserved(device)  # a graph's own memory, which nothing else can use, is part of it


def dry_run(configs: Sequence[TrainConfig]) -> None:
    """Train a stack some steps at a learning rate of 0, and evaluate one batch; nothing of it is kept or written."""
    setup = build(configs, stacked=True, resumed=[True] * len(configs))
    # One step more than the warm-up of a graph is recorded, and another replayed.
    for _ in records(setup, setup.config.batch_size, every=1, count=WARM_UP + 1):
        pass
    size = min(setup.eval_batch_size, len(setup.data.train))
    evaluate(setup.population, setup.data.train.mixed(size), size)


def _forget() -> None:
    """Give back what a population that is gone has left behind."""
    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def _quiet() -> Iterator[None]:
    """Have the log say nothing that the real run is going to say."""
    logger = logging.getLogger("bnexp")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


WARM_UP = 3


def records(setup: Setup, size: int, *, every: int, count: int) -> Iterator[Record]:
    """The ordinary loop at a batch size: ``count`` records, one every ``every`` steps, each waiting for the device.

    The learning rate is 0, which takes as long as any other: no size diverges, and all sizes share one model. The
    smaller last batch of an epoch is left out, and all members of a population get the same batches.

    Raises:
        ValueError: there are not so many images, or the norm cannot take such a batch.
    """
    device, steps = setup.population.theta_MP.device, every * count + 1
    members = len(setup.population)
    batches = make_batches([replace(setup.config, batch_size=size, drop_last=True)] * members, setup.data)
    training = replace(
        setup.training,
        factors=torch.zeros(steps, device=device),
        batches=batches.at,
        cadence=Cadence(steps, batches.per_epoch, log_every=every, eval_every=steps, checkpoint_every=steps),
        progress=Progress(members, device),
    )
    return train(training, dict, stop=lambda: False)
