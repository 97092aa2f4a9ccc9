"""Atomic files, new folders, and folders that one process holds at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

# Seconds before each try to lock a folder: whoever asks whether it is in use holds it for a moment.
_TRIES_S = (0.0, 0.02, 0.05)


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
    # TensorBoard reads every file whose name contains "tfevents".
    temporary = path.with_name(path.name.replace("tfevents", "events") + ".tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed; or a link, which is not followed
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        error.filename = error.filename or str(path)  # a full disk names no file
        raise
    sync_folder(path.parent)


def content(path: Path, most: int = -1) -> bytes:
    """What a file holds, or its first ``most`` bytes.

    Raises:
        OSError: it cannot be read, or is no file but a pipe or a device, which could keep a reader waiting for ever.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read(most)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def is_full(error: OSError) -> bool:
    """Whether the disk, or the user's share of it, has no room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def make_free(folder: Path) -> Path:
    """Make a folder that nobody has made before: the given one, or the next of ``folder-2``, ``folder-3``, ...

    Raises:
        OSError: it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        free = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        with contextlib.suppress(FileExistsError):
            free.mkdir()
            break
    return free


def require_files(folder: Path) -> None:
    """Refuse a folder in which something else stands where files are written.

    Raises:
        ValueError: there is a pipe, a socket, a device or a link in it; a link could lead to somebody else's file.
    """
    for path in folder.iterdir():
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path}: not a regular file; remove it, or choose another folder")


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
        if not any(_locked(descriptor, after_s) for after_s in _TRIES_S):
            raise ValueError(f"{folder}: in use by another bnexp process; wait for it or stop it")
        yield
    finally:
        os.close(descriptor)


def in_use(folder: Path) -> bool:
    """Whether another process holds a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return not _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, after_s: float = 0.0) -> bool:
    time.sleep(after_s)
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
