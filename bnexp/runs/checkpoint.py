"""Checkpoints: written atomically, verified when read, plain tensors and numbers that ``weights_only=True`` loads."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnexp.runs.paths import RunPaths
from bnexp.runs.storage import write_atomically

FORMAT = 1

State = dict[str, Any]
log = logging.getLogger(__name__)


def digest(state: Any) -> str:
    """SHA-256 over every name, type, shape and byte of a nested dict; torch itself checks nothing inside tensors."""
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


def save(folder: Path, state: State, *, both: bool = True) -> None:
    """Write a checkpoint.

    Args:
        folder: the run's folder.
        state: nested dicts of CPU tensors, numbers, strings and None.
        both: keep the one before it as well.

    Raises:
        OSError: it could not be written; the checkpoints that were there still load.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "digest": digest(state), "state": state}, buffer)
    paths = RunPaths(folder)
    write_atomically(paths.checkpoint, buffer.getbuffer(), keep=paths.previous if both else None)
    if not both:
        paths.previous.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Leave a run without checkpoints, so that nobody can go on from it."""
    for path in (RunPaths(folder).checkpoint, RunPaths(folder).previous):
        path.unlink(missing_ok=True)


def exists(folder: Path) -> bool:
    """Whether a checkpoint was ever written, usable or not."""
    return RunPaths(folder).checkpoint.exists() or RunPaths(folder).previous.exists()


def load(folder: Path, *, repair: bool = False) -> State | None:
    """The newest checkpoint that is whole, or None where none was ever written.

    A newest one that is damaged or missing is passed over with a warning. Nothing in a file is run, whatever it holds.

    Args:
        folder: the run's folder.
        repair: set a damaged newest one aside, so that the next ``save`` does not keep it in place of the good one;
            only for who holds the folder.

    Raises:
        ValueError: there are checkpoints, and none is usable.
    """
    if not exists(folder):
        return None
    paths, faults = RunPaths(folder), []
    for path in (paths.checkpoint, paths.previous):
        try:
            state = _read(path)
        except ValueError as error:
            faults.append(str(error))
            continue
        for fault in faults:
            log.warning("%s; going on from the one before, step %s", fault, state["step"])
        if faults and repair and paths.checkpoint.exists():
            paths.checkpoint.replace(paths.damaged)
        return state
    raise ValueError(f"no usable checkpoint: {'; '.join(faults)}; delete checkpoint*.pt to start the run again")


def _read(path: Path) -> State:
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: not a regular file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: missing") from None
    except pickle.UnpicklingError:
        raise ValueError(f"{path}: damaged, or holds more than tensors and numbers (refused)") from None
    except Exception as error:  # what torch raises for a damaged file depends on the damaged byte
        raise ValueError(f"{path}: damaged ({type(error).__name__})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: not a checkpoint of this version of bnexp")
    try:
        intact = digest(content["state"]) == content["digest"]
    except (KeyError, TypeError, RuntimeError):
        intact = False
    if not intact:
        raise ValueError(f"{path}: damaged (its digest does not match)")
    state: State = content["state"]
    return state
