"""One run, or one stack of runs: build what the configs ask for, train, write the records."""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import torch

from bnexp.config.checks import RunFailedError
from bnexp.config.schema import CHECKPOINTS, TrainConfig, config_hash, to_dict
from bnexp.data import Data
from bnexp.experiment.display import RunDisplay
from bnexp.experiment.job import Job, Outcome
from bnexp.experiment.setup import Setup, build
from bnexp.runs import checkpoint, run_json
from bnexp.runs.logbook import Logbook
from bnexp.runs.paths import RunPaths
from bnexp.runs.provenance import provenance
from bnexp.runs.storage import held, make_free, require_files
from bnexp.training.loop import train

log = logging.getLogger(__name__)

# Provenance fields that can change the last bits of a result.
_BITS = ("torch", "device", "device_name", "cpu_capability", "threads")


class StorageFailedError(RunFailedError):
    """A file could not be written in the middle of a run."""


def run(jobs: Sequence[Job], *, stop: Callable[[], bool], stacked: bool = False) -> list[Outcome]:
    """Train jobs as one population and write their records; resume from checkpoints where there are any.

    Args:
        jobs: one per member.
        stop: asked after every step; True saves and ends the run as ``interrupted``.
        stacked: see ``Population``.

    Raises:
        ValueError: an error that the user can fix; no run folder has been made or changed.
        RunFailedError: the program failed, or (``StorageFailedError``) a file could not be written in the middle of the
            run; the last checkpoint is intact.
        torch.OutOfMemoryError: there are several jobs, and the device has too little memory for all of them at once.
    """
    with ExitStack() as holds:
        said = holds.enter_context(_remembered())
        resumed = [not job.fresh and checkpoint.exists(job.folder) for job in jobs]
        setup = build([job.config for job in jobs], stacked=stacked, resumed=resumed)
        for job in (job for job, goes_on in zip(jobs, resumed, strict=True) if goes_on):
            if _data_changed(job.folder, setup.data):
                what = f"the images or labels have changed since {job.folder} began"
                raise ValueError(f"data={setup.data.name}: {what}; bring them back, or train anew in another folder")
        jobs = [replace(job, folder=holds.enter_context(_open_folder(job, said)), fresh=False) for job in jobs]
        try:
            return _run_in_folders(jobs, setup, stop)
        except OSError as error:
            where = error.filename or jobs[0].folder
            raise StorageFailedError(f"{where}: {error.strerror or error}; what was saved is kept") from None


def _data_changed(folder: Path, data: Data) -> bool:
    """Whether an image, a label or their order is another than when a run began; older runs do not say."""
    try:
        return bool(run_json.read(folder).get("fingerprint", data.fingerprint) != data.fingerprint)
    except ValueError:  # no readable run.json to compare with
        return False


@contextmanager
def _remembered() -> Iterator[Sequence[logging.LogRecord]]:
    """Collect the messages logged in the with block, for train.log files that are opened later in it."""
    logger, keeper = logging.getLogger("bnexp"), MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(keeper)
    try:
        yield keeper.buffer
    finally:
        logger.removeHandler(keeper)
        logger.setLevel(level)


def _run_in_folders(jobs: Sequence[Job], setup: Setup, stop: Callable[[], bool]) -> list[Outcome]:
    resumed = [_load(setup, row, job, to_go_on=True) for row, job in enumerate(jobs)]
    with ExitStack() as open_books:
        books = [_open_book(job, setup, state) for job, state in zip(jobs, resumed, strict=True)]
        for book in books:
            open_books.callback(book.close)
        try:
            return _keep_records(jobs, setup, books, stop)
        except Exception as error:
            if _can_go_on(error, len(jobs)):
                for book in books:
                    _record_stop(book, setup)
                raise
            for book in books:
                if book.facts["status"] == "running":  # a member that diverged before has its result already
                    _record_failure(book, error)
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise RunFailedError(f"{reason}; details in {RunPaths(jobs[0].folder).error_log}") from None


def _can_go_on(error: Exception, members: int) -> bool:
    """Whether the runs can be resumed: after a full disk, or in a smaller stack."""
    return isinstance(error, OSError) or (isinstance(error, torch.OutOfMemoryError) and members > 1)


