"""Writes the records of a run: run.json, metrics.csv, timing.csv and TensorBoard events, all by one object."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from bnexp.config.metrics import VALIDATION, metric_of
from bnexp.record import Record
from bnexp.runs import metrics, run_json
from bnexp.runs.digest import Mark
from bnexp.runs.events import EventFile, HParam
from bnexp.runs.paths import RunPaths

log = logging.getLogger(__name__)

# The tag of the rate; it stands in timing.csv and in the events, and not in metrics.csv.
SPEED = "speed/images_per_s"
# The columns of the HParams table, those that mostly vary first: TensorBoard shows the first five.
_HPARAMS = (
    *("norm", "seed", "model", "data", "init", "optim", "schedule", "affine"),
    *("activation", "placement", "batch_size", "epochs", "steps", "precision"),
)


def hparams(config: Mapping[str, Any], steps: int, name: str) -> dict[str, HParam]:
    """The main settings of a config, as the columns of TensorBoard's HParams table.

    All runs get the same keys, because TensorBoard shows only the keys of the first run. A group takes two columns: its
    name, and all its options as one text. The settings that the run's ``name`` tells, which differ in its sweep, come
    first.

    A column holds numbers in all runs or text in all, because TensorBoard cannot sort mixed ones. ``steps`` is the
    number of steps of the run, also if the setting is null and the epochs decide.
    """
    config = {**config, "steps": steps}
    table: dict[str, HParam] = {"optim.lr": config["optim"]["lr"]}
    options: dict[str, HParam] = {}
    for key in _HPARAMS:
        value = config[key]
        if isinstance(value, dict):
            table[key] = value["name"]
            options[f"{key}.options"] = " ".join(f"{k}={v}" for k, v in value.items() if k not in ("name", "root"))
        else:
            table[key] = value
    told = [part.partition("=")[0] for part in name.split(",")]
    told += [f"{key.partition('.')[0]}.options" for key in told if key not in table]
    return dict(sorted((table | options).items(), key=lambda item: item[0] not in told))


def trained(folder: Path, step: int) -> float:
    """Seconds that a run has trained up to a checkpoint's step, as run.json says, or the last row of timing.csv."""
    saved = run_json.known(folder)
    told = saved.get("seconds") if saved.get("step") == step else None
    return max(metrics.seconds(folder, until=step), told or 0.0)


class Logbook:
    """The open record files of one run.

    ``metrics.csv`` is a pure function of the config. It holds no times, so an interrupted and resumed run writes the
    same bytes as an uninterrupted one. Times and rates go to ``timing.csv``.

    Args:
        folder: an existing folder, held by this process.
        facts: the fixed part of run.json (name, config, steps, provenance and so on).
        after: on resuming, the step of the checkpoint; rows of later steps are removed. None for a new run.

    Attributes:
        final, best: the last and the best value of each metric; of equal values the first is the best.
        without_improvement: evaluations since the one with the best validation accuracy.
        close: closes all files.

    Raises:
        ValueError: a file of the folder cannot be read, or is not one of bnexp's.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], *, after: int | None) -> None:
        self.folder = folder
        self.facts = dict(facts)
        self.final: dict[str, float] = {}
        self.best: dict[str, dict[str, float]] = {}
        self.without_improvement = 0
        paths = RunPaths(folder)
        is_lost = after is not None and not paths.events
        with ExitStack() as opened:
            columns = hparams(self.facts["config"], self.facts["steps"], self.facts["name"])
            self._events = opened.enter_context(closing(EventFile(folder, columns, after=None if is_lost else after)))
            self._metrics = opened.enter_context(
                closing(metrics.Rows(paths.metrics, metrics.METRICS_HEADER, after=after))
            )
            self._timing = opened.enter_context(closing(metrics.Rows(paths.timing, metrics.TIMING_HEADER, after=after)))
            self.close = opened.pop_all().close
        for step, tag, value in metrics.points(folder):
            self._remember(step, tag, value)
        self._events.chart(self.final)
        self.seconds = trained(folder, after or 0)  # in earlier sessions
        if is_lost:
            self._restore_curves()
        self.update("running", step=after or 0, seconds=round(self.seconds, 3))

    def _restore_curves(self) -> None:
        """Write into the new event file what the tables have of the lost one."""
        lost = "; its histograms are lost" if self.facts["config"]["probes"] else ""
        log.warning("%s: has no event file any more; its curves are written anew from metrics.csv%s", self.folder, lost)
        for step, tag, value in metrics.points(self.folder):
            self._events.scalars(step, {tag: value})
        for step, _, rate in metrics.timing(self.folder):
            self._events.scalars(step, {SPEED: rate})

    def _remember(self, step: int, tag: str, value: float) -> None:
        larger, best = metric_of(tag).larger_is_better, self.best.get(tag)
        if math.isfinite(value):
            self.final[tag] = value
            if larger is not None and (best is None or (value > best["value"] if larger else value < best["value"])):
                self.best[tag] = {"value": value, "step": step}
        if tag == VALIDATION:
            self.without_improvement = 0 if self.best_step == step else self.without_improvement + 1

    @property
    def best_step(self) -> int | None:
        """The step of the evaluation with the best validation accuracy; None before the first."""
        return int(self.best[VALIDATION]["step"]) if VALIDATION in self.best else None

    def enter(self, record: Record, row: int, seconds: float, images_per_s: float) -> None:
        """Write one member's part of a record, the seconds that the run has trained, and its rate."""
        self._events.histograms(record.step, {tag: numbers[row] for tag, numbers in record.distributions.items()})
        if not record.values:
            return
        values = {tag: measured[row] for tag, measured in record.values.items()}
        for tag, value in values.items():
            self._metrics.append(record.step, repr(record.epoch), tag, repr(value))
            self._remember(record.step, tag, value)
        self._timing.append(record.step, f"{seconds:.3f}", f"{images_per_s:.1f}")
        self._events.scalars(record.step, {**values, SPEED: images_per_s})

    def flush(self) -> None:
        """Make every entry durable. Call it before writing a checkpoint, so that no entry before that is lost."""
        for file in (self._metrics, self._timing):
            file.sync()
        self._events.flush()

    @property
    def marks(self) -> dict[str, Mark]:
        """By which a checkpoint knows the files that belong to it: name -> mark."""
        files = zip(RunPaths(self.folder).growing, (self._metrics, self._timing), strict=True)
        events = {path.name: {"bytes": path.stat().st_size} for path in RunPaths(self.folder).events}
        return events | {path.name: rows.mark for path, rows in files}

    def update(self, status: str, **facts: Any) -> None:
        """Write run.json with a status (see ``run_json.STATUSES``) and further facts."""
        self.facts |= {"format": run_json.FORMAT, "status": status, "final": self.final, "best": self.best, **facts}
        run_json.write(self.folder, self.facts)
