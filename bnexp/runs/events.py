"""Writes a run's TensorBoard events: one file with scalars, histograms, hyperparameters and a layout of charts.

This thread writes each record. torch's SummaryWriter uses a second thread, in which a full disk goes unnoticed, and
which does not exist in a forked process.
"""

from __future__ import annotations

import io
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from bnexp.config.metrics import measured_of, metric_of, probed_of, title
from bnexp.runs.paths import EVENTS, RunPaths
from bnexp.runs.storage import write_atomically

# The metrics of a run in the HParams table.
HPARAM_METRICS = ("test/accuracy", "test/accuracy_precise", "test/loss", "validation/accuracy", "train/loss")

# Columns of the HParams table that TensorBoard ticks.
_TICKED = 5
# Bins of a histogram: as many as TensorBoard draws.
_BINS = 30

HParam = str | int | float | bool
Band = tuple[float, float, float]


@dataclass(frozen=True, order=True)
class _Chart:
    """A chart under "Custom Scalars": the curves of all tags whose beginning matches. Those of probes come last."""

    of_probe: bool
    category: str
    title: str
    tags: str


def _chart(tag: str) -> _Chart | None:
    """The chart that shows a tag: one a quantity of a split, and one a quantity of a probe, with all its layers."""
    if probed := probed_of(tag):
        whole = re.escape(f"probe/{probed.probe}/{probed.quantity}")
        return _Chart(True, f"probe {probed.probe}", title(tag), whole + ("/" if probed.layer else "$"))
    split, _, _ = tag.rpartition("/")
    words = metric_of(tag).words
    return _Chart(False, words, split, re.escape(f"{split}/{measured_of(tag)}")) if split and words else None


class _Writer:
    """Writes records to a new event file in a folder."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / _name(folder)).open("wb")
        self._records = RecordWriter(self._file)
        self.write(file_version="brain.Event:2")

    def write(self, **content: object) -> None:
        """Append one event with this content."""
        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Append one point to the curve of each tag."""
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self.write(step=step, summary=Summary(value=points))

    def histograms(self, step: int, distributions: Mapping[str, Sequence[float]]) -> None:
        """Append one histogram to each tag; a tag without finite numbers gets none."""
        for tag, numbers in distributions.items():
            finite = np.asarray(numbers)[np.isfinite(numbers)]
            if len(finite):
                self.write(step=step, summary=summary.histogram(tag, finite, bins=_BINS))  # type: ignore[no-untyped-call]

    def flush(self) -> None:
        """Pass all points to the operating system."""
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._records.close()


class EventFile(_Writer):
    """An open event file in a run's folder, which TensorBoard shows as one run.

    Args:
        folder: the run's folder.
        hparams: the columns of the HParams table, the first of them ticked; every run must have the same keys.
        after: on resuming, the step of the checkpoint: TensorBoard then ignores later steps in older files. None for a
            new run, which replaces all older files.
    """

    def __init__(self, folder: Path, hparams: Mapping[str, HParam], *, after: int | None) -> None:
        if after is None:
            _remove_events(folder)
        super().__init__(folder)
        self._tags: set[str] = set()
        self._charts: set[_Chart] = set()
        if after is not None:
            self.write(step=after + 1, session_log=SessionLog(status=SessionLog.START))
        else:
            for columns in _columns(hparams):
                self.write(summary=columns)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Append one point to the curve of each tag, with a chart for those that have none yet."""
        self.chart(values)
        super().scalars(step, values)

    def chart(self, tags: Iterable[str]) -> None:
        """Write the layout of charts anew if a tag needs a further one; the last layout in a run counts."""
        unknown = set(tags) - self._tags
        added = {chart for tag in unknown if (chart := _chart(tag))} - self._charts
        self._tags |= unknown
        if not added:
            return
        self._charts |= added
        layout: dict[str, dict[str, list[Any]]] = {}
        for chart in sorted(self._charts):
            layout.setdefault(chart.category, {})[chart.title] = ["Multiline", [chart.tags]]
        self.write(summary=summary.custom_scalars(layout))  # type: ignore[no-untyped-call]


def _columns(hparams: Mapping[str, HParam]) -> tuple[Summary, Summary]:
    """The columns of the HParams table, with the first of ``hparams`` ticked, and a run's values in them."""
    experiment, start, _ = summary.hparams(dict(hparams), dict.fromkeys(HPARAM_METRICS, 0.0))  # type: ignore[no-untyped-call]
    plugin = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    ticked = list(hparams)[:_TICKED]
    for column in content.experiment.hparam_infos:  # TensorBoard sorts them by name, those that differ first
        column.differs = column.name in ticked
    plugin.content = content.SerializeToString()
    return experiment, start


def revise(folder: Path, hparams: Mapping[str, HParam], keep: Callable[[int, str], bool]) -> None:
    """Remove points from a run's event files, and write the present hyperparameters in the place of the former ones.

    Args:
        folder: the run's folder.
        hparams: see ``EventFile``.
        keep: (step, tag) -> whether the point stays.

    Raises:
        ValueError: another program has written one of the files.
        OSError: a file could not be written; it is unchanged.
    """
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

    (values,) = _columns(hparams)[1].value
    for path in sorted(RunPaths(folder).events, key=_time):
        buffer = io.BytesIO()
        writer = RecordWriter(buffer)
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            points = [point for point in event.summary.value if keep(event.step, point.tag)]
            if points or not event.summary.value:
                del event.summary.value[:]
                event.summary.value.extend(values if point.tag == values.tag else point for point in points)
                writer.write(event.SerializeToString())
        write_atomically(path, buffer.getvalue())


def write_bands(folder: Path, bands: Mapping[str, Mapping[int, Band]]) -> None:
    """Write curves with a band as one TensorBoard run; replaces the curves written into the folder before.

    Args:
        folder: named after the arm; made if it does not exist.
        bands: tag -> step -> (mean, lower, upper), written as tag/mean, tag/lower, tag/upper.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_events(folder)
    writer = _Writer(folder)
    parts = {tag: [f"{tag}/{part}" for part in ("mean", "lower", "upper")] for tag in bands}
    margins = {tag: ["Margin", names] for tag, names in parts.items()}
    writer.write(summary=summary.custom_scalars({"mean and 95 % interval": margins}))  # type: ignore[no-untyped-call]
    for tag, points in bands.items():
        for step, band in points.items():
            writer.scalars(step, dict(zip(parts[tag], band, strict=True)))
    writer.close()


def _remove_events(folder: Path) -> None:
    """Remove the event files of earlier writers."""
    for old in RunPaths(folder).events:
        old.unlink()


def _time(path: Path) -> int:
    try:
        return int(path.name.removeprefix(EVENTS).partition(".")[0])
    except ValueError:
        raise ValueError(f"{path}: no event file of bnexp; move it out of the run's folder") from None


def _name(folder: Path) -> str:
    """A file name that sorts after the existing ones, even if the clock was set back."""
    times = [_time(path) for path in RunPaths(folder).events]
    return f"{EVENTS}{max([int(time.time()), *(t + 1 for t in times)]):010d}.{socket.gethostname()}.{os.getpid()}"
