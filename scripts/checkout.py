"""Processes that run the bnexp of a checkout, also where another one is installed."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment(root: Path = ROOT, **more: str) -> dict[str, str]:
    """The variables of such a process; what else PYTHONPATH names stays, as it may have the libraries."""
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path} | more
