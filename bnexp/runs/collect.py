"""Reads run folders: finds them and reads their results and settings.

Only ``run.json`` is read (and ``metrics.csv`` for curves). Reading a folder never raises, even if its files are
damaged: a folder that cannot be used becomes a ``Skip`` with a reason.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bnexp.config.metrics import metric_of
from bnexp.config.names import printable
from bnexp.config.schema import completed, flat, with_older_words
from bnexp.runs import run_json, sweep_json
from bnexp.runs.metrics import FINITE, is_finite
from bnexp.runs.paths import METRICS, RUN_JSON, SWEEP_JSON
from bnexp.runs.storage import in_use

Setting = str | int | float | bool | None


@dataclass(frozen=True)
class Run:
    """The contents of a run folder.

    Attributes:
        settings: the config (``completed``) as dotted path -> plain value; lists as text.
        final: metric -> value at the last step; ``best``: metric -> best value over the steps. Finite values only.
        started: ISO 8601, or an empty string.
        classes: number of classes of the data, or None if run.json does not say.
        has_curve: True if there is a ``metrics.csv``.
        stopped_at: the step at which it ended early (``stop_after``); None if it did not.
        step, steps: the steps it has done, and has to do; None if run.json does not say.
        tags, notes: what the user, or a claim, has said of the run.
        fingerprint: of the images and labels that it was trained on; empty where run.json does not say.
        images: how many images it was trained on; None if run.json does not say.
        members: of the stack that it was trained in; 1 if it was trained alone.
    """

    folder: Path
    name: str
    status: str
    settings: Mapping[str, Setting]
    config_hash: str
    final: Mapping[str, float]
    best: Mapping[str, float]
    seconds: float | None
    started: str
    classes: int | None
    has_curve: bool
    stopped_at: int | None = None
    step: int | None = None
    steps: int | None = None
    tags: Sequence[str] = ()
    notes: str = ""
    fingerprint: str = ""
    images: int | None = None
    members: int = 1

    @property
    def seed(self) -> int:
        """The seed: runs of different arms with the same seed are a pair."""
        return int(self.settings["seed"] or 0)

    @property
    def usable(self) -> bool:
        """True if the run has a result: it finished, or it diverged, because divergence is a result too."""
        return self.status in ("finished", "diverged")

    def chance(self, metric: str) -> float | None:
        """The score of guessing, such as ``1 / classes``; None if unknown."""
        score = metric_of(metric).chance
        return score(self.classes) if score and self.classes is not None and self.classes > 1 else None

    def value(self, metric: str) -> float | None:
        """The run's result; a diverged run gets the score of guessing, because its logits are not finite."""
        if self.status == "diverged":
            return self.chance(metric)
        return self.final.get(metric) if self.status == "finished" else None

    def best_value(self, metric: str) -> float | None:
        """The best value over the steps; optimistic, because the metric itself chose the step."""
        return self.chance(metric) if self.status == "diverged" else self.best.get(metric)


@dataclass(frozen=True)
class Skip:
    """A folder that could not be used, and why."""

    folder: Path
    reason: str


class Refused(Skip):
    """A job of a sweep that was refused before the start, so that there is no such folder."""


def short(key: str) -> str:
    """A setting as the user types it: ``norm`` instead of ``norm.name``."""
    return key.removesuffix(".name")


