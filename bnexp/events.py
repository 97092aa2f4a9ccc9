"""TensorBoard's side of a run: one event file with scalars, hyperparameters and a layout of curves.

Written record by record in this thread: torch's SummaryWriter hands records to a thread of its own, in which a full
disk goes unnoticed and which a forked process does not have.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

PREFIX = "events.out.tfevents."

# Curves that belong together, one chart each under "Custom Scalars".
LAYOUT = {
    "curves": {
        "accuracy": ["Multiline", ["train/accuracy$", "test/accuracy$", "test/accuracy_precise$"]],
        "loss": ["Multiline", ["train/loss$", "test/loss$", "test/loss_precise$"]],
    }
}
# What the HParams table shows of a run.
HPARAM_METRICS = ("test/accuracy", "test/accuracy_precise", "test/loss", "validation/accuracy", "train/loss")

HParam = str | int | float | bool


class EventFile:
    """An open event file in a run's folder, which TensorBoard shows as one run.

    Args:
        folder: the run's folder.
        hparams: the columns of the HParams table; every run must have the same keys.
        after: on resuming, the step of the checkpoint: what older files say of later steps is void.
    """

    def __init__(self, folder: Path, hparams: Mapping[str, HParam], *, after: int | None) -> None:
        self._file = (folder / _name(folder)).open("wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if after is not None:
            self._write(step=after + 1, session_log=SessionLog(status=SessionLog.START))
        else:
            self._write(summary=summary.custom_scalars(LAYOUT))  # type: ignore[no-untyped-call]
            metrics = dict.fromkeys(HPARAM_METRICS, 0.0)
            experiment, start, _ = summary.hparams(dict(hparams), metrics)  # type: ignore[no-untyped-call]
            self._write(summary=experiment)
            self._write(summary=start)

    def _write(self, **content: object) -> None:
        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Append one point to the curve of each tag."""
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(step=step, summary=Summary(value=points))

    def flush(self) -> None:
        """Hand all points to the system."""
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._records.close()


def _name(folder: Path) -> str:
    """A file name that sorts behind those already there, also when the clock was set back."""
    times = [int(path.name.removeprefix(PREFIX).split(".")[0]) for path in folder.glob(PREFIX + "*")]
    return f"{PREFIX}{max([int(time.time()), *(t + 1 for t in times)]):010d}.{socket.gethostname()}.{os.getpid()}"
