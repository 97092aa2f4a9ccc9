"""bnexp from Python: train in a child process; find runs and compare them; read results; use models and data.

``bnexp.train``, ``train_all``, ``load``, ``find`` and ``compare_runs`` come from here. Nothing imports torch before a
model, its predictions or data are asked for.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnexp.compare.comparison import compare
from bnexp.compare.lookup import agrees, resolve
from bnexp.compare.tables import document
from bnexp.config.checks import RunFailedError
from bnexp.config.schema import TrainConfig, from_dict
from bnexp.runs import collect, metrics, run_json
from bnexp.runs.collect import Skip, plain, show
from bnexp.runs.paths import RUN_JSON
from bnexp.stopping import Interrupts, ending_with_this_process

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bnexp.experiment.trained import Trained

# Exit code of a command with wrong input.
_WRONG_INPUT = 2
# Options of ``bnexp train`` that mean the same here.
_OPTIONS = ("--config-dir", "-cd")


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        accuracy = self.final.get("test/accuracy")
        told = "" if accuracy is None else f", test accuracy {accuracy:.4f}"
        return f"<bnexp.Run {self.folder}: {self.status}{told}>"

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
    return Run(**vars(found), imports=_several(imports), device=device)


def find(
    folder: str | Path = "outputs", *, imports: Sequence[str] = (), device: str = "auto", **settings: object
) -> Iterator[Run]:
    """Find the runs in and below a folder that have these settings.

    Args:
        folder: searched to the bottom.
        imports: see ``load``.
        device: see ``load``.
        settings: such as ``norm="bn"``, or ``norm=["bn", "ln"]`` for either; ``__`` stands for a dot, as in
            ``optim__lr=0.1``.

    Raises:
        ValueError: the folder does not exist, or no run has such a setting.
    """
    runs, _ = collect.collect([Path(folder)])
    wanted = {
        resolve("find", key.replace("__", "."), runs): tuple(show(plain(one)) for one in _either(value))
        for key, value in (settings.items() if runs else ())
    }
    modules = _several(imports)
    return (Run(**vars(run), imports=modules, device=device) for run in runs if agrees(run, wanted))


def _either(value: object) -> list[object]:
    """The values of which a run must have one: those of a list, or the list itself, for a setting that is one."""
    return [list(value), *value] if isinstance(value, list | tuple) else [value]


def compare_runs(
    *folders: str | Path,
    metric: str = "test/accuracy",
    by: str | Sequence[str] = (),
    baseline: str | Sequence[str] = (),
    best: str | None = None,
    where: str | Sequence[str] = (),
    everything: bool = False,
) -> dict[str, Any]:
    """Compare runs as ``bnexp compare`` does; returns what it prints with ``--json``, described in docs/scripting.md.

    ``pandas.DataFrame(bnexp.compare_runs("outputs", by="norm")["arms"])`` is a table with a row an arm.

    Args:
        folders: of runs and sweeps, searched to the bottom.
        metric: its value at the last step is compared.
        by: settings that make the arms; default: all but the seed.
        baseline: ``KEY=VALUE`` of the arm that the others are paired with, by seed.
        best: take each arm at its best value of this setting (or these, ``KEY,KEY``), chosen on validation.
        where: ``KEY=VALUE`` that the runs must have.
        everything: take the runs of claims and smoke tests too.

    Raises:
        ValueError: a folder, metric, setting or value does not exist.
    """
    made = compare(
        list(map(str, folders)),
        metric=metric,
        by=_several(by),
        baseline=_several(baseline),
        best=best,
        where=_several(where),
        everything=everything,
    )
    return dict(document(made).facts or {})


def _several(words: str | Sequence[str]) -> tuple[str, ...]:
    """Words; a single one may be given alone."""
    return (words,) if isinstance(words, str) else tuple(words)


def train(*words: str) -> Run:
    """Run ``bnexp train`` with these arguments, and return the run.

    The training has its own process, so this process keeps its threads, number formats and signal handlers. Ctrl-C (or
    the interrupt of a notebook) lets it save first, and so does the end of this process; ``bnexp resume`` goes on with
    it.

    Raises:
        ValueError: an argument is wrong.
        RunFailedError: the run failed.
        KeyboardInterrupt: the training was interrupted, and has saved.
    """
    folder = _trained(words)["folder"]
    return load(folder, imports=_imports(words))


def train_all(*words: str) -> list[Run]:
    """Run ``bnexp train -m`` with these arguments, and return the sweep's runs, in the order of the words.

    Raises:
        ValueError: an argument is wrong.
        RunFailedError: a job failed; the message names the sweep's folder, which has the other runs.
        KeyboardInterrupt: the sweep was interrupted; its jobs have saved.
    """
    jobs = [Path(job["folder"]) for job in _trained(words, "-m")["jobs"]]
    return [load(folder, imports=_imports(words)) for folder in jobs if (folder / RUN_JSON).exists()]


def _imports(words: Sequence[str]) -> list[str]:
    """The modules that the user has typed among the words."""
    typed = [word.partition("=")[2].strip("[]") for word in words if word.startswith("imports=")]
    return [name.strip() for name in ",".join(typed).split(",") if name]


def _trained(words: Sequence[str], *how: str) -> dict[str, Any]:
    """Train in a child process; returns its answer in JSON, which has the folder."""
    for word in words:
        if not isinstance(word, str):
            said = f'{word!r}: no word; expected words one by one, such as bnexp.train("norm=bn", "epochs=3")'
            raise ValueError(said)
        if word.startswith("-") and word.partition("=")[0] not in _OPTIONS:
            here = "bnexp.train_all trains a sweep" if word in ("-m", "--multirun") else "only on the command line"
            raise ValueError(f"{word}: {here}; allowed are settings and {_OPTIONS[0]}")
    code, answer, complaint = _run_apart(["train", *how, "--json", *words])
    if code == _WRONG_INPUT:
        raise ValueError(complaint)
    told: dict[str, Any] = json.loads(answer) if answer else {}
    if code:
        raise RunFailedError(f"{_failure(told) or complaint} (in {told['folder']})" if told else complaint)
    return told


def _failure(sweep: Mapping[str, Any]) -> str | None:
    """The first job of a sweep that has failed, and why; how many others have."""
    failed = [job for job in sweep.get("jobs", []) if job["status"] == "failed"]
    more = f"; {len(failed) - 1} more failed" if len(failed) > 1 else ""
    return f"{failed[0]['name']}: {failed[0]['reason']}{more}" if failed else None


def _run_apart(words: Sequence[str]) -> tuple[int, str, str]:
    """Run a command in a child process that Ctrl-C does not reach directly.

    Returns:
        Its exit code, what it answered, and the last line of its messages.

    Raises:
        KeyboardInterrupt: this process was interrupted; the child was told so, and has ended.
    """
    program = f"{ending_with_this_process(signal.SIGTERM)}; from bnexp.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", f"import sys; {program}", *words]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (
        Interrupts() as interrupts,
        subprocess.Popen(command, text=True, process_group=0, **quiet) as child,  # type: ignore[call-overload]
    ):
        try:
            interrupts.let_through()
            answer, said = _said_by(child)
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            _said_by(child)  # it saves
            raise
    lines = said.strip().splitlines() or ["it printed no message"]
    return child.returncode, answer, lines[-1].removeprefix("bnexp: ")


def _said_by(child: subprocess.Popen[str]) -> tuple[str, str]:
    """All that a child process writes to its standard output and error, when it has ended.

    The wait has an end every second, so that no interrupt is kept until the child's end: one may come between the last
    look for interrupts and the wait.
    """
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.communicate(timeout=1)
