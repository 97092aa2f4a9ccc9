"""``bnexp train``."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnexp.cli.arguments import format_apart
from bnexp.cli.output import answer, note, only_the_answer, say
from bnexp.compare.overview import jobs, single
from bnexp.config.shipped import configs_folder
from bnexp.runs import next_command
from bnexp.runs.paths import RunPaths

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from bnexp.experiment.job import Job, Outcome
    from bnexp.sweep.display import Report
    from bnexp.sweep.fork_server import ForkServer
    from bnexp.sweep.plan import Entry, Plan


def train(arguments: list[str]) -> int:
    """``bnexp train``: Hydra composes the config, ``experiment`` trains the run."""
    form, arguments = format_apart("train", arguments)
    if {"-m", "--multirun"}.isdisjoint(arguments):
        return _train(arguments, None, form)
    from bnexp.sweep.fork_server import ForkServer

    note("checking the jobs of the sweep")
    with contextlib.closing(ForkServer()) as server:
        server.begin()  # it imports torch while Hydra composes
        return _train(arguments, server, form)


def _train(arguments: list[str], server: ForkServer | None, form: str) -> int:
    """Let Hydra compose one config and train it, or compose many and run the sweep."""
    from bnexp.cli import hydra_plugins
    from bnexp.config import compose

    hydra_plugins.register(server, report(form))
    results: list[int | Exception] = []

    def task(config: DictConfig) -> None:
        # Hydra prints and wraps errors of a task; store them here, so that ``main`` gets them unchanged.
        try:
            results.append(_train_one(config, form))
        except Exception as error:
            results.append(error)

    code = compose.run_hydra(task, arguments, configs_folder())
    for result in results:
        if isinstance(result, Exception):
            raise result
    return max((result for result in results if isinstance(result, int)), default=code)


def _train_one(config: DictConfig, form: str) -> int:
    from bnexp.config import compose
    from bnexp.config.schema import to_dict
    from bnexp.experiment.job import Job

    plain, words = compose.plain(config), compose.overrides()
    notes = compose.notes(to_dict(plain), words)
    fresh = compose.RunFolder.fresh
    return do(Job(plain, compose.output_folder(), compose.run_name(), words, notes, fresh), form)


def do(job: Job, form: str = "table") -> int:
    """Train one run, print how it ended, and return the exit code."""
    note("loading torch and the data")
    from bnexp.experiment.display import console
    from bnexp.experiment.imports import import_modules
    from bnexp.experiment.job import already_done
    from bnexp.experiment.run import run
    from bnexp.stopping import Stop

    stop = Stop()
    with stop.listening(), console(), only_the_answer(form):
        import_modules(job.config.imports)
        done = already_done(job)
        (outcome,) = [done] if done else run([job], stop=stop)
    if form == "table":
        say(sentence(outcome), end="\n", also=f"; run: {_shown(outcome.job.folder)} ({outcome.status})")
    else:
        answer(single(_shown(outcome.job.folder)), form)
    return stop.exit_code if outcome.status == "interrupted" else 0


def report(form: str) -> Report:
    """The function that says how a sweep has ended."""
    from bnexp.sweep.display import print_summary

    def tell(plan: Plan, asked: Sequence[Entry], trouble: str | None) -> None:
        answer(jobs(plan.folder, [(entry.name, entry.state, entry.reason) for entry in asked], trouble), form)

    return print_summary if form == "table" else tell


def _shown(folder: Path) -> Path:
    return Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder


def sentence(outcome: Outcome) -> str:
    """How a run ended, as a sentence for the user.

    Raises:
        ValueError: the run.json of a run that ended earlier lacks a value.
    """
    try:
        return _ending(outcome.status, outcome.facts, _shown(outcome.job.folder))
    except (KeyError, TypeError, ValueError) as error:
        path = RunPaths(_shown(outcome.job.folder)).run_json
        raise ValueError(f"{path}: damaged ({error.args[0]}: missing or not a number)") from None


def _ending(status: str, facts: Mapping[str, Any], shown: Path) -> str:
    if status == "interrupted":
        command = next_command.resume(shown, facts["config"]["imports"])
        return f"interrupted at step {facts['step']} of {facts['steps']}; go on with: {command}"
    if status == "diverged":
        return f"diverged: the loss of step {facts['diverged_at']} is not finite; run {shown}"
    final = facts["final"]
    precise = final["test/accuracy_precise"]
    also = f" (precise {precise:.4f})" if precise != final["test/accuracy"] else ""
    stopped = facts.get("stopped_at")
    return (
        f"finished: {_early(facts) if stopped else ''}test accuracy {final['test/accuracy']:.4f}{also}, "
        f"{stopped or facts['steps']} steps in "
        f"{facts['seconds']:.1f} s\nrun: {shown}\ncurves: bnexp board {shlex.quote(str(shown))}"
    )


def _early(facts: Mapping[str, Any]) -> str:
    why = f"stop_after={facts['config']['stop_after']} evaluations without a better validation accuracy"
    return f"stopped early at step {facts['stopped_at']} of {facts['steps']}, {why}; "
