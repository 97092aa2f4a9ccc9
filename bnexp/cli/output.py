"""Writes to standard output and error, whose reader may be gone, or whose disk may be full."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TextIO

from bnexp.compare.blocks import Document
from bnexp.compare.formats import FORMATS
from bnexp.config.checks import RunFailedError


def drop(stream: TextIO) -> None:
    """Send all that a stream still holds, or will get, to /dev/null; otherwise Python would fail again at exit."""
    _lead_nowhere(stream.fileno())


def _lead_nowhere(number: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    os.set_inheritable(number, True)  # a new file that got this very number is closed for processes started later


class _Dropping(io.FileIO):
    """A file that drops what cannot be written: messages, next to which the exit code tells how a command has ended."""

    def write(self, data: Any) -> int:
        """Write some bytes; returns how many are dealt with."""
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def require_streams() -> None:
    """Give the process streams that do not fail where nobody can mend it.

    A program that was started without standard output or error (``2>&-``) gets one that leads to /dev/null. Messages
    whose reader is gone (``2>&1 | head -1``), or whose disk is full, are dropped. A stream that somebody else has put
    into the place of standard error is left alone.
    """
    for number, name in enumerate(("stdout", "stderr"), 1):
        if getattr(sys, name) is None:
            _lead_nowhere(number)
            opened = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  it stays open
            setattr(sys, name, opened)
            setattr(sys, f"__{name}__", opened)
    own = sys.__stderr__
    if own is not None and sys.stderr is own and not isinstance(getattr(own.buffer, "raw", None), _Dropping):
        sys.stderr = sys.__stderr__ = _text(_Dropping(own.fileno(), "w", closefd=False), own.encoding)  # type: ignore[misc,assignment]


def message_file(path: Path) -> TextIO:
    """A file that messages are appended to, and that drops those that cannot be written.

    Raises:
        OSError: it cannot be opened.
    """
    return _text(_Dropping(path, "a"), "utf-8")


def _text(raw: _Dropping, encoding: str) -> TextIO:
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=True)


def say(text: str, *, end: str = "", also: str = "") -> None:
    """Print, and flush at once.

    Args:
        text: the text to print.
        end: printed after the text.
        also: added to the error message if the text cannot be printed.

    Raises:
        BrokenPipeError: the reader has closed the pipe.
        RunFailedError: standard output cannot be written.
    """
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        drop(sys.stdout)
        raise RunFailedError(f"standard output cannot be written ({error.strerror}){also}") from None


def note(text: str) -> None:
    """Tell who waits at a terminal what is being done; logs and scripts have no use for it."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def answer(document: Document, form: str) -> None:
    """Print a document in a format; characters that standard output cannot encode are escaped."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    say(FORMATS[form](document))


def only_the_answer(form: str) -> AbstractContextManager[Any]:
    """Send what is printed in the with block to standard error, unless the answer is for people."""
    return contextlib.nullcontext() if form == "table" else contextlib.redirect_stdout(sys.stderr)
