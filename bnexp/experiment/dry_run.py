"""Finds how many members of a stack fit into a GPU's memory, by a dry run before they train."""

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
from bnexp.memory import SHARE
from bnexp.record import Record
from bnexp.training.evaluation import evaluate
from bnexp.training.loop import Cadence, Progress, train
from bnexp.training.step import MOST_TOGETHER, WARM_UP, untried_kernels

log = logging.getLogger(__name__)


def members_that_fit(configs: Sequence[TrainConfig], slots: int) -> int | None:
    """Members that fit into the memory now free on their GPU, divided by the ``slots`` that share it; None if unknown.

    Args:
        configs: at least three, one per member.
        slots: jobs that run on the GPU at the same time.
    """
    device = pick_device(configs[0].device)
    forget()
    free, _ = torch.cuda.mem_get_info(device)
    try:
        with _quiet():
            two = _peak(configs[:2], device)
            if len(configs) * two / 2 <= SHARE * free / slots:  # as if nothing were shared
                return len(configs)
            three = _peak(configs[:3], device)
    except Exception as error:  # the runs will hit the same error, and report it
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        log.warning("how many members fit into the memory cannot be measured (%s); all are tried at once", reason)
        return None
    finally:
        forget()
    return members_fitting(two, three, SHARE * free / slots)


def members_fitting(two: float, three: float, free: float) -> int:
    """Members that fit into ``free`` bytes, at least 1; each member after the second adds as much as the third did."""
    return max(1, 2 + int((free - two) // max(three - two, 1)))


def _peak(configs: Sequence[TrainConfig], device: torch.device) -> int:
    """The most bytes of GPU memory that training and evaluating a population reserves."""
    forget()
    torch.cuda.reset_peak_memory_stats(device)
    dry_run(configs)
    return torch.cuda.max_memory_reserved(device)  # includes the private memory pool of a CUDA graph


def dry_run(configs: Sequence[TrainConfig]) -> None:
    """Train a stack for some steps at learning rate 0, and evaluate one batch; nothing is kept or written."""
    setup = build(configs, stacked=True, resumed=[True] * len(configs))
    if setup.population.own_kernels is not None:  # two members and three have to be alike
        setup.population.own_kernels.timed = False
    size = min(setup.eval_batch_size, len(setup.data.train))
    with untried_kernels():
        # After the warm-up, CUDA graphs capture and replay several steps, and one; in a short epoch, one alone.
        list(records(setup, setup.config.batch_size, every=WARM_UP + MOST_TOGETHER + 1, count=1))
        with setup.measuring():
            evaluate(setup.population, setup.data.train.mixed(size), size)


def forget() -> None:
    """Free the memory of populations that are no longer used, of which a GPU's allocator does not know by itself.

    A population and its passes over images refer to each other, so that only Python's garbage collector finds them.
    """
    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log inside the with block; the real run will log the same messages."""
    logger = logging.getLogger("bnexp")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def records(setup: Setup, size: int, *, every: int, count: int) -> Iterator[Record]:
    """The ordinary training loop at a batch size: yields ``count`` records, one every ``every`` steps.

    The loop waits for the device before each record. The learning rate is 0, which takes as long as any other: no size
    diverges, and all sizes share one model. The smaller last batch of an epoch is left out, and all members of a
    population get the same batches.

    Raises:
        ValueError: the training set has fewer images, or the norm cannot take this batch size.
    """
    device, steps = setup.population.theta_MP.device, every * count + 1
    members = len(setup.population)
    batches = make_batches([replace(setup.config, batch_size=size, drop_last=True)] * members, setup.data)
    training = replace(
        setup.training,
        factors=torch.zeros(steps, device=device),
        batches=batches,
        cadence=Cadence(steps, batches.per_epoch, log_every=every, eval_every=steps, checkpoint_every=steps),
        progress=Progress(members, device),
    )
    return train(training, dict, stop=lambda: False)
