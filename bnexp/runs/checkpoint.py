"""Checkpoints: written atomically, verified when read, plain tensors and numbers that ``weights_only=True`` loads."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnexp.runs.digest import Mark, beginning
from bnexp.runs.paths import EVENTS, RunPaths
from bnexp.runs.storage import write_atomically

FORMAT = 1

State = dict[str, Any]
log = logging.getLogger(__name__)


def digest(state: Any) -> str:
    """SHA-256 over every name, type, shape and byte of a nested dict; torch does not check the contents of tensors."""
    sha = hashlib.sha256()
    _feed(sha, "", state)
    return sha.hexdigest()


def _feed(sha: Any, path: str, node: Any) -> None:
    if isinstance(node, dict):
        for key in sorted(node):
            _feed(sha, f"{path}/{key}", node[key])
    elif isinstance(node, Tensor):
        sha.update(f"{path}:{node.dtype}:{tuple(node.shape)}:".encode())
        sha.update(node.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    else:
        sha.update(f"{path}={json.dumps(node)};".encode())


def _of_both(state: State, files: Mapping[str, Mark]) -> str:
    return digest({"state": state, "files": dict(files)} if files else state)  # older versions knew of no files


def save(folder: Path, state: State, files: Mapping[str, Mark] | None = None, *, both: bool = True) -> None:
    """Write a checkpoint.

    Args:
        folder: the run's folder.
        state: nested dicts of CPU tensors, numbers, strings and None.
        files: what the files of the folder hold that belong to it, by name.
        both: keep the previous checkpoint as well.

    Raises:
        OSError: it could not be written; the earlier checkpoints still load.
    """
    paths = RunPaths(folder)
    write_atomically(paths.checkpoint, _written(state, files or {}), keep=paths.previous if both else None)
    if not both:
        paths.previous.unlink(missing_ok=True)


def _written(state: State, files: Mapping[str, Mark]) -> memoryview:
    """The content of a checkpoint's file."""
    buffer, marks = io.BytesIO(), dict(files)
    torch.save({"format": FORMAT, "digest": _of_both(state, marks), "state": state, "files": marks}, buffer)
    return buffer.getbuffer()


def replace(folder: Path, state: State, files: Mapping[str, Mark]) -> None:
    """Write a checkpoint in the place of the newest one; the previous one stays.

    Without files, the next ``load`` does not ask what they hold.

    Raises:
        OSError: it could not be written; the earlier checkpoints still load.
    """
    write_atomically(RunPaths(folder).checkpoint, _written(state, files))


def save_best(folder: Path, state: State) -> None:
    """Write the best checkpoint so far, and keep the best one before it.

    Raises:
        OSError: it could not be written; the best one before it is kept.
    """
    paths = RunPaths(folder)
    write_atomically(paths.best, _written(state, {}), keep=paths.former_best)


def load_best(folder: Path) -> State:
    """Read the best checkpoint.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path = RunPaths(folder).best
    if not path.exists():
        raise ValueError(f"{folder}: has no {path.name}; a run keeps it with checkpoint_best=true")
    return _read(path)[0]


def settle_best(folder: Path, step: int | None, config_hash: str) -> None:
    """Let the best checkpoint be the one that the metrics name, where a run goes on.

    It may be of a later step than the run goes on from, or of an evaluation that a longer run does not have. Then the
    one before it returns, or there is none until the next best evaluation.

    Args:
        folder: the run's folder.
        step: of the best evaluation; None leaves no best checkpoint.
        config_hash: that the checkpoint is to have: a run made longer has another one.
    """
    paths = RunPaths(folder)
    for path in (paths.best, paths.former_best):
        state = _intact(path) if path.exists() else None
        if state is not None and state["step"] == step:
            if path != paths.best or state.get("config_hash") != config_hash:
                write_atomically(paths.best, _written({**state, "config_hash": config_hash}, {}))
            return
    paths.best.unlink(missing_ok=True)
    paths.former_best.unlink(missing_ok=True)


def _intact(path: Path) -> State | None:
    try:
        return _read(path)[0]
    except ValueError as error:
        log.warning("%s", error)
        return None


def remove(folder: Path) -> None:
    """Leave a run without checkpoints, so that nobody can go on from it."""
    for path in (RunPaths(folder).checkpoint, RunPaths(folder).previous):
        path.unlink(missing_ok=True)


def exists(folder: Path) -> bool:
    """True if a checkpoint file exists, even a damaged one."""
    return RunPaths(folder).has_checkpoint


def load(folder: Path, *, to_go_on: bool = False) -> State | None:
    """Read the newest intact checkpoint; None if no checkpoint file exists.

    If the newest one is damaged or missing, the previous one is read, with a warning. Loading never runs code from the
    file.

    Args:
        folder: the run's folder.
        to_go_on: only for the process that holds the folder. A damaged newest checkpoint is renamed, so that the next
            ``save`` does not keep it instead of the good one; the files that belong to the checkpoint must be
            unchanged, and what was appended to them later is removed.

    Raises:
        ValueError: there are checkpoints, and none is usable; or a file that belongs to it was changed.
    """
    if not exists(folder):
        return None
    paths, faults = RunPaths(folder), []
    for path in (paths.checkpoint, paths.previous):
        try:
            state, files = _read(path)
        except ValueError as error:
            faults.append(str(error))
            continue
        for fault in faults:
            log.warning("%s; resuming from the previous checkpoint, step %s", fault, state["step"])
        if to_go_on:
            _cut(paths, files)
            if faults and paths.checkpoint.exists():
                paths.checkpoint.replace(paths.damaged)
        return state
    raise ValueError(f"no usable checkpoint: {'; '.join(faults)}; delete checkpoint*.pt to start the run again")


def _cut(paths: RunPaths, files: Mapping[str, Mark]) -> None:
    """Bring the files of a run to where they were; if events are lost, all go, and the logbook writes them anew."""
    for path in paths.growing:
        if path.name not in files:  # an older version wrote the checkpoint
            continue
        try:
            begun = beginning(path, files[path.name])
        except ValueError as error:
            raise ValueError(f"{error}; put it back, or delete checkpoint*.pt to start the run again") from None
        if path.stat().st_size > len(begun):
            write_atomically(path, begun)
    sizes = {path.name: path.stat().st_size for path in paths.events}
    if any(name.startswith(EVENTS) and sizes.get(name, -1) < mark["bytes"] for name, mark in files.items()):
        for path in paths.events:
            path.unlink()


def _read(path: Path) -> tuple[State, dict[str, Mark]]:
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: not a regular file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: missing") from None
    except pickle.UnpicklingError:
        raise ValueError(f"{path}: damaged, or holds more than tensors and numbers (refused)") from None
    except Exception as error:  # torch raises different errors for different damaged bytes
        raise ValueError(f"{path}: damaged ({type(error).__name__})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: not a checkpoint of this version of bnexp")
    try:
        state, files = content["state"], content.get("files", {})
        intact = _of_both(state, files) == content["digest"]
    except (KeyError, TypeError, RuntimeError, ValueError):
        intact = False
    if not intact:
        raise ValueError(f"{path}: damaged (its digest does not match)")
    if not isinstance(state, dict) or type(state.get("step")) is not int or not _are_marks(files):
        raise ValueError(f"{path}: not a checkpoint of this version of bnexp")
    return state, files


def _are_marks(files: object) -> bool:
    return isinstance(files, dict) and all(
        isinstance(mark, dict) and type(mark.get("bytes")) is int and mark["bytes"] >= 0 for mark in files.values()
    )
