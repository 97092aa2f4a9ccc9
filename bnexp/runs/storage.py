"""Atomic files, and folders that one process holds at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, data: bytes | memoryview, *, keep: Path | None = None) -> None:
    """Write ``data`` to ``path`` so that after a crash the file has the old or the new content, never a mixture.

    The data reach the disk before the file gets its name, and the name reaches the disk before this function returns.

    Args:
        path: the file.
        data: its new content.
        keep: the path to which the old content is moved; None replaces it.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old content is at ``path``, or at ``keep``.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, so that they survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock a folder inside the with block; the system frees the lock when the process ends for any reason.

    Raises:
        ValueError: another process holds the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: in use by another bnexp process; wait for it or stop it") from None
        yield
    finally:
        os.close(descriptor)
