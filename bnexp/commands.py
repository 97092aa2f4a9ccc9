"""The commands that train and look at single runs; each imports what it needs, and nothing before."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from bnexp.arguments import parser
from bnexp.checks import Positive, Range, checked
from bnexp.output import say
from bnexp.shipped import configs_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from bnexp.config import TrainConfig
    from bnexp.experiment import Job, Outcome
    from bnexp.sweep.nursery import Nursery


def train(arguments: list[str]) -> int:
    """``bnexp train``: Hydra composes the config, ``experiment`` does the run."""
    if {"-m", "--multirun"}.isdisjoint(arguments):
        return _train(arguments, nursery=None)
    from bnexp.sweep.nursery import Nursery

    with contextlib.closing(Nursery()) as nursery:
        nursery.begin()  # it imports torch while Hydra composes
        return _train(arguments, nursery)


def _train(arguments: list[str], nursery: Nursery | None) -> int:
    """Have Hydra compose one config and do its run, or many and do the sweep."""
    from bnexp import composing, launcher

    launcher.register(nursery)
    results: list[int | Exception] = []

    def task(config: DictConfig) -> None:
        # Hydra prints and wraps what a task raises; kept here, it arrives at main as it is.
        try:
            results.append(_train_one(config))
        except Exception as error:
            results.append(error)

    code = composing.run_hydra(task, arguments, configs_folder())
    for result in results:
        if isinstance(result, Exception):
            raise result
    return max((result for result in results if isinstance(result, int)), default=code)


def _train_one(config: DictConfig) -> int:
    from bnexp import composing
    from bnexp.config import to_dict
    from bnexp.experiment import Job

    plain, words = composing.plain(config), composing.overrides()
    notes = composing.notes(to_dict(plain), words)
    return _do(Job(plain, composing.output_folder(), composing.run_name(), words, notes))


def _do(job: Job) -> int:
    """Do one run, say how it ended, and return the exit code."""
    from bnexp.display import console
    from bnexp.experiment import already_done, import_modules, run
    from bnexp.stopping import Stop

    stop = Stop()
    with stop.listening(), console():
        import_modules(job.config.imports)
        done = already_done(job)
        (outcome,) = [done] if done else run([job], stop=stop)
    say(sentence(outcome), end="\n", also=f"; run: {_shown(job.folder)} ({outcome.status})")
    return stop.exit_code if outcome.status == "interrupted" else 0


def _shown(folder: Path) -> Path:
    return Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder


def sentence(outcome: Outcome) -> str:
    """How a run ended, for a person.

    Raises:
        ValueError: the run.json of a run that had ended before does not say it.
    """
    try:
        return _ending(outcome.status, outcome.facts, _shown(outcome.job.folder))
    except (KeyError, TypeError, ValueError) as error:
        path = _shown(outcome.job.folder) / "run.json"
        raise ValueError(f"{path}: damaged ({error.args[0]}: missing or not a number)") from None


def _ending(status: str, facts: Mapping[str, Any], shown: Path) -> str:
    quoted = shlex.quote(str(shown))
    if status == "interrupted":
        return f"interrupted at step {facts['step']} of {facts['steps']}; go on with: bnexp resume {quoted}"
    if status == "diverged":
        return f"diverged: the loss of step {facts['diverged_at']} is not finite; run {shown}"
    final = facts["final"]
    precise = final["test/accuracy_precise"]
    also = f" ({precise:.4f} with precise statistics)" if precise != final["test/accuracy"] else ""
    return (
        f"finished: test accuracy {final['test/accuracy']:.4f}{also}, {facts['steps']} steps in "
        f"{facts['seconds']:.1f} s\nrun: {shown}\ncurves: bnexp board {quoted}"
    )


def resume(arguments: list[str]) -> int:
    """``bnexp resume RUN`` and ``bnexp resume SWEEP``."""
    text = "Go on with a run or a sweep from its last checkpoints, to the end it would have had undisturbed."
    options = parser("resume", text)
    options.add_argument("run", type=Path, help="the folder of a run or a sweep")
    options.add_argument("--retry-failed", action="store_true", help="of a sweep: run the jobs again that have failed")
    given = options.parse_args(arguments)
    from bnexp.sweep.plan import is_sweep

    if is_sweep(given.run):
        return _resume_sweep(given.run, retry_failed=given.retry_failed)
    if given.retry_failed:
        raise ValueError(f"resume: --retry-failed is for sweeps, and {given.run} is none (it has no sweep.json)")
    from bnexp.experiment import saved_job

    return _do(saved_job(given.run))


def _resume_sweep(folder: Path, *, retry_failed: bool) -> int:
    from bnexp import composing
    from bnexp.sweep.supervisor import carry_out

    return carry_out(folder, None, command=(), options=None, notes=composing.notes, retry_failed=retry_failed)


def evaluate(arguments: list[str]) -> int:
    """``bnexp evaluate RUN``."""
    options = parser("evaluate", "Evaluate a run's last checkpoint with running, precise and batch statistics.")
    options.add_argument("run", type=Path, help="the folder of a run")
    options.add_argument("--split", choices=("train", "validation", "test"), help="only this split of the data")
    given = options.parse_args(arguments)
    from bnexp.display import console
    from bnexp.experiment import evaluate_run, import_modules, saved_job

    with console():
        job = saved_job(given.run)
        import_modules(job.config.imports)
        step, rows = evaluate_run(job, given.split)
    print(f"{given.run} at step {step}\n")
    print(f"{'split':12}{'statistics':12}{'accuracy':>10}{'loss':>10}")
    for split, statistics, accuracy, loss in rows:
        print(f"{split:12}{statistics:12}{accuracy:10.4f}{loss:10.4f}")
    return 0


def bench(arguments: list[str]) -> int:
    """``bnexp bench [setting=value ...]``: images per second at many batch sizes, and the knee."""
    text = "Train at many batch sizes, and find the smallest one with 95 % of the best rate of images per second."
    options = parser("bench", text)
    options.add_argument("settings", nargs="*", metavar="setting=value", help="as for bnexp train: model=lenet norm=bn")
    options.add_argument("--sizes", help="default: 8,16,32,... to 4096, as far as there are images")
    options.add_argument("--repeats", type=int, default=5, help="timed rounds; default: 5")
    options.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options.add_argument("--config-dir", metavar="DIR", help="a folder of yaml files of your own")
    given = options.parse_intermixed_args(arguments)
    sizes, repeats = _batch_sizes(given.sizes), checked("--repeats", given.repeats, Annotated[int, Range(least=3)])
    if given.json and not given.json.parent.is_dir():
        raise ValueError(f"--json={given.json}: {given.json.parent} is no folder")
    config = _composed([*given.settings, *(["--config-dir", given.config_dir] if given.config_dir else [])])
    from bnexp import bench
    from bnexp.display import console
    from bnexp.experiment import import_modules

    with console():
        import_modules(config.imports)
        result = bench.bench(config, sizes=sizes, repeats=repeats)
    if given.json:
        given.json.write_text(json.dumps(bench.facts(result), indent=1) + "\n", encoding="utf-8")
    say(bench.table(result), end="\n")
    return 0


def _batch_sizes(words: str | None) -> list[int] | None:
    """The whole numbers of ``--sizes``.

    Raises:
        ValueError: something there is none.
    """
    if words is None:
        return None
    if not all(word.isascii() and word.isdigit() for word in words.split(",")):
        raise ValueError(f"--sizes={words}: expected whole numbers, such as 8,16,32")
    return [checked("--sizes", int(word), Positive) for word in words.split(",")]


def _composed(words: list[str]) -> TrainConfig:
    """The config of one run from words, as ``bnexp train`` composes it."""
    from bnexp import composing

    configs: list[TrainConfig] = []
    words = ["hydra.mode=RUN", *words]  # presets may be sweeps
    composing.run_hydra(lambda config: configs.append(composing.plain(config)), words, configs_folder())
    return configs[0]


_LAST_PORT = 65535


def board(arguments: list[str]) -> int:
    """``bnexp board [FOLDER]``."""
    options = parser("board", "Show curves in TensorBoard, reachable from this machine only.")
    options.add_argument("folder", type=Path, nargs="?", default=Path("outputs"), help="default: outputs")
    options.add_argument("--port", type=int, default=6006, help="default: 6006, or the next free one")
    options.add_argument("--open", action="store_true", help="open the page in a browser")
    given = options.parse_args(arguments)
    if not given.folder.is_dir():
        raise ValueError(f"{given.folder}: no such folder")
    if not 1 <= given.port <= _LAST_PORT:
        raise ValueError(f"--port={given.port}: out of range; allowed is 1 to {_LAST_PORT}")
    from bnexp.board import serve

    serve(given.folder, given.port, show=given.open)
    return 0