def _load(setup: Setup, row: int, job: Job, *, to_go_on: bool) -> checkpoint.State | None:
    """Load a member's last checkpoint, if there is one.

    Raises:
        ValueError: no checkpoint is usable, or it belongs to another config.
    """
    state = checkpoint.load(job.folder, to_go_on=to_go_on)
    if state is None:
        return None
    if state.get("config_hash") != config_hash(to_dict(job.config)):
        raise ValueError(f"{job.folder}: the checkpoint belongs to another config than run.json describes")
    try:
        _require_kind(setup.state(row), state, "state")
        if not 0 <= state["step"] <= setup.training.cadence.steps:
            raise TypeError(f"step {state['step']}, of {setup.training.cadence.steps}")
        setup.load(row, state)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        fault = f"not a checkpoint of this version of bnexp ({' '.join(str(error).split())})"
        raise ValueError(f"{RunPaths(job.folder).checkpoint}: {fault}; delete checkpoint*.pt to start again") from None
    return state


def _require_kind(own: Any, saved: Any, where: str) -> None:
    """Refuse what is of another kind than a run would save; what only one of the two has is left to ``Setup.load``.

    Raises:
        TypeError: a number stands for a tensor, say, or the numbers of a tensor are of another type.
    """
    if isinstance(own, dict) and isinstance(saved, dict):
        for key in own.keys() & saved.keys():
            _require_kind(own[key], saved[key], f"{where}.{key}")
    elif isinstance(own, torch.Tensor) and isinstance(saved, torch.Tensor):
        if own.dtype != saved.dtype:
            raise TypeError(f"{where}: {saved.dtype}, not {own.dtype}")
    elif not isinstance(saved, int | float if isinstance(own, float) else type(own)):
        raise TypeError(f"{where}: another kind of value")


@contextmanager
def _open_folder(job: Job, said: Sequence[logging.LogRecord]) -> Iterator[Path]:
    """Make and lock a run's folder; its train.log gets the program's messages except those about other folders.

    Args:
        job: the run.
        said: earlier messages, which the log gets too.

    Raises:
        ValueError: the folder cannot be written, or another process holds it.
        StorageFailedError: the disk is full.
    """
    folder, is_new = job.folder, job.fresh or not job.folder.exists()
    with ExitStack() as opened:
        try:
            if job.fresh:
                folder = make_free(folder)
            else:
                folder.mkdir(parents=True, exist_ok=True)
            opened.enter_context(held(folder))
            require_files(folder)
            if is_new:
                opened.push(lambda kind, error, where: _take_back(folder, error))
            handler = logging.FileHandler(RunPaths(folder).train_log, encoding="utf-8")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFailedError(f"{folder}: {error.strerror}") from None
            raise ValueError(f"{folder}: cannot be written ({error.strerror})") from None
        opened.callback(_close, handler)
        handler.handleError = lambda record: None  # type: ignore[method-assign]  # the other files will tell
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handler.addFilter(lambda message: getattr(message, "folder", folder) == folder)
        for message in said:
            handler.handle(message)
        logger = logging.getLogger("bnexp")
        logger.addHandler(handler)
        opened.callback(logger.removeHandler, handler)
        yield folder


def _take_back(folder: Path, error: BaseException | None) -> None:
    """Remove a new folder if the disk was full before anything stood in it by which it is known."""
    if isinstance(error, StorageFailedError | OSError) and not RunPaths(folder).run_json.exists():
        shutil.rmtree(folder, ignore_errors=True)


def _close(handler: logging.Handler) -> None:
    with contextlib.suppress(OSError):
        handler.close()


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
        "diverged_at": None,
        "failure": None,
    }
    if job.alone is not None:
        facts["trained_alone"] = job.alone
    for name, text in job.notes.items():
        path = job.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if state is not None:
        log.info("%s resumes from step %d of %d", job.folder, state["step"], setup.training.cadence.steps)
        _warn_of_changes(job.folder, made_with)
    return Logbook(job.folder, facts, after=None if state is None else state["step"])


def _warn_of_changes(folder: Path, now: Mapping[str, Any]) -> None:
    """Warn if the machine or its libraries changed since the run began: the result may differ in its last bits."""
    with contextlib.suppress(ValueError):  # no readable run.json to compare with
        before = run_json.read(folder).get("provenance") or {}
        changes = [f"{key} {before.get(key)} -> {now[key]}" for key in _BITS if before.get(key) != now[key]]
        if changes:
            log.warning("%s: changed since the run began, last bits may differ: %s", folder, ", ".join(changes))


