"""The folder that a run writes into: made, locked, and with a log of the program's messages."""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

from bnexp.config.checks import RunFailedError
from bnexp.experiment.job import Job
from bnexp.runs.paths import RunPaths
from bnexp.runs.storage import held, is_full, make_free, require_files


class StorageFailedError(RunFailedError):
    """A file could not be written in the middle of a run."""


# What the system says of a disk that is not full, and still cannot be written.
_BROKEN = (errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)


def is_storage(error: BaseException, *folders: Path) -> bool:
    """Whether the disk failed, or a file in one of these folders; a user's norm may lack a file of its own."""
    if not isinstance(error, OSError):
        return False
    inside = error.filename and any(Path(str(error.filename)).is_relative_to(folder) for folder in folders)
    return is_full(error) or error.errno in _BROKEN or bool(inside)


@contextmanager
def remembered() -> Iterator[Sequence[logging.LogRecord]]:
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


@contextmanager
def open_folder(job: Job, said: Sequence[logging.LogRecord]) -> Iterator[Path]:
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
            if is_full(error):
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
    """Remove a new folder if a full disk or a signal ended the run before anything stood in it by which it is known."""
    if isinstance(error, StorageFailedError | OSError | SystemExit) and not RunPaths(folder).run_json.exists():
        shutil.rmtree(folder, ignore_errors=True)


def _close(handler: logging.Handler) -> None:
    with contextlib.suppress(OSError):
        handler.close()
