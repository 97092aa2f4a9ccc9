"""Where the seconds of a program go: what its main thread is doing is looked at again and again, from another thread.

A profiler that follows every call slows Python down, and mixes up the threads of autograd with those of the program.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from types import FrameType


class Sampler:
    """Looks at the calling thread inside the with block.

    Args:
        every: seconds between two looks.

    Attributes:
        seconds: of the with block.
        within: (file, line, function) -> seconds in the function and in what it calls.
        alone: (file, line, function) -> seconds in the function itself, and in what it calls that is not Python.
    """

    def __init__(self, every: float = 0.005) -> None:
        self._every, self._ended = every, threading.Event()
        self._thread = threading.Thread(target=self._look, args=(threading.get_ident(),), daemon=True)
        self._within: Counter[tuple[str, int, str]] = Counter()
        self._alone: Counter[tuple[str, int, str]] = Counter()
        self._looks = 0
        self.seconds = 0.0

    def __enter__(self) -> Sampler:
        self._start = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self._ended.set()
        self._thread.join()
        scale = self.seconds / max(self._looks, 1)
        self.within = {place: count * scale for place, count in self._within.items()}
        self.alone = {place: count * scale for place, count in self._alone.items()}

    def _look(self, thread: int) -> None:
        while not self._ended.wait(self._every):
            frame: FrameType | None = sys._current_frames().get(thread)
            places = []
            while frame is not None:
                places.append((frame.f_code.co_filename, frame.f_code.co_firstlineno, frame.f_code.co_qualname))
                frame = frame.f_back
            self._looks += 1
            self._alone[places[0]] += 1
            self._within.update(set(places))
