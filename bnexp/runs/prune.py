"""Removes checkpoints or whole runs: only files that bnexp has written, and only of runs that no process holds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from bnexp.runs import run_json
from bnexp.runs.paths import RunPaths, is_sweep
from bnexp.runs.storage import held

# What can be removed -> the files of a run that go.
KINDS: Mapping[str, Callable[[RunPaths], list[Path]]] = {
    "checkpoints": lambda paths: [path for path in paths.checkpoints if path.is_file() and not path.is_symlink()],
    "folders": lambda paths: paths.written,
}


def size(folders: Sequence[Path], kind: str) -> int:
    """Bytes that would be removed."""
    return sum(path.stat().st_size for folder in folders for path in KINDS[kind](RunPaths(folder)))


def require_free(folders: Sequence[Path]) -> None:
    """Refuse to remove anything while one of the runs, or its sweep, is in use.

    Raises:
        ValueError: another process holds a folder.
    """
    for folder in folders:
        with _held_with_sweep(folder):
            pass


def require_within(root: Path, folders: Iterable[Path]) -> None:
    """Refuse folders that a link below ``root`` leads to: they may lie anywhere.

    Raises:
        ValueError: there is one.
    """
    for folder in folders:
        below = [folder, *folder.parents][: len(folder.parts) - len(root.parts)]
        link = next((each for each in below if each.is_symlink()), None)
        if link is not None:
            raise ValueError(f"{link}: a link; name the folder that it leads to, or remove the link")


def remove(folder: Path, kind: str) -> bool:
    """Remove files of a run; returns whether everything is gone that was asked for.

    A folder goes only if nothing of somebody else is in it.

    Raises:
        ValueError: the folder has no usable run, or another process holds it.
        OSError: a file cannot be removed.
    """
    run_json.read(folder)
    with _held_with_sweep(folder):
        for path in KINDS[kind](RunPaths(folder)):
            path.unlink()
        if kind == "folders":
            for left in (folder / ".hydra", folder):
                with contextlib.suppress(OSError):
                    left.rmdir()  # only if it is empty
    return kind != "folders" or not folder.exists()


@contextlib.contextmanager
def _held_with_sweep(folder: Path) -> Iterator[None]:
    with ExitStack() as holds:
        if is_sweep(folder.parent):
            holds.enter_context(held(folder.parent))
        holds.enter_context(held(folder))
        yield
