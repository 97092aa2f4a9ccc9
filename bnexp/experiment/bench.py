"""Finds the batch size that is large enough: times the ordinary training loop at many batch sizes."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from bnexp import memory
from bnexp.config.schema import TrainConfig, to_dict
from bnexp.experiment.dry_run import records
from bnexp.experiment.machine import is_out_of_memory
from bnexp.experiment.setup import Setup, build
from bnexp.runs.provenance import provenance
from bnexp.training.step import WARM_UP

log = logging.getLogger(__name__)

Way = TypeVar("Way")
# A size is good at this share of the best rate; no knee is named above this noise (IQR over median); confidence level.
_GOOD, _NOISE, _CONFIDENCE = 0.95, 0.2, 0.9
# The smallest and largest default size, and the seconds of a round: hundreds of small steps, or one large step.
_SMALLEST, _LARGEST, _ROUND = 8, 4096, 0.3


@dataclass(frozen=True)
class Speed:
    """The measurements at one batch size.

    Attributes:
        size: images per step.
        rates: training images per second, one value per round.
        memory: peak memory in bytes, of the GPU or of the whole process (outside Linux: the peak of all sizes so far).
    """

    size: int
    rates: tuple[float, ...]
    memory: int

    @property
    def median(self) -> float:
        """The median rate, in images per second."""
        return statistics.median(self.rates)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile of the rate, in images per second."""
        return quartiles(self.rates)

    @property
    def noise(self) -> float:
        """The interquartile range over the median."""
        low, high = self.quartiles
        return (high - low) / self.median


@dataclass(frozen=True)
class Knee:
    """The smallest batch size with 95 % of the best rate, or None; ``reason`` tells the user why."""

    size: int | None
    reason: str


