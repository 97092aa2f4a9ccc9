"""Marks of growing files: by these a file that was changed is told from the file that was written."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

# Of the beginning of a file: {"bytes": its length, "sha256": hex digits}; of TensorBoard's files the length alone.
Mark = dict[str, Any]


class Prefix:
    """What a growing file holds so far; each part is read once, when it is written."""

    def __init__(self) -> None:
        self._sha, self._bytes = hashlib.sha256(), 0

    def add(self, data: bytes) -> None:
        """Count in what was written behind the rest."""
        self._sha.update(data)
        self._bytes += len(data)

    @property
    def mark(self) -> Mark:
        """By which ``beginning`` knows it again."""
        return {"bytes": self._bytes, "sha256": self._sha.hexdigest()}


def beginning(path: Path, mark: Mark) -> bytes:
    """The part of a file that a mark was made of.

    Raises:
        ValueError: it is not what it was, or cannot be read.
    """
    try:
        if not path.is_file():
            raise ValueError(f"{path}: {'no file' if path.exists() else 'missing'}")
        with path.open("rb") as file:
            data = file.read(mark["bytes"])
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    prefix = Prefix()
    prefix.add(data)
    if prefix.mark != mark:
        raise ValueError(f"{path}: changed since the checkpoint was written")
    return data
