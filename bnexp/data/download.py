"""Missing files: torchvision downloads them and checks their checksums; complete ones are moved into place."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bnexp.data.base import fault

# Seconds without an answer until a server counts as out of reach.
_PATIENCE = 20


def fetch(origin: str, root: Path, missing: Sequence[str], download: Callable[[str], object]) -> None:
    """Download a data set because files of it are missing; existing files are not changed.

    Args:
        origin: the setting for messages.
        root: the data folder; it is made if the download succeeds.
        missing: paths below ``root``; where there are none, nothing happens.
        download: puts the whole data set into the folder that it is given, or raises.

    Raises:
        ValueError: the download failed.
    """
    if not missing:
        return
    root = root.absolute()
    near = next(folder for folder in (root, *root.parents) if os.path.isdir(folder))
    try:
        # On the target's file system, so that moving a file renames it: other processes see a whole file or none.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=near) as scratch, _patience():
            download(scratch)
            for file in missing:
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(scratch, file), root / file)
    except Exception as error:  # the network, the server's answer, the checksum and the disk each raise their own
        advice = "put the files there by hand, or point data.root or BNEXP_DATA at a folder that has them"
        raise fault(origin, f"{missing[0]} is missing and the download failed ({error}); {advice}") from error


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Set a time limit for connections: torchvision sets none, and a firewall that drops packets would hang the run."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