@dataclass(frozen=True)
class Bench:
    """All measurements of one config.

    Attributes:
        setup: the population and data that were trained.
        speeds: sorted by rising size.
        failures: size -> why the model cannot train at that size.
        knee: the smallest batch size that is large enough.
    """

    setup: Setup
    speeds: tuple[Speed, ...]
    failures: Mapping[int, str]
    knee: Knee


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile, interpolated between neighbouring values."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """A 90 % interval for the median of any distribution: the k-th smallest and the k-th largest value.

    It holds the median unless fewer than k of n values fall on one side: with probability
    1 - 2 P(Binomial(n, 1/2) < k) (Conover 1999, section 3.2). With at most four values it is their range, and its
    confidence is below 90 %.
    """
    ordered, n = sorted(values), len(values)
    missed = itertools.accumulate(2 * math.comb(n, below) / 2**n for below in range(n))
    k = max(1, sum(chance <= 1 - _CONFIDENCE for chance in missed))
    return ordered[k - 1], ordered[n - k]


def bench(config: TrainConfig, *, sizes: Sequence[int] | None, repeats: int) -> Bench:
    """Train at each batch size: ``repeats`` rounds of some steps, in which the sizes take turns.

    Args:
        config: the model is checked with this config's batch size.
        sizes: batch sizes; None for the powers of two from 8 to 4096, up to the size of the training set.
        repeats: number of rounds.

    Raises:
        ValueError: the config cannot be trained, or the model cannot train at any size.
    """
    if config.compile:
        raise ValueError("compile=true: torch.compile stops recompiling after a few batch sizes; use compile=false")
    setup = build([config], stacked=False, resumed=[True])
    wanted = sorted(set(sizes or default_sizes(len(setup.data.train))))
    with _memory_is_limited(setup.population.theta_MP.device):
        tried = {size: _tried(setup, size) for size in wanted}
        possible = {size: trial for size, trial in tried.items() if not isinstance(trial, str)}
        failures = {size: trial for size, trial in tried.items() if isinstance(trial, str)}
        if not possible:
            raise ValueError(f"--sizes: none is possible; batch_size={wanted[-1]}: {failures[wanted[-1]]}")
        speeds = _measured(setup, possible, repeats)
    return Bench(setup, speeds, failures, knee(speeds))


def default_sizes(images: int) -> list[int]:
    """The powers of two from 8 to 4096 that are at most ``images``; if there are none, ``images`` itself."""
    powers = [2**power for power in range(_SMALLEST.bit_length() - 1, _LARGEST.bit_length())]
    return [size for size in powers if size <= images] or [images]


@dataclass(frozen=True)
class _Trial:
    """The warm-up at one size: seconds of its last step, and peak memory in bytes."""

    seconds: float
    memory: int


def _tried(setup: Setup, size: int) -> _Trial | str:
    """Warm up at a batch size; return why the model cannot train at that size, if it cannot."""
    log.info("batch size %d", size)
    try:
        return _warmed_up(setup, size)
    except ValueError as error:
        return str(error)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return "out of memory"


def _warmed_up(setup: Setup, size: int) -> _Trial:
    device = setup.population.theta_MP.device
    _reset_peak_memory(device)
    loop, seconds = records(setup, size, every=1, count=WARM_UP), math.inf
    for _ in range(WARM_UP):
        start = time.perf_counter()
        record = next(loop)
        seconds = time.perf_counter() - start
        if not math.isfinite(record.values["train/loss"][0]):
            raise ValueError("the loss is not finite")
    return _Trial(seconds, peak_memory(device))


def _measured(setup: Setup, trials: Mapping[int, _Trial], repeats: int) -> tuple[Speed, ...]:
    steps = {size: max(1, round(_ROUND / trial.seconds)) for size, trial in trials.items()}
    loops = {size: records(setup, size, every=steps[size], count=repeats) for size in trials}
    ways: dict[int, Callable[[], object]] = {size: loop.__next__ for size, loop in loops.items()}
    seconds = interleaved(ways, rounds=repeats)
    return tuple(
        Speed(size, tuple(size * steps[size] / each for each in seconds[size]), trial.memory)
        for size, trial in trials.items()
    )


def interleaved(
    ways: Mapping[Way, Callable[[], object]], *, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[Way, list[float]]:
    """Seconds of each way in each round. The ways take turns, so that a slow phase of the machine affects them all."""
    seconds: dict[Way, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = clock()
            way()
            seconds[name].append(clock() - start)
    return seconds


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # only Linux can reset the peak; elsewhere it is the peak of all sizes so far
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes since the last reset: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextlib.contextmanager
def _memory_is_limited(device: torch.device) -> Iterator[None]:
    """On a CPU, make allocations beyond this machine's memory raise an error; the process would be killed otherwise."""
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    there = memory.there()
    if device.type != "cpu" or any(0 <= limit < there for limit in (before, most)):  # -1 means no limit
        yield
        return
    resource.setrlimit(resource.RLIMIT_DATA, (there, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def knee(speeds: Sequence[Speed]) -> Knee:
    """The smallest batch size with 95 % of the best median rate, if the measurements determine it.

    The ratios of a size's rates to the best size's rates in the same rounds are compared. A size is good when the
    interval for the median ratio lies above 0.95, and not good when it lies below.

    Args:
        speeds: sorted by rising size.
    """
    best = max(speeds, key=lambda speed: speed.median)
    pairs = [zip(each.rates, best.rates, strict=True) for each in speeds]
    ratios = [median_interval([own / top for own, top in rounds]) for rounds in pairs]
    first = next(index for index, (_, high) in enumerate(ratios) if high >= _GOOD)
    last = next(index for index, (low, _) in enumerate(ratios) if low >= _GOOD)
    below = speeds[max(first - 1, 0)]
    noisy = max((below, *speeds[first : last + 1], best), key=lambda speed: speed.noise)
    if noisy.noise > _NOISE:
        return Knee(None, f"too noisy (IQR / median is {noisy.noise:.2f} at {noisy.size}, above {_NOISE})")
    if first < last:
        between = f"anything from {speeds[first].size} to {speeds[last].size}"
        return Knee(None, f"the differences are smaller than the noise: the knee may be {between}")
    return Knee(
        speeds[first].size, f"the smallest with 95 % of the best rate ({best.median:,.0f} images/s at {best.size})"
    )


def facts(result: Bench) -> dict[str, Any]:
    """The measurements, ready for JSON."""
    config, device = result.setup.config, result.setup.population.theta_MP.device
    return {
        "config": to_dict(config),
        "provenance": provenance(device, config.threads),
        "sizes": [{**asdict(speed), "median": speed.median, "quartiles": speed.quartiles} for speed in result.speeds],
        "not_possible": dict(result.failures),
        "knee": asdict(result.knee),
    }
