"""Records what produced a result: code, library versions, machine."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from bnexp import __version__

_LIBRARIES = ("torch", "torchvision", "hydra-core", "numpy")


@cache
def version_of(library: str) -> str | None:
    """The installed version; None if no package has this name."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Ask git about the checkout that this package runs from; None if it does not run from a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


@cache
def code() -> dict[str, str | bool | None]:
    """Versions and commit of the code that this process imported; cached, so forked children need not ask again."""
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "bnexp": __version__,
        **{library: version_of(library) for library in _LIBRARIES},
        "python": platform.python_version(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if changes is None else bool(changes),
    }


def provenance(device: torch.device, threads: int) -> dict[str, str | int | bool | None]:
    """Provenance fields for run.json; times are UTC."""
    return {
        **code(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
