"""Names of the files of a run and of a sweep: the only place that spells them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# File names that messages and searches use without a folder.
RUN_JSON, METRICS, SWEEP_JSON = "run.json", "metrics.csv", "sweep.json"
# TensorBoard recognizes a run by a file whose name begins like this.
EVENTS = "events.out.tfevents."


@dataclass(frozen=True)
class RunPaths:
    """The paths of a run's files.

    Attributes:
        folder: the run's folder; it need not exist.
    """

    folder: Path

    @property
    def run_json(self) -> Path:
        """Config, status and results of the run."""
        return self.folder / RUN_JSON

    @property
    def metrics(self) -> Path:
        """All measured values."""
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
    def has_checkpoint(self) -> bool:
        """True if there is a checkpoint to go on from, even a damaged one."""
        return self.checkpoint.exists() or self.previous.exists()

    @property
    def best(self) -> Path:
        """The best checkpoint by validation accuracy."""
        return self.folder / "checkpoint.best.pt"

    @property
    def former_best(self) -> Path:
        """The best checkpoint before that."""
        return self.folder / "checkpoint.best.previous.pt"

    @property
    def damaged(self) -> Path:
        """A damaged checkpoint, renamed by ``checkpoint.load``."""
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
        """Everything that the process of a sweep's job has printed."""
        return self.folder / "output.log"

    @property
    def checkpoints(self) -> list[Path]:
        """All checkpoints that exist, damaged and half written ones too."""
        return sorted(self.folder.glob("checkpoint*.pt")) + sorted(self.folder.glob("checkpoint*.pt.tmp"))

    @property
    def written(self) -> list[Path]:
        """All files there that bnexp has written; the run.json, by which the folder is known, at the end."""
        logs = [self.train_log, self.error_log, self.output_log]
        tables = [self.metrics, self.timing, *self.folder.glob("*.csv.tmp"), *self.folder.glob("*.json.tmp")]
        tables += self.folder.glob("events.out.events.*.tmp")
        hydra = [self.folder / ".hydra" / f"{name}.yaml" for name in ("config", "overrides", "hydra")]
        files = [*self.checkpoints, *self.events, *logs, *tables, *hydra, self.run_json]
        return [path for path in files if path.is_file() and not path.is_symlink()]

    @property
    def events(self) -> list[Path]:
        """The TensorBoard files that exist."""
        return list(self.folder.glob(EVENTS + "*"))


@dataclass(frozen=True)
class SweepPaths:
    """The paths of a sweep's files.

    Attributes:
        folder: the sweep's folder.
    """

    folder: Path

    @property
    def sweep_json(self) -> Path:
        """The plan of the sweep; a folder with this file is a sweep's folder."""
        return self.folder / SWEEP_JSON

    def job(self, name: str) -> RunPaths:
        """The files of one of its jobs."""
        return RunPaths(self.folder / name)


def is_sweep(folder: Path) -> bool:
    """True if a folder is a sweep's folder."""
    return SweepPaths(folder).sweep_json.exists()
