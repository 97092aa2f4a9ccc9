"""How many members of a population a GPU has memory for, known from a dry run before they train."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence

import torch

from bnexp.bench import WARM_UP, peak_memory, records, reset_peak_memory
from bnexp.building import build
from bnexp.config import TrainConfig
from bnexp.evaluation import evaluate

log = logging.getLogger(__name__)

# Of the memory that is free; the rest is for fragments, and for what libraries take for themselves.
_SHARE = 0.9


def members_that_fit(configs: Sequence[TrainConfig]) -> int:
    """Of so many members of a stack on a GPU, how many it has memory for at once; at least one."""
    free, _ = torch.cuda.mem_get_info()
    return _fitting(lambda members: _peak(configs[:members]), _SHARE * free, len(configs))


def _fitting(peak: Callable[[int], int], free: float, wanted: int) -> int:
    """By the peaks (bytes) of one and of two members, as each further one takes as much as the second."""
    try:
        one, two = peak(1), peak(2)
    except torch.OutOfMemoryError:
        return 1
    each = max(two - one, 1)
    log.debug("a population takes %d bytes and %d a member", one - each, each)
    return max(1, min(wanted, 1 + int((free - one) // each)))


def _peak(configs: Sequence[TrainConfig]) -> int:
    """Bytes that training and evaluating a population takes, all that stays on the GPU included; nothing is kept."""
    gc.collect()  # the population of the dry run before
    setup = build(configs, stacked=True, resumed=[True] * len(configs))
    device = setup.factors.device
    reset_peak_memory(device)
    steps = WARM_UP + 2  # one more is recorded as a graph and replayed, if that is asked for
    loop = records(setup, setup.config.batch_size, every=1, count=steps)
    for _ in range(steps):
        next(loop)
    size = min(setup.eval_batch_size, len(setup.data.train))
    evaluate(setup.population, setup.data.train.mixed(size), size)
    return peak_memory(device)
