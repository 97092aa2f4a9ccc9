"""bnexp from Python: train in a child process, find runs and read their results.

``bnexp.train``, ``bnexp.train_all``, ``bnexp.load`` and ``bnexp.find`` come from here. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from bnexp.compare.lookup import agrees, assignments
from bnexp.config.checks import RunFailedError
from bnexp.config.names import quoted, run_name
from bnexp.runs.collect import Run, Skip, collect, read, show
from bnexp.runs.storage import make_free

# Exit code of a command with wrong input.
_WRONG_INPUT = 2


def load(folder: str | Path) -> Run:
    """Read the run in a folder.

    Raises:
        ValueError: the folder has no usable run.
    """
    run = read(Path(folder))
    if isinstance(run, Skip):
        raise ValueError(f"{folder}: {run.reason}")
    return run


def find(folder: str | Path = "outputs", **settings: object) -> Iterator[Run]:
    """Find the runs in and below a folder that have these settings, such as ``norm="bn"``; ``__`` stands for a dot.

    Raises:
        ValueError: the folder does not exist, or no run has such a setting.
    """
    runs, _ = collect([Path(folder)])
    words = [f"{key.replace('__', '.')}={show(value)}" for key, value in settings.items()]
    wanted = assignments("find", words, runs) if runs else {}
    return (run for run in runs if agrees(run, wanted))


def train(*words: str) -> Run:
    """Run ``bnexp train`` with these arguments, and return the run.

    The training has its own process, so this process keeps its threads, number formats and signal handlers.

    Raises:
        ValueError: an argument is wrong.
        RunFailedError: the run failed.
    """
    return load(_trained(words, "hydra.run.dir", f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S}-{run_name(words)}"))


def train_all(*words: str) -> list[Run]:
    """Run ``bnexp train -m`` with these arguments, and return the sweep's runs.

    Raises:
        ValueError: an argument is wrong.
        RunFailedError: a job failed.
    """
    folder = _trained(["-m", *words], "hydra.sweep.dir", f"outputs/sweeps/{datetime.now():%Y-%m-%d_%H-%M-%S}")
    return list(find(folder))


def _trained(words: Sequence[str], setting: str, folder: str) -> Path:
    """Train in a child process; returns the folder, which is the value of ``setting`` if that is among the words."""
    given = [word.partition("=")[2] for word in words if word.startswith(f"{setting}=")]
    made = [] if given else [each for each in (Path(folder), *Path(folder).parents) if not each.exists()]
    place = Path(given[-1]) if given else make_free(Path(folder))
    command = [sys.executable, "-m", "bnexp", "train", *words, *([] if given else [f"{setting}={quoted(str(place))}"])]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        for each in [] if given else dict.fromkeys([place, *made]):
            with contextlib.suppress(OSError):
                each.rmdir()  # only if it is empty
        complaint = (done.stderr.strip().splitlines() or ["it printed no message"])[-1].removeprefix("bnexp: ")
        raise (ValueError if done.returncode == _WRONG_INPUT else RunFailedError)(complaint)
    return place
