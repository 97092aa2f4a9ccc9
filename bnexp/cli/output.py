"""Writes to standard output, whose reader may be gone, or whose disk may be full."""

from __future__ import annotations

import os
import sys

from bnexp.config.checks import RunFailedError


def drop_output() -> None:
    """Send all further standard output to /dev/null; otherwise Python would report the error again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        drop_output()
        raise RunFailedError(f"standard output cannot be written ({error.strerror}){also}") from None
