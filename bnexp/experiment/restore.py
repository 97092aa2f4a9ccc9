"""Puts a run back to one of its checkpoints, to train on or to be evaluated."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bnexp.config.schema import TrainConfig, config_hash, to_dict
from bnexp.data import Data
from bnexp.experiment.imports import tell_of_changes
from bnexp.experiment.job import Job
from bnexp.experiment.longer import former, require_open_end
from bnexp.experiment.setup import Row, Setup, build
from bnexp.runs import checkpoint, run_json
from bnexp.runs.paths import RunPaths

log = logging.getLogger(__name__)


def data_changed(folder: Path, data: Data) -> bool:
    """Whether an image, a label or their order is another than when a run began; older runs do not say."""
    return bool(run_json.known(folder).get("fingerprint", data.fingerprint) != data.fingerprint)


def restore(setup: Setup, row: int, job: Job) -> checkpoint.State | None:
    """Load a member's last checkpoint to go on from it, if there is one.

    Raises:
        ValueError: no checkpoint is usable, or it belongs to another config.
    """
    state = checkpoint.load(job.folder, to_go_on=True)
    if state is None:
        return None
    steps = setup.training.cadence.steps
    if job.longer and state["step"] >= steps and state.get("config_hash") != config_hash(to_dict(job.config)):
        raise ValueError(f"{job.folder}: has trained {state['step']} steps, and is to have {steps}; give more")
    _put(setup, row, job, state, RunPaths(job.folder).checkpoint)
    require_open_end(setup, job, state)
    return state


def _put(setup: Setup, row: int, job: Job, state: checkpoint.State, path: Path) -> None:
    """Put a member back to the state that a checkpoint holds.

    Raises:
        ValueError: it belongs to another config, or is none of this version.
    """
    tell_of_changes(job.folder, job.config.imports)
    known = [config_hash(to_dict(job.config)), *(each["config_hash"] for each in former(job))]
    if state.get("config_hash") not in known:
        raise ValueError(f"{job.folder}: the checkpoint belongs to another config than run.json describes")
    try:
        _require_kind(setup.state(row), state, "state")
        if not 0 <= state["step"] <= setup.training.cadence.steps:
            raise TypeError(f"step {state['step']}, of {setup.training.cadence.steps}")
        setup.load(row, state)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        fault = f"not a checkpoint of this version of bnexp ({' '.join(str(error).split())})"
        raise ValueError(f"{path}: {fault}; delete checkpoint*.pt to start again") from None


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


def evaluate_run(
    job: Job, split: str | None, *, best: bool = False, evaluations: Mapping[str, Any] | None = None
) -> tuple[int, list[Row]]:
    """Evaluate a run's last checkpoint under all three kinds of statistics, and by its evaluations.

    Args:
        job: from ``saved_job``.
        split: train, validation or test; None for all.
        best: evaluate its best checkpoint instead.
        evaluations: the group of a config, instead of the run's own.

    Returns:
        The step, and the rows.

    Raises:
        ValueError: there is no checkpoint, or the data have no such split.
    """
    config = job.config if evaluations is None else replace(job.config, evaluations=dict(evaluations))
    setup, step = restored(job, config, best=best)
    return step, setup.compare_statistics(split)


def restored(job: Job, config: TrainConfig, *, best: bool = False) -> tuple[Setup, int]:
    """A run as a checkpoint has it, and the checkpoint's step; nothing is written.

    Args:
        job: from ``saved_job``.
        config: its settings; those of the machine may be others.
        best: take its best checkpoint instead of its last.

    Raises:
        ValueError: there is no usable checkpoint, or the data cannot be read.
    """
    setup = build([config], stacked=False, resumed=[True])
    state = checkpoint.load_best(job.folder) if best else checkpoint.load(job.folder)
    if state is None:
        raise ValueError(f"{job.folder}: has no checkpoint; the run has not saved one, or kept none")
    paths = RunPaths(job.folder)
    _put(setup, 0, job, state, paths.best if best else paths.checkpoint)
    if data_changed(job.folder, setup.data):
        log.warning("data=%s: not those that %s was trained with: they have changed since", setup.data.name, job.folder)
    return setup, state["step"]
