"""Where a run keeps its files: the only place that spells their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Names that messages and searches need without a folder.
RUN_JSON, METRICS, SWEEP_JSON = "run.json", "metrics.csv", "sweep.json"
# TensorBoard knows a run by a file whose name begins so.
EVENTS = "events.out.tfevents."


@dataclass(frozen=True)
class RunPaths:
    """The files of a run.

    Attributes:
        folder: the run's folder; nothing needs to be there yet.
    """

    folder: Path

    @property
    def run_json(self) -> Path:
        """What the run is, how it stands and what came of it."""
        return self.folder / RUN_JSON

    @property
    def metrics(self) -> Path:
        """Every measured value."""
        return self.folder / METRICS

    @property
    def timing(self) -> Path:
        """Seconds and images per second."""
        return self.folder / "timing.csv"

    @property
    def growing(self) -> tuple[Path, Path]:
        """The files that grow with a run; a checkpoint knows what they held when it was written."""
        return self.metrics, self.timing

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "checkpoint.pt"

    @property
    def previous(self) -> Path:
        """The checkpoint before the newest."""
        return self.folder / "checkpoint.previous.pt"

    @property
    def damaged(self) -> Path:
        """A checkpoint that could not be read, set aside."""
        return self.folder / "checkpoint.damaged.pt"

    @property
    def train_log(self) -> Path:
        """The program's messages."""
        return self.folder / "train.log"

    @property
    def error_log(self) -> Path:
        """The traceback of a failed run."""
        return self.folder / "error.log"

    @property
    def output_log(self) -> Path:
        """What the process of a sweep's job has printed."""
        return self.folder / "output.log"

    @property
    def events(self) -> list[Path]:
        """TensorBoard's files that are there."""
        return list(self.folder.glob(EVENTS + "*"))


@dataclass(frozen=True)
class SweepPaths:
    """The files of a sweep.

    Attributes:
        folder: the sweep's folder.
    """

    folder: Path

    @property
    def sweep_json(self) -> Path:
        """The plan of the sweep, by which its folder is known."""
        return self.folder / SWEEP_JSON

    def job(self, name: str) -> RunPaths:
        """The files of one of its jobs."""
        return RunPaths(self.folder / name)