def show(value: Any) -> str:
    """A setting's value as the user types it, on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return printable(str(value))


def collect(folders: Sequence[Path]) -> tuple[list[Run], list[Skip]]:
    """All runs in and below the folders, sorted by folder name, and the folders that were skipped.

    Raises:
        ValueError: a given folder does not exist.
    """
    runs: list[Run] = []
    skips: list[Skip] = []
    for found in _found(folders):
        if isinstance(found, Run):
            runs.append(found)
        else:
            skips.append(found)
    return runs, skips


def sweeps(folders: Sequence[Path]) -> list[Path]:
    """The folders of sweeps, in and below the given ones.

    Raises:
        ValueError: a given folder does not exist.
    """
    return [folder for folder, files in _walk(folders) if files and SWEEP_JSON in files]


def _found(folders: Sequence[Path]) -> Iterator[Run | Skip]:
    for folder, files in _walk(folders):
        if files is None:
            yield Skip(folder, "folder cannot be read")
        elif RUN_JSON in files:
            yield read(folder, has_curve=METRICS in files)
        elif METRICS in files:
            yield Skip(folder, f"no {RUN_JSON} beside {METRICS}")
        if files and SWEEP_JSON in files:
            yield from _not_run(folder)


def _not_run(folder: Path) -> Iterator[Skip]:
    """The jobs of a sweep that were refused or have not begun; or why its file does not tell them."""
    try:
        jobs = sweep_json.read(folder)["jobs"]
    except ValueError as error:
        yield Skip(folder, show(f"{SWEEP_JSON}: {error}"))
        return
    for job in jobs:
        if job["state"] == "refused":
            yield Refused(folder / job["name"], show(job.get("reason")))
        elif job["state"] in ("waiting", "queued") and not (folder / job["name"] / RUN_JSON).exists():
            yield Skip(folder / job["name"], "has not begun")


def _walk(folders: Sequence[Path]) -> Iterator[tuple[Path, set[str] | None]]:
    """Each folder, once even if several links lead to it, with its files (None: unreadable); hidden folders not."""
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{show(folder)}: {'not a folder' if folder.exists() else 'no such folder'}; give one")
    stack = list(reversed(folders))
    seen: set[tuple[int, int]] = set()
    while stack:
        folder = stack.pop()
        try:
            place = folder.stat()
            if (place.st_dev, place.st_ino) in seen:
                continue
            seen.add((place.st_dev, place.st_ino))
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name, reverse=True)
        except OSError:
            yield folder, None
            continue
        yield folder, {entry.name for entry in entries if _holds(entry.is_file)}
        stack += [Path(entry.path) for entry in entries if not entry.name.startswith(".") and _holds(entry.is_dir)]


def _holds(question: Callable[[], bool]) -> bool:
    """The answer to a question about a folder entry; False if its link leads in circles."""
    try:
        return question()
    except OSError:
        return False


def read(folder: Path, *, has_curve: bool = True) -> Run | Skip:
    """Read one run folder; a ``Skip`` if its ``run.json`` is damaged or bnexp did not write it."""
    try:
        return _run(folder, run_json.read(folder), has_curve)
    except ValueError as error:
        return Skip(folder, show(str(error).removeprefix(f"{folder}{os.sep}").removeprefix(f"{folder}: ")))


def _run(folder: Path, facts: Mapping[str, Any], has_curve: bool) -> Run:
    best = {tag: point.get("value") for tag, point in (facts.get("best") or {}).items() if isinstance(point, dict)}
    settings = flat(with_older_words(completed(facts["config"])))
    return Run(
        folder=folder,
        name=facts["name"],
        status=_status(folder, facts["status"]),
        settings={_shared(key): plain(value) for key, value in settings.items()},
        config_hash=facts["config_hash"],
        final=_finite(facts["final"]),
        best=_finite(best),
        seconds=seconds if (seconds := _finite(facts).get("seconds", -1.0)) >= 0 else None,
        started=str((facts.get("provenance") or {}).get("started", "")),
        classes=facts.get("classes"),
        has_curve=has_curve,
        stopped_at=facts.get("stopped_at"),
        step=facts.get("step"),
        steps=facts.get("steps"),
        tags=_words(facts["config"].get("tags")),
        notes=show(facts["config"].get("notes") or ""),
        fingerprint=show(facts.get("fingerprint") or ""),
        images=_count((facts.get("images") or {}).get("train")),
        members=_count((facts.get("executor") or {}).get("stacked")) or 1,
    )


def _status(folder: Path, word: str) -> str:
    """How a run ended, or ``running``; a run whose process is gone without a word was interrupted."""
    if word == "running":
        with contextlib.suppress(OSError):  # a folder that cannot be opened cannot be asked
            return word if in_use(folder) else "interrupted"
    return word


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _words(value: Any) -> tuple[str, ...]:
    return tuple(map(show, value)) if isinstance(value, list) else ()


def plain(value: Any) -> Setting:
    """A setting as a value that can be compared and hashed: lists, nan and huge numbers become text."""
    if isinstance(value, list) or (isinstance(value, int | float) and not abs(value) < FINITE):
        return json.dumps(value, separators=(",", ":"))
    return cast("Setting", value)


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {_shared(tag): float(value) for tag, value in values.items() if is_finite(value)}


@functools.lru_cache(maxsize=10_000)
def _shared(key: str) -> str:
    """A name of a setting or a metric as it is shown; one object for the thousands of runs that share it."""
    return sys.intern(show(key))


def newest(runs: Sequence[Run]) -> list[Run]:
    """One run per config hash: a finished or diverged run if there is one, and among these the one started last."""
    chosen: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: (run.usable, run.started, run.folder)):
        chosen[run.config_hash] = run
    return [run for run in runs if chosen[run.config_hash] is run]
