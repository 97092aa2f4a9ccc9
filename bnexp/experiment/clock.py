"""Measures how long a run has trained, and how fast."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds of a run over all its sessions, and the training rate without the time of evaluations and probes.

    Args:
        batch_size: training images per step and member.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._paused = 0.0
        self.start(0, before=0.0)

    def start(self, step: int, *, before: float) -> None:
        """Start counting at a step; ``before`` are the seconds of earlier sessions."""
        self._start = self._last = time.perf_counter()
        self._step, self._before = step, before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of the with block from the rate."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - start

    def look(self, step: int) -> tuple[float, float]:
        """Seconds so far, and training images per second and member since the last call."""
        now = time.perf_counter()
        rate = (step - self._step) * self._batch_size / max(now - self._last - self._paused, 1e-9)
        self._step, self._last, self._paused = step, now, 0.0
        return self._before + now - self._start, rate
