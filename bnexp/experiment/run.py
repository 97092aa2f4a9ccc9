"""One run, or one stack of runs: build what the configs ask for, train, write the records."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bnexp.config.checks import RunFailedError
from bnexp.config.own_code import told
from bnexp.config.schema import CHECKPOINTS, config_hash, to_dict
from bnexp.config.words import without_effect
from bnexp.experiment.display import RunDisplay
from bnexp.experiment.folder import StorageFailedError, is_storage, open_folder, remembered
from bnexp.experiment.imports import digests
from bnexp.experiment.job import Job, Outcome, already_done
from bnexp.experiment.longer import change, former, require_length, seal
from bnexp.experiment.machine import is_out_of_memory
from bnexp.experiment.restore import data_changed, restore
from bnexp.experiment.setup import Setup, build
from bnexp.experiment.writers import Writers
from bnexp.runs import checkpoint, run_json
from bnexp.runs.logbook import Logbook
from bnexp.runs.paths import RunPaths
from bnexp.runs.provenance import provenance, version_of
from bnexp.training.loop import train
from bnexp.training.population import Stacked

log = logging.getLogger(__name__)

# Facts of the provenance and the executor that can change the last bits of a result.
_BITS = (
    "bnexp",
    "git_commit",
    "torch",
    "device",
    "device_name",
    "cpu_capability",
    "threads",
    "stacked",
    "graph",
    "triton",
)


def run(jobs: Sequence[Job], *, stop: Callable[[], bool], stacked: bool = False) -> list[Outcome]:
    """Train jobs as one population and write their records; resume from checkpoints where there are any.

    Args:
        jobs: one per member.
        stop: asked after every step, or the few that a GPU does at once; True saves, and ends the run as interrupted.
        stacked: see ``Population``.

    Raises:
        ValueError: an error that the user can fix; no run folder has been made or changed.
        RunFailedError: the program failed, or (``StorageFailedError``) a file could not be written in the middle of the
            run; the last checkpoint is intact.
        Exception: one that ``is_out_of_memory`` knows: there are several jobs, and the device has too little memory for
            all of them at once.
    """
    with ExitStack() as holds:
        said = holds.enter_context(remembered())
        resumed = [not job.fresh and checkpoint.exists(job.folder) for job in jobs]
        setup = build([job.config for job in jobs], stacked=stacked, resumed=resumed)
        for job in jobs:
            require_length(job, setup.training.cadence.steps)
        for job in (job for job, goes_on in zip(jobs, resumed, strict=True) if goes_on):
            if data_changed(job.folder, setup.data):
                what = f"the images or labels have changed since {job.folder} began"
                raise ValueError(f"data={setup.data.name}: {what}; bring them back, or train anew in another folder")
        folders = [holds.enter_context(open_folder(job, said)) for job in jobs]
        for job, goes_on in zip(jobs, resumed, strict=True):
            _require_untouched(job, goes_on=goes_on)
            if not (job.fresh or goes_on):
                _tell_lost(job)
        jobs = [replace(job, folder=folder, fresh=False) for job, folder in zip(jobs, folders, strict=True)]
        try:
            return _run_in_folders(jobs, setup, stop)
        except OSError as error:
            where = error.filename or jobs[0].folder
            raise StorageFailedError(f"{where}: {error.strerror or error}; what was saved is kept") from None


def _require_untouched(job: Job, *, goes_on: bool) -> None:
    """Refuse a folder in which another command has trained while this one read the data.

    Raises:
        ValueError: there is a run that was not there before.
    """
    if not job.fresh and (already_done(job) is not None or checkpoint.exists(job.folder) != goes_on):
        raise ValueError(f"{job.folder}: another command has trained in it meanwhile; give this one again")


def _tell_lost(job: Job) -> None:
    """Warn of a run that had trained and has lost its checkpoints, so that it begins again."""
    if step := run_json.known(job.folder).get("step"):
        log.warning("%s: was at step %d and has no checkpoint any more; trains from step 0", job.folder, step)


def _run_in_folders(jobs: Sequence[Job], setup: Setup, stop: Callable[[], bool]) -> list[Outcome]:
    resumed = [restore(setup, row, job) for row, job in enumerate(jobs)]
    _choose_again(setup, [job.folder for job, state in zip(jobs, resumed, strict=True) if state is not None])
    with ExitStack() as open_books:
        writers = open_books.enter_context(_writers(setup.population.theta_MP.device))
        books = writers.each(lambda row: _open_book(jobs[row], setup, resumed[row]), range(len(jobs)))
        for book in books:
            open_books.callback(book.close)
        try:
            return _keep_records(jobs, setup, books, writers, stop)
        except (Exception, SystemExit) as error:  # a module of the user's may call sys.exit
            if _can_go_on(error, jobs):
                for book in books:
                    _record_stop(book, setup)
                raise
            for book in books:
                if book.facts["status"] == "running":  # a member that diverged before has its result already
                    _record_failure(book, error)
            raise RunFailedError(f"{told(error)}; details in {RunPaths(jobs[0].folder).error_log}") from None


def _writers(device: torch.device) -> Writers:
    """A GPU trains on while checkpoints are written; on a CPU, the threads would take the cores of other jobs."""
    if device.type != "cuda":
        return Writers(ahead=False)
    # The threads wait for copies. CUDA would give a thread that names no GPU memory on the first one.
    return Writers(ahead=True, begin=partial(torch.cuda.set_device, device))


def _can_go_on(error: BaseException, jobs: Sequence[Job]) -> bool:
    """Whether the runs can be resumed: after a full disk, or in a smaller stack."""
    return is_storage(error, *(job.folder for job in jobs)) or (is_out_of_memory(error) and len(jobs) > 1)


def _open_book(job: Job, setup: Setup, state: checkpoint.State | None) -> Logbook:
    config = to_dict(job.config)
    made_with = provenance(setup.population.theta_MP.device, torch.get_num_threads())
    facts = {
        "name": job.name,
        "config": config,
        "config_hash": config_hash(config),
        "overrides": list(job.overrides),
        "steps": setup.training.cadence.steps,
        "classes": setup.data.classes,
        "fingerprint": setup.data.fingerprint,
        "images": {name: len(split) for name, split in setup.data.splits().items()},
        "parameters": sum(parameter[0].numel() for _, parameter in setup.population.parameters()),
        "provenance": made_with,
        "executor": _executor(setup),
        "diverged_at": None,
        "failure": None,
    }
    if modules := digests(job.config.imports):
        facts["modules"] = modules
    trained = change(job, setup, state)
    if before := former(job):
        facts["extended"] = before
    if job.alone is not None:
        facts["trained_alone"] = job.alone
    for name, text in job.notes.items():
        path = job.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if state is not None:
        log.info("%s resumes from step %d of %d", job.folder, state["step"], setup.training.cadence.steps)
        _warn_of_changes(job.folder, facts)
    book = Logbook(job.folder, facts, after=None if state is None else state["step"])
    if trained is not None and state is not None:
        seal(book, state, trained)
    kept = book.best_step if job.config.checkpoint_best else None
    checkpoint.settle_best(job.folder, kept, book.facts["config_hash"])
    return book


def _executor(setup: Setup) -> dict[str, Any]:
    """How the run is computed, which can change its last bits: the size of its stack, recorded steps, own kernels."""
    members = len(setup.population) if isinstance(setup.population.executor, Stacked) else 1
    how: dict[str, Any] = {"stacked": members, "graph": setup.population.recorder is not None}
    if kernels := setup.population.own_kernels:
        how["triton"] = version_of("triton") or "unknown"
        how |= {"timed": kernels.timed} | ({"kernels": dict(kernels.chosen)} if kernels.chosen else {})
    failed = setup.population.capture_failed
    return how | ({"capture_failed": failed} if failed else {})


def _choose_again(setup: Setup, resumed: Sequence[Path]) -> None:
    """Let a population take the kernels that its members had; times would perhaps choose others now.

    Runs that began before there was a choice go on as they began.
    """
    kernels = setup.population.own_kernels
    if kernels is None or not resumed:
        return
    for folder in resumed:
        if saved := run_json.known(folder):
            executor = saved.get("executor", {})
            kernels.choose_again(executor.get("kernels"))
            kernels.timed = kernels.timed and executor.get("timed", "kernels" in executor)


def _warn_of_changes(folder: Path, now: Mapping[str, Any]) -> None:
    """Warn if machine, libraries or executor changed since the run began: the result may differ in its last bits."""
    if not (saved := run_json.known(folder)):
        return
    before, computed = saved.get("provenance") or {}, saved.get("executor") or now["executor"]
    before, after = before | computed, now["provenance"] | now["executor"]
    changes = [f"{key} {before.get(key)} -> {after.get(key)}" for key in _BITS if before.get(key) != after.get(key)]
    if changes:
        log.warning("%s: changed since the run began, last bits may differ: %s", folder, ", ".join(changes))


def _record_stop(book: Logbook, setup: Setup) -> None:
    """Record that a run can be resumed, as well as the disk allows."""
    with contextlib.suppress(OSError):
        if book.facts["status"] == "running":
            book.update("interrupted", step=setup.training.progress.step)


def _record_failure(book: Logbook, error: BaseException) -> None:
    """Record a failure as well as the disk allows."""
    lines = traceback.format_exception(error)
    with contextlib.suppress(OSError):
        RunPaths(book.folder).error_log.write_text("".join(lines), encoding="utf-8")
        book.update("failed", failure={"reason": told(error), "lines": lines[-3:]})


def _keep_records(
    jobs: Sequence[Job], setup: Setup, books: Sequence[Logbook], writers: Writers, stop: Callable[[], bool]
) -> list[Outcome]:
    """Write each record to the logbooks of members still training; finish the logbooks of members that end early."""
    progress, cadence = setup.training.progress, setup.training.cadence
    ended = {
        row: _end(job, book, setup, book.seconds, **how)
        for row, (job, book) in enumerate(zip(jobs, books, strict=True))
        if (how := _early_end(setup, book, None))
    }
    setup.clock.start(progress.step, before=books[0].seconds)
    for line in [*without_effect(jobs[0].overrides), _about(setup)]:
        log.info("%s", line)
    name = jobs[0].name if len(jobs) == 1 else f"{len(jobs)} stacked runs"
    display = RunDisplay(name, progress.step, cadence.steps, [job.folder for job in jobs])
    with display.bar:
        for record in train(setup.training, setup.evaluate, setup, stop=stop) if len(ended) < len(jobs) else ():
            seconds, rate = setup.clock.look(record.step)
            diverged = progress.diverged_at()
            going = [row for row in range(len(jobs)) if row not in ended]
            for row in going:
                books[row].enter(record, row, seconds, rate)
            ends = {row: how for row in going if (how := _early_end(setup, books[row], diverged[row]))}
            _save_due(setup, {row: books[row] for row in going if diverged[row] is None}, ends, writers, seconds)
            if ends:
                writers.wait()
            for row, how in ends.items():
                ended[row] = _end(jobs[row], books[row], setup, seconds, **how)
            display.show(record)
            if len(ended) == len(jobs):
                break
    seconds, _ = setup.clock.look(progress.step)
    status = "finished" if progress.step == cadence.steps else "interrupted"
    rest = [row for row in range(len(jobs)) if row not in ended]
    writers.wait()
    found = writers.each(lambda row: _end(jobs[row], books[row], setup, seconds, status=status), rest)
    ended |= dict(zip(rest, found, strict=True))
    return [ended[row] for row in range(len(jobs))]


def _about(setup: Setup) -> str:
    """What is trained, as a line for the user."""
    config, cadence, data = setup.config, setup.training.cadence, setup.data
    length = f"{cadence.steps} steps ({cadence.steps / cadence.per_epoch:.4g} epochs)"
    what = f"{config.model['name']} with norm={config.norm['name']} on {data.name}, {len(data.train)} images"
    return f"training {what}, {length}, on {setup.population.theta_MP.device}"


def _early_end(setup: Setup, book: Logbook, diverged_at: int | None) -> dict[str, Any]:
    """How a member ends before its last step: the facts of its run.json, or none if it goes on.

    It ends after ``stop_after`` evaluations in a row without a better validation accuracy (Goodfellow et al. 2016,
    algorithm 7.1; the number is their patience).
    """
    step, most = setup.training.progress.step, setup.config.stop_after
    if diverged_at is not None:
        return {"status": "diverged", "diverged_at": diverged_at}
    if most is not None and book.without_improvement >= most and step < setup.training.cadence.steps:
        return {"status": "finished", "stopped_at": step}
    return {}


def _save_due(
    setup: Setup, books: Mapping[int, Logbook], ends: Collection[int], writers: Writers, seconds: float
) -> None:
    """Save the members that are due, or their last state; weights that are not finite are never saved."""
    progress, cadence = setup.training.progress, setup.training.cadence
    all_due = progress.stopping or cadence.due(progress.step, cadence.checkpoint_every)
    best = {row for row in books if setup.config.checkpoint_best and books[row].best_step == progress.step}
    rows = [row for row in books if all_due or row in ends or row in best]
    if not rows:
        return
    finite = setup.finite()
    rows = [row for row in rows if finite[row]]
    writers.wait()  # one checkpoint after another
    if not rows:
        return
    due = [row for row in rows if all_due or row in ends]
    state_of = setup.states(rows)
    writers.each(lambda row: books[row].flush(), due)
    marks = {row: books[row].marks for row in due}
    both = CHECKPOINTS[setup.config.checkpoint_keep] > 1

    def save(row: int) -> None:
        folder, state = books[row].folder, {"config_hash": books[row].facts["config_hash"], **state_of(row)}
        if row in best:
            checkpoint.save_best(folder, state)
        if row in marks:
            checkpoint.save(folder, state, marks[row], both=both)

    if not (progress.stopping or progress.step == cadence.steps):  # else ``_end`` does
        how = _executor(setup)  # told again: kernels that times have chosen are known by now
        now = {"step": progress.step, "seconds": round(seconds, 3), "executor": how}
        writers.each(lambda row: books[row].update("running", **now), due)
    writers.later(save, rows)


def _end(job: Job, book: Logbook, setup: Setup, seconds: float, *, status: str, **at: int) -> Outcome:
    book.flush()
    step = setup.training.progress.step
    # The executor is told again: a capture that failed is known by now, and kernels that times have chosen.
    book.update(status, step=step, seconds=round(seconds, 3), executor=_executor(setup), **at)
    if status != "interrupted":
        RunPaths(job.folder).error_log.unlink(missing_ok=True)  # of an earlier try
        if not CHECKPOINTS[job.config.checkpoint_keep]:
            checkpoint.remove(job.folder)
    return Outcome(job, status, book.facts)
