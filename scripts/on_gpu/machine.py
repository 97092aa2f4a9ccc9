"""What a figure of a GPU depends on besides the program: the card, its driver, clocks and power limit, and torch."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from typing import Any

import torch

_ASKED = (
    *("name", "driver_version", "power.limit", "power.draw", "clocks.sm", "clocks.max.sm", "clocks.mem"),
    *("clocks.max.mem", "persistence_mode", "mig.mode.current", "temperature.gpu", "memory.total"),
)


def facts(device: str) -> dict[str, Any]:
    """The facts, as words; of the GPU what nvidia-smi says."""
    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__, "device": device}
    if device == "cpu":
        return found
    found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    command = ["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        found |= dict(zip(_ASKED, (word.strip() for word in said.splitlines()[0].split(",")), strict=False))
    return found
