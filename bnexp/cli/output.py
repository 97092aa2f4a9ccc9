"""Standard output whose reader may have gone, or whose disk may be full."""

from __future__ import annotations

import os
import sys

from bnexp.config.checks import RunFailedError


def drop_output() -> None:
    """Let what is left for standard output go nowhere, or Python would complain once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str, *, end: str = "", also: str = "") -> None:
    """Print at once.

    Args:
        text: to be printed.
        end: behind it.
        also: what a person should know if it cannot be printed.

    Raises:
        BrokenPipeError: the reader has gone.
        RunFailedError: standard output cannot be written.
    """
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        raise RunFailedError(f"standard output cannot be written ({error.strerror}){also}") from None
