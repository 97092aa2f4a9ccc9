"""bnexp from Python: train in a child process; find runs; read their results; use their models and data.

``bnexp.train``, ``bnexp.train_all``, ``bnexp.load`` and ``bnexp.find`` come from here. Nothing imports torch before a
model, its predictions or data are asked for.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bnexp.compare.lookup import agrees, assignments
from bnexp.config.checks import RunFailedError
from bnexp.config.names import quoted, run_name
from bnexp.config.schema import TrainConfig, from_dict
from bnexp.runs import collect, metrics, run_json
from bnexp.runs.collect import Skip, show
from bnexp.runs.storage import make_free

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bnexp.experiment.trained import Trained

# Exit code of a command with wrong input.
_WRONG_INPUT = 2


@dataclass(frozen=True)
class Run(collect.Run):
    """A run: its settings and results, and its model and data, which are read when they are asked for.

    Attributes:
        folder, name, status, seconds, started: see ``bnexp.runs.collect.Run``.
        settings: dotted name -> value, such as ``run.settings["norm.name"]``.
        final: metric -> value at the last step; ``best``: metric -> best value over the steps.
        imports: modules that may be imported for the model, because the user has named them.
        device: where the model and the data will be, as in the setting ``device``.
    """

    imports: Sequence[str] = ()
    device: str = "auto"

    @cached_property
    def config(self) -> TrainConfig:
        """All settings; groups are dicts, as in ``run.config.norm["name"]``.

        Raises:
            ValueError: this version of bnexp has no such settings.
        """
        return from_dict(run_json.read(self.folder)["config"])

    @cached_property
    def metrics(self) -> metrics.Columns:
        """All measured values as columns step, epoch, metric and value; ``metrics.to_pandas()`` is a DataFrame.

        Raises:
            OSError: metrics.csv cannot be read.
        """
        return metrics.columns(self.folder)

    def model(self, *, best: bool = False) -> nn.Module:
        """The model with the weights of the last checkpoint, in evaluation mode; always the same object.

        It takes images as ``data`` gives them, and returns logits [N, K].

        Args:
            best: the best checkpoint by validation accuracy instead, which a run keeps with ``checkpoint_best=true``.

        Raises:
            ValueError: the run has no such checkpoint, its data cannot be read, or it names modules that ``imports``
                does not.
        """
        return (self._best if best else self._trained).model

    def predict(self, images: Tensor) -> Tensor:
        """The most probable class of each image, int64 [N].

        Args:
            images: as ``data`` gives them (float32), or raw pixels (uint8, [N, C, H, W]), which are prepared first as
                the training images were.

        Raises:
            ValueError: see ``model``; or the images have another shape than the training images.
        """
        return self._trained.logits(images).argmax(1)

    def data(self, split: str) -> tuple[Tensor, Tensor]:
        """The images, float32 [N, C, H, W] or [N, F], and labels, int64 [N], of a split, as the model takes them.

        Args:
            split: train, validation or test.

        Raises:
            ValueError: see ``model``; or the data have no such split.
        """
        return self._trained.samples(split)

    @cached_property
    def _trained(self) -> Trained:
        from bnexp.experiment.trained import trained  # imports torch

        return trained(self.folder, imports=self.imports, device=self.device)

    @cached_property
    def _best(self) -> Trained:
        from bnexp.experiment.trained import trained

        return trained(self.folder, imports=self.imports, device=self.device, best=True)


def load(folder: str | Path, *, imports: Sequence[str] = (), device: str = "auto") -> Run:
    """Read the run in a folder.

    Args:
        folder: of the run.
        imports: your own modules that the run was trained with, such as ``["my_lab"]``. A folder alone never imports
            anything, because it may come from anywhere.
        device: where the model and the data will be: auto, cpu, cuda or cuda:N.

    Raises:
        ValueError: the folder has no usable run.
    """
    found = collect.read(Path(folder))
    if isinstance(found, Skip):
        raise ValueError(f"{folder}: {found.reason}")
    return Run(**vars(found), imports=tuple(imports), device=device)


def find(
    folder: str | Path = "outputs", *, imports: Sequence[str] = (), device: str = "auto", **settings: object
) -> Iterator[Run]:
    """Find the runs in and below a folder that have these settings.

    Args:
        folder: searched to the bottom.
        imports: see ``load``.
        device: see ``load``.
        settings: such as ``norm="bn"``; ``__`` stands for a dot, as in ``optim__lr=0.1``.

    Raises:
        ValueError: the folder does not exist, or no run has such a setting.
    """
    runs, _ = collect.collect([Path(folder)])
    words = [f"{key.replace('__', '.')}={show(value)}" for key, value in settings.items()]
    wanted = assignments("find", words, runs) if runs else {}
    return (Run(**vars(run), imports=tuple(imports), device=device) for run in runs if agrees(run, wanted))


def train(*words: str) -> Run:
    """Run ``bnexp train`` with these arguments, and return the run.

    The training has its own process, so this process keeps its threads, number formats and signal handlers. Ctrl-C (or
    the interrupt of a notebook) lets it save first; ``bnexp resume`` goes on with it.

    Raises:
        ValueError: an argument is wrong.
        RunFailedError: the run failed.
        KeyboardInterrupt: the training was interrupted, and has saved.
    """
    folder = f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S}-{run_name(words)}"
    return load(_trained(words, "hydra.run.dir", folder), imports=_imports(words))


def train_all(*words: str) -> list[Run]:
    """Run ``bnexp train -m`` with these arguments, and return the sweep's runs.

    Raises:
        ValueError: an argument is wrong.
        RunFailedError: a job failed; the message names the sweep's folder, which has the other runs.
        KeyboardInterrupt: the sweep was interrupted; its jobs have saved.
    """
    place = f"outputs/sweeps/{datetime.now():%Y-%m-%d_%H-%M-%S}"
    folder = _trained(["-m", *words], "hydra.sweep.dir", place)
    return list(find(folder, imports=_imports(words)))


def _imports(words: Sequence[str]) -> list[str]:
    """The modules that the user has typed among the words."""
    typed = [word.partition("=")[2].strip("[]") for word in words if word.startswith("imports=")]
    return [name.strip() for name in ",".join(typed).split(",") if name]


def _trained(words: Sequence[str], setting: str, folder: str) -> Path:
    """Train in a child process; returns the folder, which is the value of ``setting`` if that is among the words."""
    given = [word.partition("=")[2].strip("'\"") for word in words if word.startswith(f"{setting}=")]
    made = [] if given else [each for each in (Path(folder), *Path(folder).parents) if not each.exists()]
    place = Path(given[-1]) if given else make_free(Path(folder))
    code, complaint = _run_apart(["train", *words, *([] if given else [f"{setting}={quoted(str(place))}"])])
    if code:
        for each in [] if given else dict.fromkeys([place, *made]):
            with contextlib.suppress(OSError):
                each.rmdir()  # only if it is empty
        if code == _WRONG_INPUT:
            raise ValueError(complaint)
        raise RunFailedError(f"{complaint} (in {place})" if place.exists() else complaint)
    return place


def _run_apart(words: Sequence[str]) -> tuple[int, str]:
    """Run a command in a child process that Ctrl-C does not reach directly; its exit code, and the last line it said.

    Raises:
        KeyboardInterrupt: this process was interrupted; the child was told so, and has ended.
    """
    command = [sys.executable, "-m", "bnexp", *words]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, process_group=0, **quiet) as child:  # type: ignore[call-overload]
        try:
            said = _said_by(child)
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            _said_by(child)  # it saves
            raise
    lines = said.strip().splitlines() or ["it printed no message"]
    return child.returncode, lines[-1].removeprefix("bnexp: ")


def _said_by(child: subprocess.Popen[str]) -> str:
    """All that a child process writes to its standard error, when it has ended.

    The wait has an end every second: a plain ``communicate`` reads in one loop of C, which goes on past an interrupt
    that comes while the child writes, and then waits for the child's end.
    """
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.communicate(timeout=1)[1]