def _record_stop(book: Logbook, setup: Setup) -> None:
    """Record that a run can be resumed, as well as the disk allows."""
    with contextlib.suppress(OSError):
        if book.facts["status"] == "running":
            book.update("interrupted", step=setup.training.progress.step)


def _record_failure(book: Logbook, error: Exception) -> None:
    """Record a failure as well as the disk allows."""
    lines = traceback.format_exception(error)
    with contextlib.suppress(OSError):
        RunPaths(book.folder).error_log.write_text("".join(lines), encoding="utf-8")
        book.update("failed", failure={"reason": f"{type(error).__name__}: {error}", "lines": lines[-3:]})


def _keep_records(
    jobs: Sequence[Job], setup: Setup, books: Sequence[Logbook], stop: Callable[[], bool]
) -> list[Outcome]:
    """Write each record to the logbooks of members still training; finish the logbooks of members that diverged."""
    ended: dict[int, Outcome] = {}
    progress, cadence = setup.training.progress, setup.training.cadence
    setup.clock.start(progress.step, before=books[0].seconds)
    name = jobs[0].name if len(jobs) == 1 else f"{len(jobs)} stacked runs"
    display = RunDisplay(name, progress.step, cadence.steps, [job.folder for job in jobs])
    with display.bar:
        for record in train(setup.training, setup.evaluate, setup, stop=stop):
            seconds, rate = setup.clock.look(record.step)
            diverged = progress.diverged_at()
            for row in set(range(len(jobs))) - set(ended):
                books[row].enter(record, row, seconds, rate)
                if diverged[row] is not None:
                    ended[row] = _end(jobs[row], books[row], "diverged", seconds, record.step, diverged[row])
                elif cadence.due(record.step, cadence.checkpoint_every) or progress.stopping:
                    _save(setup, books[row], row)
            display.show(record)
    seconds, _ = setup.clock.look(progress.step)
    status = "finished" if progress.step == cadence.steps else "interrupted"
    for row in set(range(len(jobs))) - set(ended):
        ended[row] = _end(jobs[row], books[row], status, seconds, progress.step)
    return [ended[row] for row in range(len(jobs))]


def _save(setup: Setup, book: Logbook, row: int) -> None:
    """Write a member's checkpoint after flushing its logbook; weights that are not finite are never saved."""
    if setup.finite(row):
        book.flush()
        state = {"config_hash": book.facts["config_hash"], **setup.state(row)}
        checkpoint.save(book.folder, state, book.marks, both=CHECKPOINTS[setup.config.checkpoint_keep] > 1)
        progress = setup.training.progress
        if not (progress.stopping or progress.step == setup.training.cadence.steps):  # else ``_end`` does
            book.update("running", step=progress.step)


def _end(job: Job, book: Logbook, status: str, seconds: float, step: int, diverged_at: int | None = None) -> Outcome:
    book.flush()
    book.update(status, step=step, diverged_at=diverged_at, seconds=round(seconds, 3))
    if status != "interrupted":
        RunPaths(job.folder).error_log.unlink(missing_ok=True)  # of an earlier try
        if not CHECKPOINTS[job.config.checkpoint_keep]:
            checkpoint.remove(job.folder)
    return Outcome(job, status, book.facts)


def evaluate_run(job: Job, split: str | None) -> tuple[int, list[tuple[str, str, float, float]]]:
    """Evaluate a run's last checkpoint under all three kinds of statistics.

    Args:
        job: from ``saved_job``.
        split: train, validation or test; None for all.

    Returns:
        The step, and rows (split, statistics, accuracy, loss).

    Raises:
        ValueError: there is no checkpoint, or the data have no such split.
    """
    setup, step = restored(job)
    return step, list(setup.compare_statistics(split))


def restored(job: Job, config: TrainConfig | None = None) -> tuple[Setup, int]:
    """A run as its last checkpoint has it, and the checkpoint's step; nothing is written.

    Args:
        job: from ``saved_job``.
        config: its settings, but for those of the machine, if the checkpoint is to be used on another one.

    Raises:
        ValueError: there is no usable checkpoint, or the data cannot be read.
    """
    setup = build([config or job.config], stacked=False, resumed=[True])
    state = _load(setup, 0, job, to_go_on=False)
    if state is None:
        raise ValueError(f"{job.folder}: has no checkpoint; the run has not saved one, or kept none")
    if _data_changed(job.folder, setup.data):
        log.warning("data=%s: not those that %s was trained with: they have changed since", setup.data.name, job.folder)
    return setup, state["step"]
