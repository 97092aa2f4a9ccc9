"""Files that exist whole or not at all, and folders that one process holds at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, data: bytes | memoryview, *, keep: Path | None = None) -> None:
    """Put ``data`` at ``path`` so that after any crash the old or the new content is there, never a mixture.

    Data reach the disk before the name does, and the name before the call returns.

    Args:
        path: the file.
        data: its new content.
        keep: where the old content goes, instead of being replaced.

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
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder inside the with block; the system frees it when the process ends, however it ends.

    Raises:
        ValueError: another process holds it.
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
